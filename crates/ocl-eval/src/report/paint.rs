//! From patches back to pictures.

use std::ops::Range;

use ocl_data::{Batch, Geometry, Normalisation, RgbImage};

/// Least side of a picture: smaller crops are drawn with larger pixels.
pub(super) const LEAST_PX: u32 = 112;
/// What stands for a patch that is not seen.
pub(super) const HIDDEN: u8 = 205;

/// The patches of these ids, `len` of each of the first images, out of a batch that has all.
pub(super) fn chosen(batch: &Batch, images: usize, ids: &[u32], len: usize) -> Batch {
    let all = batch.kept;
    let patch = |image: usize, id: u32| {
        let at = (image * all + id as usize) * batch.patch_len;
        &batch.patches[at..at + batch.patch_len]
    };
    let of_image = |image: usize| ids[image * len..][..len].iter().map(move |&id| (image, id));
    let patches = (0..images).flat_map(of_image).flat_map(|(image, id)| patch(image, id));
    let patches = patches.copied().collect();
    let patch_len = batch.patch_len;
    Batch { patches, positions: ids.to_vec(), images, kept: len, patch_len, ..Batch::default() }
}

/// From normalised patches back to pictures.
pub(super) struct Paint {
    pub(super) geometry: Geometry,
    pub(super) normalisation: Normalisation,
}

impl Paint {
    /// Some of an image's patches, where they lie in a crop.
    pub(super) fn crop(
        &self,
        batch: &Batch,
        image: usize,
        crop: usize,
        seen: Range<usize>,
    ) -> RgbImage {
        let (side, patch) = (self.geometry.image_px as usize, self.geometry.patch_px as usize);
        let first = (image * batch.crops + crop) * batch.kept;
        let mut pixels = vec![HIDDEN; side * side * 3];
        for place in seen {
            let position = batch.positions[first + place] as usize;
            let (top, left) = (position / self.geometry.grid(), position % self.geometry.grid());
            let values = &batch.patches[(first + place) * batch.patch_len..][..batch.patch_len];
            for (y, line) in values.chunks_exact(patch * 3).enumerate() {
                let at = ((top * patch + y) * side + left * patch) * 3;
                for (i, value) in line.iter().enumerate() {
                    let Normalisation { mean, std } = &self.normalisation;
                    let level = (value * std[i % 3] + mean[i % 3]) * 255.0;
                    pixels[at + i] = level.round().clamp(0.0, 255.0) as u8;
                }
            }
        }
        self.enlarged(RgbImage::new(self.geometry.image_px, self.geometry.image_px, pixels))
    }

    /// The same with larger pixels, where there are few.
    pub(super) fn enlarged(&self, image: RgbImage) -> RgbImage {
        let times = LEAST_PX.div_ceil(image.width_px).max(1);
        if times == 1 {
            return image;
        }
        let (side, width) = (image.width_px * times, image.width_px as usize);
        let pixel =
            |at: usize| (at / side as usize / times as usize, at % side as usize / times as usize);
        let pixels = (0..side as usize * side as usize).flat_map(|at| {
            let (y, x) = pixel(at);
            let from = (y * width + x) * 3;
            [image.pixels[from], image.pixels[from + 1], image.pixels[from + 2]]
        });
        RgbImage::new(side, side, pixels.collect())
    }

    /// A picture of one colour a patch, `[L]`.
    pub(super) fn patches(&self, colours: &[[u8; 3]]) -> RgbImage {
        let (side, patch) = (self.geometry.image_px as usize, self.geometry.patch_px as usize);
        let colour =
            |at: usize| colours[at / side / patch * self.geometry.grid() + at % side / patch];
        let pixels = (0..side * side).flat_map(colour).collect();
        self.enlarged(RgbImage::new(self.geometry.image_px, self.geometry.image_px, pixels))
    }
}

/// A colour for 0 to 1, from dark to light: even steps for the eye, in print and for the
/// colour-blind (after matplotlib's viridis, by five of its colours).
pub(super) fn heat(share: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] =
        [[68., 1., 84.], [59., 82., 139.], [33., 145., 140.], [94., 201., 98.], [253., 231., 37.]];
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let low = (at as usize).min(STOPS.len() - 2);
    let part = at - low as f32;
    [0, 1, 2].map(|i| (STOPS[low][i] + part * (STOPS[low + 1][i] - STOPS[low][i])).round() as u8)
}
