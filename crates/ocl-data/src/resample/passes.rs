//! The two passes, for any processor. The wide versions give the same values.

use std::ops::Range;

use super::axis::{Axis, HALF, PRECISION_BITS, Rows};

/// Makes the output columns `xs` of as many rows as fit into `out`, `[rows, xs, 3]`.
pub(super) fn horizontal(columns: &Axis, xs: Range<u32>, from: Rows, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if super::avx512::serves(columns) {
        // SAFETY: the processor has just been found to have what this needs.
        return unsafe { super::avx512::horizontal(columns, xs, from, out) };
    }
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
    if super::avx512::serves(rows) {
        // SAFETY: the processor has just been found to have what this needs.
        return unsafe { super::avx512::vertical(rows, ys, from, out, row_len) };
    }
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
    use crate::random::{Draws, Purpose};
    use crate::resample::axis::Filter;

    type Horizontal = fn(&Axis, Range<u32>, Rows, &mut [u8]);
    type Vertical = fn(&Axis, Range<u32>, Rows, &mut [u8], usize);

    /// The usual path first, then those that are for processors like this one.
    fn wide_passes(axis: &Axis) -> Vec<(Horizontal, Vertical)> {
        let mut passes: Vec<(Horizontal, Vertical)> = vec![(horizontal, vertical)];
        #[cfg(target_arch = "x86_64")]
        {
            use crate::resample::{avx2, avx512};
            if is_x86_feature_detected!("avx2") && axis.most_taps() <= avx2::MAX_TAPS {
                passes.push((
                    // SAFETY: the processor has just been found to have AVX2.
                    |a, b, c, d| unsafe { avx2::horizontal(a, b, c, d) },
                    // SAFETY: as above.
                    |a, b, c, d, e| unsafe { avx2::vertical(a, b, c, d, e) },
                ));
            }
            if avx512::serves(axis) {
                passes.push((
                    // SAFETY: the processor has just been found to have what this needs.
                    |a, b, c, d| unsafe { avx512::horizontal(a, b, c, d) },
                    // SAFETY: as above.
                    |a, b, c, d, e| unsafe { avx512::vertical(a, b, c, d, e) },
                ));
            }
        }
        passes
    }

    /// On a processor with wide instructions the plain passes would otherwise never run.
    #[test]
    fn wide_and_plain_passes_are_equal() {
        let mut served = 0;
        for case in 0..600 {
            let mut draws = Draws::new(2, 0, case, Purpose::Test);
            // Up to far smaller than any wide pass serves.
            let most = if case % 3 == 0 { 400 } else { 80 };
            let (before, after) = (1 + draws.below(most), 1 + draws.below(60));
            let (mut axis, other) = (Axis::default(), 1 + draws.below(90) as usize);
            let start = draws.below(after);
            let outputs = start..start + 1 + draws.below(after - start);
            let filter = if case % 2 == 0 { Filter::Bicubic } else { Filter::Bilinear };
            axis.prepare(filter, before, after, outputs.clone());
            let needed = axis.reach(outputs.clone());
            // Extremes show whether sums saturate where they must.
            let extreme = draws.unit() < 0.5;
            let mut pixels = |len: usize| -> Vec<u8> {
                let level = |v: u32| if extreme { (v as u8 >> 7) * 255 } else { v as u8 };
                (0..len).map(|_| level(draws.below(256))).collect()
            };

            let pixels_across = pixels(other * needed.len() * 3);
            let stride = needed.len() * 3;
            let across = Rows { pixels: &pixels_across, stride, first: needed.start };
            let mut plain_across = vec![0; other * outputs.len() * 3];
            horizontal_plain(&axis, outputs.clone(), across, &mut plain_across);
            let pixels_down = pixels(other * needed.len());
            let down = Rows { pixels: &pixels_down, stride: other, first: needed.start };
            let mut plain_down = vec![0; other * outputs.len()];
            vertical_plain(&axis, outputs.clone(), down, &mut plain_down, other);

            let passes = wide_passes(&axis);
            served += passes.len();
            for (number, (horizontal, vertical)) in passes.into_iter().enumerate() {
                let place = format!("case {case}: {before} to {after}, {outputs:?}, pass {number}");
                let mut wide = vec![0; plain_across.len()];
                horizontal(&axis, outputs.clone(), across, &mut wide);
                assert!(wide == plain_across, "{place}, columns");
                let mut wide = vec![0; plain_down.len()];
                vertical(&axis, outputs.clone(), down, &mut wide, other);
                assert!(wide == plain_down, "{place}, rows");
            }
        }
        assert!(served >= 600);
    }
}
