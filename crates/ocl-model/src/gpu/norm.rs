//! Layer norm and its gradient, rows in registers.
//!
//! One cube a row, one unit for four channels. `F` is what products are computed in: the norm's
//! output is a factor of the next product, so it is written as one.

use cubecl::prelude::*;

use super::sums::{Summing, cube_sum};

/// `out = (x - mean) / sqrt(var + epsilon) * weight + bias`, `var` biased, in two passes over
/// registers.
///
/// `x` `[M, D]`, `out` `[M, D]`, `stats` `[M, 2]`: mean and reciprocal deviation of each row.
#[cube(launch_unchecked)]
pub(super) fn norm_forward<F: Float>(
    x: &[Vector<f32, Const<4>>],
    weight: &[Vector<f32, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    out: &mut [Vector<F, Const<4>>],
    stats: &mut [f32],
    rows: u32,
    epsilon: f32,
    #[comptime] columns: usize,
    #[comptime] summing: Summing,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let column = UNIT_POS as usize;
    let at = row * columns + column;
    let inside = column < columns;
    let room = comptime!(summing.room());
    let mut shared = Shared::new_slice(2 * room);

    let mut value = Vector::<f32, Const<4>>::new(0.0);
    if inside {
        value = x[at];
    }
    let count = f32::cast_from(4 * columns);
    let mean = cube_sum(value.vector_sum(), &mut shared, 0, summing) / count;
    let mut centred = Vector::<f32, Const<4>>::new(0.0);
    if inside {
        centred = value - Vector::new(mean);
    }
    let square = centred * centred;
    let variance = cube_sum(square.vector_sum(), &mut shared, room, summing) / count;
    let reciprocal = (variance + epsilon).inverse_sqrt();
    if inside {
        let y = centred * Vector::new(reciprocal) * weight[column] + bias[column];
        out[at] = Vector::cast_from(y);
    }
    if UNIT_POS == 0 {
        stats[2 * row] = mean;
        stats[2 * row + 1] = reciprocal;
    }
}

/// The gradient at the norm's input plus the one that flows past the norm's branch, and sums over
/// rows.
///
/// With `h = (x - mean) r`, `g = dout weight`: `dx = past + r (g - mean(g) - h mean(g h))`.
///
/// `dout`, `x` `[M, D]`; `past` `[B, Q, D]` belongs to the first `queries` of each `tokens` rows.
/// `dx` `[M, D]` and, if `rounded`, the same as `F`. `partial` `[chunks, 3, D]`: sums over a
/// chunk's rows of `dout h`, `dout` and `dx`, which are the gradients of weight and bias, and of
/// the bias of the layer before.
#[cube(launch_unchecked)]
pub(super) fn norm_backward<F: Float>(
    dout: &[Vector<F, Const<4>>],
    x: &[Vector<f32, Const<4>>],
    stats: &[f32],
    weight: &[Vector<f32, Const<4>>],
    past: &[Vector<f32, Const<4>>],
    dx: &mut [Vector<f32, Const<4>>],
    dx_rounded: &mut [Vector<F, Const<4>>],
    partial: &mut [Vector<f32, Const<4>>],
    rows: u32,
    rows_a_chunk: u32,
    tokens: u32,
    queries: u32,
    #[comptime] rounded: bool,
    #[comptime] columns: usize,
    #[comptime] summing: Summing,
    #[define(F)] _dtype: ElemType,
) {
    let chunk = CUBE_POS as u32;
    let column = UNIT_POS as usize;
    let inside = column < columns;
    let count = f32::cast_from(4 * columns);
    // Two halves in turn: a row may be summed while a slow unit still reads the sums of the one
    // before.
    let room = comptime!(summing.room());
    let mut shared = Shared::new_slice(4 * room);

    let zero = Vector::<f32, Const<4>>::new(0.0);
    let mut sum_weight = zero;
    let mut sum_bias = zero;
    let mut sum_dx = zero;
    let mut factor = zero;
    if inside {
        factor = weight[column];
    }
    let first = chunk * rows_a_chunk;
    let mut last = first + rows_a_chunk;
    if last > rows {
        last = rows;
    }
    for row in first..last {
        let at = row as usize * columns + column;
        let mean = stats[2 * row as usize];
        let reciprocal = stats[2 * row as usize + 1];
        let mut d = zero;
        let mut h = zero;
        if inside {
            d = Vector::cast_from(dout[at]);
            h = (x[at] - Vector::new(mean)) * Vector::new(reciprocal);
        }
        let g = d * factor;
        let gh = g * h;
        let half = (row % 2) as usize * (2 * room);
        let of_g = cube_sum(g.vector_sum(), &mut shared, half, summing);
        let of_gh = cube_sum(gh.vector_sum(), &mut shared, half + room, summing);
        if inside {
            let own = g - Vector::new(of_g / count) - h * Vector::new(of_gh / count);
            let mut all = own * Vector::new(reciprocal);
            let token = row % tokens;
            if token < queries {
                let from = (row / tokens * queries + token) as usize * columns + column;
                all += past[from];
            }
            dx[at] = all;
            if comptime!(rounded) {
                dx_rounded[at] = Vector::cast_from(all);
            }
            sum_weight += d * h;
            sum_bias += d;
            sum_dx += all;
        }
    }
    if inside {
        let at = chunk as usize * (3 * columns) + column;
        partial[at] = sum_weight;
        partial[at + columns] = sum_bias;
        partial[at + 2 * columns] = sum_dx;
    }
}
