//! Why a run stopped.

use std::path::{Path, PathBuf};

use ocl_data::LoaderError;
use ocl_model::{ConfigError, WeightsError};
use thiserror::Error;

use super::checkpoint::CheckpointError;
use crate::invocation::command_line;
use crate::log::JournalError;
use crate::world::Elsewhere;

/// Why a run stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The weights that the encoder is to begin from do not serve.
    #[error("cannot begin from {}: {reason}", path.display())]
    Init {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "step {step} has a loss of {loss} and a gradient of norm {gradient_norm} (lr {lr:.3e}); \
         samples {}; nothing of this step was saved. To run it again: {}. To go on from the last \
         checkpoint with gradients clipped, or with a lower optim.base_lr: {} --set optim.clip_norm=1",
        sample_list(samples),
        command_line(&format!("replay {}", capture.display())),
        command_line(&format!("pretrain --resume {}", run_of(capture).display()))
    )]
    NonFinite {
        /// The step, counted from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// The norm of all gradients together.
        gradient_norm: f64,
        /// Its learning rate.
        lr: f64,
        /// Indices of the batch's samples.
        samples: Vec<u64>,
        /// Where the step was captured.
        capture: PathBuf,
    },
    /// So many images of a batch could not be read that nothing can be learnt from the rest.
    #[error(
        "step {step}: {read} of the batch's {batch} images could be read, and {method} needs at \
         least {least}; {} names the others: repair or remove them, or begin again with a larger \
         batch.size",
        quarantine.display()
    )]
    FewImages {
        /// The step, counted from 1.
        step: u64,
        /// Images that were read.
        read: usize,
        /// Images that a batch is to have.
        batch: usize,
        /// The method's name.
        method: &'static str,
        /// The fewest that it learns from.
        least: usize,
        /// The list of images that could not be read.
        quarantine: PathBuf,
    },
    /// Another process of the run failed.
    #[error(transparent)]
    Elsewhere(#[from] Elsewhere),
    /// Processes have drifted apart.
    #[error(
        "after step {step} the weights of rank {rank} are not those of rank 0, and nothing of this \
         step was saved; resume from the checkpoint before. It means a fault of memory or of this \
         program: please report it if it comes again"
    )]
    Diverged {
        /// Steps done.
        step: u64,
        /// The first process that differs.
        rank: usize,
    },
    /// The run folder holds a run already.
    #[error(
        "{path} already holds a run; continue it with `--resume {path}`, or give another name",
        path = .0.display()
    )]
    Occupied(PathBuf),
    /// The data are not those that the run began with.
    #[error(
        "{data} holds other images than the run began with: {difference}; give the data as they were \
         (--data PATH if they lie elsewhere), or begin another run"
    )]
    OtherData {
        /// Where the data lie.
        data: String,
        /// What is other.
        difference: String,
    },
    /// Another process is at work in the run folder.
    #[error("{} is in use by {owner}; two runs cannot share a folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who has it.
        owner: String,
    },
    /// The run folder cannot be made.
    #[error("cannot write to run folder {}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The encoder cannot exist.
    #[error(transparent)]
    Model(#[from] ConfigError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] LoaderError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The encoder cannot be written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl TrainError {
    /// The error with its causes, in one line.
    pub(super) fn in_words(&self) -> String {
        ocl_data::in_words(self)
    }
}

/// The run that a capture was made in.
fn run_of(capture: &Path) -> &Path {
    capture.parent().and_then(Path::parent).unwrap_or(capture)
}

fn sample_list(samples: &[u64]) -> String {
    let shown: Vec<String> = samples.iter().take(16).map(u64::to_string).collect();
    let more = samples.len().saturating_sub(16);
    if more == 0 { shown.join(" ") } else { format!("{} and {more} more", shown.join(" ")) }
}
