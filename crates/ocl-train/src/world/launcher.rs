//! What launchers tell the processes that they start.

/// What a launcher says of the processes that it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// How many there are.
    pub count: usize,
    /// The environment variable that says so.
    pub variable: &'static str,
}

/// Open MPI's, MPICH's, Slurm's and torchrun's counts of processes. Slurm's second is set in its
/// batch scripts too, and says something of this process only inside of a step; torchrun's is set by
/// hand in many scripts, and says something only beside the number of the process.
const COUNTS: [(&str, Option<&str>); 6] = [
    ("OMPI_COMM_WORLD_SIZE", None),
    ("PMI_SIZE", None),
    ("PMIX_SIZE", None),
    ("SLURM_STEP_NUM_TASKS", None),
    ("SLURM_NTASKS", Some("SLURM_STEP_ID")),
    (TORCHRUN, Some("LOCAL_RANK")),
];

/// It joins its processes by means of its own, which are PyTorch's.
pub(super) const TORCHRUN: &str = "WORLD_SIZE";

impl Launched {
    /// What the environment says, if a launcher started this process.
    pub fn from_environment() -> Option<Self> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let mut counts = COUNTS.into_iter().filter_map(|(name, only_with)| {
            if only_with.is_some_and(|other| variable(other).is_none()) {
                return None;
            }
            Some(Self { count: variable(name)?.trim().parse().ok()?, variable: name })
        });
        // A step of Slurm may have started a launcher of its own, which stands before it.
        counts.next()
    }
}

/// This machine's name.
pub(super) fn host() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    if name.is_empty() { "this machine".to_owned() } else { name }
}

/// The cores that this process may run on, by number; where they cannot be told, as many as it is
/// said to have.
#[cfg(feature = "mpi")]
pub(super) fn cores() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        let most = rustix::thread::CpuSet::MAX_CPU;
        return (0..most).filter(|&core| set.is_set(core)).collect();
    }
    (0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(variables: &[(&str, &str)]) -> Option<(usize, &'static str)> {
        let find = |name: &str| {
            variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        };
        Launched::from(find).map(|launched| (launched.count, launched.variable))
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(launched(&[]), None);
        assert_eq!(launched(&[("PMI_SIZE", "many")]), None);
        assert_eq!(launched(&[("OMPI_COMM_WORLD_SIZE", "4")]), Some((4, "OMPI_COMM_WORLD_SIZE")));
        assert_eq!(launched(&[("PMI_SIZE", "2")]), Some((2, "PMI_SIZE")));
        let step = [("SLURM_NTASKS", "8"), ("SLURM_STEP_ID", "0")];
        assert_eq!(launched(&step), Some((8, "SLURM_NTASKS")));
        assert_eq!(launched(&step[..1]), None, "a batch script is no step");
        let both = [("SLURM_NTASKS", "8"), ("SLURM_STEP_ID", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(launched(&both), Some((2, "OMPI_COMM_WORLD_SIZE")));
        let torchrun = [("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")];
        assert_eq!(launched(&torchrun), Some((4, "WORLD_SIZE")));
        assert_eq!(launched(&torchrun[..1]), None, "a script's own variable");
        assert!(!host().is_empty());
    }
}
