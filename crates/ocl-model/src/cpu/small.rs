//! Products of matrices that fit the first-level cache, such as those of an attention head.
//!
//! Nothing is packed or allocated: at these sizes that would cost more than the product. Every
//! result is one sum in the order of the inner dimension.

use super::math::axpy;
use super::view::View;

/// `out = a b` for `a` `[m, k]` and `b` `[k, n]` with contiguous rows; rows of `out` start every
/// `stride` values.
#[inline(always)]
pub(super) fn small_gemm(
    out: &mut [f32],
    stride: usize,
    [m, n, k]: [usize; 3],
    a: View<'_>,
    b: View<'_>,
) {
    assert!(m > 0 && n > 0 && k > 0, "an empty product: {m} x {n} x {k}");
    assert!(a.reaches(m, k) && b.reaches(k, n), "a product out of bounds: {m} x {n} x {k}");
    assert!(b.column_stride == 1 && (m - 1) * stride + n <= out.len(), "results out of bounds");
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions; the assertions keep every access inside the
        // slices.
        unsafe { wide::gemm(out, stride, [m, n, k], a, b) };
        return;
    }
    plain_gemm(out, stride, [m, n, k], a, b);
}

#[inline(always)]
fn plain_gemm(out: &mut [f32], stride: usize, [m, n, k]: [usize; 3], a: View<'_>, b: View<'_>) {
    for (i, out) in out.chunks_mut(stride).take(m).enumerate() {
        let out = &mut out[..n];
        out.fill(0.0);
        for l in 0..k {
            let factor = a.values[i * a.row_stride + l * a.column_stride];
            axpy(out, factor, &b.values[l * b.row_stride..][..n]);
        }
    }
}

/// `out[j, i] = a[i, j]` for `a` `[m, n]` with contiguous rows; rows of `out` start every `stride`
/// values, and what follows their `m` values becomes zero.
#[inline(always)]
pub(super) fn transpose(out: &mut [f32], stride: usize, [m, n]: [usize; 2], a: View<'_>) {
    assert!(a.reaches(m, n) && a.column_stride == 1 && stride >= m && out.len() >= n * stride);
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") && stride.is_multiple_of(16) {
        // SAFETY: the processor has the instructions; the assertion keeps every access inside the
        // slices.
        unsafe { wide::transpose(out, stride, [m, n], a) };
        return;
    }
    plain_transpose(out, stride, [m, n], a);
}

#[inline(always)]
fn plain_transpose(out: &mut [f32], stride: usize, [m, n]: [usize; 2], a: View<'_>) {
    for (j, out) in out.chunks_exact_mut(stride).take(n).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = if i < m { a.values[i * a.row_stride + j] } else { 0.0 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __mmask16, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::array;

    use super::super::avx512::{LANES, turn};
    use super::View;

    /// Factors and results from one row and column on, and the distances of their rows.
    #[derive(Clone, Copy)]
    struct At {
        k: usize,
        a: *const f32,
        a_row: usize,
        a_column: usize,
        b: *const f32,
        b_row: usize,
        out: *mut f32,
        stride: usize,
        /// Which lanes of the last vector of a row are there.
        last: __mmask16,
    }

    /// As `small_gemm`.
    ///
    /// # Safety
    /// The processor must have AVX-512F; `a` must reach `[m, k]`, `b` `[k, n]` with contiguous
    /// rows, and `out` `m` rows of `n` values.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn gemm(
        out: &mut [f32],
        stride: usize,
        [m, n, k]: [usize; 3],
        a: View<'_>,
        b: View<'_>,
    ) {
        let vectors = n.div_ceil(LANES);
        let mut first = 0;
        while first < vectors {
            let columns = match vectors - first {
                4 => 2,
                rest => rest.min(3),
            };
            let last = first + columns == vectors && !n.is_multiple_of(LANES);
            let at = At {
                k,
                a: a.values.as_ptr(),
                a_row: a.row_stride,
                a_column: a.column_stride,
                b: b.values.as_ptr().wrapping_add(first * LANES),
                b_row: b.row_stride,
                out: out.as_mut_ptr().wrapping_add(first * LANES),
                stride,
                last: if last { (1 << (n % LANES)) - 1 } else { !0 },
            };
            match columns {
                // SAFETY: the caller's promise.
                1 => unsafe { rows::<1>(m, at) },
                // SAFETY: the caller's promise.
                2 => unsafe { rows::<2>(m, at) },
                // SAFETY: the caller's promise.
                _ => unsafe { rows::<3>(m, at) },
            }
            first += columns;
        }
    }

    /// `C` vectors of columns of all `m` rows.
    ///
    /// # Safety
    /// The processor must have AVX-512F; the places of `at` must be good for `m` rows, `k` steps
    /// and `C` vectors, the last of them in the lanes of `at.last` alone.
    #[target_feature(enable = "avx512f")]
    unsafe fn rows<const C: usize>(m: usize, mut at: At) {
        let mut row = 0;
        while row < m {
            let done = match m - row {
                // SAFETY: the caller's promise.
                8.. => unsafe { tile::<8, C>(at) },
                // SAFETY: the caller's promise.
                4.. => unsafe { tile::<4, C>(at) },
                // SAFETY: the caller's promise.
                2.. => unsafe { tile::<2, C>(at) },
                // SAFETY: the caller's promise.
                _ => unsafe { tile::<1, C>(at) },
            };
            at.a = at.a.wrapping_add(done * at.a_row);
            at.out = at.out.wrapping_add(done * at.stride);
            row += done;
        }
    }

    /// `C` vectors of columns of `R` rows; gives `R`.
    ///
    /// # Safety
    /// As for [`rows`], with `R` rows.
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const R: usize, const C: usize>(at: At) -> usize {
        let mask = |c: usize| if c + 1 == C { at.last } else { !0 };
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for l in 0..at.k {
            let b = at.b.wrapping_add(l * at.b_row);
            let right: [_; C] = array::from_fn(|c| {
                // SAFETY: the caller's promise; lanes past the last column are not read.
                unsafe { _mm512_maskz_loadu_ps(mask(c), b.wrapping_add(c * LANES)) }
            });
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = at.a.wrapping_add(i * at.a_row + l * at.a_column);
                // SAFETY: the caller's promise.
                let left = _mm512_set1_ps(unsafe { *a });
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            let out = at.out.wrapping_add(i * at.stride);
            for (c, sum) in sums.iter().enumerate() {
                let place = out.wrapping_add(c * LANES);
                if c + 1 == C {
                    // SAFETY: the caller's promise; lanes past the last column are not written.
                    unsafe { _mm512_mask_storeu_ps(place, at.last, *sum) };
                } else {
                    // SAFETY: the caller's promise.
                    unsafe { _mm512_storeu_ps(place, *sum) };
                }
            }
        }
        R
    }

    /// As the function outside.
    ///
    /// # Safety
    /// The processor must have AVX-512F; `a` must reach `[m, n]` with contiguous rows; `stride`
    /// must be a multiple of 16, and `out` hold `n` rows of it.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(
        out: &mut [f32],
        stride: usize,
        [m, n]: [usize; 2],
        a: View<'_>,
    ) {
        for i in (0..stride).step_by(LANES) {
            for j in (0..n).step_by(LANES) {
                let wide = LANES.min(n - j);
                let mask = ((1u32 << wide) - 1) as __mmask16;
                let square = array::from_fn(|r| {
                    if i + r >= m {
                        return _mm512_setzero_ps();
                    }
                    let start = a.values.as_ptr().wrapping_add((i + r) * a.row_stride + j);
                    // SAFETY: the caller's promise; what is outside `a` is not read.
                    unsafe { _mm512_maskz_loadu_ps(mask, start) }
                });
                let turned = turn(square);
                for (r, row) in turned.into_iter().take(wide).enumerate() {
                    let place = out.as_mut_ptr().wrapping_add((j + r) * stride + i);
                    // SAFETY: the caller's promise.
                    unsafe { _mm512_storeu_ps(place, row) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Product = fn(&mut [f32], usize, [usize; 3], View<'_>, View<'_>);
    type Transpose = fn(&mut [f32], usize, [usize; 2], View<'_>);

    fn wave(len: usize, phase: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.7 + phase).sin()).collect()
    }

    #[test]
    fn gemms_are_exact_and_write_nothing_else() {
        for [m, n, k] in [[1, 1, 1], [25, 32, 64], [11, 64, 11], [8, 80, 3], [7, 130, 20]] {
            // Rows of `b` and of the results have something between them.
            let (left, right) = (wave(m * k, 0.1), wave(k * (n + 3), 0.5));
            let b = View::rows(&right, n + 3);
            for a in [View::rows(&left, k), View::rows(&left, m).transposed()] {
                for product in [small_gemm as Product, plain_gemm] {
                    let mut out = vec![9.0; m * (n + 2)];
                    product(&mut out, n + 2, [m, n, k], a, b);
                    for (e, &found) in out.iter().enumerate() {
                        let (i, j) = (e / (n + 2), e % (n + 2));
                        let term = |l: usize| {
                            let left = a.values[i * a.row_stride + l * a.column_stride];
                            f64::from(left) * f64::from(b.values[l * b.row_stride + j])
                        };
                        let exact = if j < n { (0..k).map(term).sum() } else { 9.0 };
                        let error = (f64::from(found) - exact).abs();
                        assert!(error < 3e-6 * k as f64, "{m} x {n} x {k}: ({i}, {j}) is {found}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_transpose_is_filled_up_with_zeros() {
        for [m, n] in [[1usize, 1], [25, 64], [16, 20], [40, 3]] {
            let stride = m.next_multiple_of(16);
            let values = wave(m * (n + 5), 0.3);
            for transpose in [transpose as Transpose, plain_transpose] {
                let mut out = vec![9.0; n * stride + 1];
                transpose(&mut out, stride, [m, n], View::rows(&values, n + 5));
                assert_eq!(out.pop(), Some(9.0), "what follows is left alone");
                for (e, &found) in out.iter().enumerate() {
                    let (j, i) = (e / stride, e % stride);
                    let expected = if i < m { values[i * (n + 5) + j] } else { 0.0 };
                    assert_eq!(found, expected, "{m} x {n}: ({j}, {i})");
                }
            }
        }
    }
}
