//! The linear probe as MAE runs it (arXiv 2111.06377, appendix A, table 10): every epoch sees other
//! random crops, so that every epoch runs the encoder; batch norm without scale and shift; LARS.
//!
//! One thing differs from MAE's program: the accuracy is the last epoch's, not the best one's on
//! the test images.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::{
    Augment, Filter, Keep, Loader, LoaderConfig, Order, Split, TrainCrop, TrainView, View,
};
use ocl_train::WarmupCosine;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::{Features, Material, append_features};
use crate::heads::{Accuracy, BatchNorm, Head, Lars, Tally};
use crate::progress::Progress;

/// `[linear-mae]`: settings of MAE's linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaeConfig {
    /// Passes over the images.
    pub epochs: usize,
    /// Epochs of linear warm-up, part of `epochs`.
    pub warmup_epochs: usize,
    /// Images a step; 0 takes [`default_batch`].
    pub batch: usize,
    /// Learning rate of a batch of 256: the peak rate is `base_lr batch / 256`; MAE's is 0.1.
    pub base_lr: f64,
    /// The least peak rate: what is below is raised to it. 0 leaves MAE's rule as it is; see
    /// [`MaeConfig::peak_lr`].
    pub least_peak_lr: f64,
    /// LARS momentum.
    pub momentum: f64,
    /// LARS trust coefficient.
    pub trust_coefficient: f64,
    /// LARS decay of the weight matrix.
    pub weight_decay: f64,
    /// Epsilon of the batch norm.
    pub bn_eps: f64,
    /// Weight of the batch in the running statistics.
    pub bn_momentum: f64,
    /// Area of a random crop, as a share of the image: `[low, high]`.
    pub crop_scale: [f64; 2],
    /// Width over height of a random crop: `[low, high]`.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
}

/// Batch for `images` training images: MAE's 16,384, at most a 64th of the data, at least 64; a
/// power of two.
///
/// MAE's batch makes 78 steps an epoch of ImageNet's 1.28 million images; a 64th keeps about as
/// many.
pub(super) fn default_batch(images: usize) -> usize {
    let wanted = (images / 64).clamp(64, 16_384);
    (1 << wanted.ilog2()).min(images)
}

impl MaeConfig {
    /// The batch for `images` training images.
    pub fn batch_for(&self, images: usize) -> usize {
        let batch = if self.batch == 0 { default_batch(images) } else { self.batch };
        batch.min(images)
    }

    /// The peak learning rate for `images` training images.
    ///
    /// LARS moves the weight by a set share of its length each step, so how far it comes depends on
    /// the sum of the rates. By MAE's rule that sum is in proportion to the data: on 60,000 images
    /// the weight stops a twentieth of the way, and the probe says more about itself than about the
    /// features. A peak of at least 3.2 (MAE's on ImageNet is 6.4) mends that.
    pub fn peak_lr(&self, images: usize) -> f64 {
        (self.base_lr * self.batch_for(images) as f64 / 256.0).max(self.least_peak_lr)
    }

    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong = |setting, reason: String| Err(EvalError::Setting { setting, reason });
        if self.epochs == 0 || self.warmup_epochs >= self.epochs {
            let (epochs, warmup) = (self.epochs, self.warmup_epochs);
            let reason = format!("{warmup} must be below epochs, {epochs}");
            return wrong("linear-mae.warmup_epochs", reason);
        }
        if self.batch == 1 {
            let reason = "batch normalisation needs at least 2".to_owned();
            return wrong("linear-mae.batch", reason);
        }
        if !(self.base_lr.is_finite() && self.base_lr > 0.0) {
            return wrong("linear-mae.base_lr", format!("{} must be above 0", self.base_lr));
        }
        Ok(())
    }

    fn lars(&self) -> Lars {
        Lars {
            momentum: self.momentum,
            trust_coefficient: self.trust_coefficient,
            weight_decay: self.weight_decay,
        }
    }
}

/// Trains the head on augmented images of the training split, measures it on the test features.
///
/// Initial weights, order and crops follow from each seed. The last, partial batch of an epoch is
/// left out, as in MAE.
///
/// # Errors
/// When a setting cannot work, the loss stops being finite, images cannot be read or the device
/// fails.
pub(super) fn linear_mae(
    material: &Material<'_>,
    config: &MaeConfig,
    seeds: &[u64],
    device: &Device,
    progress: &mut Progress,
) -> Result<Measured, EvalError> {
    config.check()?;
    let images = material.splits.train.len();
    let (mut top1, mut top5) = (vec![], vec![]);
    for &seed in seeds {
        let head = train(material, config, seed, device, progress)?;
        let Accuracy { top1: first, top5: five } =
            test_accuracy(&head, &material.splits.test, device)?;
        top1.push(first);
        top5.push(five);
    }
    let mut constants = serde_json::to_value(config).expect("settings are plain data");
    constants["batch"] = json!(config.batch_for(images));
    constants["peak_lr"] = json!(config.peak_lr(images));
    // Whether the rate is MAE's own rule, or what small data need.
    let own = config.base_lr * config.batch_for(images) as f64 / 256.0;
    constants["rate_raised"] = json!(config.peak_lr(images) > own);
    let scores = vec![Score::new("top-1", top1), Score::new("top-5", top5)];
    Ok(Measured { constants, scores, seeds: seeds.to_vec() })
}

fn train(
    material: &Material<'_>,
    config: &MaeConfig,
    seed: u64,
    device: &Device,
    progress: &mut Progress,
) -> Result<Head, EvalError> {
    let images = material.splits.train.len();
    let batch = config.batch_for(images);
    let schedule = WarmupCosine {
        lr: config.peak_lr(images),
        min_lr: 0.0,
        warmup_epochs: config.warmup_epochs as f64,
        epochs: config.epochs as f64,
    };
    let reading = material.reading;
    let view = View::Train(TrainView {
        geometry: reading.view.geometry,
        normalisation: reading.view.normalisation,
        crop: TrainCrop {
            scale: config.crop_scale.into(),
            ratio: config.crop_ratio.into(),
            flip: config.flip,
            filter: Filter::Bicubic,
        },
        augment: Augment::None,
        keep: Keep::All,
    });
    let loader = LoaderConfig {
        batch,
        workers: reading.workers,
        seed,
        order: Order::Shuffled,
        epochs: 0..config.epochs as u64,
        max_bad_share: reading.max_bad_share,
        subset: material.data.sample(Split::Train, material.limits[0]),
        ..LoaderConfig::default()
    };
    let failed = |source| EvalError::Loader { split: Split::Train, source };
    let source = material.data.split(Split::Train);
    let loader = Loader::start(Arc::clone(source), view, loader).map_err(failed)?;
    let per_epoch = loader.batches_per_epoch();
    let norm = BatchNorm { eps: config.bn_eps, momentum: config.bn_momentum };
    let mut head: Option<Head> = None;
    let mut sum = Tensor::<1>::zeros([1], device);
    progress.begin();
    for item in loader {
        let data = item.map_err(failed)?;
        let mut rows = Vec::new();
        append_features(&material.extractor(), &data, reading, source, device, &mut rows)?;
        let width = rows.len() / data.images;
        let head = head
            .get_or_insert_with(|| Head::new(width, material.data.classes(), norm, seed, device));
        let x = Tensor::<2>::from_data(TensorData::new(rows, [data.images, width]), device);
        let labels: Vec<i32> = data.labels.iter().map(|&label| label as i32).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [data.images]), device);
        let epoch = data.epoch as f64 + data.index as f64 / per_epoch as f64;
        let lr = schedule.at(epoch);
        sum = sum + head.train_step(x, labels, lr, &config.lars());
        if data.index + 1 == per_epoch {
            // Read once an epoch: a GPU stalls at each reading.
            let loss: f32 = sum.try_into_scalar().map_err(EvalError::Device)?;
            sum = Tensor::zeros([1], device);
            if !loss.is_finite() {
                return Err(EvalError::Diverged { epoch: data.epoch as usize, lr });
            }
        }
        let done = (data.epoch * per_epoch + data.index + 1) as usize * batch;
        progress.images("linear probe as in MAE", done, config.epochs * images);
    }
    head.ok_or_else(|| EvalError::Setting {
        setting: "linear-mae.batch",
        reason: format!("{batch} images a step leave no step of {images} images"),
    })
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
    use crate::protocols::EvalRecipe;

    fn config() -> MaeConfig {
        EvalRecipe::load(None, &[]).unwrap().linear_mae
    }

    #[test]
    fn the_rate_is_the_papers_on_imagenet_and_not_too_small_elsewhere() {
        // 6.4 = 0.1 * 16384 / 256, of MAE's table 10.
        assert_eq!(config().peak_lr(1_281_167), 6.4);
        assert_eq!(config().peak_lr(60_000), 3.2);
        let literal = MaeConfig { least_peak_lr: 0.0, batch: 1024, ..config() };
        assert_eq!(literal.peak_lr(60_000), 0.4);
    }

    #[test]
    fn the_batch_follows_the_data() {
        assert_eq!([10, 8_000, 60_000, 1_281_167].map(default_batch), [10, 64, 512, 16_384]);
    }

    #[test]
    fn impossible_settings_are_named() {
        let error = MaeConfig { warmup_epochs: 90, ..config() }.check().unwrap_err();
        assert!(error.to_string().contains("warmup_epochs"));
    }
}
