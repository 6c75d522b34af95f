//! How long a step of a method takes, the making of its batch included.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::tensor::Device;
use ocl_data::Source;
use ocl_train::{Backend, Event, Plan, Start, Until, pretrain};

use crate::error::EvalError;

/// Steps before the clock starts: the first ones fill caches and compile kernels.
const WARMING: u64 = 2;
/// Steps that are measured at least: sizes may change from one to the next.
const MEASURED: u64 = 4;

/// Seconds of a step, from steps of a run that is thrown away; it takes about `time`.
pub(super) fn step_secs(
    plan: &Plan,
    source: &Arc<Source>,
    scratch: &Path,
    time: Duration,
    (backend, device): (Backend, &Device),
    stop: &AtomicBool,
) -> Result<f64, EvalError> {
    let _ = std::fs::remove_dir_all(scratch);
    let enough = AtomicBool::new(false);
    let until = Until { step: plan.steps.min(10_000), stop: &enough };
    let (mut begun, mut last) = (None, None);
    let outcome =
        pretrain(plan, Arc::clone(source), scratch, Start::Fresh, device, until, |event| {
            let Event::Step(record) = event else { return };
            let now = (record.step, backend.time_used());
            if record.step == WARMING {
                begun = Some(now);
            }
            last = Some(now);
            let spent = begun.map_or(Duration::ZERO, |(_, from)| now.1 - from);
            let done = spent >= time && record.step >= WARMING + MEASURED;
            enough.fetch_or(done || stop.load(Ordering::Relaxed), Ordering::Relaxed);
        });
    let _ = std::fs::remove_dir_all(scratch);
    outcome.map_err(|source| EvalError::Training { run: scratch.to_owned(), source })?;
    match (begun, last) {
        (Some((from, begun)), Some((to, end))) if to > from => {
            Ok((end - begun).as_secs_f64() / (to - from) as f64)
        }
        // Too short a run to measure: its steps are then too few to matter.
        _ => Ok(last.map_or(f64::MIN_POSITIVE, |(steps, end)| end.as_secs_f64() / steps as f64)),
    }
}
