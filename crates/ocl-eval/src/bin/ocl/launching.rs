//! `pretrain --ranks N`: this program again, N times, by `mpirun`.

use std::io::ErrorKind;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ocl_train::on_stop_signals;

/// What to do where several processes cannot be started.
const INSTALL: &str = "install Open MPI (Debian: apt-get install openmpi-bin libopenmpi-dev \
                       libclang-dev clang; a cluster: module load openmpi), and build again";
/// Names the file through which the root tells its exit code.
const CODE_FILE: &str = "OCL_EXIT_CODE_FILE";
/// How often a wish to stop is repeated.
const AGAIN: Duration = Duration::from_secs(2);
/// Signals this close together are one.
const ONE: Duration = Duration::from_millis(200);

/// What a wish to stop makes of the processes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// It is set here, and they end in a checkpoint after the step that they are at.
    AfterStep(&'static AtomicBool),
    /// They end at once.
    AtOnce,
}

/// Runs the command that was typed as so many processes of this machine.
pub(crate) fn run(ranks: usize, stop: Stop) -> Result<ExitCode> {
    if !cfg!(feature = "mpi") {
        bail!(
            "this program was built without MPI, which starts several processes; {INSTALL} with the \
             cargo feature `mpi`: cargo xtask with --ranks {ranks} does, and so does cargo install \
             --path crates/ocl-eval --features mpi"
        );
    }
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--bind-to", "none", "-n", &ranks.to_string()]);
    mpirun.arg(program).args(std::env::args_os().skip(1)).stdin(Stdio::null());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (name, value) in open_mpi(ranks > cores) {
        if std::env::var_os(name).is_none() {
            mpirun.env(name, value);
        }
    }
    let code_file = std::env::temp_dir().join(format!("ocl-{}.code", std::process::id()));
    mpirun.env(CODE_FILE, &code_file);
    let mut child = match apart(&mut mpirun).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no mpirun, which starts the processes of --ranks {ranks}; {INSTALL}")
        }
        child => child.context("cannot start mpirun")?,
    };
    hand_on_signals(&child, stop)?;
    let status = child.wait().context("cannot wait for mpirun")?;
    let told = std::fs::read_to_string(&code_file).ok();
    // There is none where the processes did not come to their end.
    let _ = std::fs::remove_file(&code_file);
    let own = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let told = told.and_then(|code| code.parse().ok()).unwrap_or_default();
    Ok(ExitCode::from(if own == 0 { told } else { own }))
}

/// Settings of Open MPI, which is for clusters; other kinds of MPI pass over them.
fn open_mpi(crowded: bool) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        // It counts cores, not hardware threads, and refuses more processes than these.
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        // Else it keeps locks in memory that is shared with the processes, and waits for ever for
        // one that a killed process held.
        ("PMIX_MCA_gds", "hash"),
        // Who runs this command as root has decided so.
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ];
    if crowded {
        // Who waits would take the cores of who works.
        settings.push(("OMPI_MCA_mpi_yield_when_idle", "1"));
    }
    settings
}

/// Keeps Ctrl-C from `mpirun`, which would end the processes two seconds later, and lets it end with
/// this process, however that happens.
fn apart(command: &mut Command) -> &mut Command {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let follow = || {
            let term = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(term).map_err(std::io::Error::from)
        };
        // SAFETY: between fork and exec only system calls may be made, and this makes one.
        unsafe { command.pre_exec(follow) };
    }
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        command.process_group(0)
    }
    #[cfg(not(unix))]
    command
}

/// The first Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 asks the processes for a checkpoint; a second one of
/// the first three ends them, as SIGQUIT does.
fn hand_on_signals(child: &Child, stop: Stop) -> Result<()> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    let child = child.id();
    let ask = move || {
        ocl_train::say!("stopping after this step; press Ctrl-C again to stop at once");
        // Again and again: `mpirun` that is still starting them has nobody to hand it on to.
        std::thread::spawn(move || {
            loop {
                tell(child, false);
                std::thread::sleep(AGAIN);
            }
        });
    };
    let mut first = None::<Instant>;
    on_stop_signals(move || {
        if matches!(stop, Stop::AtOnce) {
            tell(child, true);
        } else if !ASKED.swap(true, Ordering::SeqCst) {
            first = Some(Instant::now());
            ask();
        } else if first.is_none_or(|first| first.elapsed() > ONE) {
            tell(child, true);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    on_usr1_and_quit(child, &ASKED).context("cannot listen for SIGUSR1")
}

#[cfg(unix)]
fn on_usr1_and_quit(child: u32, asked: &'static AtomicBool) -> std::io::Result<()> {
    let own = move || {
        asked.store(true, Ordering::SeqCst);
        tell(child, false);
    };
    // SAFETY: an atomic and `kill` are among the few things that a signal's handler may use.
    unsafe { signal_hook_registry::register(libc::SIGUSR1, own) }?;
    // SAFETY: as above.
    unsafe { signal_hook_registry::register(libc::SIGQUIT, move || tell(child, true)) }?;
    Ok(())
}

#[cfg(not(unix))]
fn on_usr1_and_quit(_: u32, _: &'static AtomicBool) -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn tell(child: u32, to_end: bool) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = if to_end { Signal::TERM } else { Signal::USR1 };
    if let Some(child) = i32::try_from(child).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(child, signal);
    }
}

#[cfg(not(unix))]
fn tell(_: u32, _: bool) {}

/// Whether [`run`] started this process.
pub(crate) fn is_launched() -> bool {
    std::env::var_os(CODE_FILE).is_some()
}

/// The root's end. Where [`run`] started it, the exit code goes there by a file: `mpirun` has a long
/// text for each code other than 0.
pub(crate) fn end(result: Result<u8>) -> Result<ExitCode> {
    let Some(file) = std::env::var_os(CODE_FILE) else { return result.map(ExitCode::from) };
    let code = result.unwrap_or_else(|error| {
        crate::say(&error);
        1
    });
    std::fs::write(file, code.to_string()).context("cannot tell the launcher the exit code")?;
    Ok(ExitCode::SUCCESS)
}
