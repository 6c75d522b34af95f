//! From planes of luma and chroma to RGB: chroma is smoothed as libjpeg does ("fancy upsampling"),
//! the colours are those of JFIF in libjpeg's fixed point.

use std::ops::Range;

/// A plane of levels.
pub(super) struct Plane<'a> {
    pub(super) levels: &'a [u8],
    pub(super) stride: usize,
    /// Columns and rows that belong to the image; the rest fills up blocks.
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Plane<'_> {
    pub(super) fn row(&self, y: usize, xs: Range<usize>) -> &[u8] {
        &self.levels[y * self.stride..][xs]
    }
}

/// Chroma rows at the size of luma, of any columns.
#[derive(Default)]
pub(super) struct Smoother {
    sums: Vec<u16>,
    /// Made levels; begins at an even column.
    levels: Vec<u8>,
}

impl Smoother {
    /// The columns `xs` of luma's row `y` of a plane that has a sample for `across` x `down` of
    /// luma.
    pub(super) fn row(
        &mut self,
        plane: &Plane,
        (across, down): (u32, u32),
        y: usize,
        xs: Range<usize>,
    ) -> &[u8] {
        // Where chroma has half the rows, a row lies a quarter from the nearer one of chroma's.
        let (near, far) = match down {
            1 => (y, y),
            _ if y.is_multiple_of(2) => (y / 2, (y / 2).saturating_sub(1)),
            _ => (y / 2, (y / 2 + 1).min(plane.height - 1)),
        };
        if across == 1 {
            let near = plane.row(near, xs.clone());
            self.levels.clear();
            if down == 1 {
                self.levels.extend_from_slice(near);
            } else {
                let far = plane.row(far, xs);
                let round = 1 + (y % 2) as u16;
                let level =
                    |(n, f): (&u8, &u8)| ((3 * u16::from(*n) + u16::from(*f) + round) >> 2) as u8;
                self.levels.extend(near.iter().zip(far).map(level));
            }
            return &self.levels;
        }
        // One column more to each side; beyond the edge the outermost once more.
        let (first, end) = (xs.start / 2, xs.end.div_ceil(2).min(plane.width));
        let from = first.saturating_sub(1)..(end + 1).min(plane.width);
        let (near, far) = (plane.row(near, from.clone()), plane.row(far, from));
        self.sums.clear();
        let sum = |(n, f): (&u8, &u8)| {
            if down == 1 { u16::from(*n) } else { 3 * u16::from(*n) + u16::from(*f) }
        };
        if first == 0 {
            self.sums.extend(near.iter().zip(far).take(1).map(sum));
        }
        self.sums.extend(near.iter().zip(far).map(sum));
        if end == plane.width {
            self.sums.extend_from_within(self.sums.len() - 1..);
        }
        let (left, right, shift) = if down == 1 { (1, 2, 2) } else { (8, 7, 4) };
        let count = end - first;
        self.levels.resize(count * 2, 0);
        let sums = &self.sums[..count + 2];
        let neighbours = sums.iter().zip(&sums[1..]).zip(&sums[2..]);
        for (pair, ((before, at), after)) in self.levels.chunks_exact_mut(2).zip(neighbours) {
            pair[0] = ((3 * at + before + left) >> shift) as u8;
            pair[1] = ((3 * at + after + right) >> shift) as u8;
        }
        &self.levels[xs.start - 2 * first..][..xs.len()]
    }
}

/// One row of pixels, `[len, 3]`.
pub(super) fn to_rgb(luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have AVX2.
        return unsafe { wide::to_rgb(luma, cb, cr, rgb) };
    }
    to_rgb_plain(luma, cb, cr, rgb);
}

fn to_rgb_plain(luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    // JFIF's factors 1.402, 0.344136, 0.714136 and 1.772 times 65,536.
    for (((y, cb), cr), pixel) in luma.iter().zip(cb).zip(cr).zip(rgb.chunks_exact_mut(3)) {
        let (y, cb, cr) = (i32::from(*y), i32::from(*cb) - 128, i32::from(*cr) - 128);
        let part = |sum: i32| (y + ((sum + 32_768) >> 16)).clamp(0, 255) as u8;
        pixel[0] = part(91_881 * cr);
        pixel[1] = part(-22_554 * cb - 46_802 * cr);
        pixel[2] = part(116_130 * cb);
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! Sixteen pixels at a time, in 16 bits: a product with a factor is split into a whole multiple
    //! and a rest that fits.

    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_or_si128, _mm_packus_epi16,
        _mm_set_epi64x, _mm_setr_epi8, _mm_shuffle_epi8, _mm256_add_epi16, _mm256_add_epi32,
        _mm256_castsi256_si128, _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_madd_epi16,
        _mm256_mulhi_epi16, _mm256_packs_epi32, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_slli_epi16, _mm256_srai_epi16, _mm256_srai_epi32, _mm256_sub_epi16,
        _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
    };

    #[target_feature(enable = "avx2")]
    pub(super) fn to_rgb(luma: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
        let inputs = luma.chunks_exact(16).zip(cb.chunks_exact(16)).zip(cr.chunks_exact(16));
        for (((y, cb), cr), out) in inputs.zip(rgb.chunks_exact_mut(48)) {
            sixteen(y, cb, cr, out);
        }
        let done = luma.len() / 16 * 16;
        if done < luma.len() {
            // The last few by themselves, filled up.
            let fill = |from: &[u8]| {
                let mut all = [0; 16];
                all[..luma.len() - done].copy_from_slice(&from[done..luma.len()]);
                all
            };
            let mut out = [0; 48];
            sixteen(&fill(luma), &fill(cb), &fill(cr), &mut out);
            let rest = &mut rgb[done * 3..luma.len() * 3];
            rest.copy_from_slice(&out[..rest.len()]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8]) -> __m256i {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            i64::from_le_bytes(word)
        };
        _mm256_cvtepu8_epi16(_mm_set_epi64x(word(8), word(0)))
    }

    /// `(x * factor + 32768) >> 16` of 16-bit factors.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn part(x: __m256i, factor: i16) -> __m256i {
        // The product of the doubled value loses 15 bits, rounding the last one.
        let twice = _mm256_mulhi_epi16(_mm256_slli_epi16::<1>(x), _mm256_set1_epi16(factor));
        _mm256_srai_epi16::<1>(_mm256_add_epi16(twice, _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn narrow(words: __m256i) -> __m128i {
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sixteen(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
        let middle = _mm256_set1_epi16(128);
        let y = load(y);
        let (cb, cr) = (_mm256_sub_epi16(load(cb), middle), _mm256_sub_epi16(load(cr), middle));
        // 91,881 = 65,536 + 26,345; 116,130 = 2 * 65,536 - 14,942; 46,802 = 65,536 - 18,734.
        let red = _mm256_add_epi16(y, _mm256_add_epi16(cr, part(cr, 26_345)));
        let blue = _mm256_add_epi16(_mm256_slli_epi16::<1>(cb), part(cb, -14_942));
        let blue = _mm256_add_epi16(y, blue);
        let factors = _mm256_set1_epi32((18_734 << 16) | (-22_554i32 & 0xFFFF));
        let half = _mm256_set1_epi32(32_768);
        let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), factors);
        let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), factors);
        let low = _mm256_srai_epi32::<16>(_mm256_add_epi32(low, half));
        let high = _mm256_srai_epi32::<16>(_mm256_add_epi32(high, half));
        let green = _mm256_sub_epi16(_mm256_packs_epi32(low, high), cr);
        let green = _mm256_add_epi16(y, green);
        let (r, g, b) = (narrow(red), narrow(green), narrow(blue));
        // Byte n of the output is channel n % 3 of pixel n / 3; -1 leaves a zero for the others.
        let weave = |r_at: __m128i, g_at: __m128i, b_at: __m128i| {
            let rg = _mm_or_si128(_mm_shuffle_epi8(r, r_at), _mm_shuffle_epi8(g, g_at));
            _mm_or_si128(rg, _mm_shuffle_epi8(b, b_at))
        };
        let woven = [
            weave(
                _mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
                _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
                _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1),
            ),
            weave(
                _mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
                _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
                _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1),
            ),
            weave(
                _mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1),
                _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1),
                _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15),
            ),
        ];
        for (bytes, out) in woven.into_iter().zip(out.chunks_exact_mut(16)) {
            out[..8].copy_from_slice(&_mm_cvtsi128_si64(bytes).to_le_bytes());
            out[8..].copy_from_slice(&_mm_extract_epi64::<1>(bytes).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_plain_are_equal_for_all_colours() {
        for y in [0u8, 1, 77, 128, 254, 255] {
            for cb in 0..=255u8 {
                let cr: Vec<u8> = (0..=255).collect();
                for len in [256, 21] {
                    let (luma, cb) = (vec![y; len], vec![cb; len]);
                    let (mut wide, mut plain) = (vec![0; len * 3], vec![0; len * 3]);
                    to_rgb(&luma, &cb, &cr[..len], &mut wide);
                    to_rgb_plain(&luma, &cb, &cr[..len], &mut plain);
                    assert!(wide == plain, "y {y}, cb {}", cb[0]);
                }
            }
        }
    }
}
