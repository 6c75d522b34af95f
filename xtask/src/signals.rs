//! Signals: which of them the program that runs must still be told of.
//!
//! The trainer takes Ctrl-C and SIGTERM as a wish for a checkpoint, so xtask stays to wait for it.
//! Ctrl-C reaches the whole process group, the program included: of that xtask only takes note, for
//! a second signal would end the program at once. What a process sends to xtask alone, `kill` or a
//! scheduler, is handed on.

use std::process::Child;

#[cfg(unix)]
mod unix {
    use std::sync::atomic::{AtomicI32, Ordering};

    use libc::{c_int, c_void, siginfo_t};

    use super::Child;

    /// The program that runs; 0 if none does.
    static CHILD: AtomicI32 = AtomicI32::new(0);
    /// A signal that the program has not been told of yet; 0 if there is none.
    static NOTED: AtomicI32 = AtomicI32::new(0);

    pub(crate) fn listen() {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the structure is plain data, for which zeros are values.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = hand_on as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            // SAFETY: the set is ours to write.
            unsafe { libc::sigemptyset(&raw mut action.sa_mask) };
            // SAFETY: the structure is filled as `SA_SIGINFO` wants it; the handler does only what
            // a handler may: atomics and `kill`.
            let failed =
                unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            if failed != 0 {
                eprintln!("warning: signal {signal} will not wait for the program to end");
            }
        }
    }

    extern "C" fn hand_on(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: with `SA_SIGINFO` the system passes a valid pointer.
        if !sent_by_a_process(signal, unsafe { (*info).si_code }) {
            return;
        }
        NOTED.store(signal, Ordering::SeqCst);
        deliver();
    }

    /// Tells the program what is noted. Who notes a signal and who names the program both call it
    /// afterwards, on whichever threads: the later of the two hands on, and none is lost in
    /// between.
    fn deliver() {
        let child = CHILD.load(Ordering::SeqCst);
        if child > 0 {
            let signal = NOTED.swap(0, Ordering::SeqCst);
            if signal != 0 {
                tell(child, signal);
            }
        }
    }

    /// Whether a process sent the signal, and not the terminal to its whole group.
    fn sent_by_a_process(signal: c_int, code: c_int) -> bool {
        // Codes above 0 are the kernel's on Linux; elsewhere they do not tell, and SIGTERM is never
        // a key's.
        if cfg!(target_os = "linux") { code <= 0 } else { signal == libc::SIGTERM }
    }

    fn tell(child: c_int, signal: c_int) {
        // SAFETY: `kill` has no preconditions; the child is not reaped while its number is noted.
        unsafe { libc::kill(child, signal) };
    }

    pub(crate) fn follow(child: &Child) {
        let pid = c_int::try_from(child.id()).unwrap_or(0);
        CHILD.store(pid, Ordering::SeqCst);
        deliver();
    }

    pub(crate) fn forget() {
        CHILD.store(0, Ordering::SeqCst);
    }
}

#[cfg(not(unix))]
mod elsewhere {
    use super::Child;

    pub(crate) fn listen() {
        if let Err(error) = ctrlc::set_handler(|| {}) {
            eprintln!("warning: Ctrl-C will not wait for the program to end: {error}");
        }
    }

    pub(crate) fn follow(_: &Child) {}

    pub(crate) fn forget() {}
}

#[cfg(not(unix))]
use elsewhere as own;
#[cfg(unix)]
use unix as own;

/// Held by tests that run a program: what one of them is told must not reach another's.
#[cfg(test)]
pub(crate) static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// From now on the end of xtask is the program's affair.
pub(crate) fn listen() {
    own::listen();
}

/// Names the program that is told what xtask is told, until [`wait`] has waited for it.
pub(crate) fn follow(child: &Child) {
    own::follow(child);
}

/// Waits for a program, which is told meanwhile what xtask is told.
pub(crate) fn wait(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    follow(child);
    let status = child.wait();
    own::forget();
    status
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    #[test]
    fn what_is_sent_to_us_alone_is_handed_on() {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        listen();
        let mut command = Command::new("sh");
        // Not before the trap is there.
        command.args(["-c", "trap 'exit 41' TERM; echo ready; while :; do sleep 0.01; done"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("it says so");
        let own = libc::c_int::try_from(std::process::id()).expect("a process number");
        // SAFETY: `kill` has no preconditions; we listen.
        unsafe { libc::kill(own, libc::SIGTERM) };
        let status = wait(&mut child).expect("our child");
        assert_eq!((status.code(), status.signal()), (Some(41), None));
    }
}
