//! Where the taps of an output position lie along one side, and their weights.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Fractional bits of a weight: 8 bits of pixel and 2 bits for the overshoot stay below 32.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;
/// A half, so that the cut-off bits round.
pub(super) const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Rows of pixels `stride` bytes apart. The first byte belongs to the row or column `first`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) pixels: &'a [u8],
    pub(super) stride: usize,
    pub(super) first: u32,
}

/// How a resized pixel weighs those that it is made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Keys' cubic convolution with `a = -0.5`, two pixels to each side.
    #[default]
    Bicubic,
    /// A triangle, one pixel to each side.
    Bilinear,
}

impl Filter {
    /// Pixels that it reaches to each side, where nothing shrinks.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => bicubic(x),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
        }
    }
}

/// Zeros behind the last position's bytes.
#[cfg(target_arch = "x86_64")]
const BEHIND: usize = 16;

/// The taps of each output position along one side, computed when first needed.
#[derive(Debug, Default)]
pub(super) struct Axis {
    filter: Filter,
    /// Lengths before and after.
    lengths: (u32, u32),
    /// Weights per output position; the longest count of taps.
    stride: usize,
    /// First tap and number of taps of each output position; no taps: not computed yet.
    spans: Vec<(u32, u32)>,
    /// `[after, stride]`.
    weights: Vec<i32>,
    /// Weights as bytes, where the processor has a use for them: of each group of four taps and
    /// each of three bytes, those of all output positions, and zeros behind the last.
    #[cfg(target_arch = "x86_64")]
    split: Vec<i32>,
    /// Weights before rounding, of one output position.
    exact: Vec<f64>,
}

impl Axis {
    /// Sees to it that the taps of `outputs` are there for a side resized from `before` to `after`.
    pub(super) fn prepare(&mut self, filter: Filter, before: u32, after: u32, outputs: Range<u32>) {
        let scale = f64::from(before) / f64::from(after);
        let stretch = scale.max(1.0);
        if (self.filter, self.lengths) != (filter, (before, after)) {
            (self.filter, self.lengths) = (filter, (before, after));
            self.stride = (filter.support() * stretch).ceil() as usize * 2 + 1;
            self.spans.clear();
            self.spans.resize(after as usize, (0, 0));
            self.weights.resize(after as usize * self.stride, 0);
            #[cfg(target_arch = "x86_64")]
            if super::avx512::serves(self) {
                let len = self.stride.div_ceil(4) * 3 * (after as usize + BEHIND);
                self.split.clear();
                self.split.resize(len, 0);
            }
        }
        for output in outputs {
            if self.spans[output as usize].1 == 0 {
                self.fill(output, scale, stretch);
            }
        }
    }

    fn fill(&mut self, output: u32, scale: f64, stretch: f64) {
        let center = (f64::from(output) + 0.5) * scale;
        let filter = self.filter;
        let reach = filter.support() * stretch;
        // Casts truncate towards zero and saturate below it, as Pillow's do together with its
        // bounds.
        let first = (center - reach + 0.5) as u32;
        let end = ((center + reach + 0.5) as u32).min(self.lengths.0);
        let per_pixel = 1.0 / stretch;
        self.exact.clear();
        let at = |x: u32| filter.weight((f64::from(x) - center + 0.5) * per_pixel);
        self.exact.extend((first..end).map(at));
        let total: f64 = self.exact.iter().sum();
        let weights = &mut self.weights[output as usize * self.stride..];
        for (weight, exact) in weights.iter_mut().zip(&self.exact) {
            let scaled = exact / total * f64::from(1u32 << PRECISION_BITS);
            *weight = (scaled + 0.5f64.copysign(scaled)) as i32;
        }
        self.spans[output as usize] = (first, end - first);
        #[cfg(target_arch = "x86_64")]
        if super::avx512::serves(self) {
            let len = self.spans.len() + BEHIND;
            let weights = &self.weights[output as usize * self.stride..][..self.exact.len()];
            for (group, weights) in weights.chunks(4).enumerate() {
                for (part, four) in (0..).zip(super::avx512::split(weights)) {
                    self.split[(group * 3 + part) * len + output as usize] = four;
                }
            }
        }
    }

    /// The bytes `part` of the weights of the four taps `group`, of this output position and those
    /// that follow it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn split(&self, group: usize, part: usize, output: u32) -> &[i32; BEHIND] {
        let at = (group * 3 + part) * (self.spans.len() + BEHIND) + output as usize;
        self.split[at..].first_chunk().expect("as many follow the last position")
    }

    /// The most taps that any output position may have.
    pub(super) fn most_taps(&self) -> usize {
        self.stride
    }

    /// Whether the side is made at most so many times shorter.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn shrinks_at_most(&self, times: u32) -> bool {
        u64::from(self.lengths.0) <= u64::from(times) * u64::from(self.lengths.1)
    }

    /// The first tap of an output position and the weights of all.
    pub(super) fn taps(&self, output: u32) -> (u32, &[i32]) {
        let (first, count) = self.spans[output as usize];
        (first, &self.weights[output as usize * self.stride..][..count as usize])
    }

    /// The positions before resizing that `outputs` are made from.
    pub(super) fn reach(&self, outputs: Range<u32>) -> Range<u32> {
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
