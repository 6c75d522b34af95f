//! The two passes for x86 processors with AVX2.
//!
//! The instruction that multiplies and adds in pairs takes 16-bit numbers, a weight has 24 bits. So
//! a weight is split, `w = high * 2^12 + low`, and the two sums are put together at the end: the
//! same integer as in the plain passes.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_packs_epi32,
    _mm_packus_epi16, _mm_set_epi64x, _mm_set1_epi32, _mm_srai_epi32, _mm_unpackhi_epi8,
    _mm_unpacklo_epi8, _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
    _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_packs_epi32,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srai_epi32,
};
use std::ops::Range;

use super::axis::{Axis, HALF, PRECISION_BITS, Rows};

/// Bits of a weight's lower half: few enough that it is positive in 16 bits, and so is the upper
/// half.
const LOW_BITS: i32 = 12;
/// The most taps that are served: those of a picture made sixteen times smaller.
pub(super) const MAX_TAPS: usize = 68;
const SHIFT: i32 = PRECISION_BITS as i32;

/// Two neighbouring weights as the halves of 32 bits: their upper parts and their lower parts.
fn pair(weights: &[i32], at: usize) -> (i32, i32) {
    let weight = |at: usize| weights.get(at).copied().unwrap_or(0);
    let (a, b) = (weight(at), weight(at + 1));
    let join = |a: i32, b: i32| (b << 16) | (a & 0xFFFF);
    let mask = (1 << LOW_BITS) - 1;
    (join(a >> LOW_BITS, b >> LOW_BITS), join(a & mask, b & mask))
}

/// Sixteen bytes from `at` on; zeros beyond the end.
#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8], at: usize) -> __m128i {
    let mut padded = [0; 16];
    let sixteen = match bytes.get(at..at + 16) {
        Some(sixteen) => sixteen,
        None => {
            let rest = bytes.get(at..).unwrap_or_default();
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        }
    };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&sixteen[at..at + 8]);
        i64::from_le_bytes(word)
    };
    _mm_set_epi64x(word(8), word(0))
}

/// See [`super::passes::horizontal`].
#[target_feature(enable = "avx2")]
pub(super) fn horizontal(columns: &Axis, xs: Range<u32>, from: Rows, out: &mut [u8]) {
    let out_len = xs.len() * 3;
    let rows = out.len() / out_len;
    let mut split = [(_mm256_setzero_si256(), _mm256_setzero_si256()); MAX_TAPS / 4];
    for (place, x) in xs.enumerate() {
        let (first, weights) = columns.taps(x);
        let split = &mut split[..weights.len().div_ceil(4)];
        for (group, split) in split.iter_mut().enumerate() {
            let at = group * 4;
            let ((high, low), (high2, low2)) = (pair(weights, at), pair(weights, at + 2));
            *split = (
                _mm256_setr_epi32(high, high, high, 0, high2, high2, high2, 0),
                _mm256_setr_epi32(low, low, low, 0, low2, low2, low2, 0),
            );
        }
        let start = (first - from.first) as usize * 3;
        let mut row = 0;
        while row + 4 <= rows {
            let at = row * from.stride + start;
            let pixels = column::<4>(from.pixels, at, from.stride, split);
            for (next, pixel) in pixels.chunks_exact(4).enumerate() {
                let at = (row + next) * out_len + place * 3;
                out[at..at + 3].copy_from_slice(&pixel[..3]);
            }
            row += 4;
        }
        while row < rows {
            let pixels = column::<1>(from.pixels, row * from.stride + start, 0, split);
            let at = row * out_len + place * 3;
            out[at..at + 3].copy_from_slice(&pixels[..3]);
            row += 1;
        }
    }
}

/// One output pixel of each of `ROWS` rows (at most four), 4 bytes each, the last of them without
/// meaning.
#[inline]
#[target_feature(enable = "avx2")]
fn column<const ROWS: usize>(
    bytes: &[u8],
    at: usize,
    stride: usize,
    split: &[(__m256i, __m256i)],
) -> [u8; 16] {
    // Four pixels at a time: of two pixels in each half of the register, the same channels side by
    // side, widened to 16 bits (-1 gives 0).
    let spread = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    );
    let mut sums = [(_mm256_setzero_si256(), _mm256_setzero_si256()); ROWS];
    for (group, (high, low)) in split.iter().enumerate() {
        for (row, sums) in sums.iter_mut().enumerate() {
            let sixteen = load(bytes, at + row * stride + group * 12);
            let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(sixteen), spread);
            sums.0 = _mm256_add_epi32(sums.0, _mm256_madd_epi16(pixels, *high));
            sums.1 = _mm256_add_epi32(sums.1, _mm256_madd_epi16(pixels, *low));
        }
    }
    let mut made = [_mm_set1_epi32(0); 4];
    for (made, (high, low)) in made.iter_mut().zip(sums) {
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(high), low);
        let both = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        *made = _mm_srai_epi32::<SHIFT>(_mm_add_epi32(both, _mm_set1_epi32(HALF)));
    }
    // Both narrowings saturate, which is the clamp to 0 to 255.
    let words = (_mm_packs_epi32(made[0], made[1]), _mm_packs_epi32(made[2], made[3]));
    to_bytes(_mm_packus_epi16(words.0, words.1))
}

/// A register's bytes in order.
#[inline]
#[target_feature(enable = "avx2")]
fn to_bytes(register: __m128i) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&_mm_cvtsi128_si64(register).to_le_bytes());
    bytes[8..].copy_from_slice(&_mm_extract_epi64::<1>(register).to_le_bytes());
    bytes
}

/// See [`super::passes::vertical`].
#[target_feature(enable = "avx2")]
pub(super) fn vertical(rows: &Axis, ys: Range<u32>, from: Rows, out: &mut [u8], row_len: usize) {
    let mut split = [(_mm256_setzero_si256(), _mm256_setzero_si256()); MAX_TAPS / 2];
    for (y, out) in ys.zip(out.chunks_exact_mut(row_len)) {
        let (first, weights) = rows.taps(y);
        let split = &mut split[..weights.len().div_ceil(2)];
        for (group, split) in split.iter_mut().enumerate() {
            let (high, low) = pair(weights, group * 2);
            *split = (_mm256_set1_epi32(high), _mm256_set1_epi32(low));
        }
        let start = (first - from.first) as usize * from.stride;
        for (chunk, out) in out.chunks_mut(16).enumerate() {
            let zero = _mm256_setzero_si256();
            let (mut left, mut right) = ((zero, zero), (zero, zero));
            for (step, (high, low)) in split.iter().enumerate() {
                let at = start + 2 * step * from.stride + chunk * 16;
                let (upper, lower) = (load(from.pixels, at), load(from.pixels, at + from.stride));
                let pairs = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(upper, lower));
                left.0 = _mm256_add_epi32(left.0, _mm256_madd_epi16(pairs, *high));
                left.1 = _mm256_add_epi32(left.1, _mm256_madd_epi16(pairs, *low));
                let pairs = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(upper, lower));
                right.0 = _mm256_add_epi32(right.0, _mm256_madd_epi16(pairs, *high));
                right.1 = _mm256_add_epi32(right.1, _mm256_madd_epi16(pairs, *low));
            }
            // The narrowing goes by halves of the registers, so the quarters are put in order
            // after.
            let words = _mm256_packs_epi32(levels(left), levels(right));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = to_bytes(_mm_packus_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            ));
            out.copy_from_slice(&bytes[..out.len()]);
        }
    }
}

/// The sums put together and rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn levels((high, low): (__m256i, __m256i)) -> __m256i {
    let sum = _mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(high), low);
    _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(sum, _mm256_set1_epi32(HALF)))
}
