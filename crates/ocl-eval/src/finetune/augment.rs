//! What a training image becomes: crop, flip, RandAugment, normalise, erase. All draws are keyed by
//! (seed, epoch, sample).

use ocl_data::{
    Crop, Draws, Filter, Geometry, Normalisation, Purpose, Resampler, RgbImage, Window, sample_crop,
};

use super::randaugment::{normal, randaugment};
use super::recipe::AugmentRecipe;

/// Makes training images of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Augment {
    pub(crate) recipe: AugmentRecipe,
    pub(crate) geometry: Geometry,
    pub(crate) normalisation: Normalisation,
    pub(crate) seed: u64,
}

impl Augment {
    /// A normalised picture, `[S, S, 3]`.
    pub(crate) fn make(&self, image: &RgbImage, epoch: u64, sample: u32) -> Vec<f32> {
        let Self { recipe, geometry, normalisation, seed } = self;
        let (side_px, side) = (geometry.image_px, geometry.image_px as usize);
        let draws = |purpose| Draws::new(*seed, epoch, u64::from(sample), purpose);
        let mut crop_draws = draws(Purpose::FinetuneCrop);
        let (scale, ratio) = (recipe.crop_scale.into(), recipe.crop_ratio.into());
        let source = sample_crop(image.width_px, image.height_px, scale, ratio, &mut crop_draws);
        let window =
            Window { source, width_px: side_px, height_px: side_px, filter: Filter::Bicubic };
        let whole = Crop { x_px: 0, y_px: 0, width_px: side_px, height_px: side_px };
        let mut pixels = vec![0; side * side * 3];
        Resampler::new().part(image, &window, &whole, &mut pixels);
        if crop_draws.unit() < recipe.flip {
            mirror(&mut pixels, side);
        }
        // What the encoder takes for nothing.
        let fill = normalisation.mean.map(|mean| (mean * 255.0).round().clamp(0.0, 255.0) as u8);
        randaugment(&mut pixels, side, fill, recipe, &mut draws(Purpose::RandAugment));
        let mut values = normalise(&pixels, normalisation);
        erase(&mut values, side, recipe.erase, &mut draws(Purpose::Erase));
        values
    }
}

/// `(v / 255 - mean) / std`.
pub(crate) fn normalise(pixels: &[u8], normalisation: &Normalisation) -> Vec<f32> {
    let Normalisation { mean, std } = normalisation;
    let value = |(i, v): (usize, &u8)| (f32::from(*v) / 255.0 - mean[i % 3]) / std[i % 3];
    pixels.iter().enumerate().map(value).collect()
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

/// Random erasing (arXiv 1708.04896): a box of 2 % to a third of the area, width over height 0.3 to 3.3,
/// becomes noise from `Normal(0, 1)`.
fn erase(values: &mut [f32], side: usize, probability: f64, draws: &mut Draws) {
    if draws.unit() >= probability {
        return;
    }
    for _ in 0..10 {
        let area = (side * side) as f64 * draws.between(0.02, 1.0 / 3.0);
        let aspect = draws.between(0.3f64.ln(), 3.3f64.ln()).exp();
        let (width, height) = ((area * aspect).sqrt().round(), (area / aspect).sqrt().round());
        let (width, height) = (width as usize, height as usize);
        if width == 0 || height == 0 || width >= side || height >= side {
            continue;
        }
        let left = draws.below((side - width + 1) as u32) as usize;
        let top = draws.below((side - height + 1) as u32) as usize;
        for y in top..top + height {
            let row = &mut values[(y * side + left) * 3..][..width * 3];
            row.iter_mut().for_each(|v| *v = normal(draws) as f32);
        }
        return;
    }
}

/// Cuts normalised pictures `[N, S, S, 3]` into patches, `[N, L, P*P*3]`.
pub(crate) fn patches(images: &[f32], geometry: Geometry) -> Vec<f32> {
    let (side, patch) = (geometry.image_px as usize, geometry.patch_px as usize);
    let mut out = Vec::with_capacity(images.len());
    for image in images.chunks_exact(side * side * 3) {
        for top in (0..side).step_by(patch) {
            for left in (0..side).step_by(patch) {
                for y in top..top + patch {
                    out.extend_from_slice(&image[(y * side + left) * 3..][..patch * 3]);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::FinetuneRecipe;

    fn image() -> RgbImage {
        RgbImage::new(40, 30, (0..40 * 30 * 3).map(|i| (i % 251) as u8).collect())
    }

    fn augment(name: &str, seed: u64) -> Augment {
        let recipe = FinetuneRecipe::load(name, &[]).unwrap().augment;
        let geometry = Geometry { image_px: 16, patch_px: 4 };
        Augment { recipe, geometry, normalisation: Normalisation::IMAGENET, seed }
    }

    #[test]
    fn the_key_decides() {
        let make = |seed, epoch, sample| augment("vit-b", seed).make(&image(), epoch, sample);
        let first = make(1, 2, 3);
        assert_eq!((first.len(), &first), (16 * 16 * 3, &make(1, 2, 3)));
        for other in [make(2, 2, 3), make(1, 3, 3), make(1, 2, 4)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn without_augmentation_it_is_the_loaders_picture() {
        let mut plain = augment("small", 0);
        let recipe = &mut plain.recipe;
        (recipe.crop_scale, recipe.crop_ratio, recipe.flip, recipe.erase) =
            ([1.0, 1.0], [1.0, 1.0], 0.0, 0.0);
        let square = RgbImage::new(16, 16, (0..768).map(|i| (i % 250) as u8).collect());
        let cut = patches(&plain.make(&square, 0, 0), plain.geometry);
        let loaders = ocl_data::patchify(&square, plain.geometry, &Normalisation::IMAGENET);
        assert!(cut.iter().zip(&loaders).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn a_mirrored_picture_is_mirrored() {
        let mut pixels: Vec<u8> = (0..2 * 2 * 3).collect();
        mirror(&mut pixels, 2);
        assert_eq!(pixels, [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
    }

    #[test]
    fn a_box_is_erased_and_no_more() {
        let mut hit = 0;
        for sample in 0..200 {
            let mut values = vec![7.0f32; 32 * 32 * 3];
            erase(&mut values, 32, 0.5, &mut Draws::new(0, 0, sample, Purpose::Erase));
            let share = values.iter().filter(|v| **v != 7.0).count() as f64 / values.len() as f64;
            assert!(share == 0.0 || (0.01..0.36).contains(&share), "{share}");
            hit += u32::from(share > 0.0);
        }
        assert!((70..130).contains(&hit), "{hit} of 200 at a probability of a half");
    }
}
