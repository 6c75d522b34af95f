//! `bench-data`: how fast a data set becomes batches.

use std::ffi::OsString;

use crate::command::{self, Failure};

/// `cargo xtask bench-data`.
pub(crate) fn bench_data(args: Vec<OsString>) -> Result<(), Failure> {
    run_of_data("bench-data", &[], args)
}

/// Builds and runs a program of ocl-data's, which needs no backend, where the user stands: the paths
/// on the command line are meant from there.
pub(crate) fn run_of_data(
    program: &str,
    features: &[&str],
    args: Vec<OsString>,
) -> Result<(), Failure> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(format!("the current folder cannot be told: {error}")))?;
    let mut cargo = command::cargo(&["run", "--release", "--quiet", "-p", "ocl-data"]);
    cargo.arg("--manifest-path").arg(command::root().join("Cargo.toml"));
    cargo.args(features.iter().flat_map(|feature| ["--features", feature]));
    command::run(cargo.args(["--bin", program, "--"]).args(args).current_dir(here))
}
