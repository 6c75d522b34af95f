//! Several processes share a run: the same bits as one, whatever their number and whatever happens
//! to them.
//!
//! What went wrong in other programs, and where it is tested:
//!
//! - gradients times or over the number of processes, which AdamW hides: norms and moments in
//!   `bits`; negatives of the own process only, positives moved by its rank, a norm summed twice,
//!   unequal micro-batches, a rate that follows the number of processes: there too;
//! - samples twice or in another order, another place after resuming with other numbers: `bits`,
//!   and `shares.rs` of `ocl-data`;
//! - a process with fewer batches: data that does not suffice is refused by all, `faults`;
//! - a dead, silent or failing process: `bits`, `faults`, and `guard.rs` of `ocl-train`;
//! - processes that each ask their own disk: one folder serves all, `faults`;
//! - no start without one certain launcher: `mpirun` here, Slurm in `slurm`.
//!
//! With the cargo feature `mpi` only, and with `mpirun`. `OCL_RANK_KILLS` says how often a process
//! is killed.

#![cfg(all(feature = "mpi", feature = "flex"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bits;
mod evaluation;
mod faults;
mod slurm;
mod support;
