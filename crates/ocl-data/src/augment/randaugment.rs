//! RandAugment (arXiv 1909.13719): operations on pixels, drawn at random, all of one magnitude.
//!
//! Fifteen operations with the ranges that fine-tuning recipes name `rand-m9-mstd0.5-inc1`: a
//! greater magnitude always changes more. Fifteen short functions of a picture, each tested by what
//! it must do.

use crate::random::Draws;

/// Operations there are.
const OPERATIONS: u32 = 15;

/// How operations are drawn.
pub(super) struct RandAugment {
    pub(super) operations: usize,
    /// Mean and standard deviation of the magnitude, 0 to 10.
    pub(super) magnitude: (f64, f64),
    /// Probability that an operation is applied.
    pub(super) probability: f64,
}

/// Applies the operations drawn to a picture `[side, side, 3]`; `fill` is what comes in from
/// outside.
pub(super) fn randaugment(
    pixels: &mut Vec<u8>,
    side: usize,
    fill: [u8; 3],
    settings: &RandAugment,
    draws: &mut Draws,
) {
    for _ in 0..settings.operations {
        let operation = draws.below(OPERATIONS);
        let applied = draws.unit() < settings.probability;
        let magnitude = settings.magnitude.0 + settings.magnitude.1 * draws.normal();
        let level = magnitude.clamp(0.0, 10.0) / 10.0;
        let sign = if draws.unit() < 0.5 { -1.0 } else { 1.0 };
        if applied {
            apply(operation, pixels, side, fill, level, sign);
        }
    }
}

fn apply(operation: u32, pixels: &mut Vec<u8>, side: usize, fill: [u8; 3], level: f64, sign: f64) {
    let middle = (side as f64 - 1.0) / 2.0;
    let mut warp = |matrix: [f64; 6]| *pixels = affine(pixels, side, fill, matrix);
    // How far a picture is moved away from a degenerate form of itself.
    let factor = (1.0 + sign * 0.9 * level).max(0.1);
    match operation {
        0 => stretch(pixels),
        1 => equalise(pixels),
        2 => pixels.iter_mut().for_each(|v| *v = 255 - *v),
        3 => {
            let (sin, cos) = (sign * level * 30.0).to_radians().sin_cos();
            let x0 = middle - cos * middle - sin * middle;
            let y0 = middle + sin * middle - cos * middle;
            warp([cos, sin, x0, -sin, cos, y0]);
        }
        4 => {
            // 4 bits at magnitude 0, none at 10.
            let mask = 0xFFu16 << (8 - (4 - (level * 4.0) as u32));
            pixels.iter_mut().for_each(|v| *v &= mask as u8);
        }
        5 => {
            let threshold = 256 - (level * 256.0) as u16;
            let bright = |v: &&mut u8| u16::from(**v) >= threshold;
            pixels.iter_mut().filter(bright).for_each(|v| *v = 255 - *v);
        }
        6 => {
            let more = (level * 110.0) as u8;
            pixels.iter_mut().filter(|v| **v < 128).for_each(|v| *v = v.saturating_add(more));
        }
        7 => {
            for pixel in pixels.chunks_exact_mut(3) {
                let grey = luma(pixel);
                pixel.iter_mut().for_each(|v| *v = blend(grey, *v, factor));
            }
        }
        8 => {
            let count = (pixels.len() / 3).max(1) as f64;
            let mean = (pixels.chunks_exact(3).map(luma).sum::<f64>() / count).round();
            pixels.iter_mut().for_each(|v| *v = blend(mean, *v, factor));
        }
        9 => pixels.iter_mut().for_each(|v| *v = blend(0.0, *v, factor)),
        10 => sharpen(pixels, side, factor),
        // A shear moves the middle row or column nowhere.
        11 => warp([1.0, sign * level * 0.3, -sign * level * 0.3 * middle, 0.0, 1.0, 0.0]),
        12 => warp([1.0, 0.0, 0.0, sign * level * 0.3, 1.0, -sign * level * 0.3 * middle]),
        13 => warp([1.0, 0.0, sign * level * 0.45 * side as f64, 0.0, 1.0, 0.0]),
        _ => warp([1.0, 0.0, 0.0, 0.0, 1.0, sign * level * 0.45 * side as f64]),
    }
}

/// ITU-R 601-2, as Pillow turns colour to grey.
fn luma(pixel: &[u8]) -> f64 {
    0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2])
}

/// `degenerate + factor (value - degenerate)`.
fn blend(degenerate: f64, value: u8, factor: f64) -> u8 {
    (degenerate + factor * (f64::from(value) - degenerate)).round().clamp(0.0, 255.0) as u8
}

/// Each channel's range becomes 0 to 255.
fn stretch(pixels: &mut [u8]) {
    for channel in 0..3 {
        let values = || pixels.iter().skip(channel).step_by(3).copied();
        let (low, high) = (values().min().unwrap_or(0), values().max().unwrap_or(0));
        if low < high {
            let scale = 255.0 / f64::from(high - low);
            let stretched = |v: u8| (f64::from(v - low) * scale).round() as u8;
            pixels.iter_mut().skip(channel).step_by(3).for_each(|v| *v = stretched(*v));
        }
    }
}

/// Each channel's histogram becomes as even as it can.
fn equalise(pixels: &mut [u8]) {
    for channel in 0..3 {
        let mut counts = [0u32; 256];
        pixels.iter().skip(channel).step_by(3).for_each(|v| counts[*v as usize] += 1);
        let last = counts.iter().rev().find(|count| **count > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<u32>() - last) / 255;
        if step == 0 {
            continue;
        }
        let mut below = step / 2;
        let table = counts.map(|count| {
            let level = (below / step).min(255) as u8;
            below += count;
            level
        });
        pixels.iter_mut().skip(channel).step_by(3).for_each(|v| *v = table[*v as usize]);
    }
}

/// Moves away from (or, below 1, towards) a smoothed picture; the rim stays.
fn sharpen(pixels: &mut [u8], side: usize, factor: f64) {
    let from = pixels.to_vec();
    for y in 1..side.saturating_sub(1) {
        for x in 1..side - 1 {
            for channel in 0..3 {
                let at = |x: usize, y: usize| f64::from(from[(y * side + x) * 3 + channel]);
                let ring: f64 = (y - 1..=y + 1)
                    .flat_map(|v| (x - 1..=x + 1).map(move |u| (u, v)))
                    .map(|(u, v)| at(u, v))
                    .sum();
                // Each neighbour counts once, the middle five times.
                let smooth = (ring + 4.0 * at(x, y)) / 13.0;
                let value = &mut pixels[(y * side + x) * 3 + channel];
                *value = blend(smooth, *value, factor);
            }
        }
    }
}

/// Each pixel `(x, y)` becomes what lies at `(a x + b y + c, d x + e y + f)`, between pixels
/// bilinearly.
fn affine(pixels: &[u8], side: usize, fill: [u8; 3], [a, b, c, d, e, f]: [f64; 6]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len());
    let at = |x: i64, y: i64, channel: usize| {
        let inside = (0..side as i64).contains(&x) && (0..side as i64).contains(&y);
        let value = if inside {
            pixels[(y as usize * side + x as usize) * 3 + channel]
        } else {
            fill[channel]
        };
        f64::from(value)
    };
    for y in 0..side {
        for x in 0..side {
            let (x, y) = (x as f64, y as f64);
            let (u, v) = (a * x + b * y + c, d * x + e * y + f);
            let (left, top) = (u.floor(), v.floor());
            let (right, low) = (u - left, v - top);
            let (left, top) = (left as i64, top as i64);
            for channel in 0..3 {
                let upper =
                    at(left, top, channel) * (1.0 - right) + at(left + 1, top, channel) * right;
                let lower = at(left, top + 1, channel) * (1.0 - right)
                    + at(left + 1, top + 1, channel) * right;
                out.push((upper * (1.0 - low) + lower * low).round() as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 8;

    fn picture() -> Vec<u8> {
        (0..SIDE * SIDE * 3).map(|i| (i * 7 % 200 + 20) as u8).collect()
    }

    fn done(operation: u32, level: f64, sign: f64) -> Vec<u8> {
        let mut pixels = picture();
        apply(operation, &mut pixels, SIDE, [9; 3], level, sign);
        assert_eq!(pixels.len(), SIDE * SIDE * 3);
        pixels
    }

    #[test]
    fn magnitude_zero_changes_nothing_where_there_is_a_magnitude() {
        for operation in [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14] {
            assert_eq!(done(operation, 0.0, 1.0), picture(), "operation {operation}");
        }
    }

    #[test]
    fn a_greater_magnitude_changes_more() {
        let changed = |operation, level| -> u32 {
            let pixels = done(operation, level, -1.0);
            pixels.iter().zip(picture()).map(|(a, b)| u32::from(a.abs_diff(b))).sum()
        };
        for operation in [4, 5, 7, 8, 9, 13, 14] {
            assert!(changed(operation, 0.9) > changed(operation, 0.3), "operation {operation}");
        }
    }

    #[test]
    fn each_does_what_it_says() {
        let (low, high) = (done(0, 0.9, 1.0), done(1, 0.9, 1.0));
        assert!(low.contains(&0) && low.contains(&255) && high.len() == low.len());
        assert_eq!(done(2, 0.9, 1.0)[0], 255 - picture()[0]);
        // By 0.45 * 8 * 0.5556 = 2 pixels: what was at x + 2 comes to x, the rest is filled.
        let moved = done(13, 2.0 / 3.6, 1.0);
        assert_eq!(moved[..3], picture()[6..9]);
        assert_eq!(moved[(SIDE - 1) * 3..SIDE * 3], [9; 3]);
        // Posterised to one bit: 0 or 128.
        assert!(done(4, 0.75, 1.0).iter().all(|v| *v == 0 || *v == 128));
        // A grey picture has no colour to lose.
        let mut grey: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| [i as u8; 3]).collect();
        let before = grey.clone();
        apply(7, &mut grey, SIDE, [0; 3], 1.0, -1.0);
        assert_eq!(grey, before);
    }

    #[test]
    fn a_turn_there_and_back_keeps_the_middle() {
        let there = done(3, 0.5, 1.0);
        let back = affine(&there, SIDE, [9; 3], {
            let (sin, cos) = (-15.0f64).to_radians().sin_cos();
            let m = 3.5;
            [cos, sin, m - cos * m - sin * m, -sin, cos, m + sin * m - cos * m]
        });
        // Smooth in the middle, up to two bilinear readings of a rough picture.
        let at = (3 * SIDE + 3) * 3;
        assert!(back[at].abs_diff(picture()[at]) < 60);
        assert_ne!(there, picture());
    }
}
