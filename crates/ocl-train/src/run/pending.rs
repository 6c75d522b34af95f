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
    exchanged: Option<Duration>,
}

impl Handed {
    /// Now. `waited` is the time that has been spent waiting for data since the run began,
    /// `exchanged` that in exchanges with other processes, where there are any.
    pub(crate) fn now(waited: Duration, exchanged: Option<Duration>) -> Self {
        Self { at: Instant::now(), waited, exchanged }
    }
}

/// Reads losses late, writes them down and tells the observer.
pub(crate) struct Ledger<'a, O> {
    plan: &'a Plan,
    run: &'a Path,
    macs_per_image: u64,
    /// The root's.
    journal: Option<Journal>,
    observe: O,
    clock: Clock,
    pending: Option<Pending>,
    last_loss: Option<f64>,
}

impl<'a, O: FnMut(Event<'_>)> Ledger<'a, O> {
    pub(crate) fn new(plan: &'a Plan, run: &'a Path, journal: Option<Journal>, observe: O) -> Self {
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
        match &mut self.journal {
            Some(journal) => Ok(journal.flush()?),
            None => Ok(()),
        }
    }

    /// Leaves what has passed since the last step, saving say, out of the time of the next;
    /// `exchanged` is as for [`Handed::now`].
    pub(crate) fn pause(&mut self, exchanged: Option<Duration>) {
        self.clock.since = Instant::now();
        self.clock.exchanged = exchanged.unwrap_or_default();
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
        let Lap { secs, data_wait, comm } = self.clock.lap(handed, read_for);
        let images_per_sec = self.plan.batch as f64 / secs;
        let flops = 2.0 * self.macs_per_image as f64 * images_per_sec;
        figures.push("views/uniformity", spectrum.map(|Spectrum { uniformity, .. }| uniformity));
        figures.push("views/rank", spectrum.map(|Spectrum { rank, .. }| rank));
        figures.push("probe/knn_top1", knn_top1);
        figures.push("speed/mfu", self.plan.monitor.peak_tflops.map(|peak| flops / (peak * 1e12)));
        figures.push("speed/comm", comm);
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
        if let Some(journal) = &mut self.journal {
            journal.record(&record)?;
        }
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
        let written = match &mut self.journal {
            Some(journal) => {
                let flushed = journal.flush().map_err(TrainError::from);
                flushed.and_then(|()| replay::write(self.run, self.plan, capture))
            }
            None => Ok(replay::folder(self.run, step)),
        };
        match written {
            Ok(capture) => {
                TrainError::NonFinite { step, loss, gradient_norm, lr, samples, capture }
            }
            Err(error) => error,
        }
    }
}

/// When the last step ended, and how long data had been waited for and exchanged until then.
struct Clock {
    since: Instant,
    waited: Duration,
    exchanged: Duration,
}

/// How long a step took, and the shares of it spent waiting for data and in exchanges.
struct Lap {
    secs: f64,
    data_wait: f64,
    comm: Option<f64>,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO, exchanged: Duration::ZERO }
    }

    /// A step ends when it was handed over, where the device had done it by then; else so much
    /// later as reading its figures took, but for a delay that is the same for each step. When two
    /// are read at once, each has its own end. Where the device ended in between (the host was
    /// looking at k-NN, say), a step seems shorter by what it did then, and the next longer: only
    /// their sum is right.
    fn lap(&mut self, handed: Handed, read_for: Duration) -> Lap {
        let ended = handed.at + read_for;
        let secs = ended.saturating_duration_since(self.since).as_secs_f64().max(1e-9);
        let share = |now: Duration, before: Duration| {
            (now.saturating_sub(before).as_secs_f64() / secs).min(1.0)
        };
        let lap = Lap {
            secs,
            data_wait: share(handed.waited, self.waited),
            comm: handed.exchanged.map(|exchanged| share(exchanged, self.exchanged)),
        };
        (self.since, self.waited) = (self.since.max(ended), handed.waited);
        self.exchanged = handed.exchanged.unwrap_or_default();
        lap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_its_own_time_whenever_its_loss_is_read() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let handed = |at: u64, waited: u64| Handed {
            at: begin + ms(at),
            waited: ms(waited),
            exchanged: None,
        };
        let start = || Clock { since: begin, waited: Duration::ZERO, exchanged: Duration::ZERO };
        let near = |lap: Lap, expected: (f64, f64)| {
            assert!((lap.secs - expected.0).abs() < 1e-9);
            assert!((lap.data_wait - expected.1).abs() < 1e-9);
            assert_eq!(lap.comm, None);
        };
        // The host computes: every step has ended when it is handed over. The last two are read at
        // once.
        let mut clock = start();
        near(clock.lap(handed(100, 20), Duration::ZERO), (0.1, 0.2));
        near(clock.lap(handed(200, 20), Duration::ZERO), (0.1, 0.0));
        near(clock.lap(handed(300, 70), Duration::ZERO), (0.1, 0.5));
        // A device computes for 100 ms: handing over takes 10, and reading waits for the rest.
        let mut clock = start();
        near(clock.lap(handed(10, 0), ms(80)), (0.09, 0.0));
        near(clock.lap(handed(110, 0), ms(80)), (0.1, 0.0));
        near(clock.lap(handed(210, 0), ms(80)), (0.1, 0.0));
    }
}
