//! Stopping in good order on Ctrl-C, SIGTERM and SIGHUP, and on SIGUSR1, which launchers and
//! schedulers hand on to the processes of a run.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a shell expects of a program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Signals this close together are one: a scheduler may send one to every process of a job, and the
/// process that started this one may hand on its own.
const ONE: Duration = Duration::from_millis(200);

/// The first signal sets `stop`, and is answered with a line where `say` asks for it; one that comes
/// later ends the program at once.
///
/// # Errors
/// When the program listens already, or the system refuses.
pub fn stop_on_signals(stop: &'static AtomicBool, say: bool) -> io::Result<()> {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    on_stop_signals(move || {
        if !stop.swap(true, Ordering::Relaxed) {
            FIRST.get_or_init(Instant::now);
            if say {
                crate::say!("\nstopping after this step; press Ctrl-C again to stop at once");
            }
        } else if FIRST.get().is_none_or(|first| first.elapsed() > ONE) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })?;
    stop_on_usr1(stop)
}

/// Calls `handler` at each Ctrl-C, SIGTERM and SIGHUP; not at a SIGHUP that is ignored, as `nohup` has
/// it: a terminal that goes away is then no reason to stop.
///
/// # Errors
/// When the program listens already, or the system refuses.
pub fn on_stop_signals(handler: impl FnMut() + Send + 'static) -> io::Result<()> {
    #[cfg(unix)]
    let nohup = {
        // SAFETY: an action is integers and a pointer to a function that may be null: all zeros are one.
        let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
        // SAFETY: the action is asked for alone; a null pointer sets none.
        unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut action) };
        action.sa_sigaction == libc::SIG_IGN
    };
    ctrlc::set_handler(handler).map_err(io::Error::other)?;
    #[cfg(unix)]
    if nohup {
        // SAFETY: to ignore a signal has no preconditions.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    Ok(())
}

/// SIGUSR1 asks for a checkpoint, however often it comes.
#[cfg(unix)]
fn stop_on_usr1(stop: &'static AtomicBool) -> io::Result<()> {
    let set = || stop.store(true, Ordering::Relaxed);
    // SAFETY: storing to an atomic is one of the few things that a signal's handler may do.
    unsafe { signal_hook_registry::register(libc::SIGUSR1, set) }.map(|_| ())
}

#[cfg(not(unix))]
fn stop_on_usr1(_: &'static AtomicBool) -> io::Result<()> {
    Ok(())
}
