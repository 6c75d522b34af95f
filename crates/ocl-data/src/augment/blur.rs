//! A Gaussian blur by three box filters along each axis, as Pillow's `GaussianBlur` has it: no
//! Gaussian kernel. Boxes have a radius that is no whole number (Gwosdek, Grewenig, Bruhn,
//! Weickert: "Theoretical foundations of Gaussian convolution by extended box filtering", 2011).

const PASSES: usize = 3;
const BITS: u32 = 24;
const HALF: u32 = 1 << (BITS - 1);

/// A box: `whole` pixels to each side count in full, and those beyond a little.
#[derive(Clone, Copy)]
struct BoxFilter {
    whole: usize,
    /// What each pixel weighs, and the two at the edges, in fixed point.
    weight: u32,
    edge: u32,
}

impl BoxFilter {
    /// A third of a Gaussian of this deviation.
    fn of(deviation: f64) -> BoxFilter {
        let deviation = deviation as f32;
        let s2 = deviation * deviation / PASSES as f32;
        let length = (12.0 * f64::from(s2) + 1.0).sqrt() as f32;
        let l = ((length - 1.0) / 2.0).floor();
        let part = (2.0 * l + 1.0) * (l * (l + 1.0) - 3.0 * s2);
        let radius = l + part / (6.0 * (s2 - (l + 1.0) * (l + 1.0)));
        let whole = radius as u32;
        let weight = ((1u32 << BITS) as f32 / (radius * 2.0 + 1.0)) as u32;
        let edge = ((1u32 << BITS) - (2 * whole + 1) * weight) / 2;
        BoxFilter { whole: whole as usize, weight, edge }
    }
}

/// Blurs a picture `[height, width, 3]` in place; the buffers are memory to work in.
pub(super) fn blur(
    pixels: &mut [u8],
    width_px: usize,
    deviation: f64,
    scratch: &mut Vec<u8>,
    sums: &mut Vec<u32>,
) {
    let row = width_px * 3;
    if pixels.is_empty() {
        return;
    }
    let kernel = BoxFilter::of(deviation);
    for _ in 0..PASSES {
        for line in pixels.chunks_exact_mut(row) {
            along_row(line, kernel, scratch);
        }
    }
    for _ in 0..PASSES {
        scratch.clear();
        scratch.extend_from_slice(pixels);
        along_columns(scratch, pixels, row, kernel, sums);
    }
}

/// One pass along a row `[width, 3]`; edge pixels are repeated.
fn along_row(line: &mut [u8], kernel: BoxFilter, scratch: &mut Vec<u8>) {
    let (n, width) = (kernel.whole, line.len() / 3);
    // The row with its first and last pixel repeated as far as the box reaches.
    scratch.clear();
    let (first, last) = ([line[0], line[1], line[2]], &line[line.len() - 3..]);
    (0..=n).for_each(|_| scratch.extend_from_slice(&first));
    scratch.extend_from_slice(line);
    (0..=n).for_each(|_| scratch.extend_from_slice(last));
    let at = |x: usize, channel: usize| u32::from(scratch[x * 3 + channel]);
    let mut sums = [0, 1, 2].map(|channel| (1..2 * n + 2).map(|x| at(x, channel)).sum::<u32>());
    for x in 0..width {
        for (channel, sum) in sums.iter_mut().enumerate() {
            let edges = at(x, channel) + at(x + 2 * n + 2, channel);
            line[x * 3 + channel] = weighed(kernel, *sum, edges);
            *sum = *sum + at(x + 2 * n + 2, channel) - at(x + 1, channel);
        }
    }
}

/// One pass down all columns, from `from` to `into`, rows of `row` values.
fn along_columns(from: &[u8], into: &mut [u8], row: usize, kernel: BoxFilter, sums: &mut Vec<u32>) {
    let (n, height) = (kernel.whole as isize, (from.len() / row) as isize);
    let line = |y: isize| {
        let y = y.clamp(0, height - 1) as usize;
        &from[y * row..(y + 1) * row]
    };
    sums.clear();
    sums.resize(row, 0);
    for y in -n..=n {
        sums.iter_mut().zip(line(y)).for_each(|(sum, value)| *sum += u32::from(*value));
    }
    for (y, out) in (0..).zip(into.chunks_exact_mut(row)) {
        let (above, below, first) = (line(y - n - 1), line(y + n + 1), line(y - n));
        for i in 0..row {
            let edges = u32::from(above[i]) + u32::from(below[i]);
            out[i] = weighed(kernel, sums[i], edges);
            sums[i] = sums[i] + u32::from(below[i]) - u32::from(first[i]);
        }
    }
}

#[inline]
fn weighed(kernel: BoxFilter, sum: u32, edges: u32) -> u8 {
    ((sum * kernel.weight + edges * kernel.edge + HALF) >> BITS) as u8
}
