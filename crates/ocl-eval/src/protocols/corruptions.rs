//! Corruptions of the pixels of a centre crop, in steps of severity.

use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use ocl_data::{Draws, Purpose, RgbImage, decode};

use crate::error::EvalError;

/// One corruption of one strength.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Corruption {
    /// Noise from `Normal(0, deviation)`, in units of 0..1, of each value.
    Noise(f64),
    /// Gaussian blur of this deviation, in pixels.
    Blur(f64),
    /// The distance of each value from its channel's mean, times this.
    Contrast(f64),
    /// JPEG of this quality.
    Jpeg(u8),
    /// This share of the patches becomes the mean colour that the encoder takes for nothing.
    Occlude(f64),
    /// This share of the patches is not shown to the encoder at all.
    Drop(f64),
}

/// Patches that stay when a share of `patches` is taken away, in row-major order; at least one.
///
/// Drawn by the image alone, so that the same patches are occluded and dropped, and more at a
/// greater share.
pub(crate) fn kept(patches: usize, share: f64, sample: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..patches as u32).collect();
    Draws::new(0, 0, sample, Purpose::Corruption).shuffle_front(&mut order, patches);
    let stay = patches - ((share * patches as f64).round() as usize).min(patches - 1);
    order.truncate(stay);
    order.sort_unstable();
    order
}

impl Corruption {
    /// Corrupts the pixels of a square picture whose patches have `patch_px` a side. Dropped
    /// patches are left to the caller, who shows them to nobody.
    ///
    /// # Errors
    /// When JPEG cannot be written or read back.
    pub(crate) fn apply(
        self,
        image: &mut RgbImage,
        patch_px: usize,
        grey: [u8; 3],
        sample: u64,
    ) -> Result<(), EvalError> {
        let side = image.width_px as usize;
        let pixels = &mut image.pixels;
        match self {
            Self::Noise(deviation) => {
                let mut draws = Draws::new(1, 0, sample, Purpose::Corruption);
                for value in pixels.iter_mut() {
                    let noisy = f64::from(*value) + 255.0 * deviation * draws.normal();
                    *value = noisy.round().clamp(0.0, 255.0) as u8;
                }
            }
            Self::Blur(deviation) => {
                blur(pixels, side, deviation, true);
                blur(pixels, side, deviation, false);
            }
            Self::Contrast(share) => {
                for channel in 0..3 {
                    let values = pixels.iter().skip(channel).step_by(3).map(|v| f64::from(*v));
                    let mean = values.sum::<f64>() / (side * side) as f64;
                    for value in pixels.iter_mut().skip(channel).step_by(3) {
                        *value = (mean + share * (f64::from(*value) - mean)).round() as u8;
                    }
                }
            }
            Self::Jpeg(quality) => {
                let failed =
                    |reason: String| EvalError::Setting { setting: "robustness.jpeg", reason };
                let bytes =
                    compress(pixels, side, side, PixelFormat::Rgb, quality, Subsampling::S420)
                        .map_err(|error| failed(error.to_string()))?;
                *image = decode(&bytes).map_err(|error| failed(error.to_string()))?;
            }
            Self::Occlude(share) => {
                let grid = side / patch_px;
                let stay = kept(grid * grid, share, sample);
                for patch in (0..(grid * grid) as u32).filter(|patch| !stay.contains(patch)) {
                    let (top, left) =
                        (patch as usize / grid * patch_px, patch as usize % grid * patch_px);
                    for y in top..top + patch_px {
                        let row = &mut pixels[(y * side + left) * 3..][..patch_px * 3];
                        row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&grey));
                    }
                }
            }
            Self::Drop(_) => {}
        }
        Ok(())
    }
}

/// One pass of a Gaussian along rows or columns; beyond the edge the last pixel is repeated.
fn blur(pixels: &mut [u8], side: usize, deviation: f64, rows: bool) {
    let reach = (3.0 * deviation).ceil().max(1.0) as i64;
    let weight = |at: i64| (-0.5 * (at as f64 / deviation.max(1e-6)).powi(2)).exp();
    let weights: Vec<f64> = (-reach..=reach).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    let from = pixels.to_vec();
    let last = side as i64 - 1;
    for y in 0..side {
        for x in 0..side {
            for channel in 0..3 {
                let mut value = 0.0;
                for (weight, shift) in weights.iter().zip(-reach..=reach) {
                    let moved = |place: usize| (place as i64 + shift).clamp(0, last) as usize;
                    let (x, y) = if rows { (moved(x), y) } else { (x, moved(y)) };
                    value += weight * f64::from(from[(y * side + x) * 3 + channel]);
                }
                pixels[(y * side + x) * 3 + channel] = (value / sum).round() as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::new(16, 16, (0..16 * 16 * 3).map(|i| (i * 37 % 256) as u8).collect())
    }

    fn change(corruption: Corruption) -> f64 {
        let mut image = picture();
        corruption.apply(&mut image, 4, [128; 3], 3).unwrap();
        assert_eq!((image.width_px, image.pixels.len()), (16, 768));
        let apart =
            image.pixels.iter().zip(picture().pixels).map(|(a, b)| f64::from(a.abs_diff(b)));
        apart.sum::<f64>() / 768.0
    }

    #[test]
    fn a_stronger_corruption_changes_more() {
        for [less, more] in [
            [Corruption::Noise(0.05), Corruption::Noise(0.3)],
            [Corruption::Blur(0.3), Corruption::Blur(2.0)],
            [Corruption::Contrast(0.8), Corruption::Contrast(0.1)],
            [Corruption::Jpeg(95), Corruption::Jpeg(5)],
            [Corruption::Occlude(0.25), Corruption::Occlude(0.9)],
        ] {
            assert!(change(more) > change(less) && change(less) > 0.0, "{less:?} {more:?}");
        }
        assert_eq!((change(Corruption::Drop(0.5)), change(Corruption::Contrast(1.0))), (0.0, 0.0));
    }

    #[test]
    fn a_share_of_the_patches_goes_and_one_always_stays() {
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| kept(16, share, 7).len()), [16, 12, 8, 1]);
        let (few, many) = (kept(16, 0.75, 7), kept(16, 0.25, 7));
        assert!(few.iter().all(|patch| many.contains(patch)) && many.is_sorted());
        let mut image = picture();
        Corruption::Occlude(0.75).apply(&mut image, 4, [9; 3], 7).unwrap();
        let grey = image.pixels.chunks_exact(3).filter(|pixel| *pixel == [9; 3]).count();
        assert!((192..195).contains(&grey), "{grey} of 256 pixels are three quarters");
    }
}
