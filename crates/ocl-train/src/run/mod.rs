//! A run: from a plan and a data set to an encoder on disk, whatever happens on the way.

mod atomic_file;
mod checkpoint;
mod error;
mod inventory;
mod lock;
mod moments;
mod pending;
mod pretrain;
mod ranks;
mod replay;
mod setup;
mod stop;
mod stored;

pub use atomic_file::replace_file;
pub use checkpoint::{CheckpointError, saved_learner, saved_step};
pub use error::TrainError;
pub use lock::RunLock;
pub use pretrain::{Outcome, Start, Until, pretrain, pretrain_in};
pub use ranks::check_alike;
pub use replay::{Capture, Replay, replay};
pub use stop::{INTERRUPTED, on_stop_signals, stop_on_signals};
