//! Classification of images by a fine-tuned encoder.

mod classify;
mod format;
mod images;

pub(crate) use classify::Answer;
pub use classify::{PredictOptions, Predicted, predict};
pub use format::PredictionFormat;
