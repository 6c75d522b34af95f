//! Antialiased resampling of any part of a resized crop, equal to Pillow's bit for bit.
//!
//! Pillow's scheme (`src/libImaging/Resample.c` of Pillow 13, 8 bits per channel): a horizontal and
//! a vertical pass, each a weighted sum with the weights of the filter stretched by the scale when
//! shrinking, in fixed point with 22 fractional bits, rounded to 8 bits after each pass. Every
//! output pixel depends on its own taps alone, so a patch made by itself is exactly the patch cut
//! from the whole picture: that is what lets the loader make only the patches that are kept.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod axis;
mod passes;

use std::ops::Range;

pub use axis::Filter;

use axis::{Axis, Rows};

use crate::picture::Crop;
use crate::picture::RgbImage;

/// A crop of an image and the size it is resized to. The filter sees nothing outside the crop, as
/// when the crop is cut out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The box of the image.
    pub source: Crop,
    /// Width after resizing.
    pub width_px: u32,
    /// Height after resizing.
    pub height_px: u32,
    /// What the pixels are weighted with.
    pub filter: Filter,
}

impl Window {
    /// Rounding between the passes makes their order visible. Pillow from version 13 on goes down
    /// the columns first where that shrinks the picture by more than twice the pixels.
    fn vertical_first(&self) -> bool {
        let fewer_rows = i64::from(self.source.height_px) - i64::from(self.height_px);
        let fewer_columns = i64::from(self.source.width_px) - i64::from(self.width_px);
        fewer_rows > 0 && fewer_rows > 2 * fewer_columns
    }
}

/// Makes parts of resized pictures, keeping weights and memory from one to the next.
#[derive(Debug, Default)]
pub struct Resampler {
    columns: Axis,
    rows: Axis,
    /// What the first pass makes of the part at hand.
    half: Vec<u8>,
}

impl Resampler {
    /// An empty one.
    pub fn new() -> Resampler {
        Resampler::default()
    }

    /// Makes the pixels `part` (a box in the resized picture) of `window` of `image`.
    ///
    /// `out` is `[part.height_px, part.width_px, 3]`. Rows of `image` below those that
    /// [`Resampler::source_rows`] names are not looked at, so they need not have been decoded.
    ///
    /// # Panics
    /// If the window does not lie in the image, the part not in the window, or `out` has another
    /// length.
    pub fn part(&mut self, image: &RgbImage, window: &Window, part: &Crop, out: &mut [u8]) {
        self.part_of(&image.pixels, image.width_px, window, part, out);
    }

    /// [`Resampler::part`] of pixels that lie anywhere, `[.., width, 3]`.
    pub(crate) fn part_of(
        &mut self,
        pixels: &[u8],
        width_px: u32,
        window: &Window,
        part: &Crop,
        out: &mut [u8],
    ) {
        let source = &window.source;
        assert!(
            source.x_px + source.width_px <= width_px
                && part.x_px + part.width_px <= window.width_px
                && part.y_px + part.height_px <= window.height_px,
            "{part:?} of {window:?} of an image {} px wide",
            width_px
        );
        assert_eq!(out.len(), part.width_px as usize * part.height_px as usize * 3);
        let xs = part.x_px..part.x_px + part.width_px;
        let ys = part.y_px..part.y_px + part.height_px;
        self.columns.prepare(window.filter, source.width_px, window.width_px, xs.clone());
        self.rows.prepare(window.filter, source.height_px, window.height_px, ys.clone());

        let image_len = width_px as usize * 3;
        let out_len = xs.len() * 3;
        let (left, top) = (source.x_px as usize * 3, source.y_px as usize * image_len);
        if window.vertical_first() {
            let needed = self.columns.reach(xs.clone());
            let half_len = needed.len() * 3;
            self.half.resize(ys.len() * half_len, 0);
            let start = top + left + needed.start as usize * 3;
            let from = Rows { pixels: &pixels[start..], stride: image_len, first: 0 };
            passes::vertical(&self.rows, ys, from, &mut self.half, half_len);
            let from = Rows { pixels: &self.half, stride: half_len, first: needed.start };
            passes::horizontal(&self.columns, xs, from, out);
        } else {
            let needed = self.rows.reach(ys.clone());
            self.half.resize(needed.len() * out_len, 0);
            let start = top + left + needed.start as usize * image_len;
            let from = Rows { pixels: &pixels[start..], stride: image_len, first: 0 };
            passes::horizontal(&self.columns, xs, from, &mut self.half);
            let from = Rows { pixels: &self.half, stride: out_len, first: needed.start };
            passes::vertical(&self.rows, ys, from, out, out_len);
        }
    }

    /// The box of the image that the pixels `part` (a box in the resized picture) of `window` are
    /// made from.
    pub fn source_part(&mut self, window: &Window, part: &Crop) -> Crop {
        let rows = self.source_rows(window, part.y_px..part.y_px + part.height_px);
        let xs = part.x_px..part.x_px + part.width_px;
        self.columns.prepare(window.filter, window.source.width_px, window.width_px, xs.clone());
        let columns = self.columns.reach(xs);
        Crop {
            x_px: window.source.x_px + columns.start,
            y_px: rows.start,
            width_px: columns.end - columns.start,
            height_px: rows.end - rows.start,
        }
    }

    /// The rows of the image that the resized rows `ys` of `window` are made from.
    pub fn source_rows(&mut self, window: &Window, ys: Range<u32>) -> Range<u32> {
        self.rows.prepare(window.filter, window.source.height_px, window.height_px, ys.clone());
        let rows = self.rows.reach(ys);
        window.source.y_px + rows.start..window.source.y_px + rows.end
    }
}
