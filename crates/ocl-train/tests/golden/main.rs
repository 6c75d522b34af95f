//! Every method against vectors made by its reference implementation: what it computes on the way,
//! loss, every gradient, a short training run and the weights it ends with; and the schedules.
//!
//! Reads every `*.safetensors` in `OCL_GOLDEN_DIR`, else in `tests/golden`, and takes the constants
//! from each file's metadata.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]
#![allow(clippy::unwrap_used, reason = "a test may")]

mod files;
mod ijepa;
mod mae;
mod moco_v3;
mod ocl;

use files::goldens;
use ocl_train::WarmupCosine;

#[test]
fn the_learning_rate_is_the_authors() {
    for golden in goldens("expect.lr") {
        let schedule = WarmupCosine {
            lr: golden.number("lr"),
            min_lr: golden.number("min_lr"),
            warmup_epochs: golden.number("warmup_epochs"),
            epochs: golden.number("epochs"),
        };
        let (every, per_epoch) = (golden.number("every"), golden.number("steps_per_epoch"));
        for (i, expected) in golden.tensors["expect.lr"].values.iter().enumerate() {
            let lr = schedule.at(i as f64 * every / per_epoch);
            assert!((lr - f64::from(*expected)).abs() < 1e-6 * schedule.lr.max(1.0), "{i}: {lr}");
        }
    }
}
