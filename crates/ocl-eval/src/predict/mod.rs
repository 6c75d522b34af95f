//! Classification of images by a fine-tuned encoder.

mod classify;
mod format;
mod images;

pub use classify::{Answer, PredictOptions, Predicted, predict};
pub use format::PredictionFormat;
