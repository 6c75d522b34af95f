//! A part of a run, from one mark to the next, and what its steps have cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use burn::tensor::Device;
use ocl_data::Source;
use ocl_train::{Backend, Event, Plan, Start, Until, pretrain, replace_file};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// How far a run has come, and what its steps have cost: `clock.json` of its folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunClock {
    pub(super) step: u64,
    pub(super) secs: f64,
    pub(super) loss: Option<f64>,
}

impl RunClock {
    fn file(run: &Path) -> PathBuf {
        run.join("clock.json")
    }

    pub(super) fn read(run: &Path) -> Self {
        let bytes = std::fs::read(Self::file(run)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write(&self, run: &Path) -> Result<(), EvalError> {
        let path = Self::file(run);
        let bytes = serde_json::to_vec(self).expect("a clock is plain data");
        replace_file(&path, &bytes).map_err(|source| EvalError::File {
            doing: "write",
            path,
            source,
        })
    }

    /// The clock of a run that stands at another step than it was read at: a process was killed
    /// between a checkpoint and its clock, or a checkpoint is damaged. Steps of a run cost alike.
    fn moved_to(self, step: u64, step_secs: f64) -> Self {
        if step == self.step {
            return self;
        }
        let each = if self.step > 0 { self.secs / self.step as f64 } else { step_secs };
        Self { step, secs: each * step as f64, loss: None }
    }
}

/// Trains a run up to `step`; what it has done already is not done again. The clock stands at less
/// than `step` when `stop` was set.
pub(super) fn advance(
    plan: &Plan,
    source: &Arc<Source>,
    run: &Path,
    (step, step_secs): (u64, f64),
    (backend, device): (Backend, &Device),
    stop: &AtomicBool,
    mut shown: impl FnMut(u64),
) -> Result<RunClock, EvalError> {
    let mut clock = RunClock::read(run);
    let has_checkpoint = run.join("checkpoints").is_dir();
    if has_checkpoint && clock.step >= step && (step > 0 || clock != RunClock::default()) {
        return Ok(clock);
    }
    let start = if run.join("plan.toml").is_file() { Start::Resume } else { Start::Fresh };
    let until = Until { step, stop };
    let mut from = clock;
    let mut begun = Duration::ZERO;
    let mut kept = Ok(());
    let outcome =
        pretrain(plan, Arc::clone(source), run, start, device, until, |event| match event {
            Event::Started { step, .. } => {
                from = from.moved_to(step, step_secs);
                clock = from;
                begun = backend.time_used();
            }
            Event::Step(record) => {
                let secs = from.secs + (backend.time_used() - begun).as_secs_f64();
                clock = RunClock { step: record.step, secs, loss: Some(record.loss) };
                shown(record.step);
            }
            // At once: a checkpoint without its clock is dated by the mean of its steps.
            Event::Saved(_) => kept = clock.write(run),
            Event::Note(_) => {}
        });
    outcome.map_err(|source| EvalError::Training { run: run.to_owned(), source })?;
    kept?;
    Ok(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_lost_is_the_mean_of_the_steps() {
        let clock = RunClock { step: 10, secs: 5.0, loss: Some(1.0) };
        assert_eq!(clock.moved_to(10, 9.0), clock);
        assert_eq!(clock.moved_to(14, 9.0), RunClock { step: 14, secs: 7.0, loss: None });
        assert_eq!(clock.moved_to(4, 9.0).secs, 2.0);
        assert_eq!(RunClock::default().moved_to(3, 2.0).secs, 6.0);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(RunClock::read(folder.path()), RunClock::default());
        clock.write(folder.path()).unwrap();
        assert_eq!(RunClock::read(folder.path()), clock);
    }
}
