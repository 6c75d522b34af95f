//! What a sample becomes: the settings of a view.

use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::blocks::BlockMasks;
use crate::picture::{Geometry, Normalisation};
use crate::resample::Filter;

/// Which patches of a training crop are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// Every patch, in row-major order.
    All,
    /// Some of the patches, uniformly without replacement and in drawn order; as many as there are
    /// gives all of them, shuffled.
    Random {
        /// Patches kept of an image, `K`.
        kept: usize,
    },
    /// Every patch, in row-major order, and beside them which of them are context and target
    /// blocks.
    Blocks(BlockMasks),
}

/// A box drawn from each image, and how it becomes pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainCrop {
    /// Least and greatest share of the image's area that the box takes.
    pub scale: (f64, f64),
    /// Least and greatest width over height of the box.
    pub ratio: (f64, f64),
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// What resizing weighs pixels with.
    pub filter: Filter,
}

/// What is done to the colours of a crop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// Nothing; one crop of each image.
    #[default]
    None,
    /// MoCo v3's (arXiv 2104.02057): two crops of each image, each with its own colour jitter,
    /// grey, blur and, the second, solarisation.
    MocoV3,
}

/// Random crops of each image: crop, flip, normalise, keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainView {
    /// Sides of crop and patch.
    pub geometry: Geometry,
    /// Mean and deviation of the channels.
    pub normalisation: Normalisation,
    /// The box that is drawn, and how it becomes pixels.
    pub crop: TrainCrop,
    /// What is done to colours, and so whether an image has one crop or two.
    pub augment: Augment,
    /// Which patches are made.
    pub keep: Keep,
}

/// The centre of each image, all patches, in row-major order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalView {
    /// Sides of crop and patch.
    pub geometry: Geometry,
    /// Mean and deviation of the channels.
    pub normalisation: Normalisation,
    /// The short side is resized to `floor(image_px * resize_ratio)` before the centre is cut, as
    /// in timm, DeiT and MAE: 256/224 is usual, 1.0 leaves no margin.
    pub resize_ratio: f64,
}

impl EvalView {
    /// Length of the short side before the centre is cut, in pixels.
    pub fn short_px(&self) -> u32 {
        // A ratio such as 256/224 is no binary number: a product that is whole but for rounding
        // must not lose a pixel.
        (f64::from(self.geometry.image_px) * self.resize_ratio + 1e-9).floor() as u32
    }
}

/// How samples are turned into patches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum View {
    /// Random crops.
    Train(TrainView),
    /// Centre crops.
    Eval(EvalView),
}

impl View {
    /// Sides of crop and patch.
    pub fn geometry(&self) -> Geometry {
        match self {
            View::Train(view) => view.geometry,
            View::Eval(view) => view.geometry,
        }
    }

    /// Mean and deviation of the channels.
    pub fn normalisation(&self) -> Normalisation {
        match self {
            View::Train(view) => view.normalisation,
            View::Eval(view) => view.normalisation,
        }
    }

    /// Patches made of each crop, `K`.
    pub fn kept(&self) -> usize {
        match self {
            View::Train(TrainView { keep: Keep::Random { kept }, .. }) => *kept,
            _ => self.geometry().patches(),
        }
    }

    /// Crops made of each image.
    pub fn crops(&self) -> usize {
        match self {
            View::Train(TrainView { augment: Augment::MocoV3, .. }) => 2,
            _ => 1,
        }
    }

    /// A batch with its blocks, where the view draws any, from the batch's epoch, number and
    /// samples.
    #[must_use]
    pub fn with_blocks(&self, batch: Batch, seed: u64) -> Batch {
        let samples = batch.samples.clone();
        self.with_blocks_among(batch, seed, &samples, 0)
    }

    /// The same for a part of a batch, whose images are those of `whole` from place `first` on:
    /// contexts are as long as the shortest of the whole batch's.
    #[must_use]
    pub fn with_blocks_among(&self, batch: Batch, seed: u64, whole: &[u64], first: usize) -> Batch {
        let View::Train(TrainView { keep: Keep::Blocks(masks), geometry, .. }) = self else {
            return batch;
        };
        let number = (batch.epoch, batch.index);
        let blocks = masks.draw(seed, number, whole, geometry.grid());
        let blocks = blocks.of_images(first..first + batch.images);
        Batch { blocks: Some(blocks), ..batch }
    }

    /// Values made of each image: of all its crops' patches.
    pub fn image_len(&self) -> usize {
        self.crops() * self.kept() * self.geometry().patch_len()
    }

    /// Says what is wrong with the settings, if anything is.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        self.geometry().check().map_err(|reason| ("geometry", reason))?;
        let std = self.normalisation().std;
        if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(("normalisation", format!("std {std:?} must be above 0")));
        }
        match self {
            View::Train(view) => {
                let (low, high) = view.crop.scale;
                if !(low > 0.0 && low <= high && high <= 1.0) {
                    let reason = format!("({low}, {high}) must be 0 < low <= high <= 1");
                    return Err(("scale", reason));
                }
                let (low, high) = view.crop.ratio;
                if !(low > 0.0 && low <= high && high.is_finite()) {
                    return Err(("ratio", format!("({low}, {high}) must be 0 < low <= high")));
                }
                if !(0.0..=1.0).contains(&view.crop.flip) {
                    let reason = format!("{} must be a probability, 0 to 1", view.crop.flip);
                    return Err(("flip", reason));
                }
                let patches = view.geometry.patches();
                match view.keep {
                    Keep::Random { kept } if kept == 0 || kept > patches => {
                        let reason = format!("{kept} of {patches} patches must be 1 to {patches}");
                        return Err(("kept", reason));
                    }
                    Keep::Blocks(masks) => {
                        masks
                            .check(view.geometry.grid())
                            .map_err(|(field, reason)| ("blocks", format!("{field}: {reason}")))?;
                    }
                    _ => {}
                }
            }
            View::Eval(view) => {
                if !(1.0..=4.0).contains(&view.resize_ratio) {
                    let reason = format!("{} must be 1 to 4", view.resize_ratio);
                    return Err(("resize_ratio", reason));
                }
            }
        }
        Ok(())
    }
}
