//! `pretrain --ranks N`: this program again, N times, by `mpirun`.

use std::io::ErrorKind;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What to do where several processes cannot be started.
const INSTALL: &str = "install Open MPI (Debian: apt-get install openmpi-bin libopenmpi-dev \
                       libclang-dev clang; a cluster: module load openmpi), and build again";
/// Signals this close together are one.
const ONE: Duration = Duration::from_millis(200);

/// Runs the command that was typed as so many processes of this machine.
pub(crate) fn run(ranks: usize) -> Result<ExitCode> {
    if !cfg!(feature = "mpi") {
        bail!(
            "this program was built without MPI, which starts several processes; {INSTALL} with the \
             cargo feature `mpi`: cargo xtask pretrain --ranks {ranks} does, and so does cargo \
             install --path crates/ocl-eval --features mpi"
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
    let mut child = match apart(&mut mpirun).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no mpirun, which starts the processes of --ranks {ranks}; {INSTALL}")
        }
        child => child.context("cannot start mpirun")?,
    };
    hand_on_signals(&child)?;
    let status = child.wait().context("cannot wait for mpirun")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Settings of Open MPI, which is for clusters; other kinds of MPI pass over them.
fn open_mpi(crowded: bool) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![
        // Its long text after an exit code other than 0: what there is to say has been said.
        ("OMPI_MCA_orte_execute_quiet", "1"),
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

/// Keeps Ctrl-C from `mpirun`, which would end the processes two seconds later.
fn apart(command: &mut Command) -> &mut Command {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        command.process_group(0)
    }
    #[cfg(not(unix))]
    command
}

/// The first Ctrl-C, SIGTERM or SIGHUP asks the processes for a checkpoint; a second ends them.
fn hand_on_signals(child: &Child) -> Result<()> {
    static ASKED: AtomicBool = AtomicBool::new(false);
    static CHILD: AtomicU32 = AtomicU32::new(0);
    CHILD.store(child.id(), Ordering::SeqCst);
    let mut first = None::<Instant>;
    ctrlc::set_handler(move || {
        let asked = ASKED.swap(true, Ordering::SeqCst);
        if !asked {
            first = Some(Instant::now());
        } else if first.is_some_and(|first| first.elapsed() <= ONE) {
            return;
        }
        tell(CHILD.load(Ordering::SeqCst), asked);
    })
    .context("cannot listen for Ctrl-C")
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
