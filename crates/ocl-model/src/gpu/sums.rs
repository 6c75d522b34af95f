//! Sums: over the units of a cube, and over the rows of a matrix in two deterministic steps.

use cubecl::prelude::*;

/// Columns of four channels, and row lanes, of a cube that sums a matrix's rows.
pub(super) const COLUMN_CUBE: [u32; 2] = [32, 8];
/// The same of a cube that sums chunks: many rows, few columns.
pub(super) const CHUNK_CUBE: [u32; 2] = [8, 32];

/// How a cube's units add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Summing {
    /// Units of a cube.
    pub(super) units: usize,
    /// Whole planes among them, where planes can sum; else none, and shared memory serves.
    pub(super) planes: Option<usize>,
}

impl Summing {
    /// Numbers of shared memory that a sum needs, in which no other sum may be in flight.
    pub(super) fn room(self) -> usize {
        self.planes.unwrap_or(self.units)
    }
}

/// The sum of one number of each unit, given to all of them. `at` is a place in shared memory with
/// [`Summing::room`].
#[cube]
pub(super) fn cube_sum(
    value: f32,
    shared: &mut Shared<[f32]>,
    at: usize,
    #[comptime] summing: Summing,
) -> f32 {
    if comptime!(summing.planes.is_some()) {
        let planes = comptime!(summing.planes.unwrap_or(1));
        let own = plane_sum(value);
        if UNIT_POS_X == 0 {
            shared[at + UNIT_POS_Y as usize] = own;
        }
        sync_cube();
        let mut sum = f32::new(0.0);
        #[unroll]
        for i in 0..planes {
            sum += shared[at + i];
        }
        sum
    } else {
        let units = comptime!(summing.units);
        let unit = UNIT_POS as usize;
        shared[at + unit] = value;
        sync_cube();
        let mut reach = comptime!(summing.units.next_power_of_two() / 2).runtime();
        while reach > 0 {
            if unit < reach && unit + reach < units {
                let other = shared[at + unit + reach];
                shared[at + unit] += other;
            }
            sync_cube();
            reach /= 2;
        }
        shared[at]
    }
}

/// Sums of a cube's rows, from those of its row lanes: lane 0 ends with all of them.
#[cube]
pub(super) fn lane_sum(
    value: Vector<f32, Const<4>>,
    #[comptime] columns: usize,
    #[comptime] lanes: usize,
) -> Vector<f32, Const<4>> {
    let mut shared = Shared::new_slice(lanes * columns);
    shared[UNIT_POS as usize] = value;
    sync_cube();
    let mut sum = value;
    if UNIT_POS_Y == 0 {
        #[unroll]
        for lane in 1..lanes {
            sum += shared[lane * columns + UNIT_POS_X as usize];
        }
    }
    sum
}

/// Sums over the rows of each chunk, `[M, C]` to `partial` `[chunks, C]`, and, if `rounded`, the
/// values as `F`.
#[cube(launch_unchecked)]
pub(super) fn column_sums<I: Float, F: Float>(
    x: &[Vector<I, Const<4>>],
    x_rounded: &mut [Vector<F, Const<4>>],
    partial: &mut [Vector<f32, Const<4>>],
    rows: u32,
    rows_a_chunk: u32,
    columns: u32,
    #[comptime] rounded: bool,
    #[define(I, F)] _dtypes: [ElemType; 2],
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    let inside = column < columns;
    let mut last = (CUBE_POS_Y + 1) * rows_a_chunk;
    if last > rows {
        last = rows;
    }
    let mut sum = Vector::<f32, Const<4>>::new(0.0);
    if inside {
        let mut row = CUBE_POS_Y * rows_a_chunk + UNIT_POS_Y;
        while row < last {
            let at = (row as usize) * columns as usize + column as usize;
            let value: Vector<f32, Const<4>> = Vector::cast_from(x[at]);
            if comptime!(rounded) {
                x_rounded[at] = Vector::cast_from(value);
            }
            sum += value;
            row += CUBE_DIM_Y;
        }
    }
    let sum = lane_sum(sum, 32usize, 8usize);
    if inside && UNIT_POS_Y == 0 {
        partial[(CUBE_POS_Y * columns + column) as usize] = sum;
    }
}

/// The second step: `[chunks, C]` to `[C]`.
#[cube(launch_unchecked)]
pub(super) fn chunk_sums(
    partial: &[Vector<f32, Const<4>>],
    out: &mut [Vector<f32, Const<4>>],
    chunks: u32,
    columns: u32,
) {
    let column = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    let inside = column < columns;
    let mut sum = Vector::<f32, Const<4>>::new(0.0);
    if inside {
        let mut chunk = UNIT_POS_Y;
        while chunk < chunks {
            sum += partial[(chunk * columns + column) as usize];
            chunk += CUBE_DIM_Y;
        }
    }
    let sum = lane_sum(sum, 8usize, 32usize);
    if inside && UNIT_POS_Y == 0 {
        out[column as usize] = sum;
    }
}
