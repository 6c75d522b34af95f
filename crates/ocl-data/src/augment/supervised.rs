//! What an image becomes where labels are learnt: crop, flip, RandAugment, normalise, erase.

use serde::{Deserialize, Serialize};

use super::erase::erase;
use super::randaugment::{RandAugment, randaugment};
use crate::picture::Normalisation;
use crate::picture::Normaliser;
use crate::picture::RgbImage;
use crate::picture::{Crop, sample_crop};
use crate::random::{Draws, Purpose};
use crate::resample::{Filter, Resampler, Window};

/// Augmentation of labelled images, with the keys of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisedAugment {
    /// Area of a random crop, as a share of the image: `[low, high]`.
    pub crop_scale: [f64; 2],
    /// Width over height of a random crop: `[low, high]`.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Operations of RandAugment drawn for each image; 0 leaves it out.
    pub randaugment_operations: usize,
    /// Mean magnitude of an operation, 0 to 10.
    pub randaugment_magnitude: f64,
    /// Standard deviation of the magnitude.
    pub randaugment_deviation: f64,
    /// Probability that an operation is applied.
    pub randaugment_probability: f64,
    /// Probability that a box of the image is erased.
    pub erase: f64,
}

/// Makes augmented, normalised pictures of one size. All draws are keyed by (seed, epoch, sample).
pub(crate) struct ImageMaker {
    augment: SupervisedAugment,
    side_px: u32,
    normaliser: Normaliser,
    /// What comes in from outside a picture: the level that the encoder takes for nothing.
    fill: [u8; 3],
    seed: u64,
}

impl ImageMaker {
    pub(crate) fn new(
        augment: SupervisedAugment,
        side_px: u32,
        normalisation: &Normalisation,
        seed: u64,
    ) -> ImageMaker {
        let fill = normalisation.mean.map(|mean| (mean * 255.0).round().clamp(0.0, 255.0) as u8);
        ImageMaker { augment, side_px, normaliser: Normaliser::new(normalisation), fill, seed }
    }

    /// Values of one picture, `S * S * 3`.
    pub(crate) fn len(&self) -> usize {
        self.side_px as usize * self.side_px as usize * 3
    }

    /// Writes a picture, `[S, S, 3]`.
    pub(crate) fn make(&self, image: &RgbImage, epoch: u64, sample: u32, out: &mut [f32]) {
        let ImageMaker { augment, side_px, normaliser, fill, seed } = self;
        let (side_px, side) = (*side_px, *side_px as usize);
        let draws = |purpose| Draws::new(*seed, epoch, u64::from(sample), purpose);
        let mut crop = draws(Purpose::FinetuneCrop);
        let (scale, ratio) = (augment.crop_scale.into(), augment.crop_ratio.into());
        let source = sample_crop(image.width_px, image.height_px, scale, ratio, &mut crop);
        let filter = Filter::Bicubic;
        let window = Window { source, width_px: side_px, height_px: side_px, filter };
        let whole = Crop { x_px: 0, y_px: 0, width_px: side_px, height_px: side_px };
        let mut pixels = vec![0; self.len()];
        Resampler::new().part(image, &window, &whole, &mut pixels);
        if crop.unit() < augment.flip {
            mirror(&mut pixels, side);
        }
        let settings = RandAugment {
            operations: augment.randaugment_operations,
            magnitude: (augment.randaugment_magnitude, augment.randaugment_deviation),
            probability: augment.randaugment_probability,
        };
        randaugment(&mut pixels, side, *fill, &settings, &mut draws(Purpose::RandAugment));
        normaliser.patch(&pixels, side * 3, side * 3, false, out);
        erase(out, side, augment.erase, &mut draws(Purpose::Erase));
    }
}

fn mirror(pixels: &mut [u8], side: usize) {
    for row in pixels.chunks_exact_mut(side * 3) {
        for x in 0..side / 2 {
            for channel in 0..3 {
                row.swap(x * 3 + channel, (side - 1 - x) * 3 + channel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Geometry;
    use crate::picture::{cut, patchify};

    /// The augmentation that MAE fine-tunes ViT-B with.
    fn mae() -> SupervisedAugment {
        SupervisedAugment {
            crop_scale: [0.08, 1.0],
            crop_ratio: [0.75, 4.0 / 3.0],
            flip: 0.5,
            randaugment_operations: 2,
            randaugment_magnitude: 9.0,
            randaugment_deviation: 0.5,
            randaugment_probability: 0.5,
            erase: 0.25,
        }
    }

    fn made(augment: SupervisedAugment, image: &RgbImage, key: (u64, u64, u32)) -> Vec<f32> {
        let maker = ImageMaker::new(augment, 16, &Normalisation::IMAGENET, key.0);
        let mut out = vec![0.0; maker.len()];
        maker.make(image, key.1, key.2, &mut out);
        out
    }

    #[test]
    fn the_key_decides() {
        let image = RgbImage::new(40, 30, (0..40 * 30 * 3).map(|i| (i % 251) as u8).collect());
        let make = |seed, epoch, sample| made(mae(), &image, (seed, epoch, sample));
        let first = make(1, 2, 3);
        assert_eq!((first.len(), &first), (16 * 16 * 3, &make(1, 2, 3)));
        for other in [make(2, 2, 3), make(1, 3, 3), make(1, 2, 4)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn without_augmentation_it_is_the_loaders_picture() {
        let plain = SupervisedAugment {
            crop_scale: [1.0, 1.0],
            crop_ratio: [1.0, 1.0],
            flip: 0.0,
            randaugment_operations: 0,
            erase: 0.0,
            ..mae()
        };
        let square = RgbImage::new(16, 16, (0..768).map(|i| (i % 250) as u8).collect());
        let geometry = Geometry { image_px: 16, patch_px: 4 };
        let patches = cut(&made(plain, &square, (0, 0, 0)), geometry);
        assert_eq!(patches, patchify(&square, geometry, &Normalisation::IMAGENET));
    }

    #[test]
    fn a_mirrored_picture_is_mirrored() {
        let mut pixels: Vec<u8> = (0..2 * 2 * 3).collect();
        mirror(&mut pixels, 2);
        assert_eq!(pixels, [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
    }
}
