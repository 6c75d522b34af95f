//! How much memory there is for a step.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Backend;

/// Processes of this run that share the machine's memory.
static SHARED_BY: AtomicUsize = AtomicUsize::new(1);

/// From now on a process has its part of the machine's memory only.
#[cfg(feature = "mpi")]
pub(crate) fn share_memory(processes: usize) {
    SHARED_BY.store(processes.max(1), Ordering::Relaxed);
}

/// Bytes that a backend's device has free now, for this process; none where nothing says.
pub(crate) fn available(backend: Backend) -> Option<u64> {
    match backend {
        Backend::Flex => Some(host()? / SHARED_BY.load(Ordering::Relaxed) as u64),
        Backend::Cuda | Backend::Vulkan | Backend::Wgpu => nvidia(),
    }
}

/// Free memory of the first NVIDIA GPU, as its driver's own program tells it.
fn nvidia() -> Option<u64> {
    let query = ["--query-gpu=memory.free", "--format=csv,noheader,nounits", "--id=0"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    let mib: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(mib << 20)
}

/// What Linux says is available, or what is left of a container's limit if that is less.
fn host() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
    };
    let left = number("memory.max")
        .map(|most| most.saturating_sub(number("memory.current").unwrap_or_default()));
    Some(left.map_or(kib << 10, |left| left.min(kib << 10)))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        assert!(available(Backend::Flex).unwrap() > 1 << 20);
    }
}
