//! What a classifier takes images for.

mod classify;
mod format;
mod images;

pub use classify::{Answer, PredictOptions, Predicted, predict};
pub use format::PredictionFormat;
