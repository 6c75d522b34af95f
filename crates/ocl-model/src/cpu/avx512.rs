//! The product of two matrices with AVX-512: tiles of 8 x 48 results live in 24 registers while the
//! inner dimension runs; `b` is packed in panels of 48 columns, `a` is read in place, a value at a
//! time.

use std::arch::x86_64::{
    __m512, _MM_HINT_T1, _mm_prefetch, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps,
    _mm512_load_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_store_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};
use std::array;
use std::ops::Range;

use super::math::buffer;
use super::sink::Sink;
use super::view::{Part, View};

const ROWS: usize = 8;
pub(super) const LANES: usize = 16;
const COLUMNS: usize = 3 * LANES;

/// Values of packed panels that are used together: three quarters of a megabyte, for a second-level
/// cache of two.
const GROUP: usize = 192 * 1024;

#[repr(align(64))]
struct Tile([[f32; COLUMNS]; ROWS]);

/// # Safety
/// The processor must have AVX-512F; every part's `a` must reach `[m, k]` and its `b` `[k, n]`.
#[inline(always)]
pub(super) unsafe fn run<S: Sink>([m, n]: [usize; 2], parts: &[Part<'_>], sink: &mut S) {
    let panels = n.div_ceil(COLUMNS);
    let len = parts.iter().map(|part| part.k).sum::<usize>() * COLUMNS;
    let group = (GROUP / len).clamp(1, panels);
    let mut space = buffer(group * len + LANES);
    let aligned = space.as_ptr().align_offset(64);
    let packed = &mut space[aligned..][..group * len];
    let lefts: Vec<Left<'_>> = parts.iter().map(|part| Left::new(part, m)).collect();
    let goes_on = sink.goes_on();
    let mut tile = Tile([[0.0; COLUMNS]; ROWS]);
    for first in (0..panels).step_by(group) {
        let count = group.min(panels - first);
        let mut at = 0;
        for Part { b, k, .. } in parts {
            let columns = first * COLUMNS..n.min((first + count) * COLUMNS);
            // SAFETY: the caller's promise.
            unsafe { pack(*b, *k, columns, &mut packed[at * COLUMNS..], len) };
            at += k;
        }
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            for (i, panel) in packed.chunks_exact(len).take(count).enumerate() {
                let column = (first + i) * COLUMNS;
                let columns = COLUMNS.min(n - column);
                let whole = rows == ROWS && columns == COLUMNS;
                // Whole tiles have lengths that the compiler knows: copies become a few
                // instructions.
                if goes_on && whole {
                    for (i, sums) in tile.0.iter_mut().enumerate() {
                        sink.start(row + i, column, sums);
                    }
                } else if goes_on {
                    for (i, sums) in tile.0[..rows].iter_mut().enumerate() {
                        sink.start(row + i, column, &mut sums[..columns]);
                    }
                }
                let mut at = 0;
                for (left, part) in lefts.iter().zip(parts) {
                    let (starts, step) = left.rows(row, rows, part.k);
                    let panel = panel[at * COLUMNS..].as_ptr();
                    // SAFETY: the caller's promise; the panel holds `k` aligned rows from here on.
                    unsafe { multiply(part.k, starts, step, panel, &mut tile, goes_on || at > 0) };
                    left.prefetch(row + ROWS, m, part.k, [i, count]);
                    at += part.k;
                }
                if whole {
                    for (i, sums) in tile.0.iter().enumerate() {
                        sink.finish(row + i, column, sums);
                    }
                } else {
                    for (i, sums) in tile.0[..rows].iter().enumerate() {
                        sink.finish(row + i, column, &sums[..columns]);
                    }
                }
            }
        }
    }
}

/// The left factor of a part: read in place when its rows are contiguous, else copied so that the
/// eight values of a tile's step lie together.
enum Left<'a> {
    InPlace(View<'a>),
    Copied(Vec<f32>),
}

impl<'a> Left<'a> {
    #[inline(always)]
    fn new(Part { a, k, .. }: &Part<'a>, m: usize) -> Self {
        if a.row_stride != 1 || a.column_stride == 1 {
            return Self::InPlace(*a);
        }
        let mut copy = buffer(m.next_multiple_of(ROWS) * k);
        for l in 0..*k {
            let line = &a.values[l * a.column_stride..][..m];
            let (eights, rest) = line.as_chunks::<ROWS>();
            for (t, eight) in eights.iter().enumerate() {
                copy[(t * k + l) * ROWS..][..ROWS].copy_from_slice(eight);
            }
            if !rest.is_empty() {
                let last = &mut copy[(eights.len() * k + l) * ROWS..][..ROWS];
                last.fill(0.0);
                last[..rest.len()].copy_from_slice(rest);
            }
        }
        Self::Copied(copy)
    }

    /// Where the eight rows from `row` on start, and how far their values are apart. Rows past the
    /// last repeat it, or are zero; nobody takes their sums.
    #[inline(always)]
    fn rows(&self, row: usize, rows: usize, k: usize) -> ([*const f32; ROWS], usize) {
        match self {
            Self::InPlace(a) => {
                let start = |i: usize| a.values[(row + i.min(rows - 1)) * a.row_stride..].as_ptr();
                (array::from_fn(start), a.column_stride)
            }
            Self::Copied(copy) => (array::from_fn(|i| copy[row * k + i..].as_ptr()), ROWS),
        }
    }

    /// Fetches share `i` of `count` of the rows from `row` on into the second-level cache.
    #[inline(always)]
    fn prefetch(&self, row: usize, m: usize, k: usize, [i, count]: [usize; 2]) {
        if let Self::InPlace(a) = self
            && a.column_stride == 1
        {
            let share = (k.div_ceil(count)).next_multiple_of(LANES);
            for r in row..(row + ROWS).min(m) {
                for l in (i * share..((i + 1) * share).min(k)).step_by(LANES) {
                    let at = a.values[r * a.row_stride + l..].as_ptr();
                    // SAFETY: a prefetch reads nothing that anyone could see.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
                }
            }
        }
    }
}

/// `tile = a panel` for eight rows of `a`, or `tile += a panel` when it goes on.
///
/// # Safety
/// The processor must have AVX-512F; each of `rows` must be readable at `0, step, .., (k - 1)
/// step`; the panel must hold `k` rows of 48 values, aligned to 64 bytes.
#[target_feature(enable = "avx512f")]
unsafe fn multiply(
    k: usize,
    rows: [*const f32; ROWS],
    step: usize,
    panel: *const f32,
    tile: &mut Tile,
    goes_on: bool,
) {
    let mut sums: [[__m512; 3]; ROWS] = [[_mm512_setzero_ps(); 3]; ROWS];
    if goes_on {
        for (sums, row) in sums.iter_mut().zip(&tile.0) {
            for (sum, third) in sums.iter_mut().zip(row.chunks_exact(LANES)) {
                // SAFETY: 16 values, aligned to 64 bytes as each third of a tile's row is.
                *sum = unsafe { _mm512_load_ps(third.as_ptr()) };
            }
        }
    }
    let mut b = panel;
    let mut at = 0;
    for _ in 0..k {
        let right = [0, 1, 2].map(|i| {
            // SAFETY: the caller keeps `k` rows of the panel readable and aligned to 64 bytes.
            unsafe { _mm512_load_ps(b.wrapping_add(i * LANES)) }
        });
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: the caller keeps `k` values of each row readable.
            let left = _mm512_set1_ps(unsafe { *row.wrapping_add(at) });
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = _mm512_fmadd_ps(left, right, *sum);
            }
        }
        b = b.wrapping_add(COLUMNS);
        at += step;
    }
    for (sums, row) in sums.iter().zip(&mut tile.0) {
        for (sum, third) in sums.iter().zip(row.chunks_exact_mut(LANES)) {
            // SAFETY: 16 values, aligned to 64 bytes as each third of a tile's row is.
            unsafe { _mm512_store_ps(third.as_mut_ptr(), *sum) };
        }
    }
}

/// Copies columns of `b` to panels `[k, 48]` that start every `len` values; columns past the last
/// become zero.
///
/// # Safety
/// The processor must have AVX-512F; `b` must reach `k` rows and the last of `columns`; `packed`
/// must be aligned to 64 bytes, and `len` a multiple of 16.
#[target_feature(enable = "avx512f")]
unsafe fn pack(b: View<'_>, k: usize, columns: Range<usize>, packed: &mut [f32], len: usize) {
    if b.column_stride == 1 {
        for l in 0..k {
            let line = &b.values[l * b.row_stride..][columns.clone()];
            let (wholes, rest) = line.as_chunks::<COLUMNS>();
            for (i, whole) in wholes.iter().enumerate() {
                packed[i * len + l * COLUMNS..][..COLUMNS].copy_from_slice(whole);
            }
            if !rest.is_empty() {
                let last = &mut packed[wholes.len() * len + l * COLUMNS..][..COLUMNS];
                last.fill(0.0);
                last[..rest.len()].copy_from_slice(rest);
            }
        }
        return;
    }
    // Columns of `b` are rows in memory: turned in squares of 16 where they are whole.
    let squares = if b.row_stride == 1 { k / LANES * LANES } else { 0 };
    for first in columns.clone().step_by(LANES) {
        let (i, j) = ((first - columns.start) / COLUMNS, (first - columns.start) % COLUMNS);
        let panel = &mut packed[i * len..][..k * COLUMNS];
        let present = LANES.min(columns.end - first);
        let squares = if present == LANES { squares } else { 0 };
        for l in (0..squares).step_by(LANES) {
            let square = array::from_fn(|i| {
                let start = (first + i) * b.column_stride + l;
                // SAFETY: 16 values from `(l, first + i)` on are inside `b` for each `i` below 16.
                unsafe { _mm512_loadu_ps(b.values.as_ptr().wrapping_add(start)) }
            });
            let turned = turn(square);
            for (i, row) in turned.into_iter().enumerate() {
                let place = panel.as_mut_ptr().wrapping_add((l + i) * COLUMNS + j);
                // SAFETY: the square is inside the panel, and its rows are aligned to 64 bytes.
                unsafe { _mm512_store_ps(place, row) };
            }
        }
        for l in squares..k {
            let row = &mut panel[l * COLUMNS..][j..COLUMNS];
            row.fill(0.0);
            for (c, value) in row.iter_mut().take(present).enumerate() {
                *value = b.values[l * b.row_stride + (first + c) * b.column_stride];
            }
        }
    }
}

/// The transpose of a square of 16 x 16.
#[target_feature(enable = "avx512f")]
pub(super) fn turn(rows: [__m512; LANES]) -> [__m512; LANES] {
    let pairs: [__m512; LANES] = array::from_fn(|i| {
        let (a, b) = (rows[i & !1], rows[i | 1]);
        if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
    });
    // Quarter `q` of `fours[4 g + c]` is column `4 q + c` of rows `4 g .. 4 g + 4`.
    let fours: [__m512; LANES] = array::from_fn(|i| {
        let first = (i & !3) + (i & 2) / 2;
        let (a, b) = (_mm512_castps_pd(pairs[first]), _mm512_castps_pd(pairs[first + 2]));
        let both = if i % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) };
        _mm512_castpd_ps(both)
    });
    let quarters = |a, b, odd: bool| {
        if odd { _mm512_shuffle_f32x4::<0xdd>(a, b) } else { _mm512_shuffle_f32x4::<0x88>(a, b) }
    };
    array::from_fn(|i| {
        let (q, c) = (i / 4, i % 4);
        let above = quarters(fours[c], fours[4 + c], q % 2 == 1);
        let below = quarters(fours[8 + c], fours[12 + c], q % 2 == 1);
        quarters(above, below, q / 2 == 1)
    })
}
