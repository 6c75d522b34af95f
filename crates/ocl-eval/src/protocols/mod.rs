//! Protocols: a file for each, one closed enum, one match. None imports another's training but for
//! the cached probe, which robustness and shifted data measure with.

mod centroid;
mod clustering;
mod corruptions;
mod few_shot;
mod knn;
mod linear_cached;
mod linear_mae;
mod measured;
mod nearest;
mod protocol;
mod recipe;
mod retrieval;
mod robustness;
mod shifted;

pub use knn::{KnnConfig, knn};
pub use linear_cached::linear_cached;
pub(crate) use measured::{Measured, Score};
pub use nearest::nearest;
pub use protocol::Protocol;
pub use recipe::EvalRecipe;
pub use shifted::ShiftedSet;
