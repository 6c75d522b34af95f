//! Pre-training methods against each other: the same images, encoder, time and seeds, and one
//! evaluation.
//!
//! [`compare`] trains every method in turns, mark by mark, and measures each where it then stands;
//! what it found is kept as it goes, so that it may be stopped at any moment and asked again. The
//! time of a method is that of its steps, data included; measuring and saving do not count.

mod config;
mod contest;
mod leg;
mod mark;
mod pace;
mod picture;
mod standings;

pub use config::{Budget, CompareConfig, Entrant};
pub use contest::{compare, paces};
pub use mark::Mark;
pub use standings::Standings;
