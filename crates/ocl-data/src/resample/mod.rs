//! Antialiased bicubic resampling of any part of a resized crop, equal to Pillow's bit for bit.
//!
//! Pillow's scheme (`src/libImaging/Resample.c` of Pillow 13, 8 bits per channel): a horizontal and a
//! vertical pass, each a weighted sum with the weights of the bicubic filter (a = -0.5) stretched by the scale
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

impl Window {
    /// Rounding between the passes makes their order visible. Pillow from version 13 on goes down the
    /// columns first where that shrinks the picture by more than twice the pixels.
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
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been found to have AVX2.
            unsafe { self.passes_avx2(image, window, xs, ys, out) };
            return;
        }
        self.passes(image, window, xs, ys, out);
    }

    /// The same passes, compiled for processors with wide integer multiplication.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn passes_avx2(
        &mut self,
        image: &RgbImage,
        window: &Window,
        xs: Range<u32>,
        ys: Range<u32>,
        out: &mut [u8],
    ) {
        self.passes(image, window, xs, ys, out);
    }

    #[inline(always)]
    fn passes(
        &mut self,
        image: &RgbImage,
        window: &Window,
        xs: Range<u32>,
        ys: Range<u32>,
        out: &mut [u8],
    ) {
        let source = &window.source;
        let out_len = xs.len() * 3;
        let image_len = image.width_px as usize * 3;
        if window.vertical_first() {
            let needed = self.columns.reach(xs.clone());
            let half_len = needed.len() * 3;
            let left = (source.x_px + needed.start) as usize * 3;
            self.half.resize(ys.len() * half_len, 0);
            for (y, half) in ys.zip(self.half.chunks_exact_mut(half_len)) {
                let (first, weights) = self.rows.taps(y);
                let start = (source.y_px + first) as usize * image_len + left;
                vertical(&image.pixels[start..], image_len, weights, half);
            }
            let rows = self.half.chunks_exact(half_len).zip(out.chunks_exact_mut(out_len));
            for (half, out) in rows {
                horizontal(&self.columns, xs.clone(), half, needed.start, out);
            }
        } else {
            let needed = self.rows.reach(ys.clone());
            self.half.resize(needed.len() * out_len, 0);
            for (y, half) in needed.clone().zip(self.half.chunks_exact_mut(out_len)) {
                let row = &image.row(source.y_px + y)[source.x_px as usize * 3..];
                horizontal(&self.columns, xs.clone(), row, 0, half);
            }
            for (y, out) in ys.zip(out.chunks_exact_mut(out_len)) {
                let (first, weights) = self.rows.taps(y);
                let start = (first - needed.start) as usize * out_len;
                vertical(&self.half[start..], out_len, weights, out);
            }
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

/// Makes the output columns `xs` (`[xs, 3]`) of a row that begins at the source column `start`.
#[inline(always)]
fn horizontal(columns: &Axis, xs: Range<u32>, row: &[u8], start: u32, out: &mut [u8]) {
    for (x, pixel) in xs.zip(out.chunks_exact_mut(3)) {
        let (first, weights) = columns.taps(x);
        let source = &row[(first - start) as usize * 3..][..weights.len() * 3];
        // Four values at a time fill a register; the fourth is the next pixel's and of no interest.
        let mut sum = [HALF; 4];
        for (weight, from) in weights.iter().zip(source.windows(4).step_by(3)) {
            for (sum, level) in sum.iter_mut().zip(from) {
                *sum += weight * i32::from(*level);
            }
        }
        if let (Some(weight), Some(from)) = (weights.last(), source.rchunks_exact(3).next()) {
            for (sum, level) in sum.iter_mut().zip(from) {
                *sum += weight * i32::from(*level);
            }
        }
        for (level, sum) in pixel.iter_mut().zip(sum) {
            *level = to_level(sum);
        }
    }
}

/// Sums the first rows of `source`, which lie `stride` apart, by weight into `out`.
#[inline(always)]
fn vertical(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        let mut sum = [HALF; LANES];
        for (weight, row) in weights.iter().zip(source.chunks(stride)) {
            let from = &row[chunk * LANES..][..out.len()];
            if let Ok(from) = <&[u8; LANES]>::try_from(from) {
                for (sum, level) in sum.iter_mut().zip(from) {
                    *sum += weight * i32::from(*level);
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
