//! Matrix products and element-wise functions on slices.

/// Runs `work` compiled for the widest vectors of this processor. What it calls must be inlined.
pub(super) fn simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// A matrix in a slice: element `(row, column)` is `values[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// Row-major with `columns` columns.
    pub(super) fn rows(values: &'a [f32], columns: usize) -> Self {
        Self { values, row_stride: columns, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(super) fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// Every `step`th row, from the first.
    pub(super) fn every(self, step: usize) -> Self {
        Self { row_stride: self.row_stride * step, ..self }
    }

    /// Columns `first..` of a row-major matrix.
    pub(super) fn columns(self, first: usize) -> Self {
        Self { values: &self.values[first * self.column_stride..], ..self }
    }

    fn reaches(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.values.len()
    }
}

/// `out = a b`, or `out += a b`; `out` is row-major `[m, n]`, `a` `[m, k]`, `b` `[k, n]`. One thread.
pub(super) fn product(out: &mut [f32], add: bool, size: [usize; 3], a: View<'_>, b: View<'_>) {
    product_into(out, size[1], add, size, a, b);
}

/// [`product`] into rows that start every `stride` values; what lies between them is left alone.
pub(super) fn product_into(
    out: &mut [f32],
    stride: usize,
    add: bool,
    [m, n, k]: [usize; 3],
    a: View<'_>,
    b: View<'_>,
) {
    assert!(m > 0 && n > 0 && k > 0, "an empty product: {m} x {n} x {k}");
    let fits = n <= stride && (m - 1) * stride + n <= out.len();
    assert!(fits && a.reaches(m, k) && b.reaches(k, n), "a product out of bounds");
    // SAFETY: the assertion above keeps every access inside the three slices, and `out` is exclusive.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
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
            gemm::Parallelism::None,
        );
    }
}

/// A buffer whose values are arbitrary; the caller writes all of them before reading any.
pub(super) fn buffer(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is there, every bit pattern is an f32, and no caller reads before writing.
    // Zeroing first would be one more pass over memory for each of these large buffers.
    #[allow(clippy::uninit_vec, reason = "see above")]
    unsafe {
        values.set_len(len);
    }
    values
}

/// Adds `bias` to every row.
#[inline(always)]
pub(super) fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, b) in row.iter_mut().zip(bias) {
            *value += b;
        }
    }
}

/// Adds every row to `sums`.
#[inline(always)]
pub(super) fn sum_rows(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// `y += a x`.
#[inline(always)]
pub(super) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Sum of `f(a, b)` over two slices, in 16 lanes that the compiler keeps in one register.
#[inline(always)]
pub(super) fn sum_with(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(x, y)| f(*x, *y)).sum();
    for (x, y) in a16.zip(b16) {
        for lane in 0..16 {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// `e^x` for `x <= 0`, to about 1e-7 relative; below -87 the result is `e^-87`, which no sum notices.
#[inline(always)]
pub(super) fn exp_negative(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the difference keeps its digits.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let series = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let series = 1.0 / 24.0 + r * (1.0 / 120.0 + r * series);
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * series)));
    let power = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    series * f32::from_bits(power)
}

/// The error function to 3e-7: a rational minimax fit of `erf(x) / x` in `x^2` on 0..3.95.
#[allow(clippy::excessive_precision, clippy::approx_constant, reason = "coefficients of the fit")]
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.95, 3.95);
    let u = x * x;
    let p = 2.011_739_8e-6;
    let p = 2.875_990_2e-4 + u * p;
    let p = 3.917_280e-3 + u * p;
    let p = 5.320_695e-2 + u * p;
    let p = 0.194_034_9 + u * p;
    let p = 1.128_379 + u * p;
    let q = 3.783_959_9e-5;
    let q = 1.198_190_1e-3 + u * q;
    let q = 1.527_063_1e-2 + u * q;
    let q = 0.115_590_42 + u * q;
    let q = 0.505_290_45 + u * q;
    let q = 1.0 + u * q;
    x * p / q
}

/// Exact GELU, `x Phi(x)`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Its derivative, `Phi(x) + x phi(x)`.
#[inline(always)]
pub(super) fn gelu_slope(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3;
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
        + x * DENSITY * exp_negative(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_gelu_are_exact_enough() {
        for i in 0..8600 {
            let x = -(i as f32) * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp_negative(x)) / exact - 1.0).abs() < 5e-7, "exp {x}");
        }
        // Python: p = math.erfc(-x / 2**.5) / 2; x * p and p + x * math.exp(-x * x / 2) / (2 * math.pi)**.5
        for (x, value, slope) in [
            (-3.0, -0.004_049_694, -0.011_945_647),
            (-0.5, -0.154_268_77, 0.132_504_88),
            (0.7, 0.530_625_4, 0.976_614_1),
            (2.0, 1.954_499_7, 1.085_231_8),
        ] {
            assert!((gelu(x) - value).abs() < 1e-6, "gelu {x}: {}", gelu(x));
            assert!((gelu_slope(x) - slope).abs() < 1e-6, "slope {x}: {}", gelu_slope(x));
        }
    }

    #[test]
    fn products_follow_their_strides() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        let mut out = vec![1.0; 4];
        product(&mut out, true, [2, 2, 3], View::rows(&a, 3), View::rows(&b, 2));
        assert_eq!(out, [6.0, 12.0, 15.0, 24.0]);
        let mut out = vec![0.0; 9];
        product(&mut out, false, [3, 3, 2], View::rows(&a, 3).transposed(), View::rows(&b, 3));
        assert_eq!(out, [5.0, 0.0, 14.0, 7.0, 0.0, 19.0, 9.0, 0.0, 24.0]);
        // Every second row of a `[3, 2]` by the second column of a `[2, 3]`, into a column of its own.
        let mut out = [9.0; 5];
        let right = View::rows(&a, 3).columns(1);
        product_into(&mut out[1..], 2, false, [2, 1, 2], View::rows(&a, 2).every(2), right);
        assert_eq!(out, [9.0, 12.0, 9.0, 40.0, 9.0]);
    }
}
