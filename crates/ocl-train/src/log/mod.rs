//! What a run tells: events for whoever watches, files for later, a summary beforehand.

mod event;
mod journal;
mod progress;
mod summary;
mod tensorboard;

pub use event::{Event, StepRecord};
pub use journal::JournalError;
pub use progress::Progress;
pub use summary::summary;

pub(crate) use journal::Journal;
