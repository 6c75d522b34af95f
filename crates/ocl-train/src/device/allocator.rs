//! How the program's memory is handed back.

/// Tells glibc to keep freed memory for the next allocation instead of giving it back to the
/// kernel.
///
/// A training step frees and allocates the same hundreds of megabytes again and again; by default
/// each large block is mapped anew, and faulting its pages in took half of a small encoder's step.
/// Call it once at the start of a program; elsewhere than on glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const NEVER: libc::c_int = libc::c_int::MAX;
        // Threads' own arenas are given back piece by piece whatever the threshold, so there is
        // one.
        for (setting, value) in
            [(libc::M_MMAP_MAX, 0), (libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, NEVER)]
        {
            // SAFETY: mallopt changes settings of the allocator alone and may be called at any
            // time.
            unsafe { libc::mallopt(setting, value) };
        }
    }
}
