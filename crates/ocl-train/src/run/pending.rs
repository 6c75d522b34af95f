//! Steps done and not yet accounted for.
//!
//! Reading a loss waits for the device. So a step is entered here when it has been handed over, and
//! its loss is read when the next one has been too: the device is never idle, and a loss that is
//! NaN or infinite is still found before anything is saved.

use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::error::TrainError;
use super::replay::{self, Capture};
use crate::config::Plan;
use crate::log::{Event, Journal, StepRecord};
use crate::monitor::{Spectrum, spectrum};
use crate::step::{Reading, StepOutput};

/// A step whose figures have not been read from the device.
pub(crate) struct Pending {
    pub(crate) step: u64,
    pub(crate) lr: f64,
    /// Loss, gradient norm and what the method tells.
    pub(crate) output: Reading,
    /// What [`crate::monitor::sample`] gives.
    pub(crate) sample: Option<Tensor<2>>,
    pub(crate) knn_top1: Option<f64>,
    pub(crate) samples: Vec<u64>,
    pub(crate) handed: Handed,
}

/// When a step had been handed over, and the time spent waiting for data until then.
#[derive(Clone, Copy)]
pub(crate) struct Handed {
    at: Instant,
    waited: Duration,
}

impl Handed {
    /// Now. `waited` is the time that has been spent waiting for data since the run began.
    pub(crate) fn now(waited: Duration) -> Self {
        Self { at: Instant::now(), waited }
    }
}

/// Reads losses late, writes them down and tells the observer.
pub(crate) struct Ledger<'a, O> {
    plan: &'a Plan,
    run: &'a Path,
    macs_per_image: u64,
    journal: Journal,
    observe: O,
    clock: Clock,
    pending: Option<Pending>,
    last_loss: Option<f64>,
}

impl<'a, O: FnMut(Event<'_>)> Ledger<'a, O> {
    pub(crate) fn new(plan: &'a Plan, run: &'a Path, journal: Journal, observe: O) -> Self {
        Self {
            plan,
            run,
            macs_per_image: plan.method.macs_per_image(&plan.model),
            journal,
            observe,
            clock: Clock::start(),
            pending: None,
            last_loss: None,
        }
    }

    /// Takes the step just handed over and accounts for the one before.
    pub(crate) fn enter(&mut self, next: Pending) -> Result<(), TrainError> {
        match self.pending.replace(next) {
            Some(previous) => self.account(previous),
            None => Ok(()),
        }
    }

    /// Accounts for everything and writes the journal out.
    pub(crate) fn settle(&mut self) -> Result<(), TrainError> {
        if let Some(pending) = self.pending.take() {
            self.account(pending)?;
        }
        Ok(self.journal.flush()?)
    }

    /// Leaves what has passed since the last step, saving say, out of the time of the next.
    pub(crate) fn pause(&mut self) {
        self.clock.since = Instant::now();
    }

    pub(crate) fn tell(&mut self, event: Event<'_>) {
        (self.observe)(event);
    }

    pub(crate) fn last_loss(&self) -> Option<f64> {
        self.last_loss
    }

    fn account(&mut self, pending: Pending) -> Result<(), TrainError> {
        let Pending { step, lr, output, sample, knn_top1, samples, handed } = pending;
        let asked = Instant::now();
        let mut figures = output.wait();
        let read_for = asked.elapsed();
        let loss = figures.take(StepOutput::LOSS).unwrap_or(f64::NAN);
        let gradient_norm = figures.get("gradient_norm").unwrap_or(f64::NAN);
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(self.capture(step, lr, [loss, gradient_norm], samples));
        }
        let spectrum = sample.and_then(|rows| {
            let width = rows.dims()[1];
            let rows = rows.into_data();
            spectrum(rows.as_slice::<f32>().expect("embeddings are f32"), width)
        });
        let (secs, data_wait) = self.clock.lap(handed, read_for);
        let images_per_sec = self.plan.batch as f64 / secs;
        let flops = 2.0 * self.macs_per_image as f64 * images_per_sec;
        figures.push("views/uniformity", spectrum.map(|Spectrum { uniformity, .. }| uniformity));
        figures.push("views/rank", spectrum.map(|Spectrum { rank, .. }| rank));
        figures.push("probe/knn_top1", knn_top1);
        figures.push("speed/mfu", self.plan.monitor.peak_tflops.map(|peak| flops / (peak * 1e12)));
        let record = StepRecord {
            step,
            epoch: self.plan.epoch_at(step),
            loss,
            lr,
            figures,
            images_per_sec,
            data_wait,
        };
        self.last_loss = Some(loss);
        self.journal.record(&record)?;
        self.tell(Event::Step(&record));
        Ok(())
    }

    /// Keeps what is needed to run a step again, and says why the run ends.
    fn capture(
        &mut self,
        step: u64,
        lr: f64,
        [loss, gradient_norm]: [f64; 2],
        samples: Vec<u64>,
    ) -> TrainError {
        let per_epoch = self.plan.steps_per_epoch;
        let capture = Capture {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            epoch: (step - 1) / per_epoch,
            batch: (step - 1) % per_epoch,
            seed: self.plan.seed,
            lr,
            loss_bits: (loss as f32).to_bits(),
            loss: loss.to_string(),
            gradient_norm: gradient_norm.to_string(),
            samples: samples.clone(),
            from_step: 0,
        };
        let written = self
            .journal
            .flush()
            .map_err(TrainError::from)
            .and_then(|()| replay::write(self.run, self.plan, capture));
        match written {
            Ok(capture) => {
                TrainError::NonFinite { step, loss, gradient_norm, lr, samples, capture }
            }
            Err(error) => error,
        }
    }
}

/// When the last step ended, and how long data had been waited for until then.
struct Clock {
    since: Instant,
    waited: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO }
    }

    /// Seconds of a step and the share of them spent waiting for data.
    ///
    /// A step ends when it was handed over, where the device had done it by then; else so much
    /// later as reading its figures took, but for a delay that is the same for each step. When two
    /// are read at once, each has its own end. Where the device ended in between (the host was
    /// looking at k-NN, say), a step seems shorter by what it did then, and the next longer: only
    /// their sum is right.
    fn lap(&mut self, handed: Handed, read_for: Duration) -> (f64, f64) {
        let ended = handed.at + read_for;
        let secs = ended.saturating_duration_since(self.since).as_secs_f64().max(1e-9);
        let share = (handed.waited.saturating_sub(self.waited).as_secs_f64() / secs).min(1.0);
        (self.since, self.waited) = (self.since.max(ended), handed.waited);
        (secs, share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_its_own_time_whenever_its_loss_is_read() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let handed = |at: u64, waited: u64| Handed { at: begin + ms(at), waited: ms(waited) };
        let near = |(secs, share): (f64, f64), expected: (f64, f64)| {
            assert!((secs - expected.0).abs() < 1e-9 && (share - expected.1).abs() < 1e-9);
        };
        // The host computes: every step has ended when it is handed over. The last two are read at
        // once.
        let mut clock = Clock { since: begin, waited: Duration::ZERO };
        near(clock.lap(handed(100, 20), Duration::ZERO), (0.1, 0.2));
        near(clock.lap(handed(200, 20), Duration::ZERO), (0.1, 0.0));
        near(clock.lap(handed(300, 70), Duration::ZERO), (0.1, 0.5));
        // A device computes for 100 ms: handing over takes 10, and reading waits for the rest.
        let mut clock = Clock { since: begin, waited: Duration::ZERO };
        near(clock.lap(handed(10, 0), ms(80)), (0.09, 0.0));
        near(clock.lap(handed(110, 0), ms(80)), (0.1, 0.0));
        near(clock.lap(handed(210, 0), ms(80)), (0.1, 0.0));
    }
}
