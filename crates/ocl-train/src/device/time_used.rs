//! What a run has cost so far, in time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::Backend;

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Backend {
    /// Time that this process has used, for differences: on the CPU that of all its threads, so that
    /// other programs on the machine do not count; on a GPU what passes on the clock.
    pub fn time_used(self) -> Duration {
        match self {
            Self::Flex => processor_time(),
            Self::Wgpu | Self::Vulkan | Self::Cuda => STARTED.elapsed(),
        }
    }

    /// What [`Backend::time_used`] counts in, in words: `minutes of one core` or `minutes`.
    pub fn minutes(self) -> &'static str {
        match self {
            Self::Flex => "minutes of one core",
            Self::Wgpu | Self::Vulkan | Self::Cuda => "minutes",
        }
    }
}

#[cfg(unix)]
fn processor_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    let (secs, nanos) = (u64::try_from(spent.tv_sec), u64::try_from(spent.tv_nsec));
    Duration::from_secs(secs.unwrap_or_default()) + Duration::from_nanos(nanos.unwrap_or_default())
}

#[cfg(not(unix))]
fn processor_time() -> Duration {
    STARTED.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_and_sleep_does_not() {
        let begun = Backend::Flex.time_used();
        let mut sum = 0u64;
        while Backend::Flex.time_used() - begun < Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0 && Backend::Cuda.time_used() <= Backend::Cuda.time_used());
    }
}
