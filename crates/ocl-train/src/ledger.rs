//! Steps done and not yet accounted for.
//!
//! Reading a loss waits for the device. So a step is entered here when it has been handed over, and its
//! loss is read when the next one has been too: the device is never idle, and a loss that is no number is
//! still found before anything is saved.

use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use crate::capture::{self, Capture};
use crate::error::TrainError;
use crate::estimate::macs_per_image;
use crate::journal::{Journal, StepRecord};
use crate::monitor::{Spectrum, spectrum};
use crate::plan::Plan;
use crate::pretrain::Event;

/// A step whose figures have not been read from the device.
pub(crate) struct Pending {
    pub(crate) step: u64,
    pub(crate) lr: f64,
    /// What [`crate::monitor::figures`] gives.
    pub(crate) figures: Tensor<1>,
    /// What [`crate::monitor::sample`] gives.
    pub(crate) sample: Option<Tensor<2>>,
    pub(crate) knn_top1: Option<f64>,
    pub(crate) samples: Vec<u64>,
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
            macs_per_image: macs_per_image(plan),
            journal,
            observe,
            clock: Clock::start(),
            pending: None,
            last_loss: None,
        }
    }

    /// Takes the step just handed over and accounts for the one before. `waited` is the time that has been
    /// spent waiting for data since the run began.
    pub(crate) fn enter(&mut self, next: Pending, waited: Duration) -> Result<(), TrainError> {
        match self.pending.replace(next) {
            Some(previous) => self.account(previous, waited),
            None => Ok(()),
        }
    }

    /// Accounts for everything and writes the journal out; whether there was anything.
    pub(crate) fn settle(&mut self, waited: Duration) -> Result<bool, TrainError> {
        let pending = self.pending.take();
        let any = pending.is_some();
        if let Some(pending) = pending {
            self.account(pending, waited)?;
        }
        self.journal.flush()?;
        Ok(any)
    }

    pub(crate) fn tell(&mut self, event: Event<'_>) {
        (self.observe)(event);
    }

    pub(crate) fn last_loss(&self) -> Option<f64> {
        self.last_loss
    }

    fn account(&mut self, pending: Pending, waited: Duration) -> Result<(), TrainError> {
        let Pending { step, lr, figures, sample, knn_top1, samples } = pending;
        let figures = figures.into_data().try_into_vec::<f32>().expect("figures are f32");
        let [loss, gradient_norm, alignment, positive, negative] =
            <[f32; 5]>::try_from(figures).expect("a step has five figures").map(f64::from);
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            return Err(self.capture(step, lr, [loss, gradient_norm], samples));
        }
        let spectrum = sample.and_then(|rows| {
            let width = rows.dims()[1];
            let rows = rows.into_data();
            spectrum(rows.as_slice::<f32>().expect("embeddings are f32"), width)
        });
        let (secs, data_wait) = self.clock.lap(waited);
        let images_per_sec = self.plan.batch as f64 / secs;
        let flops = 2.0 * self.macs_per_image as f64 * images_per_sec;
        let record = StepRecord {
            step,
            epoch: self.plan.epoch_at(step),
            loss,
            lr,
            gradient_norm: Some(gradient_norm),
            alignment: Some(alignment),
            positive: Some(positive),
            negative: Some(negative),
            uniformity: spectrum.map(|Spectrum { uniformity, .. }| uniformity),
            rank: spectrum.map(|Spectrum { rank, .. }| rank),
            knn_top1,
            mfu: self.plan.monitor.peak_tflops.map(|peak| flops / (peak * 1e12)),
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
            .and_then(|()| capture::write(self.run, self.plan, capture));
        match written {
            Ok(capture) => {
                TrainError::NonFinite { step, loss, gradient_norm, lr, samples, capture }
            }
            Err(error) => error,
        }
    }
}

/// Time of a step, and how much of it was spent waiting for data.
struct Clock {
    since: Instant,
    waited: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO }
    }

    /// Seconds since the last lap and the share of them spent waiting.
    fn lap(&mut self, waited: Duration) -> (f64, f64) {
        let secs = self.since.elapsed().as_secs_f64().max(1e-9);
        let share = (waited.saturating_sub(self.waited).as_secs_f64() / secs).min(1.0);
        (self.since, self.waited) = (Instant::now(), waited);
        (secs, share)
    }
}
