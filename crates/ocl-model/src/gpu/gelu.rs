//! GELU by the error function (arXiv 1606.08415) with the bias before it, and the gradient of both.

use cubecl::prelude::*;

use super::sums::lane_sum;

/// The standard normal distribution and its density at each value.
#[cube]
fn normal(x: Vector<f32, Const<4>>) -> (Vector<f32, Const<4>>, Vector<f32, Const<4>>) {
    let below = (Vector::erf(x * Vector::new(std::f32::consts::FRAC_1_SQRT_2)) + Vector::new(1.0))
        * Vector::new(0.5);
    let density = Vector::exp(x * x * Vector::new(-0.5)) * Vector::new(0.398_942_3);
    (below, density)
}

/// `out = gelu(x + bias)`; `x`, `out` `[M, C]`, `bias` `[C]`. A unit takes one place of four channels.
#[cube(launch_unchecked)]
pub(super) fn gelu_forward<F: Float>(
    x: &[Vector<F, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    out: &mut [Vector<F, Const<4>>],
    columns: u32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as usize;
    if at < out.len() {
        let value: Vector<f32, Const<4>> = Vector::cast_from(x[at]);
        let value = value + bias[at % columns as usize];
        let (below, _) = normal(value);
        out[at] = Vector::cast_from(value * below);
    }
}

/// The gradient at `x`, the output again, and sums of the gradient over each chunk's rows (the bias's).
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
