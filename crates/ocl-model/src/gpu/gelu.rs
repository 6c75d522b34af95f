//! GELU by the error function (arXiv 1606.08415) with the bias before it, and the gradient of both.

use cubecl::prelude::*;

use super::sums::lane_sum;

/// The standard normal distribution and its density at each value.
///
/// The tail beyond `|x|` is a polynomial of `t = 1 / (1 + p |x|)` times the exponential that the
/// density needs anyway: Abramowitz and Stegun, formula 26.2.17, off by less than 1e-7. A quarter
/// of `erf`'s work.
#[cube]
fn normal(x: Vector<f32, Const<4>>) -> (Vector<f32, Const<4>>, Vector<f32, Const<4>>) {
    let one = Vector::<f32, Const<4>>::new(1.0);
    let t = one / (one + Vector::abs(x) * Vector::new(0.231_641_9));
    let e = Vector::exp(x * x * Vector::new(-0.5));
    // The published coefficients over sqrt(2 pi).
    let mut tail = t * Vector::new(0.530_702_7) - Vector::new(0.726_576);
    tail = tail * t + Vector::new(0.710_706_9);
    tail = tail * t - Vector::new(0.142_248_4);
    tail = tail * t + Vector::new(0.127_414_8);
    tail = tail * t * e;
    let zero = Vector::<f32, Const<4>>::new(0.0);
    let below = select_many(x.less_than(&zero), tail, one - tail);
    (below, e * Vector::new(0.398_942_3))
}

/// `out = gelu(x + bias)`; `x`, `out` `[M, C]`, `bias` `[C]`. A unit takes one place of four
/// channels.
#[cube(launch_unchecked)]
pub(super) fn gelu_forward<F: Float>(
    x: &[Vector<F, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    out: &mut [Vector<F, Const<4>>],
    columns: u32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        let value: Vector<f32, Const<4>> = Vector::cast_from(x[at]);
        let value = value + bias[at % columns as usize];
        let (below, _) = normal(value);
        out[at] = Vector::cast_from(value * below);
    }
}

/// The gradient at `x`, the output again, and sums of the gradient over each chunk's rows (the
/// bias's).
///
/// `x`, `dout`, `dx`, `out` `[M, C]`, `partial` `[chunks, C]`.
#[cube(launch_unchecked)]
pub(super) fn gelu_backward<F: Float>(
    x: &[Vector<F, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    dout: &[Vector<F, Const<4>>],
    dx: &mut [Vector<F, Const<4>>],
    out: &mut [Vector<F, Const<4>>],
    partial: &mut [Vector<f32, Const<4>>],
    rows: u32,
    rows_a_chunk: u32,
    columns: u32,
    #[define(F)] _dtype: ElemType,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    let inside = column < columns;
    let mut last = (CUBE_POS_Y + 1) * rows_a_chunk;
    if last > rows {
        last = rows;
    }
    let mut sum = Vector::<f32, Const<4>>::new(0.0);
    if inside {
        let shift = bias[column as usize];
        let mut row = CUBE_POS_Y * rows_a_chunk + UNIT_POS_Y;
        while row < last {
            let at = (row as usize) * columns as usize + column as usize;
            let value: Vector<f32, Const<4>> = Vector::cast_from(x[at]);
            let value = value + shift;
            let d: Vector<f32, Const<4>> = Vector::cast_from(dout[at]);
            let (below, density) = normal(value);
            let d = d * (below + value * density);
            dx[at] = Vector::cast_from(d);
            out[at] = Vector::cast_from(value * below);
            sum += d;
            row += CUBE_DIM_Y;
        }
    }
    let sum = lane_sum(sum, 32usize, 8usize);
    if inside && UNIT_POS_Y == 0 {
        partial[(CUBE_POS_Y * columns + column) as usize] = sum;
    }
}
