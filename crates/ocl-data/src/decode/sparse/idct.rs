//! The inverse transform of a block: Loeffler, Ligtenberg and Moschytz's eleven products
//! ("Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP 1989), in the fixed point
//! that libjpeg uses for its accurate integer transform, so that both give the same levels.

/// A block's coefficients, one row after the other, and the place that nobody reads.
pub(super) type Block = [i16; 65];

/// Fractional bits of the constants, and those kept between the passes.
const BITS: i32 = 13;
const BETWEEN: i32 = 2;
/// What the last shift must make of a level: rounding, and 128 because levels are stored around 0.
const LAST: i32 = BITS + BETWEEN + 3;
const FIRST: i32 = BITS - BETWEEN;

/// Sines and cosines of the flow graph times `1 << BITS`.
const F0_298: i32 = 2446;
const F0_390: i32 = 3196;
const F0_541: i32 = 4433;
const F0_765: i32 = 6270;
const F0_899: i32 = 7373;
const F1_175: i32 = 9633;
const F1_501: i32 = 12299;
const F1_847: i32 = 15137;
const F1_961: i32 = 16069;
const F2_053: i32 = 16819;
const F2_562: i32 = 20995;
const F3_072: i32 = 25172;

/// Writes the 8 x 8 levels of a block to `out`, whose rows are `stride` bytes apart.
pub(super) fn levels(block: &Block, out: &mut [u8], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been found to have AVX2.
        return unsafe { wide::levels(block, out, stride) };
    }
    levels_plain(block, out, stride);
}

/// Of a block that has nothing but its mean.
pub(super) fn flat(mean: i16, out: &mut [u8], stride: usize) {
    let level = (((i32::from(mean) << BETWEEN) + (1 << (BETWEEN + 2))) >> (BETWEEN + 3)) + 128;
    let level = level.clamp(0, 255) as u8;
    for row in out.chunks_mut(stride).take(8) {
        row[..8].fill(level);
    }
}

fn levels_plain(block: &Block, out: &mut [u8], stride: usize) {
    let mut half = [[0; 8]; 8];
    for x in 0..8 {
        let column = std::array::from_fn(|y| i32::from(block[y * 8 + x]));
        for (y, value) in pass(column, FIRST).into_iter().enumerate() {
            half[y][x] = value;
        }
    }
    for (row, out) in half.into_iter().zip(out.chunks_mut(stride)) {
        for (level, value) in out.iter_mut().zip(pass(row, LAST)) {
            *level = (value + 128).clamp(0, 255) as u8;
        }
    }
}

/// Eight values of one dimension.
fn pass(x: [i32; 8], shift: i32) -> [i32; 8] {
    let shared = (x[2] + x[6]) * F0_541;
    let (even2, even3) = (shared - x[6] * F1_847, shared + x[2] * F0_765);
    let (even0, even1) = ((x[0] + x[4]) << BITS, (x[0] - x[4]) << BITS);
    let even = [even0 + even3, even1 + even2, even1 - even2, even0 - even3];

    let (z1, z2, z3, z4) = (x[7] + x[1], x[5] + x[3], x[7] + x[3], x[5] + x[1]);
    let z5 = (z3 + z4) * F1_175;
    let (z1, z2) = (z1 * -F0_899, z2 * -F2_562);
    let (z3, z4) = (z3 * -F1_961 + z5, z4 * -F0_390 + z5);
    let odd = [
        x[1] * F1_501 + z1 + z4,
        x[3] * F3_072 + z2 + z3,
        x[5] * F2_053 + z2 + z4,
        x[7] * F0_298 + z1 + z3,
    ];
    let round = 1 << (shift - 1);
    std::array::from_fn(|i| {
        let sum = if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] };
        (sum + round) >> shift
    })
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! The same for eight columns at a time.

    use std::arch::x86_64::{
        __m256i, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_set_epi64x, _mm256_add_epi32,
        _mm256_adds_epi16, _mm256_castsi256_si128, _mm256_cvtepi16_epi32, _mm256_extracti128_si256,
        _mm256_mullo_epi32, _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permute2x128_si256,
        _mm256_set1_epi16, _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srai_epi32,
        _mm256_sub_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
        _mm256_unpacklo_epi64,
    };

    use super::*;

    #[target_feature(enable = "avx2")]
    pub(super) fn levels(block: &Block, out: &mut [u8], stride: usize) {
        let mut rows = [_mm256_set1_epi32(0); 8];
        for (row, values) in rows.iter_mut().zip(block.chunks_exact(8)) {
            let word = |at: usize| {
                let four: [u64; 4] = std::array::from_fn(|i| u64::from(values[at + i] as u16));
                (four[0] | four[1] << 16 | four[2] << 32 | four[3] << 48) as i64
            };
            *row = _mm256_cvtepi16_epi32(_mm_set_epi64x(word(4), word(0)));
        }
        let half = transpose(pass::<FIRST>(rows));
        let made = transpose(pass::<LAST>(half));
        let middle = _mm256_set1_epi16(128);
        for pair in 0..2 {
            // Four rows: of each, the left half of the register has columns 0 to 3.
            let r = &made[pair * 4..pair * 4 + 4];
            let (ab, cd) = (_mm256_packs_epi32(r[0], r[1]), _mm256_packs_epi32(r[2], r[3]));
            let (ab, cd) = (_mm256_adds_epi16(ab, middle), _mm256_adds_epi16(cd, middle));
            let bytes = _mm256_packus_epi16(ab, cd);
            let (left, right) =
                (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            let left = [_mm_cvtsi128_si64(left), _mm_extract_epi64::<1>(left)];
            let right = [_mm_cvtsi128_si64(right), _mm_extract_epi64::<1>(right)];
            for row in 0..4 {
                let four = |from: [i64; 2]| (from[row / 2] as u64 >> (row % 2 * 32)) & 0xFFFF_FFFF;
                let eight = four(left) | four(right) << 32;
                let at = (pair * 4 + row) * stride;
                out[at..at + 8].copy_from_slice(&eight.to_le_bytes());
            }
        }
    }

    /// See [`super::pass`].
    #[inline]
    #[target_feature(enable = "avx2")]
    fn pass<const SHIFT: i32>(x: [__m256i; 8]) -> [__m256i; 8] {
        let add = |a, b| _mm256_add_epi32(a, b);
        let sub = |a, b| _mm256_sub_epi32(a, b);
        let times = |a, factor: i32| _mm256_mullo_epi32(a, _mm256_set1_epi32(factor));
        let shared = times(add(x[2], x[6]), F0_541);
        let even2 = add(shared, times(x[6], -F1_847));
        let even3 = add(shared, times(x[2], F0_765));
        let even0 = _mm256_slli_epi32::<BITS>(add(x[0], x[4]));
        let even1 = _mm256_slli_epi32::<BITS>(sub(x[0], x[4]));
        let even = [add(even0, even3), add(even1, even2), sub(even1, even2), sub(even0, even3)];

        let (z1, z2, z3, z4) = (add(x[7], x[1]), add(x[5], x[3]), add(x[7], x[3]), add(x[5], x[1]));
        let z5 = times(add(z3, z4), F1_175);
        let (z1, z2) = (times(z1, -F0_899), times(z2, -F2_562));
        let (z3, z4) = (add(times(z3, -F1_961), z5), add(times(z4, -F0_390), z5));
        let odd = [
            add(times(x[1], F1_501), add(z1, z4)),
            add(times(x[3], F3_072), add(z2, z3)),
            add(times(x[5], F2_053), add(z2, z4)),
            add(times(x[7], F0_298), add(z1, z3)),
        ];
        let mut out = x;
        let round = _mm256_set1_epi32(1 << (SHIFT - 1));
        for i in 0..4 {
            let even = add(even[i], round);
            out[i] = _mm256_srai_epi32::<SHIFT>(add(even, odd[i]));
            out[7 - i] = _mm256_srai_epi32::<SHIFT>(sub(even, odd[i]));
        }
        out
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
        // Pairs, then quadruples, then halves of the registers.
        let lo = |a: usize, b: usize| _mm256_unpacklo_epi32(r[a], r[b]);
        let hi = |a: usize, b: usize| _mm256_unpackhi_epi32(r[a], r[b]);
        let t = [lo(0, 1), hi(0, 1), lo(2, 3), hi(2, 3), lo(4, 5), hi(4, 5), lo(6, 7), hi(6, 7)];
        let lo = |a: usize, b: usize| _mm256_unpacklo_epi64(t[a], t[b]);
        let hi = |a: usize, b: usize| _mm256_unpackhi_epi64(t[a], t[b]);
        let u = [lo(0, 2), hi(0, 2), lo(1, 3), hi(1, 3), lo(4, 6), hi(4, 6), lo(5, 7), hi(5, 7)];
        let left = |i: usize| _mm256_permute2x128_si256::<0x20>(u[i], u[i + 4]);
        let right = |i: usize| _mm256_permute2x128_si256::<0x31>(u[i], u[i + 4]);
        [left(0), left(1), left(2), left(3), right(0), right(1), right(2), right(3)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draws, Purpose};

    fn random_block(draws: &mut Draws) -> Block {
        let mut block = [0; 65];
        let used = 1 + draws.below(64) as usize;
        for value in &mut block[..used] {
            let reach = 1 << (1 + draws.below(10));
            *value = draws.below(reach) as i16 - (reach / 2) as i16;
        }
        block
    }

    #[test]
    fn wide_and_plain_are_equal() {
        let mut draws = Draws::new(3, 0, 0, Purpose::Test);
        for case in 0..500 {
            let block = random_block(&mut draws);
            let (mut wide, mut plain) = ([0; 100], [0; 100]);
            levels(&block, &mut wide, 12);
            levels_plain(&block, &mut plain, 12);
            for row in 0..8 {
                let at = row * 12..row * 12 + 8;
                assert_eq!(wide[at.clone()], plain[at], "case {case}, row {row}: {block:?}");
            }
        }
    }

    #[test]
    fn flat_blocks() {
        for mean in -1100..1100 {
            let mut block = [0; 65];
            block[0] = mean;
            let (mut whole, mut quick) = ([0; 64], [0; 64]);
            levels(&block, &mut whole, 8);
            flat(mean, &mut quick, 8);
            assert_eq!(whole, quick, "{mean}");
        }
    }

    /// Against the definition (ITU T.81, A.3.3).
    #[test]
    fn near_the_definition() {
        let mut draws = Draws::new(4, 0, 0, Purpose::Test);
        let block = random_block(&mut draws);
        let mut made = [0; 64];
        levels(&block, &mut made, 8);
        let wave = |x: usize, u: usize| {
            let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
            scale * ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos() / 2.0
        };
        for (place, level) in made.into_iter().enumerate() {
            let sum: f64 = (0..64)
                .map(|k| f64::from(block[k]) * wave(place % 8, k % 8) * wave(place / 8, k / 8))
                .sum();
            let exact = (sum + 128.0).clamp(0.0, 255.0);
            assert!((exact - f64::from(level)).abs() < 1.0, "{place}: {exact}, {level}");
        }
    }
}
