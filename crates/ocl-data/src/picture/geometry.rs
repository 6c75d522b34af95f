//! Sides, grids and counts: the arithmetic that needs no pixels.

use serde::{Deserialize, Serialize};

/// Longest side of a crop in pixels.
pub const MOST_CROP_PX: u32 = 4096;

/// The side of the crop and of its patches, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Side `S` of the square crop. A multiple of `patch_px`.
    pub image_px: u32,
    /// Side `P` of a square patch.
    pub patch_px: u32,
}

impl Geometry {
    /// Patches along one side, `S / P`.
    ///
    /// # Panics
    /// If `patch_px` is 0; [`Geometry::check`] tells beforehand.
    pub fn grid(&self) -> usize {
        (self.image_px / self.patch_px) as usize
    }

    /// Patches of the whole crop, `L = (S / P)^2`.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Values of one patch, `P * P * 3`.
    pub fn patch_len(&self) -> usize {
        self.patch_px as usize * self.patch_px as usize * 3
    }

    /// Says what is wrong with the sides, if anything is.
    ///
    /// # Errors
    /// A sentence when a side is 0, above [`MOST_CROP_PX`], or the crop is no multiple of the
    /// patch.
    pub fn check(&self) -> Result<(), String> {
        let (image, patch) = (self.image_px, self.patch_px);
        if image == 0 || patch == 0 || image > MOST_CROP_PX {
            return Err(format!(
                "image_px {image} and patch_px {patch}: sides must be 1 to {MOST_CROP_PX} pixels"
            ));
        }
        if image % patch != 0 {
            let (below, above) = (image / patch * patch, image.div_ceil(patch) * patch);
            return Err(format!(
                "image_px {image} is no multiple of patch_px {patch}; use {} or {above}",
                below.max(patch)
            ));
        }
        Ok(())
    }
}

/// Mean and standard deviation of each channel, for values in 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Subtracted from each channel.
    pub mean: [f32; 3],
    /// What each channel is divided by afterwards. Not 0.
    pub std: [f32; 3],
}

impl Normalisation {
    /// ImageNet's, as torchvision states them.
    pub const IMAGENET: Normalisation =
        Normalisation { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// `(v / 255 - mean) / std` of every level `v` and channel: `[256]` of `[3]`.
    pub(crate) fn table(&self) -> Box<[[f32; 3]; 256]> {
        let mut table = Box::new([[0.0; 3]; 256]);
        for (level, row) in table.iter_mut().enumerate() {
            for (channel, value) in row.iter_mut().enumerate() {
                *value = (level as f32 / 255.0 - self.mean[channel]) / self.std[channel];
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_counts_and_complains() {
        let g = Geometry { image_px: 224, patch_px: 16 };
        assert_eq!((g.grid(), g.patches(), g.patch_len()), (14, 196, 768));
        assert!(g.check().is_ok());
        let advice = Geometry { image_px: 30, patch_px: 8 }.check().unwrap_err();
        assert!(advice.contains("use 24 or 32"), "{advice}");
        assert!(Geometry { image_px: 0, patch_px: 8 }.check().is_err());
    }
}
