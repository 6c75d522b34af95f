//! What a run tells: events for whoever watches, files for later, a summary beforehand.

mod event;
mod journal;
mod progress;
mod summary;
mod tensorboard;
mod terminal;

pub use event::{Event, StepRecord};
pub use journal::JournalError;
pub use progress::Progress;
pub use summary::summary;
pub use terminal::{lost_output, print_text, say_line};

pub(crate) use journal::Journal;
