//! From 8-bit pixels to normalised patches.

use crate::picture::geometry::{Geometry, Normalisation};
use crate::picture::normalise::Normaliser;
use crate::picture::pixels::RgbImage;

/// Cuts a picture of `geometry.image_px` squared into patches: `[L, P * P * 3]`, patches in
/// row-major order; inside a patch row, column, channel; each value `(v / 255 - mean) / std`.
///
/// The plain path: the loader makes the same values patch by patch.
///
/// # Panics
/// If the picture has another size than the geometry.
pub fn patchify(image: &RgbImage, geometry: Geometry, normalisation: &Normalisation) -> Vec<f32> {
    let side = (geometry.image_px, geometry.image_px);
    assert_eq!(
        (image.width_px, image.height_px),
        side,
        "the picture is not of the geometry's size"
    );
    let normaliser = Normaliser::new(normalisation);
    let mut patches = vec![0.0; geometry.patches() * geometry.patch_len()];
    for (grid_patch, patch) in (0..).zip(patches.chunks_exact_mut(geometry.patch_len())) {
        let cut = PatchCut { grid_patch, geometry, flipped: false };
        cut.write(&image.pixels, &normaliser, patch);
    }
    patches
}

/// Cuts normalised pictures `[N, S, S, 3]` into patches, `[N, L, P * P * 3]`.
pub(crate) fn cut(images: &[f32], geometry: Geometry) -> Vec<f32> {
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

/// One patch of a whole resized crop.
pub(crate) struct PatchCut {
    /// Row-major position in the crop as it was made, that is before it is mirrored.
    pub(crate) grid_patch: u32,
    pub(crate) geometry: Geometry,
    pub(crate) flipped: bool,
}

impl PatchCut {
    /// Writes the patch, cut from `pixels` (`[S, S, 3]`), normalised.
    pub(crate) fn write(&self, pixels: &[u8], normaliser: &Normaliser, out: &mut [f32]) {
        let side = self.geometry.patch_px as usize;
        let grid = self.geometry.grid();
        let stride = self.geometry.image_px as usize * 3;
        let (grid_y, grid_x) = (self.grid_patch as usize / grid, self.grid_patch as usize % grid);
        let from = &pixels[grid_y * side * stride + grid_x * side * 3..];
        normaliser.patch(from, stride, side * 3, self.flipped, out);
    }
}
