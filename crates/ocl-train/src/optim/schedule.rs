//! What of a step depends on time: learning rate, weight decay, momentum of averaged networks.

use serde::{Deserialize, Serialize};

/// Where a run is: what schedules depend on, so that resuming needs no state of theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    /// Steps done before this one.
    pub step: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps of the run; its last epoch need not be whole.
    pub steps: u64,
}

impl Clock {
    /// The fractional epoch, `0..epochs`.
    pub fn epoch(&self) -> f64 {
        self.step as f64 / self.steps_per_epoch as f64
    }

    /// Epochs of the run.
    pub fn epochs(&self) -> f64 {
        self.steps as f64 / self.steps_per_epoch as f64
    }
}

/// Numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay, where it changes in the course of a run.
    pub weight_decay: Option<f64>,
    /// What an averaged network keeps of itself, for methods that have one.
    pub momentum: Option<f64>,
}

impl From<f64> for Rates {
    /// A learning rate, and nothing else that changes.
    fn from(lr: f64) -> Self {
        Self { lr, weight_decay: None, momentum: None }
    }
}

/// Half a cosine from `start` at `done = 0` to `end` at `done = 1`:
/// `end + (start - end) (1 + cos(pi done)) / 2`.
pub(crate) fn half_cosine(start: f64, end: f64, done: f64) -> f64 {
    end + (start - end) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

/// Linear warm-up, then half a cosine, at the fractional epoch. Burn's schedulers refuse rates
/// above 1 and count in steps of their own; this one is a function of time alone, so that resuming
/// needs no state. Source: SGDR (arXiv 1608.03983) as MAE and OCL use it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmupCosine {
    /// Rate at the end of the warm-up.
    pub lr: f64,
    /// Rate at the end.
    pub min_lr: f64,
    /// Length of the warm-up.
    pub warmup_epochs: f64,
    /// Length of the whole.
    pub epochs: f64,
}

impl WarmupCosine {
    /// The rate at a fractional epoch in `0..epochs`.
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.lr * epoch / self.warmup_epochs;
        }
        let done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs);
        half_cosine(self.lr, self.min_lr, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let schedule = WarmupCosine { lr: 2.0, min_lr: 0.5, warmup_epochs: 2.0, epochs: 10.0 };
        assert_eq!(schedule.at(0.0), 0.0);
        assert_eq!(schedule.at(1.0), 1.0);
        assert_eq!(schedule.at(2.0), 2.0);
        assert!((schedule.at(6.0) - 1.25).abs() < 1e-12);
        assert!((schedule.at(10.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn without_warm_up_it_begins_at_the_top() {
        let schedule = WarmupCosine { lr: 2.0, min_lr: 0.0, warmup_epochs: 0.0, epochs: 3.0 };
        assert_eq!(schedule.at(0.0), 2.0);
    }
}
