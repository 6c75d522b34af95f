//! One training step.

mod grad_cache;
mod micro_batches;
mod readback;
mod trainer;
mod tree;

pub use micro_batches::MicroBatches;
pub use readback::{Readback, Reading};
pub use trainer::{StepOutput, Trainer};
pub use tree::{parts_of, sum_of_parts};

pub(crate) use micro_batches::{busy_size, whole_micro_batches};
