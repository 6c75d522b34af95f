//! What a sample becomes: the settings of a view, and the crop drawn for one sample.

use serde::{Deserialize, Serialize};

use crate::blocks::BlockMasks;
use crate::geometry::{Geometry, Normalisation};
use crate::loader::Batch;
use crate::random::Draws;
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
    /// The short side is resized to `round(image_px * resize_ratio)` before the centre is cut:
    /// 256/224 is usual, 1.0 leaves no margin.
    pub resize_ratio: f64,
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
        let View::Train(TrainView { keep: Keep::Blocks(masks), geometry, .. }) = self else {
            return batch;
        };
        Batch { blocks: Some(masks.draw(seed, &batch, geometry.grid())), ..batch }
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
                        masks.check(view.geometry.grid()).map_err(|reason| ("blocks", reason))?;
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

/// A box inside an image, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Left edge.
    pub x_px: u32,
    /// Upper edge.
    pub y_px: u32,
    /// Width, at least 1.
    pub width_px: u32,
    /// Height, at least 1.
    pub height_px: u32,
}

/// Draws a box as torchvision's `RandomResizedCrop.get_params` does.
///
/// Up to ten tries of an area uniform in `scale` and a width over height log-uniform in `ratio`;
/// the first box that fits the image is placed uniformly. If none fits: the largest centred box
/// whose ratio lies in `ratio`.
///
/// # Panics
/// If the image is empty.
pub fn sample_crop(
    width_px: u32,
    height_px: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    draws: &mut Draws,
) -> Crop {
    assert!(width_px > 0 && height_px > 0, "a crop of an empty image");
    let area = f64::from(width_px) * f64::from(height_px);
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for _ in 0..10 {
        let target = area * draws.between(scale.0, scale.1);
        let aspect = draws.between(log_ratio.0, log_ratio.1).exp();
        // Python's `round` ties to even.
        let w = (target * aspect).sqrt().round_ties_even();
        let h = (target / aspect).sqrt().round_ties_even();
        if w >= 1.0 && h >= 1.0 && w <= f64::from(width_px) && h <= f64::from(height_px) {
            let (w, h) = (w as u32, h as u32);
            let y_px = draws.below(height_px - h + 1);
            let x_px = draws.below(width_px - w + 1);
            return Crop { x_px, y_px, width_px: w, height_px: h };
        }
    }
    let in_ratio = f64::from(width_px) / f64::from(height_px);
    let (mut w, mut h) = (width_px, height_px);
    if in_ratio < ratio.0 {
        h = ((f64::from(w) / ratio.0).round_ties_even() as u32).clamp(1, height_px);
    } else if in_ratio > ratio.1 {
        w = ((f64::from(h) * ratio.1).round_ties_even() as u32).clamp(1, width_px);
    }
    Crop { x_px: (width_px - w) / 2, y_px: (height_px - h) / 2, width_px: w, height_px: h }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn crops_lie_inside_and_cover_the_scales() {
        let mut areas = Vec::new();
        for sample in 0..2000 {
            let mut draws = Draws::new(1, 0, sample, Purpose::Test);
            let crop = sample_crop(500, 375, (0.2, 1.0), (0.75, 4.0 / 3.0), &mut draws);
            assert!(crop.x_px + crop.width_px <= 500 && crop.y_px + crop.height_px <= 375);
            let ratio = f64::from(crop.width_px) / f64::from(crop.height_px);
            assert!((0.74..1.35).contains(&ratio), "{crop:?}");
            areas.push(f64::from(crop.width_px * crop.height_px) / (500.0 * 375.0));
        }
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!(areas.iter().all(|a| (0.19..=1.0).contains(a)));
        assert!((0.47..0.53).contains(&mean), "mean area {mean}, torchvision has 0.50");
    }

    #[test]
    fn a_whole_image_and_extreme_shapes() {
        let whole = |w, h, ratio| {
            sample_crop(w, h, (1.0, 1.0), ratio, &mut Draws::new(0, 0, 0, Purpose::Test))
        };
        let side = Crop { x_px: 0, y_px: 0, width_px: 28, height_px: 28 };
        assert_eq!(whole(28, 28, (1.0, 1.0)), side);
        let strip = whole(20_000, 10, (0.75, 4.0 / 3.0));
        assert_eq!(strip, Crop { x_px: 9993, y_px: 0, width_px: 13, height_px: 10 });
        let tower = whole(3, 1000, (0.75, 4.0 / 3.0));
        assert_eq!(tower, Crop { x_px: 0, y_px: 498, width_px: 3, height_px: 4 });
        let dot = Crop { x_px: 0, y_px: 0, width_px: 1, height_px: 1 };
        assert_eq!(whole(1, 1, (0.75, 4.0 / 3.0)), dot);
    }
}
