//! The linear probe on cached features: many heads at once, the best chosen on held-out data.
//!
//! Each image's centre view is encoded once. A linear layer on frozen features is a convex problem
//! of a few thousand numbers; what differs from one set of features to another is the learning rate
//! and the decay that suit it. So a head for each pair of them is trained in the same steps, all as
//! one wide product (as DINOv2 does, arXiv 2304.07193, section 7.1), the best is chosen on held-out
//! training images, and trained again on all of them.

use burn::tensor::Device;
use ocl_data::{Draws, Purpose};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::Features;
use crate::heads::{Accuracy, Heads, Standard, Training};
use crate::progress::Progress;

/// `[linear]`: settings of the cached linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachedConfig {
    /// Passes over the features.
    pub epochs: usize,
    /// Features a step; at most a sixteenth of them.
    pub batch: usize,
    /// Peak learning rates of SGD, falling to zero by half a cosine.
    pub lrs: Vec<f64>,
    /// L2 decays of the weights.
    pub weight_decays: Vec<f64>,
    /// Nesterov momentum.
    pub momentum: f64,
    /// Share of each class's training images on which rate and decay are chosen.
    pub held_out: f64,
}

impl CachedConfig {
    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong =
            |setting, reason: &str| Err(EvalError::Setting { setting, reason: reason.to_owned() });
        let fine = |values: &[f64], least: f64| {
            !values.is_empty() && values.iter().all(|v| v.is_finite() && *v >= least)
        };
        if self.epochs == 0 || self.batch == 0 {
            return wrong("linear.epochs", "epochs and batch are at least 1");
        }
        if !fine(&self.lrs, f64::MIN_POSITIVE) {
            return wrong("linear.lrs", "needs at least one rate, all above 0");
        }
        if !fine(&self.weight_decays, 0.0) {
            return wrong("linear.weight_decays", "needs at least one decay, none below 0");
        }
        if !(0.0..1.0).contains(&self.momentum) || !(0.0..1.0).contains(&self.held_out) {
            return wrong("linear.momentum", "momentum and held_out are 0 to below 1");
        }
        Ok(())
    }

    /// `(rate, decay)` of each head.
    fn grid(&self) -> Vec<(f64, f64)> {
        let pairs = |&lr: &f64| self.weight_decays.iter().map(move |&decay| (lr, decay));
        self.lrs.iter().flat_map(pairs).collect()
    }

    fn training(&self, batch: usize) -> Training {
        Training { epochs: self.epochs, batch, momentum: self.momentum }
    }

    fn batch_for(&self, images: usize) -> usize {
        self.batch.min(images.div_ceil(16)).max(1)
    }
}

/// Sweeps rates and decays on held-out training features, trains the best on all, measures it on
/// `test`.
///
/// # Errors
/// When a setting cannot work, no head's loss stays finite, or the device fails.
///
/// # Panics
/// If the widths of `train` and `test` differ, or a label is not below `classes`.
pub fn linear_cached(
    train: &Features,
    test: &Features,
    classes: usize,
    config: &CachedConfig,
    seeds: &[u64],
    device: &Device,
    progress: &mut Progress,
) -> Result<Measured, EvalError> {
    config.check()?;
    let (mut top1, mut top5, mut chosen) = (vec![], vec![], vec![]);
    for &seed in seeds {
        let probe = CachedProbe::fit(train, classes, config, seed, device, progress)?;
        let Accuracy { top1: first, top5: five } = probe.accuracy(test)?;
        top1.push(first);
        top5.push(five);
        chosen.push(json!({ "lr": probe.lr, "weight_decay": probe.weight_decay }));
    }
    let constants = json!({
        "optimiser": "SGD, Nesterov, half a cosine to 0",
        "epochs": config.epochs,
        "batch": config.batch_for(train.len()),
        "lrs": config.lrs,
        "weight_decays": config.weight_decays,
        "momentum": config.momentum,
        "held_out": config.held_out,
        "chosen": chosen,
        "features": "standardised; centre view",
    });
    let scores = vec![Score::new("top-1", top1), Score::new("top-5", top5)];
    Ok(Measured { constants, scores, seeds: seeds.to_vec() })
}

/// A probe that was trained, for use on other features too.
#[derive(Debug)]
pub(crate) struct CachedProbe {
    standard: Standard,
    heads: Heads,
    lr: f64,
    weight_decay: f64,
}

impl CachedProbe {
    pub(crate) fn fit(
        train: &Features,
        classes: usize,
        config: &CachedConfig,
        seed: u64,
        device: &Device,
        progress: &mut Progress,
    ) -> Result<Self, EvalError> {
        let standard = Standard::of(train.values(), train.width());
        let x =
            Features::new(standard.apply(train.values()), train.width(), train.labels().to_vec());
        let (fitting, held) = hold_out(x.labels(), classes, config.held_out, seed);
        let grid = config.grid();
        let best = if held.is_empty() || grid.len() == 1 {
            // Nothing to choose on, or nothing to choose: the middle of the grid.
            grid[grid.len() / 2]
        } else {
            let mut heads = Heads::new(x.width(), classes, &grid, device);
            let batch = config.batch_for(fitting.len());
            heads.train(&x, &fitting, &config.training(batch), seed, progress)?;
            let tallies = heads.tallies(&x, &held)?;
            let top1 = |i: &usize| tallies[*i].accuracy().top1;
            // Of equals the first: the lower rate.
            let best = (0..grid.len()).rev().max_by(|a, b| top1(a).total_cmp(&top1(b)));
            grid[best.unwrap_or(0)]
        };
        let mut heads = Heads::new(x.width(), classes, &[best], device);
        let all: Vec<u32> = (0..x.len() as u32).collect();
        heads.train(&x, &all, &config.training(config.batch_for(x.len())), seed, progress)?;
        Ok(Self { standard, heads, lr: best.0, weight_decay: best.1 })
    }

    pub(crate) fn accuracy(&self, test: &Features) -> Result<Accuracy, EvalError> {
        let values = self.standard.apply(test.values());
        let x = Features::new(values, test.width(), test.labels().to_vec());
        let all: Vec<u32> = (0..x.len() as u32).collect();
        Ok(self.heads.tallies(&x, &all)?[0].accuracy())
    }

    /// `[N, C]` logits of features.
    pub(crate) fn logits(&self, features: &Features) -> Result<Vec<f32>, EvalError> {
        let values = self.standard.apply(features.values());
        let x = Features::new(values, features.width(), features.labels().to_vec());
        self.heads.all_logits(&x)
    }
}

/// Rows to fit on and rows held out, the same share of each class; a class's only image is fitted
/// on.
fn hold_out(labels: &[u32], classes: usize, share: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut of_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(row, label)| of_class[*label as usize].push(row as u32));
    let (mut fitting, mut held) = (vec![], vec![]);
    for (class, mut rows) in of_class.into_iter().enumerate() {
        let wanted = (share * rows.len() as f64).round() as usize;
        let count = wanted.min(rows.len().saturating_sub(1));
        Draws::new(seed, 0, class as u64, Purpose::HeldOut).shuffle_front(&mut rows, count);
        held.extend_from_slice(&rows[..count]);
        fitting.extend_from_slice(&rows[count..]);
    }
    fitting.sort_unstable();
    held.sort_unstable();
    (fitting, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> CachedConfig {
        CachedConfig {
            epochs: 20,
            batch: 16,
            lrs: vec![0.01, 0.1],
            weight_decays: vec![0.0, 1e-3],
            momentum: 0.9,
            held_out: 0.2,
        }
    }

    /// `n` samples of 3 classes along an axis each, with a little spread; `name` says which class
    /// is called what.
    fn toy(n: usize, name: [u32; 3]) -> Features {
        let rows = (0..n).flat_map(|i| {
            let wave = move |k: usize| 0.3 * ((i * (k + 3)) as f32 * 0.7).sin();
            (0..4).map(move |d| if d == i % 3 { 2.0 + wave(d) } else { wave(d) })
        });
        Features::new(rows.collect(), 4, (0..n).map(|i| name[i % 3]).collect())
    }

    fn measure(train: &Features, test: &Features, config: &CachedConfig) -> Measured {
        let (device, mut progress) = (Device::default(), Progress::silent());
        linear_cached(train, test, 3, config, &[0, 1], &device, &mut progress).unwrap()
    }

    #[test]
    fn separable_classes_are_separated_whatever_they_are_called() {
        for name in [[0, 1, 2], [2, 0, 1], [1, 0, 2]] {
            let measured = measure(&toy(300, name), &toy(90, name), &config());
            assert_eq!(measured.scores[0].values, [1.0, 1.0]);
        }
    }

    #[test]
    fn a_rate_that_diverges_is_not_chosen() {
        let config = CachedConfig { lrs: vec![1e9, 0.1], weight_decays: vec![1e-3], ..config() };
        let measured = measure(&toy(300, [0, 1, 2]), &toy(90, [0, 1, 2]), &config);
        assert_eq!(measured.constants["chosen"][0]["lr"], 0.1);
    }

    #[test]
    fn one_image_a_class_is_enough_to_begin() {
        let measured = measure(&toy(3, [0, 1, 2]), &toy(9, [0, 1, 2]), &config());
        assert_eq!(measured.scores[0].mean, 1.0);
    }

    #[test]
    fn impossible_settings_are_named() {
        let error = CachedConfig { lrs: vec![], ..config() }.check().unwrap_err();
        assert!(error.to_string().starts_with("linear.lrs"));
    }
}
