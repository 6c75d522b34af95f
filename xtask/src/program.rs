//! The program `ocl`: built for a backend, then run as the user typed it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::backend::{self, Backend, ON_BACKEND};
use crate::command::{self, Failure};
use crate::signals;

/// After so long a build is worth a word.
const QUIET: Duration = Duration::from_millis(800);

/// Runs `ocl NAME ARGS` for the backend that `args` name. Help needs no build where the program is.
pub(crate) fn run(name: &str, args: Vec<OsString>) -> Result<(), Failure> {
    let (backend, rest) = backend::take(args.clone())?;
    let help = rest.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h");
    if !(help && path().exists()) {
        build(backend, ranks(&rest))?;
    }
    command::run(start().arg(name).args(args))
}

/// Shows the commands of `ocl`, or the help of one of them.
pub(crate) fn help(args: &[OsString]) -> Result<(), Failure> {
    if !path().exists() {
        build(Backend::Flex, false)?;
    }
    command::run(start().arg("help").args(args))
}

/// The program in the user's folder, told what was typed and from which commit it comes.
pub(crate) fn start() -> Command {
    let mut command = Command::new(path());
    command.env("OCL_INVOKED_AS", "cargo xtask");
    if let Some(commit) = command::commit() {
        command.env("OCL_COMMIT", commit);
    }
    command
}

/// Where cargo puts the program. A running one is not touched by the next build: cargo writes a new
/// file.
fn path() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let name = PathBuf::from("ocl").with_extension(std::env::consts::EXE_EXTENSION);
    command::root().join(target).join("release").join(name)
}

/// Whether several processes are asked for: their program is built with MPI.
fn ranks(args: &[OsString]) -> bool {
    let words: Vec<_> = args.iter().take_while(|arg| *arg != "--").collect();
    let next =
        words.iter().skip_while(|arg| **arg != "--ranks").nth(1).and_then(|arg| arg.to_str());
    let named = words.iter().find_map(|arg| arg.to_str()?.strip_prefix("--ranks="));
    next.or(named).is_some_and(|ranks| ranks != "1")
}

/// Builds the program, with MPI where it is asked for.
pub(crate) fn build(backend: Backend, mpi: bool) -> Result<(), Failure> {
    if mpi && !command::is_there("mpicc") {
        return Err(Failure::new(
            "--ranks starts several processes by MPI, and there is no MPI to build with (no mpicc). \
             Debian and Ubuntu: apt-get install libopenmpi-dev openmpi-bin libclang-dev clang; a \
             cluster: module load openmpi",
        ));
    }
    let mut cargo = command::cargo(&["build", "--release", "--quiet"]);
    // The libraries are named too: features are resolved for all packages named together, so this
    // way `cargo test` finds every one of its dependencies built.
    for package in ON_BACKEND {
        cargo.args(["-p", package]);
    }
    cargo.args(backend.features()).stdout(Stdio::null());
    if mpi {
        cargo.args(["--features", backend::MPI]);
    }
    let mut child = cargo.spawn().map_err(|error| command::cannot_start(&cargo, &error))?;
    let (built, waiting) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if waiting.recv_timeout(QUIET) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("Building ocl for {} (some minutes the first time)", backend.name());
        }
    });
    let status = signals::wait(&mut child);
    drop(built);
    let status = status.map_err(|error| command::cannot_start(&cargo, &error))?;
    command::finish(status).map_err(|failure| match backend {
        Backend::Cuda => failure.with_message(
            "the build for cuda failed. If it could not download LLVM: CONTRIBUTING.md, \"Build for \
             a GPU\", has another way.",
        ),
        _ => failure,
    })
}
