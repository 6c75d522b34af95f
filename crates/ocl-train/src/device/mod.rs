//! Where a run computes: backends, what a device has and can do, and how a batch gets there.

mod allocator;
mod backend;
mod memory;
mod peak;
mod time_used;
mod upload;

pub use allocator::keep_freed_memory;
pub use backend::{Backend, BackendError};
pub use upload::batch_tensors;

pub(crate) use backend::is_gpu;
pub(crate) use memory::available;
#[cfg(feature = "mpi")]
pub(crate) use memory::share_memory;
pub(crate) use peak::peak_tflops;
