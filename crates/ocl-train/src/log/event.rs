//! What happens during a run.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::methods::Figures;

/// What happens during a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins, or goes on after `step` steps; each damaged checkpoint that was passed over.
    Started {
        /// Steps done before.
        step: u64,
        /// Why newer checkpoints could not be used.
        passed_over: &'a [String],
    },
    /// A step is done and its loss known.
    Step(&'a StepRecord),
    /// Something a person should know.
    Note(&'a str),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// One step, as a line of `log.jsonl` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Fractional epoch at the end of the step.
    pub epoch: f64,
    /// Loss of the batch, before the update.
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Everything else that was measured at this step, a key each: `gradient_norm`, what the method
    /// tells, and at some steps what looking more closely gave.
    #[serde(flatten)]
    pub figures: Figures,
    /// Images per second since the record before.
    pub images_per_sec: f64,
    /// Share of the time since the record before spent waiting for data, 0..1.
    pub data_wait: f64,
}
