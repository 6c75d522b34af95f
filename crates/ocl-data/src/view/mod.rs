//! What becomes of a sample: which crops, which patches of them, and the batch they make.

mod batch;
mod blocks;
mod frame;
mod settings;

pub use batch::Batch;
pub use blocks::{BlockMasks, Blocks};
pub use frame::centre_crop;
pub(crate) use frame::{Frame, centre_frame, draws_of, train_frame};
pub use settings::{Augment, EvalView, Keep, TrainCrop, TrainView, View};
