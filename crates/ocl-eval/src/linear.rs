//! The linear probe: one linear layer on frozen features (MAE, arXiv 2111.06377, appendix A).
//!
//! Two things differ from MAE's program. The head sees each image's centre view, encoded once, where
//! MAE augments every epoch with random resized crops and flips: that makes the probe minutes shorter,
//! and its figures comparable among themselves rather than with published ones. And the accuracy is
//! the last epoch's, not the best one's on the test images.

use burn::tensor::{Device, Tensor};
use ocl_train::WarmupCosine;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use crate::error::EvalError;
use crate::features::Features;
use crate::head::{BatchNorm, Head};
use crate::lars::Lars;
use crate::metrics::{Accuracy, Tally};
use crate::progress::Progress;

/// Settings of the linear probe.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearConfig {
    /// Passes over the training features.
    pub epochs: usize,
    /// Epochs of linear warm-up, part of `epochs`.
    pub warmup_epochs: usize,
    /// Features a step; `None` takes [`default_batch`].
    pub batch: Option<usize>,
    /// Learning rate of a batch of 256: the peak rate is `base_lr batch / 256`. `None` takes MAE's 0.1,
    /// or what gives a peak of 3.2 if that is more; see [`LinearConfig::base_lr_for`].
    pub base_lr: Option<f64>,
    /// Constants of the optimiser.
    pub lars: Lars,
    /// Constants of the normalisation.
    pub norm: BatchNorm,
}

impl Default for LinearConfig {
    /// MAE's recipe: 90 epochs, 10 of them warm-up, LARS without decay; batch and rate by the data.
    fn default() -> Self {
        Self {
            epochs: 90,
            warmup_epochs: 10,
            batch: None,
            base_lr: None,
            lars: Lars::default(),
            norm: BatchNorm::default(),
        }
    }
}

/// What a probe came to.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearOutcome {
    /// On the test features, after the last epoch.
    pub accuracy: Accuracy,
    /// Mean cross entropy over the last epoch.
    pub train_loss: f64,
}

/// MAE's rate of a batch of 256.
const BASE_LR: f64 = 0.1;
/// The least peak rate unless told otherwise.
const LEAST_PEAK_LR: f64 = 3.2;

/// Batch for `images` training features: MAE's 16,384, at most a 64th of the data, at least 64; a power
/// of two.
///
/// MAE's batch makes 78 steps an epoch of ImageNet's 1.28 million images; a 64th keeps about as many.
pub fn default_batch(images: usize) -> usize {
    let wanted = (images / 64).clamp(64, 16_384);
    (1 << wanted.ilog2()).min(images)
}

impl LinearConfig {
    /// The batch for `images` training features.
    pub fn batch_for(&self, images: usize) -> usize {
        self.batch.unwrap_or_else(|| default_batch(images)).min(images)
    }

    /// The rate of a batch of 256 for `images` training features.
    ///
    /// LARS moves the weight by a set share of its length each step, so how far it comes depends on the
    /// sum of the rates. By MAE's rule that sum is in proportion to the data: on 60,000 images the weight
    /// stops a twentieth of the way, and the probe says more about itself than about the features. A peak
    /// of at least 3.2 (MAE's on ImageNet is 6.4) mends that. Measured on Fashion-MNIST, top-1: features
    /// of an untrained encoder 74.4 % at MAE's rule, 79.2 % at 3.2, 79.7 % at 6.4; raw pixels 83.9, 84.4
    /// and 84.3 %.
    pub fn base_lr_for(&self, images: usize) -> f64 {
        let least = LEAST_PEAK_LR * 256.0 / self.batch_for(images) as f64;
        self.base_lr.unwrap_or(BASE_LR.max(least))
    }

    /// The peak learning rate for `images` training features.
    pub fn peak_lr(&self, images: usize) -> f64 {
        self.base_lr_for(images) * self.batch_for(images) as f64 / 256.0
    }

    /// The rates for `images` training features: linear warm-up, then half a cosine to zero.
    fn schedule(&self, images: usize) -> WarmupCosine {
        WarmupCosine {
            lr: self.peak_lr(images),
            min_lr: 0.0,
            warmup_epochs: self.warmup_epochs as f64,
            epochs: self.epochs as f64,
        }
    }

    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong = |setting, reason: String| Err(EvalError::Setting { setting, reason });
        if self.epochs == 0 || self.warmup_epochs >= self.epochs {
            let (epochs, warmup) = (self.epochs, self.warmup_epochs);
            return wrong("warmup-epochs", format!("{warmup} must be below epochs, {epochs}"));
        }
        if self.batch.is_some_and(|batch| batch < 2) {
            return wrong("batch", "batch normalisation needs at least 2".to_owned());
        }
        if let Some(base_lr) = self.base_lr
            && !(base_lr.is_finite() && base_lr > 0.0)
        {
            return wrong("base-lr", format!("{base_lr} must be above 0"));
        }
        Ok(())
    }
}

/// Trains the head on `train` and measures it on `test`.
///
/// The initial weights and the order of the features follow from `seed`. The last, partial batch of an
/// epoch is left out, as in MAE.
///
/// # Errors
/// When a setting cannot work, the loss stops being finite, or the device fails.
///
/// # Panics
/// If `train` has fewer than two rows, the widths of `train` and `test` differ, or a test label is not
/// below `classes`.
pub fn linear_probe(
    train: &Features,
    test: &Features,
    classes: usize,
    config: &LinearConfig,
    seed: u64,
    device: &Device,
    progress: &mut Progress,
) -> Result<LinearOutcome, EvalError> {
    config.check()?;
    assert!(train.len() > 1, "a probe needs at least 2 training features, got {}", train.len());
    assert_eq!(train.width(), test.width(), "features of train and test differ in width");
    let (batch, schedule) = (config.batch_for(train.len()), config.schedule(train.len()));
    let steps = train.len() / batch;
    let mut head = Head::new(train.width(), classes, config.norm, seed, device);
    let mut order: Vec<u32> = (0..train.len() as u32).collect();
    // Another stream than the initial weights'.
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    stream.set_stream(1);
    let mut train_loss = f64::NAN;
    for epoch in 0..config.epochs {
        order.shuffle(&mut stream);
        let mut sum = Tensor::<1>::zeros([1], device);
        let mut lr = 0.0;
        for (step, rows) in order.chunks_exact(batch).enumerate() {
            lr = schedule.at(epoch as f64 + step as f64 / steps as f64);
            let (x, y) = train.gather(rows, device);
            sum = sum + head.train_step(x, y, lr, &config.lars);
        }
        // Read once an epoch: a GPU stalls at each reading.
        let sum: f32 = sum.try_into_scalar().map_err(EvalError::Device)?;
        train_loss = f64::from(sum) / steps as f64;
        if !train_loss.is_finite() {
            return Err(EvalError::Diverged { epoch, lr });
        }
        progress.line(|| {
            format!("linear probe: epoch {} / {}, loss {train_loss:.3}", epoch + 1, config.epochs)
        });
    }
    Ok(LinearOutcome { accuracy: test_accuracy(&head, test, device)?, train_loss })
}

fn test_accuracy(head: &Head, test: &Features, device: &Device) -> Result<Accuracy, EvalError> {
    let mut tally = Tally::default();
    for start in (0..test.len()).step_by(4096) {
        let rows = start..test.len().min(start + 4096);
        let logits = head.logits(test.block(rows.clone(), device));
        let logits = logits.try_into_vec_as::<f32>().map_err(EvalError::Device)?;
        tally.add_scores(&logits, &test.labels()[rows]);
    }
    Ok(tally.accuracy())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` samples of 3 classes along an axis each, with a little spread; `name` says which class is
    /// called what.
    fn toy(n: usize, name: [u32; 3]) -> Features {
        let rows = (0..n).flat_map(|i| {
            let wave = move |k: usize| 0.3 * ((i * (k + 3)) as f32 * 0.7).sin();
            (0..4).map(move |d| if d == i % 3 { 2.0 + wave(d) } else { wave(d) })
        });
        Features::new(rows.collect(), 4, (0..n).map(|i| name[i % 3]).collect())
    }

    fn accuracy(name: [u32; 3], seed: u64) -> LinearOutcome {
        let config = LinearConfig::default();
        let (train, test) = (toy(300, name), toy(90, name));
        let device = Device::default();
        linear_probe(&train, &test, 3, &config, seed, &device, &mut Progress::silent()).unwrap()
    }

    #[test]
    fn separable_classes_are_separated_whatever_they_are_called() {
        for name in [[0, 1, 2], [2, 0, 1], [1, 0, 2]] {
            assert_eq!(accuracy(name, 0).accuracy, Accuracy { top1: 1.0, top5: 1.0 });
        }
    }

    #[test]
    fn the_seed_decides() {
        let loss = |seed| accuracy([0, 1, 2], seed).train_loss;
        let (first, again, other) = (loss(4), loss(4), loss(5));
        // Equal to the bit on a CPU; a GPU may have tuned itself to another kernel in between.
        assert!((first - again).abs() < 1e-3 * (first - other).abs(), "{first} {again} {other}");
    }

    #[test]
    fn the_rate_is_the_papers_on_imagenet_and_not_too_small_elsewhere() {
        let config = LinearConfig::default();
        // 6.4 = 0.1 * 16384 / 256, of MAE's table 10.
        assert_eq!((config.peak_lr(1_281_167), config.base_lr_for(1_281_167)), (6.4, 0.1));
        assert_eq!((config.peak_lr(60_000), config.base_lr_for(60_000)), (3.2, 1.6));
        let told = LinearConfig { base_lr: Some(0.1), batch: Some(1024), ..config };
        assert_eq!(told.peak_lr(60_000), 0.4);
    }

    #[test]
    fn the_batch_follows_the_data() {
        assert_eq!([10, 8_000, 60_000, 1_281_167].map(default_batch), [10, 64, 512, 16_384]);
    }

    #[test]
    fn impossible_settings_are_named() {
        let config = LinearConfig { warmup_epochs: 90, ..LinearConfig::default() };
        let toy = toy(30, [0, 1, 2]);
        let run =
            linear_probe(&toy, &toy, 3, &config, 0, &Device::default(), &mut Progress::silent());
        assert!(run.unwrap_err().to_string().contains("warmup-epochs"));
    }
}
