//! Steps done and not yet accounted for.
//!
//! Reading a loss waits for the device. So a step is entered here when it has been handed over, and its
//! loss is read when the next one has been too: the device is never idle, and a loss that is no number is
//! still found before anything is saved.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use crate::error::TrainError;
use crate::journal::{Journal, StepRecord};
use crate::plan::Plan;
use crate::pretrain::Event;

/// A step whose loss has not been read from the device.
pub(crate) struct Pending {
    pub(crate) step: u64,
    pub(crate) lr: f64,
    pub(crate) loss: Tensor<1>,
    pub(crate) samples: Vec<u64>,
}

/// Reads losses late, writes them down and tells the observer.
pub(crate) struct Ledger<'a, O> {
    plan: &'a Plan,
    journal: Journal,
    observe: O,
    clock: Clock,
    pending: Option<Pending>,
    last_loss: Option<f64>,
}

impl<'a, O: FnMut(Event<'_>)> Ledger<'a, O> {
    pub(crate) fn new(plan: &'a Plan, journal: Journal, observe: O) -> Self {
        Self { plan, journal, observe, clock: Clock::start(), pending: None, last_loss: None }
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
        let Pending { step, lr, loss, samples } = pending;
        let loss = f64::from(loss.into_scalar::<f32>());
        if !loss.is_finite() {
            return Err(TrainError::NonFinite { step, loss, lr, samples });
        }
        let (secs, data_wait) = self.clock.lap(waited);
        let record = StepRecord {
            step,
            epoch: self.plan.epoch_at(step),
            loss,
            lr,
            images_per_sec: self.plan.batch as f64 / secs,
            data_wait,
        };
        self.last_loss = Some(loss);
        self.journal.record(&record)?;
        self.tell(Event::Step(&record));
        Ok(())
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
