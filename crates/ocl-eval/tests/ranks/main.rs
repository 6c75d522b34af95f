//! Several processes share a run: the same bits as one, whatever their number and whatever happens
//! to them.
//!
//! With the cargo feature `mpi` only, and with `mpirun`. `OCL_RANK_KILLS` says how often a process
//! is killed.

#![cfg(all(feature = "mpi", feature = "flex"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bits;
mod faults;
mod slurm;
mod support;
