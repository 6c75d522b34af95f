//! Antialiased bicubic resampling of any part of a resized crop, equal to Pillow's bit for bit.
//!
//! Pillow's scheme (`src/libImaging/Resample.c`, 8 bits per channel): a horizontal and then a vertical
//! pass, each a weighted sum with the weights of the bicubic filter (a = -0.5) stretched by the scale
//! when shrinking, in fixed point with 22 fractional bits, rounded to 8 bits after each pass. Every
//! output pixel depends on its own taps alone, so a patch made by itself is exactly the patch cut
//! from the whole picture: that is what lets the loader make only the patches that are kept.

use std::ops::Range;

use crate::pixels::RgbImage;
use crate::view::Crop;

/// Fractional bits of a weight: 8 bits of pixel and 2 bits for the overshoot stay below 32.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// The bicubic filter reaches two pixels to each side.
const SUPPORT: f64 = 2.0;

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
}

/// Makes parts of resized pictures, keeping weights and memory from one to the next.
#[derive(Debug, Default)]
pub struct Resampler {
    columns: Axis,
    rows: Axis,
    /// The horizontally resized rows of the part that is being made.
    narrow: Vec<u8>,
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
        let source = &window.source;
        assert!(
            source.x_px + source.width_px <= image.width_px
                && part.x_px + part.width_px <= window.width_px
                && part.y_px + part.height_px <= window.height_px,
            "{part:?} of {window:?} of an image {} px wide",
            image.width_px
        );
        assert_eq!(out.len(), part.width_px as usize * part.height_px as usize * 3);
        let xs = part.x_px..part.x_px + part.width_px;
        let ys = part.y_px..part.y_px + part.height_px;
        self.columns.prepare(source.width_px, window.width_px, xs.clone());
        self.rows.prepare(source.height_px, window.height_px, ys.clone());

        let needed = self.rows.reach(ys.clone());
        let row_len = part.width_px as usize * 3;
        self.narrow.resize(needed.len() * row_len, 0);
        for (y, narrow) in needed.clone().zip(self.narrow.chunks_exact_mut(row_len)) {
            let row = &image.row(source.y_px + y)[source.x_px as usize * 3..];
            horizontal(&self.columns, xs.clone(), row, narrow);
        }
        for (y, out_row) in ys.zip(out.chunks_exact_mut(row_len)) {
            let (first, weights) = self.rows.taps(y);
            let start = (first - needed.start) as usize * row_len;
            vertical(&self.narrow[start..][..weights.len() * row_len], weights, out_row);
        }
    }

    /// The rows of the image that the resized rows `ys` of `window` are made from.
    pub fn source_rows(&mut self, window: &Window, ys: Range<u32>) -> Range<u32> {
        self.rows.prepare(window.source.height_px, window.height_px, ys.clone());
        let rows = self.rows.reach(ys);
        window.source.y_px + rows.start..window.source.y_px + rows.end
    }
}

/// The taps of each output position along one side, computed when first needed.
#[derive(Debug, Default)]
struct Axis {
    /// Lengths before and after.
    lengths: (u32, u32),
    /// Weights per output position; the longest count of taps.
    stride: usize,
    /// First tap and number of taps of each output position; no taps: not computed yet.
    spans: Vec<(u32, u32)>,
    /// `[after, stride]`.
    weights: Vec<i32>,
    /// Weights before rounding, of one output position.
    exact: Vec<f64>,
}

impl Axis {
    /// Sees to it that the taps of `outputs` are there for a side resized from `before` to `after`.
    fn prepare(&mut self, before: u32, after: u32, outputs: Range<u32>) {
        let scale = f64::from(before) / f64::from(after);
        let stretch = scale.max(1.0);
        if self.lengths != (before, after) {
            self.lengths = (before, after);
            self.stride = (SUPPORT * stretch).ceil() as usize * 2 + 1;
            self.spans.clear();
            self.spans.resize(after as usize, (0, 0));
            self.weights.resize(after as usize * self.stride, 0);
        }
        for output in outputs {
            if self.spans[output as usize].1 == 0 {
                self.fill(output, scale, stretch);
            }
        }
    }

    fn fill(&mut self, output: u32, scale: f64, stretch: f64) {
        let center = (f64::from(output) + 0.5) * scale;
        let reach = SUPPORT * stretch;
        // Casts truncate towards zero and saturate below it, as Pillow's do together with its bounds.
        let first = (center - reach + 0.5) as u32;
        let end = ((center + reach + 0.5) as u32).min(self.lengths.0);
        let per_pixel = 1.0 / stretch;
        self.exact.clear();
        self.exact.extend((first..end).map(|x| {
            bicubic((f64::from(x) - center + 0.5) * per_pixel)
        }));
        let total: f64 = self.exact.iter().sum();
        let weights = &mut self.weights[output as usize * self.stride..];
        for (weight, exact) in weights.iter_mut().zip(&self.exact) {
            let scaled = exact / total * f64::from(1u32 << PRECISION_BITS);
            *weight = (scaled + 0.5f64.copysign(scaled)) as i32;
        }
        self.spans[output as usize] = (first, end - first);
    }

    fn taps(&self, output: u32) -> (u32, &[i32]) {
        let (first, count) = self.spans[output as usize];
        (first, &self.weights[output as usize * self.stride..][..count as usize])
    }

    /// The positions before resizing that `outputs` are made from.
    fn reach(&self, outputs: Range<u32>) -> Range<u32> {
        let (first, _) = self.spans[outputs.start as usize];
        let (last, count) = self.spans[outputs.end as usize - 1];
        first..last + count
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn to_level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Makes the output columns `xs` of one row. `row` begins at the crop's left edge; `out` is `[xs, 3]`.
fn horizontal(columns: &Axis, xs: Range<u32>, row: &[u8], out: &mut [u8]) {
    for (x, pixel) in xs.zip(out.chunks_exact_mut(3)) {
        let (first, weights) = columns.taps(x);
        let source = &row[first as usize * 3..][..weights.len() * 3];
        let mut sum = [HALF; 3];
        for (weight, from) in weights.iter().zip(source.chunks_exact(3)) {
            for (sum, level) in sum.iter_mut().zip(from) {
                *sum += weight * i32::from(*level);
            }
        }
        for (level, sum) in pixel.iter_mut().zip(sum) {
            *level = to_level(sum);
        }
    }
}

/// Sums the rows of `source` (`[weights, out]`) by weight into `out`.
fn vertical(source: &[u8], weights: &[i32], out: &mut [u8]) {
    let row_len = out.len();
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        let start = chunk * LANES;
        let mut sum = [HALF; LANES];
        for (weight, row) in weights.iter().zip(source.chunks_exact(row_len)) {
            let from = &row[start..start + out.len()];
            if let Ok(from) = <&[u8; LANES]>::try_from(from) {
                for lane in 0..LANES {
                    sum[lane] += weight * i32::from(from[lane]);
                }
            } else {
                for (sum, level) in sum.iter_mut().zip(from) {
                    *sum += weight * i32::from(*level);
                }
            }
        }
        for (level, sum) in out.iter_mut().zip(sum) {
            *level = to_level(sum);
        }
    }
}

/// Values of a row summed side by side: two registers of 256 bits.
const LANES: usize = 16;
