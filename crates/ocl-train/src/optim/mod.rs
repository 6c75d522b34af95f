//! How parameters move: gradients by name, AdamW, schedules, moving averages.

mod adamw;
mod ema;
mod gradients;
mod layer_decay;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, AdamWState};
pub use ema::WeightAverage;
pub use gradients::NamedGradients;
pub use layer_decay::LayerDecay;
pub use schedule::{Clock, Rates, WarmupCosine};

pub(crate) use schedule::half_cosine;
