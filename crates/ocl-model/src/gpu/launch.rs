//! The kernels as functions of tensors: outputs made, cubes counted.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::features::Plane;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::attention::{self as kernels, Sharing};
use super::gelu::{gelu_backward, gelu_forward};
use super::norm::{norm_backward, norm_forward};
use super::shapes::{Lengths, empty};
use super::sums::{self, CHUNK_CUBE, COLUMN_CUBE, Summing, chunk_sums};
use crate::precision::NORM_EPSILON;

/// Channels that a unit takes at a time.
pub(super) const VECTOR: usize = 4;
/// Cubes enough to fill a device, and few enough that the sums of their rows cost nothing.
const CUBES: usize = 1024;
/// Units of a cube of a kernel without exchange between units.
const UNITS: u32 = 128;

/// Cubes with a unit for each four channels of a row.
struct Rows {
    dim: CubeDim,
    columns: usize,
    summing: Summing,
}

impl Rows {
    fn of(x: &CubeTensor, width: usize) -> Self {
        // Where planes cannot sum, any length of a line of units serves.
        let plane = plane_size(&x.client);
        let line = plane.unwrap_or(32);
        let columns = width / VECTOR;
        let lines = columns.div_ceil(line);
        let summing = Summing { units: line * lines, planes: plane.map(|_| lines) };
        Self { dim: CubeDim::new_2d(line as u32, lines as u32), columns, summing }
    }
}

/// Units of a plane, where planes are of one size and can exchange values.
fn plane_size(client: &Client) -> Option<usize> {
    let properties = client.properties();
    let (least, most) = (properties.hardware.plane_size_min, properties.hardware.plane_size_max);
    (least == most && properties.features.plane.contains(Plane::Ops)).then_some(most as usize)
}

/// Layer norm of the last dimension: rows as `dtype`, and their statistics `[M, 2]`.
pub(super) fn norm(
    x: &CubeTensor,
    weight: &CubeTensor,
    bias: &CubeTensor,
    dtype: DType,
) -> (CubeTensor, CubeTensor) {
    let width = weight.shape()[0];
    let rows = x.shape().num_elements() / width;
    let out = empty(x, [rows, width], dtype);
    let stats = empty(x, [rows, 2], DType::F32);
    let Rows { dim, columns, summing } = Rows::of(x, width);
    // SAFETY: one cube a row of `x`, `out` and `stats`, and units past the last column touch no
    // memory.
    unsafe {
        norm_forward::launch_unchecked(
            &x.client,
            count(rows),
            dim,
            argument(x),
            argument(weight),
            argument(bias),
            argument(&out),
            argument(&stats),
            rows as u32,
            NORM_EPSILON as f32,
            columns,
            summing,
            element(dtype),
        );
    }
    (out, stats)
}

/// What the gradient of a norm consists of.
pub(super) struct NormGradient {
    /// At the norm's input, with what flows past, `[M, D]`, f32.
    pub(super) input: CubeTensor,
    /// The same as a factor of products.
    pub(super) rounded: CubeTensor,
    pub(super) weight: CubeTensor,
    pub(super) bias: CubeTensor,
    /// Sums of `input` over rows: the gradient of a bias before.
    pub(super) before: CubeTensor,
}

/// See [`norm_backward`]: `dout` `[M, D]`; `past` holds `queries` of each `tokens` rows. The
/// gradient is given as `factor` too.
pub(super) fn norm_gradient(
    dout: CubeTensor,
    x: &CubeTensor,
    stats: &CubeTensor,
    weight: &CubeTensor,
    past: CubeTensor,
    [tokens, queries]: [usize; 2],
    factor: DType,
) -> NormGradient {
    let (rows, width) = (dout.shape()[0], dout.shape()[1]);
    let rounded = factor != DType::F32;
    let input = empty(x, [rows, width], DType::F32);
    let as_factor = if rounded { empty(x, [rows, width], factor) } else { nothing(x) };
    let Rows { dim, columns, summing } = Rows::of(x, width);
    let a_chunk = rows.div_ceil(CUBES);
    let chunks = rows.div_ceil(a_chunk);
    let partial = empty(x, [chunks, 3 * width], DType::F32);
    // SAFETY: each cube has rows of its own, the last one up to `rows`, and a row of `partial`;
    // units past the last column touch no memory.
    unsafe {
        norm_backward::launch_unchecked(
            &x.client,
            count(chunks),
            dim,
            argument(&dout),
            argument(x),
            argument(stats),
            argument(weight),
            argument(&past),
            argument(&input),
            argument(&as_factor),
            argument(&partial),
            rows as u32,
            a_chunk as u32,
            tokens as u32,
            queries as u32,
            rounded,
            columns,
            summing,
            element(dout.dtype),
        );
    }
    let sums = sum_chunks(partial); // [3 D]
    let part = |i: usize| {
        let range = i * width..(i + 1) * width;
        burn_cubecl::kernel::slice(sums.clone(), std::slice::from_ref(&range))
    };
    let rounded = if rounded { as_factor } else { input.clone() };
    NormGradient { input, rounded, weight: part(0), bias: part(1), before: part(2) }
}

/// `gelu(x + bias)`, of `x`'s shape `[M, C]` and type.
pub(super) fn gelu(x: &CubeTensor, bias: &CubeTensor) -> CubeTensor {
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let out = empty(x, [rows, width], x.dtype);
    let places = rows * width / VECTOR;
    // SAFETY: the kernel leaves out places past the end.
    unsafe {
        gelu_forward::launch_unchecked(
            &x.client,
            count(places.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            argument(x),
            argument(bias),
            argument(&out),
            (width / VECTOR) as u32,
            element(x.dtype),
        );
    }
    out
}

/// From the gradient at `gelu(x + bias)`: that at `x`, the output again, and that of the bias.
pub(super) fn gelu_gradient(
    x: &CubeTensor,
    bias: &CubeTensor,
    dout: CubeTensor,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let dx = empty(x, [rows, width], x.dtype);
    let out = empty(x, [rows, width], x.dtype);
    let grid = ColumnGrid::of(rows, width);
    let partial = empty(x, [grid.chunks, width], DType::F32);
    // SAFETY: cubes have rows and columns of their own; units past the last of either touch no
    // memory.
    unsafe {
        gelu_backward::launch_unchecked(
            &x.client,
            grid.count(),
            grid.dim(),
            argument(x),
            argument(bias),
            argument(&dout),
            argument(&dx),
            argument(&out),
            argument(&partial),
            rows as u32,
            grid.a_chunk as u32,
            (width / VECTOR) as u32,
            element(x.dtype),
        );
    }
    (dx, out, sum_chunks(partial))
}

/// A matrix as `dtype`, and the sums over its rows in f32.
pub(super) fn column_sums(x: &CubeTensor, dtype: DType) -> (CubeTensor, CubeTensor) {
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let rounded = dtype != x.dtype;
    let out = if rounded { empty(x, [rows, width], dtype) } else { nothing(x) };
    let grid = ColumnGrid::of(rows, width);
    let partial = empty(x, [grid.chunks, width], DType::F32);
    // SAFETY: as in `gelu_gradient`.
    unsafe {
        sums::column_sums::launch_unchecked(
            &x.client,
            grid.count(),
            grid.dim(),
            argument(x),
            argument(&out),
            argument(&partial),
            rows as u32,
            grid.a_chunk as u32,
            (width / VECTOR) as u32,
            rounded,
            [element(x.dtype), element(dtype)],
        );
    }
    (if rounded { out } else { x.clone() }, sum_chunks(partial))
}

/// Columns by chunks of rows.
struct ColumnGrid {
    blocks: usize,
    chunks: usize,
    a_chunk: usize,
}

impl ColumnGrid {
    fn of(rows: usize, width: usize) -> Self {
        let [columns, lanes] = COLUMN_CUBE.map(|n| n as usize);
        let blocks = (width / VECTOR).div_ceil(columns);
        let chunks = (2 * CUBES / blocks).clamp(1, rows.div_ceil(lanes));
        let a_chunk = rows.div_ceil(chunks);
        Self { blocks, chunks: rows.div_ceil(a_chunk), a_chunk }
    }

    fn count(&self) -> CubeCount {
        CubeCount::Static(self.blocks as u32, self.chunks as u32, 1)
    }

    fn dim(&self) -> CubeDim {
        CubeDim::new_2d(COLUMN_CUBE[0], COLUMN_CUBE[1])
    }
}

/// `[chunks, C]` to `[C]`.
fn sum_chunks(partial: CubeTensor) -> CubeTensor {
    let (chunks, width) = (partial.shape()[0], partial.shape()[1]);
    let out = empty(&partial, [width], DType::F32);
    let [columns, lanes] = CHUNK_CUBE;
    // SAFETY: units past the last column touch no memory.
    unsafe {
        chunk_sums::launch_unchecked(
            &partial.client,
            count((width / VECTOR).div_ceil(columns as usize)),
            CubeDim::new_2d(columns, lanes),
            argument(&partial),
            argument(&out),
            chunks as u32,
            (width / VECTOR) as u32,
        );
    }
    out
}

/// Attention of the first queries of each sequence, `[B Q, D]`, and its normalisers `[B H Q]`.
pub(super) fn attention(
    qkv: &CubeTensor,
    bias: &CubeTensor,
    lengths: Lengths,
) -> (CubeTensor, CubeTensor) {
    let Lengths { sequences, tokens, queries, width, heads } = lengths;
    let rows = sequences * heads * queries;
    let out = empty(qkv, [sequences * queries, width], qkv.dtype);
    let normaliser = empty(qkv, [rows], DType::F32);
    let sharing = sharing(&qkv.client, lengths);
    // SAFETY: units past the last row read the last one's and write nothing.
    unsafe {
        kernels::attention_forward::launch_unchecked(
            &qkv.client,
            attention_count(rows, sharing),
            CubeDim::new_1d(UNITS),
            argument(qkv),
            argument(bias),
            argument(&out),
            argument(&normaliser),
            rows as u32,
            tokens as u32,
            queries as u32,
            heads as u32,
            scale(lengths),
            sharing,
            element(qkv.dtype),
        );
    }
    (out, normaliser)
}

/// The gradient at queries, keys and values, `[B T, 3 D]`.
pub(super) fn attention_gradient(
    qkv: &CubeTensor,
    bias: &CubeTensor,
    out: &CubeTensor,
    dout: CubeTensor,
    normaliser: &CubeTensor,
    lengths: Lengths,
) -> CubeTensor {
    let Lengths { sequences, tokens, queries, width, heads } = lengths;
    let dqkv = empty(qkv, [sequences * tokens, 3 * width], qkv.dtype);
    let asked = sequences * heads * queries;
    let delta = empty(qkv, [asked], DType::F32);
    let sharing = sharing(&qkv.client, lengths);
    // SAFETY: as in `attention`; together the two kernels write all of `dqkv`.
    unsafe {
        kernels::attention_backward_queries::launch_unchecked(
            &qkv.client,
            attention_count(asked, sharing),
            CubeDim::new_1d(UNITS),
            argument(qkv),
            argument(bias),
            argument(out),
            argument(&dout),
            argument(normaliser),
            argument(&dqkv),
            argument(&delta),
            asked as u32,
            tokens as u32,
            queries as u32,
            heads as u32,
            scale(lengths),
            sharing,
            element(qkv.dtype),
        );
        let rows = sequences * heads * tokens;
        kernels::attention_backward_keys::launch_unchecked(
            &qkv.client,
            attention_count(rows, sharing),
            CubeDim::new_1d(UNITS),
            argument(qkv),
            argument(bias),
            argument(&dout),
            argument(normaliser),
            argument(&delta),
            argument(&dqkv),
            rows as u32,
            tokens as u32,
            queries as u32,
            heads as u32,
            scale(lengths),
            sharing,
            element(qkv.dtype),
        );
    }
    dqkv
}

fn attention_count(rows: usize, sharing: Sharing) -> CubeCount {
    count((rows * sharing.units).div_ceil(UNITS as usize))
}

/// `1 / sqrt(d)`.
fn scale(lengths: Lengths) -> f32 {
    ((lengths.width / lengths.heads) as f32).sqrt().recip()
}

/// Most units that share a row of attention: four read a whole sector of memory at a time.
const MOST_SHARING: usize = 4;

fn sharing(client: &Client, lengths: Lengths) -> Sharing {
    let vectors = lengths.width / lengths.heads / VECTOR;
    let most = if plane_size(client).is_some() { MOST_SHARING } else { 1 };
    let units = (1 << vectors.trailing_zeros()).min(most);
    Sharing { units, vectors: vectors / units }
}

/// At least that many cubes, in rows that every device's grid can hold.
fn count(cubes: usize) -> CubeCount {
    let lines = cubes.div_ceil(65_535);
    CubeCount::Static(cubes.div_ceil(lines) as u32, lines as u32, 1)
}

/// # Panics
/// If the tensor has gaps: the kernels know none.
fn argument(tensor: &CubeTensor) -> BufferArg {
    assert!(tensor.is_contiguous(), "kernels read contiguous memory, got {tensor:?}");
    tensor.clone().into_buffer_arg()
}

/// In the place of an output that is not written.
fn nothing(like: &CubeTensor) -> CubeTensor {
    empty(like, [VECTOR], DType::F32)
}

fn element(dtype: DType) -> ElemType {
    match dtype {
        DType::F32 => ElemType::Float(FloatKind::F32),
        DType::BF16 => ElemType::Float(FloatKind::BF16),
        other => panic!("activations are F32 or BF16, got {other:?}"),
    }
}
