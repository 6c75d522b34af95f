//! From 8-bit levels to normalised floats: `(v / 255 - mean) / std`.

use crate::picture::geometry::Normalisation;
#[cfg(target_arch = "x86_64")]
use wide::Wide;

/// Normalises rows of pixels.
pub(crate) struct Normaliser {
    /// Every level's value of each channel.
    table: Box<[[f32; 3]; 256]>,
    /// The same by arithmetic, where the processor has it and every value comes out the same.
    #[cfg(target_arch = "x86_64")]
    wide: Option<Box<Wide>>,
}

impl Normaliser {
    pub(crate) fn new(normalisation: &Normalisation) -> Normaliser {
        let table = normalisation.table();
        Normaliser {
            #[cfg(target_arch = "x86_64")]
            wide: Wide::equal_to(&table, normalisation).map(Box::new),
            table,
        }
    }

    /// Normalises a patch: rows of `row_len` levels, `stride` levels apart, as many as `out` has
    /// room for; each from the right where `flipped`.
    pub(crate) fn patch(
        &self,
        pixels: &[u8],
        stride: usize,
        row_len: usize,
        flipped: bool,
        out: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide {
            // SAFETY: `Wide::equal_to` gives one only where the processor has these instructions.
            return unsafe { wide.patch(pixels, stride, row_len, flipped, out) };
        }
        for (row, out) in pixels.chunks(stride).zip(out.chunks_exact_mut(row_len)) {
            self.row(&row[..row_len], flipped, out);
        }
    }

    fn row(&self, row: &[u8], flipped: bool, out: &mut [f32]) {
        let value = |(out, pixel): (&mut [f32], &[u8])| {
            for ((value, level), channel) in out.iter_mut().zip(pixel).zip(0..) {
                *value = self.table[usize::from(*level)][channel];
            }
        };
        if flipped {
            out.chunks_exact_mut(3).zip(row.rchunks_exact(3)).for_each(value);
        } else {
            out.chunks_exact_mut(3).zip(row.chunks_exact(3)).for_each(value);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use crate::picture::geometry::Normalisation;

    /// Values made at a time: sixteen pixels.
    const LANES: usize = 48;

    /// The constants of sixteen pixels' channels.
    pub(super) struct Wide {
        mean: [f32; LANES],
        std: [f32; LANES],
        per_std: [f32; LANES],
    }

    /// `x / by` from the reciprocal of `by`: the product's remainder corrects its last bit
    /// (Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor",
    /// 1990).
    #[inline(always)]
    fn divide(x: f32, by: f32, per: f32) -> f32 {
        let near = x * per;
        near.mul_add(-by, x).mul_add(per, near)
    }

    impl Wide {
        /// `None` where the processor lacks fused multiplication, or a value would differ from the
        /// table's, be it in its last bit.
        pub(super) fn equal_to(
            table: &[[f32; 3]; 256],
            normalisation: &Normalisation,
        ) -> Option<Wide> {
            if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
                return None;
            }
            let std = std::array::from_fn(|i| normalisation.std[i % 3]);
            let mean = std::array::from_fn(|i| normalisation.mean[i % 3]);
            let wide = Wide { mean, std, per_std: std.map(|std| 1.0 / std) };
            let equal = table.iter().zip(0..=255).all(|(values, level)| {
                let mut made = [0.0; LANES];
                // SAFETY: the processor has just been found to have these instructions.
                unsafe { wide.patch(&[level; LANES], LANES, LANES, false, &mut made) };
                made.iter().zip(values.iter().cycle()).all(|(a, b)| a.to_bits() == b.to_bits())
            });
            equal.then_some(wide)
        }

        /// See [`super::Normaliser::patch`].
        #[target_feature(enable = "avx2,fma")]
        pub(super) fn patch(
            &self,
            pixels: &[u8],
            stride: usize,
            row_len: usize,
            flipped: bool,
            out: &mut [f32],
        ) {
            for (row, out) in pixels.chunks(stride).zip(out.chunks_exact_mut(row_len)) {
                let row = &row[..row_len];
                for (number, out) in out.chunks_mut(LANES).enumerate() {
                    let (at, len) = (number * LANES, out.len());
                    let mut levels = [0; LANES];
                    if flipped {
                        let from = &row[row_len - at - len..row_len - at];
                        let pixels = levels.chunks_exact_mut(3).zip(from.rchunks_exact(3));
                        pixels.for_each(|(to, from)| to.copy_from_slice(from));
                    } else {
                        levels[..len].copy_from_slice(&row[at..at + len]);
                    }
                    match out.as_mut_array() {
                        Some(out) => self.convert(&levels, out),
                        None => {
                            let mut all = [0.0; LANES];
                            self.convert(&levels, &mut all);
                            out.copy_from_slice(&all[..len]);
                        }
                    }
                }
            }
        }

        /// Becomes wide instructions where it is inlined.
        #[inline(always)]
        fn convert(&self, levels: &[u8; LANES], out: &mut [f32; LANES]) {
            for i in 0..LANES {
                let unit = divide(f32::from(levels[i]), 255.0, 1.0 / 255.0);
                out[i] = divide(unit - self.mean[i], self.std[i], self.per_std[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draws, Purpose};

    #[test]
    fn wide_and_plain_are_equal() {
        let normaliser = Normaliser::new(&Normalisation::IMAGENET);
        #[cfg(target_arch = "x86_64")]
        assert!(normaliser.wide.is_some() || !is_x86_feature_detected!("fma"));
        let mut draws = Draws::new(5, 0, 0, Purpose::Test);
        for case in 0..200 {
            let (row_len, rows) = (3 * (1 + draws.below(40) as usize), 1 + draws.below(5) as usize);
            let stride = row_len + draws.below(9) as usize;
            let pixels: Vec<u8> = (0..stride * rows).map(|_| draws.below(256) as u8).collect();
            for flipped in [false, true] {
                let (mut made, mut plain) = (vec![0.0; row_len * rows], vec![0.0; row_len * rows]);
                normaliser.patch(&pixels, stride, row_len, flipped, &mut made);
                for (row, out) in pixels.chunks(stride).zip(plain.chunks_exact_mut(row_len)) {
                    normaliser.row(&row[..row_len], flipped, out);
                }
                assert!(made == plain, "case {case}: {row_len} x {rows}, flipped: {flipped}");
            }
        }
    }

    /// A value that arithmetic does not meet is taken from the table.
    #[test]
    fn odd_constants() {
        let odd = Normalisation { mean: [0.1, -3.0, 0.7], std: [1e-38, 3.0, f32::INFINITY] };
        let normaliser = Normaliser::new(&odd);
        let mut made = [0.0; 6];
        normaliser.patch(&[0, 1, 2, 255, 254, 253], 6, 6, false, &mut made);
        let table = odd.table();
        let expected =
            [table[0][0], table[1][1], table[2][2], table[255][0], table[254][1], table[253][2]];
        assert_eq!(made.map(f32::to_bits), expected.map(f32::to_bits));
    }
}
