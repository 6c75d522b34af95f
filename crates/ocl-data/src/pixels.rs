//! The one picture type of this crate: interleaved 8-bit RGB rows.

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

    /// Turns the picture as its EXIF orientation (1 to 8) says, so that it stands upright.
    pub(crate) fn upright(self, orientation: u8) -> RgbImage {
        let (w, h) = (self.width_px, self.height_px);
        let swapped = orientation >= 5;
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let (out_w, out_h) = if swapped { (h, w) } else { (w, h) };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..out_h {
            for x in 0..out_w {
                // Where in the stored picture the upright pixel (x, y) lies (EXIF 2.3, tag 0x0112).
                let (from_x, from_y) = match orientation {
                    2 => (w - 1 - x, y),
                    3 => (w - 1 - x, h - 1 - y),
                    4 => (x, h - 1 - y),
                    5 => (y, x),
                    6 => (y, h - 1 - x),
                    7 => (w - 1 - y, h - 1 - x),
                    _ => (w - 1 - y, x),
                };
                pixels.extend_from_slice(&self.row(from_y)[from_x as usize * 3..][..3]);
            }
        }
        RgbImage::new(out_w, out_h, pixels)
    }
}
