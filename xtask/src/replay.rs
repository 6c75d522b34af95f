//! `cargo xtask replay`: a captured step once more.

use std::ffi::OsString;

use crate::backend;
use crate::command::{self, Failure};
use crate::programs::Programs;

/// Runs the step of a capture again, exactly.
pub(crate) fn command(args: Vec<OsString>) -> Result<(), Failure> {
    let (backend, args) = backend::take(args)?;
    let programs = Programs::build(backend)?;
    command::run(programs.start("ocl-train", "replay", backend).args(args))
}
