//! Element-wise functions and sums on slices.

/// A function `name` that runs `plain`, which must be `#[inline(always)]` like all that it calls,
/// compiled for the widest vectors of this processor.
///
/// A function with closures in place of these arguments would not do: LLVM leaves long closures,
/// and the shims that call them, functions of their own for the narrowest vectors.
macro_rules! widest {
    ($visible:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) -> $result:ty = $plain:path) => {
        $visible fn $name($($arg: $kind),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn of_sixteen($($arg: $kind),*) -> $result {
                    $plain($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn of_eight($($arg: $kind),*) -> $result {
                    $plain($($arg),*)
                }
                use std::is_x86_feature_detected as has;
                if has!("avx2") && has!("fma") {
                    let sixteen = has!("avx512f") && has!("avx512bw") && has!("avx512dq");
                    if sixteen && has!("avx512vl") {
                        // SAFETY: the processor has the instructions.
                        return unsafe { of_sixteen($($arg),*) };
                    }
                    // SAFETY: the processor has the instructions.
                    return unsafe { of_eight($($arg),*) };
                }
            }
            $plain($($arg),*)
        }
    };
}
pub(super) use widest;

/// A buffer whose values are arbitrary numbers: the caller writes all of them before reading any.
///
/// Zeroing it would be one more pass over memory for each of these large buffers, 5 % of a step.
/// The values are initialised all the same, by an opaque piece of code that may write what it likes
/// into the buffer, and leaves there what it finds.
pub(super) fn buffer(len: usize) -> Vec<f32> {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
    {
        let mut values: Vec<f32> = Vec::with_capacity(len);
        let start = values.as_mut_ptr();
        // SAFETY: the text is empty, so that no register, flag or memory changes. Without `nomem`
        // and `readonly` the compiler takes it for code that writes any bytes behind the pointer:
        // from here on they are initialised, with values that nobody knows.
        unsafe { std::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags)) };
        // SAFETY: the capacity is there, and the values are initialised: see above. Every bit
        // pattern is an f32.
        unsafe { values.set_len(len) };
        values
    }
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
    {
        vec![0.0; len]
    }
}

/// `out = a + (b + c)`.
#[inline(always)]
pub(super) fn add(out: &mut [f32], a: &[f32], b: &[f32], c: &[f32]) {
    for (((out, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *out = a + (b + c);
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

widest!(pub(super) fn add_rows(rows: &[f32], sums: &mut [f32]) -> () = sum_rows);

/// Adds every row of `width` values to the sum of its group, `rows_of_group` rows one after the
/// other.
#[inline(always)]
pub(super) fn sum_groups(rows: &[f32], rows_of_group: usize, sums: &mut [f32], width: usize) {
    for (rows, sum) in rows.chunks(rows_of_group * width).zip(sums.chunks_exact_mut(width)) {
        sum_rows(rows, sum);
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
    fold(lanes, |a, b| a + b) + rest
}

/// Greatest of some values.
#[inline(always)]
pub(super) fn greatest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (wholes, rest) = values.as_chunks::<16>();
    for values in wholes {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = lane.max(*value);
        }
    }
    rest.iter().fold(fold(lanes, f32::max), |a, b| a.max(*b))
}

/// One value of 16, by halves: one after the other, each would wait for the one before.
#[inline(always)]
fn fold(mut lanes: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

/// `e^x` for `x <= 0`, to about 1e-7 relative; below -87 the result is `e^-87`, which no sum
/// notices.
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

/// Exact GELU, `x Phi(x)`, and its derivative, `Phi(x) + x phi(x)`, to 3e-7.
///
/// `Phi(-|x|) = e^(-x^2/2) P(t) / 2` with `t = 1 / (1 + 0.2316419 |x|)`, Abramowitz and Stegun
/// 26.2.17: the exponential serves both, and small tails keep their digits.
#[inline(always)]
pub(super) fn gelu(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3;
    let density = DENSITY * exp_negative(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let p = -1.821_256 + t * 1.330_274_5;
    let p = -0.356_563_78 + t * (1.781_477_9 + t * p);
    let tail = density * (t * (0.319_381_54 + t * p));
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (x * below, below + x * density)
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
        // Python: p = math.erfc(-x / 2**.5) / 2; x * p and p + x * math.exp(-x * x / 2) / (2 *
        // math.pi)**.5
        for (x, value, slope) in [
            (-3.0, -0.004_049_694, -0.011_945_647),
            (-0.5, -0.154_268_77, 0.132_504_88),
            (0.7, 0.530_625_4, 0.976_614_1),
            (2.0, 1.954_499_7, 1.085_231_8),
        ] {
            let (ours, rise) = gelu(x);
            assert!((ours - value).abs() < 1e-6, "gelu {x}: {ours}");
            assert!((rise - slope).abs() < 1e-6, "slope {x}: {rise}");
        }
    }
}
