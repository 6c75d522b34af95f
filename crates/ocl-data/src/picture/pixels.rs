//! The one picture type of this crate: interleaved 8-bit RGB rows.

use crate::picture::crop::Crop;

/// An 8-bit RGB picture, rows from the top, `R G B` per pixel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels in a row.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
    /// `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// A picture of these pixels.
    ///
    /// # Panics
    /// If `pixels` does not hold `height * width * 3` values.
    pub fn new(width_px: u32, height_px: u32, pixels: Vec<u8>) -> RgbImage {
        let expected = width_px as usize * height_px as usize * 3;
        assert_eq!(pixels.len(), expected, "an RGB picture of {width_px} x {height_px} pixels");
        RgbImage { width_px, height_px, pixels }
    }

    /// Makes room for a picture of this size. The content is unspecified; memory is kept.
    pub(crate) fn reshape(&mut self, width_px: u32, height_px: u32) -> &mut [u8] {
        (self.width_px, self.height_px) = (width_px, height_px);
        self.pixels.resize(width_px as usize * height_px as usize * 3, 0);
        &mut self.pixels
    }

    /// One row, `[width, 3]`.
    pub(crate) fn row(&self, y: u32) -> &[u8] {
        let len = self.width_px as usize * 3;
        &self.pixels[y as usize * len..][..len]
    }

    /// Makes room for a picture of this size of which parts will be written. The vector may be
    /// longer than the picture: cutting it off would mean clearing it when it grows again.
    pub(crate) fn canvas(&mut self, width_px: u32, height_px: u32) {
        (self.width_px, self.height_px) = (width_px, height_px);
        let len = width_px as usize * height_px as usize * 3;
        if self.pixels.len() < len {
            self.pixels.resize(len, 0);
        }
    }

    /// Turns the picture as its EXIF orientation (1 to 8) says, so that it stands upright.
    pub(crate) fn upright(self, orientation: u8) -> RgbImage {
        let (w, h) = (self.width_px, self.height_px);
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let (width_px, height_px) = if orientation >= 5 { (h, w) } else { (w, h) };
        let mut upright = RgbImage::default();
        upright.reshape(width_px, height_px);
        let all = Crop { x_px: 0, y_px: 0, width_px, height_px };
        upright.copy_upright(&self, orientation, &all);
        upright
    }

    /// Copies a part, a box of this upright picture, from the picture as it is stored.
    pub(crate) fn copy_upright(&mut self, stored: &RgbImage, orientation: u8, part: &Crop) {
        let (w, h) = (stored.width_px, stored.height_px);
        for y in part.y_px..part.y_px + part.height_px {
            let start = (y as usize * self.width_px as usize + part.x_px as usize) * 3;
            let row = &mut self.pixels[start..][..part.width_px as usize * 3];
            for (x, pixel) in (part.x_px..).zip(row.chunks_exact_mut(3)) {
                let (from_x, from_y) = place(orientation, (x, y), (w, h));
                pixel.copy_from_slice(&stored.row(from_y)[from_x as usize * 3..][..3]);
            }
        }
    }
}

impl Crop {
    /// Where a box of an upright picture lies in the stored one, of this size.
    pub(crate) fn stored(&self, orientation: u8, width: u32, height: u32) -> Crop {
        let last = (self.x_px + self.width_px - 1, self.y_px + self.height_px - 1);
        let (ax, ay) = place(orientation, (self.x_px, self.y_px), (width, height));
        let (bx, by) = place(orientation, last, (width, height));
        Crop {
            x_px: ax.min(bx),
            y_px: ay.min(by),
            width_px: ax.abs_diff(bx) + 1,
            height_px: ay.abs_diff(by) + 1,
        }
    }
}

/// Where in the stored picture of `w` x `h` pixels the upright pixel `(x, y)` lies (EXIF 2.3, tag
/// 0x0112).
fn place(orientation: u8, (x, y): (u32, u32), (w, h): (u32, u32)) -> (u32, u32) {
    match orientation {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        8 => (w - 1 - y, x),
        _ => (x, y),
    }
}
