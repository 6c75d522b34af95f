//! The two passes for x86 processors with AVX-512 and its byte permutations and dot products (VBMI
//! and VNNI: Ice Lake and Zen 4 on).
//!
//! One instruction multiplies four levels by four 8-bit weights and adds them up. A weight has 24
//! bits, so it is split, `w = a * 2^16 + b * 2^8 + c` with signed bytes, and the three sums are put
//! together at the end: the same integer as in the plain passes, since sums of 32 bits wrap alike.

use std::arch::x86_64::{
    __m128i, __m512i, _mm_mask_storeu_epi8, _mm512_add_epi32, _mm512_cvtusepi32_epi8,
    _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
    _mm512_max_epi32, _mm512_mullo_epi32, _mm512_packs_epi32, _mm512_packus_epi16,
    _mm512_permutex2var_epi8, _mm512_permutexvar_epi8, _mm512_permutexvar_epi32, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srai_epi32, _mm512_unpackhi_epi8,
    _mm512_unpackhi_epi16, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};
use std::ops::Range;

use super::axis::{Axis, HALF, PRECISION_BITS, Rows};

/// The most times that a side is made shorter: what sixteen neighbouring bytes are made from lies
/// in two registers.
const MAX_SHRINK: u32 = 7;
/// The most taps that are served: bicubic's at that.
const MAX_TAPS: usize = 29;
const MAX_GROUPS: usize = MAX_TAPS.div_ceil(4);
const SHIFT: u32 = PRECISION_BITS;
/// Bytes that a register holds, and bytes made at a time by the pass along rows.
const WIDTH: usize = 64;
const MADE: usize = 16;
/// Of how many pixels at most these are part.
const PIXELS: usize = 6;

/// Whether the processor has what is needed, and this side's taps are few and near enough.
pub(super) fn serves(axis: &Axis) -> bool {
    axis.most_taps() <= MAX_TAPS
        && axis.shrinks_at_most(MAX_SHRINK)
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// Four weights as the bytes `a`, `b` and `c` of each.
pub(super) fn split(weights: &[i32]) -> [i32; 3] {
    let mut parts = [[0; 4]; 3];
    for (i, &weight) in weights.iter().take(4).enumerate() {
        let c = weight as i8;
        let rest = (weight - i32::from(c)) >> 8;
        let b = rest as i8;
        let a = (rest - i32::from(b)) >> 8;
        debug_assert!(i8::try_from(a).is_ok(), "weight {weight} is above 2");
        for (part, byte) in parts.iter_mut().zip([a as i8, b, c]) {
            part[i] = byte as u8;
        }
    }
    parts.map(i32::from_le_bytes)
}

/// For sixteen bytes of interleaved pixels of which the first is of channel `phase`: the pixel of
/// each.
const fn pixel_of(phase: usize) -> [i32; MADE] {
    let mut pixels = [0; MADE];
    let mut i = 0;
    while i < MADE {
        pixels[i] = ((phase + i) / 3) as i32;
        i += 1;
    }
    pixels
}
const PIXEL_OF: [[i32; MADE]; 3] = [pixel_of(0), pixel_of(1), pixel_of(2)];

#[inline]
#[target_feature(enable = "avx512bw")]
fn load16(values: &[i32; MADE]) -> __m512i {
    // SAFETY: 64 bytes are read, so many as the array has.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// The first `count` bytes of a register.
#[inline(always)]
fn front(count: usize) -> u64 {
    if count < WIDTH { (1 << count) - 1 } else { u64::MAX }
}

/// 64 bytes from `at` on; zeros beyond the end.
#[inline]
#[target_feature(enable = "avx512bw")]
fn load(bytes: &[u8], at: usize) -> __m512i {
    let there = front(bytes.len().saturating_sub(at));
    let from = bytes.as_ptr().wrapping_add(at);
    // SAFETY: bytes that the mask leaves out are not read, and those it lets through are the
    // slice's.
    unsafe { _mm512_maskz_loadu_epi8(there, from.cast()) }
}

/// The sums of `a`, `b` and `c` put together and rounded.
#[inline]
#[target_feature(enable = "avx512bw")]
fn levels([a, b, c]: [__m512i; 3]) -> __m512i {
    let sum = _mm512_add_epi32(_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<8>(b));
    _mm512_srai_epi32::<SHIFT>(_mm512_add_epi32(sum, c))
}

/// Sums before anything is added: the half that makes the cut-off bits round.
#[inline]
#[target_feature(enable = "avx512bw")]
fn begin() -> [__m512i; 3] {
    [_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_set1_epi32(HALF)]
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vnni")]
fn add(sums: &mut [__m512i; 3], levels: __m512i, weights: &[__m512i; 3]) {
    for (sum, weights) in sums.iter_mut().zip(weights) {
        *sum = _mm512_dpbusd_epi32(*sum, levels, *weights);
    }
}

/// How sixteen neighbouring bytes of every row are made.
struct Block {
    /// Of each group of four taps, each byte's weights.
    weights: [[__m512i; 3]; MAX_GROUPS],
    groups: usize,
    /// Where each byte's taps are, from the first pixel's first on; the next group's are 12 bytes
    /// further.
    places: __m512i,
    /// Whether some are beyond 64 bytes.
    far: bool,
}

impl Block {
    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn new(columns: &Axis, xs: &Range<u32>, first_byte: usize) -> Block {
        let (place, phase) = (first_byte / 3, first_byte % 3);
        let x = xs.start + place as u32;
        let first = columns.taps(x).0;
        let (mut offsets, mut taps, mut reach) = ([0; MADE], 0, 0);
        for (number, offset) in (0..).zip(&mut offsets[..PIXELS]) {
            let (start, weights) = columns.taps((x + number).min(xs.end - 1));
            reach = (start - first) as i32 * 3;
            *offset = reach;
            taps = taps.max(weights.len());
        }
        let pixel = load16(&PIXEL_OF[phase]);
        let channels: [i32; MADE] = std::array::from_fn(|i| ((phase + i) % 3) as i32);
        let at =
            _mm512_add_epi32(_mm512_permutexvar_epi32(pixel, load16(&offsets)), load16(&channels));
        // The same number in all four bytes, and from tap to tap a pixel further.
        let places = _mm512_add_epi32(
            _mm512_mullo_epi32(at, _mm512_set1_epi32(0x0101_0101)),
            _mm512_set1_epi32(0x0906_0300),
        );
        let groups = taps.div_ceil(4);
        let mut weights = [[_mm512_setzero_si512(); 3]; MAX_GROUPS];
        for (group, weights) in weights[..groups].iter_mut().enumerate() {
            for (part, weights) in weights.iter_mut().enumerate() {
                let near = columns.split(group, part, x);
                *weights = _mm512_permutexvar_epi32(pixel, load16(near));
            }
        }
        Block { weights, groups, places, far: reach + 12 > WIDTH as i32 }
    }

    /// The sixteen bytes of the row whose taps begin at `at`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vbmi,avx512vnni")]
    fn make<const FAR: bool>(&self, bytes: &[u8], at: usize) -> __m128i {
        let mut sums = begin();
        for (group, weights) in self.weights[..self.groups].iter().enumerate() {
            let at = at + group * 12;
            let near = load(bytes, at);
            let taps = if FAR {
                _mm512_permutex2var_epi8(near, self.places, load(bytes, at + WIDTH))
            } else {
                _mm512_permutexvar_epi8(self.places, near)
            };
            add(&mut sums, taps, weights);
        }
        // The narrowing saturates above and takes the sign for a large number below.
        _mm512_cvtusepi32_epi8(_mm512_max_epi32(levels(sums), _mm512_setzero_si512()))
    }
}

/// See [`super::passes::horizontal`].
#[target_feature(enable = "avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn horizontal(columns: &Axis, xs: Range<u32>, from: Rows, out: &mut [u8]) {
    let out_len = xs.len() * 3;
    for first_byte in (0..out_len).step_by(MADE) {
        let block = Block::new(columns, &xs, first_byte);
        let first = columns.taps(xs.start + first_byte as u32 / 3).0;
        let start = (first - from.first) as usize * 3;
        // What follows a row's end is the next row, which has its bytes already: not to be touched.
        let len = MADE.min(out_len - first_byte);
        let rows = out.len() / out_len;
        for row in 0..rows {
            let at = row * from.stride + start;
            let made = if block.far {
                block.make::<true>(from.pixels, at)
            } else {
                block.make::<false>(from.pixels, at)
            };
            let out = &mut out[row * out_len + first_byte..][..len];
            // SAFETY: the mask lets `len` bytes through, which the slice has.
            unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr().cast(), front(len) as u16, made) };
        }
    }
}

/// See [`super::passes::vertical`].
#[target_feature(enable = "avx512bw,avx512vnni")]
pub(super) fn vertical(rows: &Axis, ys: Range<u32>, from: Rows, out: &mut [u8], row_len: usize) {
    for (y, out) in ys.zip(out.chunks_exact_mut(row_len)) {
        let (first, taps) = rows.taps(y);
        let groups = taps.len().div_ceil(4);
        let start = (first - from.first) as usize * from.stride;
        let mut weights = [[_mm512_setzero_si512(); 3]; MAX_GROUPS];
        for (group, weights) in weights[..groups].iter_mut().enumerate() {
            for (part, weights) in weights.iter_mut().enumerate() {
                *weights = _mm512_set1_epi32(rows.split(group, part, y)[0]);
            }
        }
        for (chunk, out) in out.chunks_mut(WIDTH).enumerate() {
            let mut sums = [begin(); 4];
            for (group, weights) in weights[..groups].iter().enumerate() {
                let row = |i: usize| {
                    load(from.pixels, start + (group * 4 + i) * from.stride + chunk * WIDTH)
                };
                // The same column's bytes of four rows side by side.
                let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
                let (upper, lower) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpacklo_epi8(r2, r3));
                add(&mut sums[0], _mm512_unpacklo_epi16(upper, lower), weights);
                add(&mut sums[1], _mm512_unpackhi_epi16(upper, lower), weights);
                let (upper, lower) = (_mm512_unpackhi_epi8(r0, r1), _mm512_unpackhi_epi8(r2, r3));
                add(&mut sums[2], _mm512_unpacklo_epi16(upper, lower), weights);
                add(&mut sums[3], _mm512_unpackhi_epi16(upper, lower), weights);
            }
            // Narrowing undoes the order of the unpacking; it saturates, which is the clamp.
            let [a, b, c, d] = sums.map(|sums| levels(sums));
            let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            // SAFETY: the mask lets as many bytes through as the slice has.
            unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), front(out.len()), bytes) };
        }
    }
}
