//! What goes wrong between processes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::World;

/// Why processes do not come together.
#[derive(Debug, Error)]
pub enum WorldError {
    /// A launcher started several processes, and this program sees itself alone.
    #[error(
        "a launcher started {launched} processes ({variable}={launched}), and this program knows \
         of {known}: {}",
        if *variable == super::launcher::TORCHRUN {
            "torchrun joins processes by PyTorch's means, which are not here. Start it with --ranks N, \
             mpirun or srun --mpi=pmix"
        } else if cfg!(feature = "mpi") {
            "launcher and program use two kinds of MPI. Start it with the mpirun of the MPI that it \
             was built with, or build it again with this one"
        } else {
            "it was built without MPI. Build it with the cargo feature `mpi` (`cargo xtask pretrain \
             --ranks N` does), or start it without a launcher"
        }
    )]
    Strangers {
        /// Processes by the launcher's count.
        launched: usize,
        /// The variable that says so.
        variable: &'static str,
        /// Processes that see each other.
        known: usize,
    },
    /// NCCL is not there.
    #[error(
        "several CUDA devices exchange values by NCCL, and no library of it can be opened. Install it \
         (pip install nvidia-nccl-cu12, or the system's libnccl2) and give the folder in \
         LD_LIBRARY_PATH; the file must be found as libnccl.so, which runtime packages do not have: \
         ln -s libnccl.so.2 libnccl.so"
    )]
    NoNccl,
    /// NCCL does not work.
    #[error("NCCL cannot join the devices: {0}; NCCL_DEBUG=INFO says more")]
    Nccl(String),
    /// MPI does not start.
    #[error("MPI cannot be started: {0}")]
    Start(String),
    /// Another process failed.
    #[error(transparent)]
    Elsewhere(#[from] Elsewhere),
    /// A process is another than the first.
    #[error("rank {rank} on {host} has {}", .differences.join("; "))]
    Different {
        /// Its number.
        rank: usize,
        /// The machine that it runs on.
        host: String,
        /// What is different, with both values.
        differences: Vec<String>,
    },
}

/// What went wrong, and in which process.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[error("rank {rank} on {host}: {reason}")]
pub struct Elsewhere {
    /// The number of the process.
    pub rank: usize,
    /// The machine that it ran on.
    pub host: String,
    /// What went wrong.
    pub reason: String,
}

impl Elsewhere {
    /// Something that went wrong in this process.
    pub fn here(world: &World, reason: String) -> Self {
        Self { rank: world.rank(), host: world.place().host, reason }
    }
}
