//! `cargo xtask export` and `cargo xtask import`: weights between programs.

use std::ffi::OsString;

use crate::command::Failure;
use crate::programs::evaluate;

/// `cargo xtask export`.
pub(crate) fn export(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("export", args)
}

/// `cargo xtask import`.
pub(crate) fn import(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("import", args)
}
