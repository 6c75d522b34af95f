//! Matrix products on slices, on one thread.
//!
//! Every result is one sum in the order of the inner dimension, whatever parts the factors come in:
//! it does not depend on how rows were divided among chunks and threads. That holds for the AVX-512
//! kernel; the library's products, which serve other processors, may group differently.

use super::epilogue::Epilogue;
use super::math::buffer;
use super::sink::{After, Into, Sink, Then};
use super::view::{Part, View};

/// Longest inner dimension that is worked on at once: panels of more would not stay in the
/// second-level cache.
const INNER: usize = 1408;

/// Longest piece of a longer one: with 1,024 in place of 3,072, three panels share a pass over the
/// left factor.
const PIECE: usize = 1024;

/// `a b` for `a` `[m, k]` and `b` `[k, n]`: parts of rows go to `finish` while they are in the
/// nearest cache.
#[inline(always)]
pub(super) fn gemm([m, n, k]: [usize; 3], a: View<'_>, b: View<'_>, finish: impl Epilogue) {
    if k <= INNER {
        return run([m, n], &[Part { a, b, k }], &mut Then(finish));
    }
    let piece = k.div_ceil(k.div_ceil(PIECE)).next_multiple_of(16); // whole lines of the cache
    let mut sums = buffer(m * n);
    let mut first = 0;
    while first + piece < k {
        let part = Part { a: a.columns(first), b: b.below(first), k: piece };
        let mut into = Into { out: &mut sums, stride: n, goes_on: first > 0 };
        run([m, n], &[part], &mut into);
        first += piece;
    }
    let last = Part { a: a.columns(first), b: b.below(first), k: k - first };
    run([m, n], &[last], &mut After { sums: &sums, columns: n, finish });
}

/// `out = sum over the parts of a b`; rows of `out` start every `stride` values, and what lies
/// between them is left alone.
#[inline(always)]
pub(super) fn sum_of_products(
    out: &mut [f32],
    stride: usize,
    size: [usize; 2],
    parts: &[Part<'_>],
) {
    let mut rest = parts;
    while !rest.is_empty() {
        let mut inner = 0;
        let fitting = rest.iter().take_while(|part| {
            inner += part.k;
            inner <= INNER
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        let goes_on = rest.len() < parts.len();
        run(size, now, &mut Into { out: &mut *out, stride, goes_on });
        rest = later;
    }
}

#[inline(always)]
fn run([m, n]: [usize; 2], parts: &[Part<'_>], sink: &mut impl Sink) {
    for Part { a, b, k } in parts {
        assert!(m > 0 && n > 0 && *k > 0, "an empty product: {m} x {n} x {k}");
        assert!(a.reaches(m, *k) && b.reaches(*k, n), "a product out of bounds: {m} x {n} x {k}");
    }
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions, and the assertion above keeps every access
        // inside the factors.
        unsafe { super::avx512::run([m, n], parts, sink) };
        return;
    }
    by_library([m, n], parts, sink);
}

fn by_library([m, n]: [usize; 2], parts: &[Part<'_>], sink: &mut impl Sink) {
    let mut sums = buffer(m * n);
    for (row, sums) in sums.chunks_exact_mut(n).enumerate() {
        sink.start(row, 0, sums);
    }
    for (i, Part { a, b, k }) in parts.iter().enumerate() {
        // SAFETY: the caller's assertion keeps every access inside `a` and `b`; `sums` is `[m, n]`.
        unsafe {
            ::gemm::gemm(
                m,
                n,
                *k,
                sums.as_mut_ptr(),
                1,
                n as isize,
                sink.goes_on() || i > 0,
                a.values.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.values.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                ::gemm::Parallelism::None,
            );
        }
    }
    for (row, sums) in sums.chunks_exact(n).enumerate() {
        sink.finish(row, 0, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::super::epilogue::Store;
    use super::*;

    fn wave(len: usize, phase: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.7 + phase).sin()).collect()
    }

    /// `a b` by definition, in double precision.
    fn expected([m, n]: [usize; 2], Part { a, b, k }: Part<'_>) -> Vec<f32> {
        let at = |v: View<'_>, i, j| f64::from(v.values[i * v.row_stride + j * v.column_stride]);
        let sum = |i, j| (0..k).map(|l| at(a, i, l) * at(b, l, j)).sum::<f64>();
        (0..m * n).map(|e| sum(e / n, e % n) as f32).collect()
    }

    /// To rounding: the terms are at most 1.
    fn close(ours: &[f32], expected: &[f32], k: usize, times: f32, case: &str) {
        for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
            let b = b * times;
            let most = 3e-6 * k as f32 * times;
            assert!((a - b).abs() < most, "{case}: value {i} is {a}, not {b}");
        }
    }

    #[test]
    fn gemms_are_exact_for_all_shapes_and_strides() {
        for [m, n, k] in
            [[1, 1, 1], [8, 48, 5], [9, 49, 33], [7, 100, 64], [30, 20, 300], [17, 96, 1500]]
        {
            let (left, right) = (wave(m * k, 0.1), wave(k * n, 0.5));
            for a in [View::rows(&left, k), View::rows(&left, m).transposed()] {
                for b in [View::rows(&right, n), View::rows(&right, k).transposed()] {
                    let case =
                        format!("{m} x {n} x {k}, strides {} {}", a.row_stride, b.row_stride);
                    let part = Part { a, b, k };
                    let sums = expected([m, n], part);
                    let mut out = vec![f32::NAN; m * n];
                    gemm([m, n, k], a, b, Store { out: &mut out, stride: n });
                    close(&out, &sums, k, 1.0, &case);
                    // Three parts: more than one round for the longest.
                    let parts = [part, part, part];
                    let mut out = vec![f32::NAN; m * n];
                    sum_of_products(&mut out, n, [m, n], &parts);
                    close(&out, &sums, k, 3.0, &case);
                    let mut into = Into { out: &mut out, stride: n, goes_on: false };
                    by_library([m, n], &parts[..2], &mut into);
                    into.goes_on = true;
                    by_library([m, n], &parts[..1], &mut into);
                    close(&out, &sums, k, 3.0, &case);
                }
            }
        }
    }

    #[test]
    fn steps_and_columns_are_followed() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        // Every second row of a `[3, 2]` by the second column of a `[2, 3]`, into a column of its
        // own.
        let mut out = [9.0, 0.0, 9.0, 1.0, 9.0];
        let (left, right) = (View::rows(&a, 2).every(2), View::rows(&a, 3).columns(1));
        sum_of_products(&mut out[1..], 2, [2, 1], &[Part { a: left, b: right, k: 2 }]);
        assert_eq!(out, [9.0, 12.0, 9.0, 40.0, 9.0]);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_sum_does_not_depend_on_its_division() {
        if !std::is_x86_feature_detected!("avx512f") {
            return;
        }
        let (m, n, k) = (19, 50, 4000);
        let (a, b) = (wave(m * k, 0.2), wave(k * n, 0.3));
        let run = |cuts: &[usize]| {
            let parts: Vec<Part<'_>> = cuts
                .windows(2)
                .map(|cut| Part {
                    a: View::rows(&a[cut[0] * m..], m).transposed(),
                    b: View::rows(&b[cut[0] * n..], n),
                    k: cut[1] - cut[0],
                })
                .collect();
            let mut out = vec![0.0; m * n];
            sum_of_products(&mut out, n, [m, n], &parts);
            out
        };
        let whole = run(&[0, k]);
        assert_eq!(whole, run(&[0, 13, 700, 2000, 2001, k]));
        let mut pieces = vec![0.0; m * n];
        let store = Store { out: &mut pieces, stride: n };
        gemm([m, n, k], View::rows(&a, m).transposed(), View::rows(&b, n), store);
        assert_eq!(whole, pieces);
    }
}
