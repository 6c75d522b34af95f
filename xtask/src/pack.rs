//! `pack`: a data set as tar shards.

use std::ffi::OsString;

use crate::bench_data::run_of_data;
use crate::command::Failure;

/// `cargo xtask pack`.
pub(crate) fn pack(args: Vec<OsString>) -> Result<(), Failure> {
    run_of_data("pack", &[], args)
}
