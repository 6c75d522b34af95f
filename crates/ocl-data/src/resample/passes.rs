//! The two passes, for any processor. The wide versions give the same values.

use std::ops::Range;

use super::axis::Axis;
use super::{HALF, PRECISION_BITS};

/// Rows of pixels `stride` bytes apart. The first byte belongs to the row or column `first`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) pixels: &'a [u8],
    pub(super) stride: usize,
    pub(super) first: u32,
}

/// Makes the output columns `xs` of as many rows as fit into `out`, `[rows, xs, 3]`.
pub(super) fn horizontal(columns: &Axis, xs: Range<u32>, from: Rows, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && columns.most_taps() <= super::avx2::MAX_TAPS {
        // SAFETY: the processor has just been found to have AVX2.
        return unsafe { super::avx2::horizontal(columns, xs, from, out) };
    }
    horizontal_plain(columns, xs, from, out);
}

/// Makes the output rows `ys` of `row_len` bytes each into `out`.
pub(super) fn vertical(rows: &Axis, ys: Range<u32>, from: Rows, out: &mut [u8], row_len: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && rows.most_taps() <= super::avx2::MAX_TAPS {
        // SAFETY: the processor has just been found to have AVX2.
        return unsafe { super::avx2::vertical(rows, ys, from, out, row_len) };
    }
    vertical_plain(rows, ys, from, out, row_len);
}

fn horizontal_plain(columns: &Axis, xs: Range<u32>, from: Rows, out: &mut [u8]) {
    for (row, out) in from.pixels.chunks(from.stride).zip(out.chunks_exact_mut(xs.len() * 3)) {
        for (x, pixel) in xs.clone().zip(out.chunks_exact_mut(3)) {
            let (first, weights) = columns.taps(x);
            let taps = row[(first - from.first) as usize * 3..].chunks_exact(3);
            let mut sum = [HALF; 3];
            for (weight, tap) in weights.iter().zip(taps) {
                for (sum, level) in sum.iter_mut().zip(tap) {
                    *sum += weight * i32::from(*level);
                }
            }
            for (level, sum) in pixel.iter_mut().zip(sum) {
                *level = to_level(sum);
            }
        }
    }
}

fn vertical_plain(rows: &Axis, ys: Range<u32>, from: Rows, out: &mut [u8], row_len: usize) {
    let mut sums = vec![HALF; row_len];
    for (y, out) in ys.zip(out.chunks_exact_mut(row_len)) {
        let (first, weights) = rows.taps(y);
        let start = (first - from.first) as usize * from.stride;
        sums.fill(HALF);
        for (weight, row) in weights.iter().zip(from.pixels[start..].chunks(from.stride)) {
            for (sum, level) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(*level);
            }
        }
        for (level, sum) in out.iter_mut().zip(&sums) {
            *level = to_level(*sum);
        }
    }
}

fn to_level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    /// On a processor with AVX2 the plain passes would otherwise never run.
    #[test]
    fn wide_and_plain_passes_are_equal() {
        for case in 0..300 {
            let mut draws = Draws::new(2, 0, case, 300);
            let (before, after) = (1 + draws.below(80), 1 + draws.below(60));
            let (mut axis, other) = (Axis::default(), 1 + draws.below(30) as usize);
            let start = draws.below(after);
            let outputs = start..start + 1 + draws.below(after - start);
            axis.prepare(before, after, outputs.clone());
            let needed = axis.reach(outputs.clone());
            // Extremes show whether sums saturate where they must.
            let extreme = draws.unit() < 0.5;
            let mut pixels = |len: usize| -> Vec<u8> {
                let level = |v: u32| if extreme { (v as u8 >> 7) * 255 } else { v as u8 };
                (0..len).map(|_| level(draws.below(256))).collect()
            };

            let pixels_across = pixels(other * needed.len() * 3);
            let stride = needed.len() * 3;
            let from = Rows { pixels: &pixels_across, stride, first: needed.start };
            let mut wide = vec![0; other * outputs.len() * 3];
            let mut plain = wide.clone();
            horizontal(&axis, outputs.clone(), from, &mut wide);
            horizontal_plain(&axis, outputs.clone(), from, &mut plain);
            assert!(wide == plain, "case {case}: {before} to {after}, columns {outputs:?}");

            let pixels_down = pixels(other * needed.len());
            let from = Rows { pixels: &pixels_down, stride: other, first: needed.start };
            let mut wide = vec![0; other * outputs.len()];
            let mut plain = wide.clone();
            vertical(&axis, outputs.clone(), from, &mut wide, other);
            vertical_plain(&axis, outputs.clone(), from, &mut plain, other);
            assert!(wide == plain, "case {case}: {before} to {after}, rows {outputs:?}");
        }
    }
}
