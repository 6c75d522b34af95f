//! A process that goes without a word ends all others: by a panic, an early return, an exit.
//!
//! This program starts itself again as two processes, whose second one goes wrong.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ocl_train::World;

/// What the second process does, by the name of the case.
const CASES: [&str; 4] = ["panic", "panic-in-thread-pool", "return", "exit"];
/// Says to a process which case it is in.
const CASE: &str = "OCL_GUARD_CASE";

fn main() -> ExitCode {
    if let Ok(case) = std::env::var(CASE) {
        return go_wrong(&case);
    }
    for case in CASES {
        check(case);
        println!("test {case} ... ok");
    }
    ExitCode::SUCCESS
}

fn go_wrong(case: &str) -> ExitCode {
    let world = World::join().expect("two processes");
    assert_eq!(world.exchange(world.rank()), [0, 1]);
    if world.rank() == 1 {
        match case {
            "panic" => panic!("on purpose"),
            "panic-in-thread-pool" => drop(rayon::join(|| (), fail)),
            "return" => return ExitCode::SUCCESS,
            _ => std::process::exit(0),
        }
    }
    // The other waits for a word that never comes.
    world.exchange(0);
    world.end();
    ExitCode::SUCCESS
}

fn fail() {
    panic!("on purpose")
}

fn check(case: &str) {
    let started = Instant::now();
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--bind-to", "none", "-n", "2"]).arg(std::env::current_exe().expect("this file"));
    mpirun.env(CASE, case).stdin(Stdio::null());
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        ("PMIX_MCA_gds", "hash"),
    ] {
        mpirun.env(name, value);
    }
    let output = mpirun.output().expect("mpirun");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{case}: {text}");
    assert!(started.elapsed() < Duration::from_secs(60), "{case} took long");
    if case != "exit" {
        assert!(
            text.contains("rank 1 on ") && text.contains("all processes end"),
            "{case}: {text}"
        );
    }
}
