//! The learning rate of a step.

use serde::{Deserialize, Serialize};

/// Linear warm-up, then half a cosine, at the fractional epoch. Burn's schedulers refuse rates above 1
/// and count in steps of their own; this one is a function of time alone, so that resuming needs no
/// state. Source: SGDR (arXiv 1608.03983) as MAE and OCL use it.
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
        self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
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
