//! From 8-bit pixels to normalised patches.

use crate::geometry::{Geometry, Normalisation};
use crate::pixels::RgbImage;

/// Cuts a picture of `geometry.image_px` squared into patches: `[L, P * P * 3]`, patches in row-major
/// order; inside a patch row, column, channel; each value `(v / 255 - mean) / std`.
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
    let table = normalisation.table();
    let mut patches = Vec::with_capacity(geometry.patches() * geometry.patch_len());
    for position in 0..geometry.patches() as u32 {
        let cut = PatchCut { grid_patch: position, geometry, flipped: false };
        cut.write(&image.pixels, &table, &mut patches);
    }
    patches
}

/// One patch of a whole resized crop.
pub(crate) struct PatchCut {
    /// Row-major position in the crop as it was made, that is before it is mirrored.
    pub(crate) grid_patch: u32,
    pub(crate) geometry: Geometry,
    pub(crate) flipped: bool,
}

impl PatchCut {
    /// Appends the patch, cut from `pixels` (`[S, S, 3]`), normalised.
    pub(crate) fn write(&self, pixels: &[u8], table: &[[f32; 3]; 256], out: &mut Vec<f32>) {
        let side = self.geometry.patch_px as usize;
        let grid = self.geometry.grid();
        let row_len = self.geometry.image_px as usize * 3;
        let (grid_y, grid_x) = (self.grid_patch as usize / grid, self.grid_patch as usize % grid);
        for y in grid_y * side..(grid_y + 1) * side {
            let row = &pixels[y * row_len + grid_x * side * 3..][..side * 3];
            write_row(row, table, self.flipped, out);
        }
    }
}

/// Appends one row of pixels, normalised, from the right where `flipped`.
pub(crate) fn write_row(row: &[u8], table: &[[f32; 3]; 256], flipped: bool, out: &mut Vec<f32>) {
    let value = |pixel: &[u8]| {
        [table[pixel[0] as usize][0], table[pixel[1] as usize][1], table[pixel[2] as usize][2]]
    };
    if flipped {
        for pixel in row.rchunks_exact(3) {
            out.extend_from_slice(&value(pixel));
        }
    } else {
        for pixel in row.chunks_exact(3) {
            out.extend_from_slice(&value(pixel));
        }
    }
}
