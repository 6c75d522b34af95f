//! Softmax attention over short sequences, and its gradient, without a matrix of scores in memory.
//!
//! A few neighbouring units share a query (or a key): each holds some of a head's channels in
//! registers, reads those of the other tokens from the cache, and adds its part of a dot product to
//! the others'. Their channels alternate, so that together they read whole sectors of memory. Where
//! planes cannot shuffle, one unit holds all. A bias of the keys adds one number to all scores of a
//! query, which softmax does not see: it is left out.

use cubecl::prelude::*;

/// How a head's channels lie in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sharing {
    /// Units that share a row: 1, 2 or 4.
    pub(super) units: usize,
    /// Vectors of four channels that each holds.
    pub(super) vectors: usize,
}

/// The sum over a row's units.
#[cube]
fn row_sum(own: Vector<f32, Const<4>>, #[comptime] sharing: Sharing) -> f32 {
    let mut sum = own.vector_sum();
    if comptime!(sharing.units > 1) {
        sum += plane_shuffle_xor(sum, 1);
    }
    if comptime!(sharing.units > 2) {
        sum += plane_shuffle_xor(sum, 2);
    }
    sum
}

/// Where the unit's row stands: its token, its first channel (in vectors), its sequence, and which
/// of the row's units it is.
#[cube]
fn place(
    row: u32,
    a_sequence: u32,
    heads: u32,
    #[comptime] sharing: Sharing,
) -> (u32, usize, u32, usize) {
    let token = row % a_sequence;
    let head = (row / a_sequence) % heads;
    let part = ABSOLUTE_POS % sharing.units;
    let channel = head as usize * comptime!(sharing.units * sharing.vectors) + part;
    (token, channel, row / (a_sequence * heads), part)
}

/// `out = softmax((q + b_q) scale . k) (v + b_v)`.
///
/// `qkv` `[B, T, 3, D]`, `bias` `[3, D]`, `out` `[B, Q, D]`; `normaliser` `[B, H, Q]`: the
/// logarithm of each query's sum of exponentials. `rows` is `B H Q`.
#[cube(launch_unchecked)]
pub(super) fn attention_forward<F: Float>(
    qkv: &[Vector<F, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    out: &mut [Vector<F, Const<4>>],
    normaliser: &mut [f32],
    rows: u32,
    tokens: u32,
    queries: u32,
    heads: u32,
    scale: f32,
    #[comptime] sharing: Sharing,
    #[define(F)] _dtype: ElemType,
) {
    let own_row = (ABSOLUTE_POS / sharing.units) as u32;
    // A unit past the end works on the last row: the shuffles need all units of a plane.
    let mut row = own_row;
    if row >= rows {
        row = rows - 1;
    }
    let (query, channel, sequence, part) = place(row, queries, heads, sharing);
    let share = comptime!(sharing.vectors);
    let units = comptime!(sharing.units);
    let width = heads as usize * comptime!(sharing.units * sharing.vectors);
    let first = sequence as usize * tokens as usize * (3 * width) + channel;

    let mut q = Array::<Vector<f32, Const<4>>>::new(share);
    let mut mixed = Array::<Vector<f32, Const<4>>>::new(share);
    let at = first + query as usize * (3 * width);
    #[unroll]
    for i in 0..share {
        let value: Vector<f32, Const<4>> = Vector::cast_from(qkv[at + i * units]);
        q[i] = (value + bias[channel + i * units]) * Vector::new(scale);
        mixed[i] = Vector::new(0.0);
    }
    let mut top = f32::new(-1e30);
    let mut total = f32::new(0.0);
    for key in 0..tokens {
        let at = first + key as usize * (3 * width) + width;
        let mut dot = Vector::<f32, Const<4>>::new(0.0);
        #[unroll]
        for i in 0..share {
            let k: Vector<f32, Const<4>> = Vector::cast_from(qkv[at + i * units]);
            dot += q[i] * k;
        }
        let score = row_sum(dot, sharing);
        let mut higher = top;
        if score > top {
            higher = score;
        }
        let shrink = f32::exp(top - higher);
        let p = f32::exp(score - higher);
        total = total * shrink + p;
        top = higher;
        #[unroll]
        for i in 0..share {
            let v: Vector<f32, Const<4>> = Vector::cast_from(qkv[at + width + i * units]);
            mixed[i] = mixed[i] * Vector::new(shrink) + v * Vector::new(p);
        }
    }
    if own_row < rows {
        let to = (sequence as usize * queries as usize + query as usize) * width + channel;
        #[unroll]
        for i in 0..share {
            let value = mixed[i] * Vector::new(1.0 / total) + bias[2 * width + channel + i * units];
            out[to + i * units] = Vector::cast_from(value);
        }
        if part == 0 {
            normaliser[row as usize] = top + f32::ln(total);
        }
    }
}

/// The gradient at the queries, `[B, Q, D]` of `dqkv` `[B, T, 3, D]`, and `delta` `[B, H, Q]`, the
/// mean of the scores' gradients under each query's softmax, which [`attention_backward_keys`]
/// needs.
#[cube(launch_unchecked)]
pub(super) fn attention_backward_queries<F: Float>(
    qkv: &[Vector<F, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    out: &[Vector<F, Const<4>>],
    dout: &[Vector<F, Const<4>>],
    normaliser: &[f32],
    dqkv: &mut [Vector<F, Const<4>>],
    delta: &mut [f32],
    rows: u32,
    tokens: u32,
    queries: u32,
    heads: u32,
    scale: f32,
    #[comptime] sharing: Sharing,
    #[define(F)] _dtype: ElemType,
) {
    let own_row = (ABSOLUTE_POS / sharing.units) as u32;
    let mut row = own_row;
    if row >= rows {
        row = rows - 1;
    }
    let (query, channel, sequence, part) = place(row, queries, heads, sharing);
    let share = comptime!(sharing.vectors);
    let units = comptime!(sharing.units);
    let width = heads as usize * comptime!(sharing.units * sharing.vectors);
    let first = sequence as usize * tokens as usize * (3 * width) + channel;
    let own = first + query as usize * (3 * width);
    let from = (sequence as usize * queries as usize + query as usize) * width + channel;

    let mut q = Array::<Vector<f32, Const<4>>>::new(share);
    let mut d = Array::<Vector<f32, Const<4>>>::new(share);
    let mut dq = Array::<Vector<f32, Const<4>>>::new(share);
    let mut dot = Vector::<f32, Const<4>>::new(0.0);
    #[unroll]
    for i in 0..share {
        let value: Vector<f32, Const<4>> = Vector::cast_from(qkv[own + i * units]);
        q[i] = (value + bias[channel + i * units]) * Vector::new(scale);
        d[i] = Vector::cast_from(dout[from + i * units]);
        dq[i] = Vector::new(0.0);
        let o: Vector<f32, Const<4>> = Vector::cast_from(out[from + i * units]);
        dot += d[i] * (o - bias[2 * width + channel + i * units]);
    }
    let mean = row_sum(dot, sharing);
    let normal = normaliser[row as usize];
    for key in 0..tokens {
        let at = first + key as usize * (3 * width) + width;
        let mut k = Array::<Vector<f32, Const<4>>>::new(share);
        let mut of_k = Vector::<f32, Const<4>>::new(0.0);
        let mut of_v = Vector::<f32, Const<4>>::new(0.0);
        #[unroll]
        for i in 0..share {
            k[i] = Vector::cast_from(qkv[at + i * units]);
            let v: Vector<f32, Const<4>> = Vector::cast_from(qkv[at + width + i * units]);
            of_k += q[i] * k[i];
            of_v += d[i] * v;
        }
        let p = f32::exp(row_sum(of_k, sharing) - normal);
        let slope = p * (row_sum(of_v, sharing) - mean);
        #[unroll]
        for i in 0..share {
            dq[i] += k[i] * Vector::new(slope);
        }
    }
    if own_row < rows {
        #[unroll]
        for i in 0..share {
            dqkv[own + i * units] = Vector::cast_from(dq[i] * Vector::new(scale));
        }
        if part == 0 {
            delta[row as usize] = mean;
        }
    }
}

/// The gradients at keys and values, and zeros at the queries that nobody asked; `rows` is `B H T`.
#[cube(launch_unchecked)]
pub(super) fn attention_backward_keys<F: Float>(
    qkv: &[Vector<F, Const<4>>],
    bias: &[Vector<f32, Const<4>>],
    dout: &[Vector<F, Const<4>>],
    normaliser: &[f32],
    delta: &[f32],
    dqkv: &mut [Vector<F, Const<4>>],
    rows: u32,
    tokens: u32,
    queries: u32,
    heads: u32,
    scale: f32,
    #[comptime] sharing: Sharing,
    #[define(F)] _dtype: ElemType,
) {
    let own_row = (ABSOLUTE_POS / sharing.units) as u32;
    let mut row = own_row;
    if row >= rows {
        row = rows - 1;
    }
    let (key, channel, sequence, _) = place(row, tokens, heads, sharing);
    let share = comptime!(sharing.vectors);
    let units = comptime!(sharing.units);
    let width = heads as usize * comptime!(sharing.units * sharing.vectors);
    let first = sequence as usize * tokens as usize * (3 * width) + channel;
    let own = first + key as usize * (3 * width);
    let of_head = (row / tokens * queries) as usize;

    let mut k = Array::<Vector<f32, Const<4>>>::new(share);
    let mut v = Array::<Vector<f32, Const<4>>>::new(share);
    let mut dk = Array::<Vector<f32, Const<4>>>::new(share);
    let mut dv = Array::<Vector<f32, Const<4>>>::new(share);
    let mut of_bias = Vector::<f32, Const<4>>::new(0.0);
    #[unroll]
    for i in 0..share {
        let value: Vector<f32, Const<4>> = Vector::cast_from(qkv[own + width + i * units]);
        k[i] = value * Vector::new(scale);
        v[i] = Vector::cast_from(qkv[own + 2 * width + i * units]);
        dk[i] = Vector::new(0.0);
        dv[i] = Vector::new(0.0);
        of_bias += bias[channel + i * units] * k[i];
    }
    // What the bias of the queries adds to every score of this key.
    let shift = row_sum(of_bias, sharing);
    let mut slopes = f32::new(0.0);
    for query in 0..queries {
        let at = first + query as usize * (3 * width);
        let from = (sequence as usize * queries as usize + query as usize) * width + channel;
        let mut q = Array::<Vector<f32, Const<4>>>::new(share);
        let mut d = Array::<Vector<f32, Const<4>>>::new(share);
        let mut of_q = Vector::<f32, Const<4>>::new(0.0);
        let mut of_d = Vector::<f32, Const<4>>::new(0.0);
        #[unroll]
        for i in 0..share {
            q[i] = Vector::cast_from(qkv[at + i * units]);
            d[i] = Vector::cast_from(dout[from + i * units]);
            of_q += q[i] * k[i];
            of_d += d[i] * v[i];
        }
        let score = row_sum(of_q, sharing) + shift;
        let p = f32::exp(score - normaliser[of_head + query as usize]);
        let slope = p * (row_sum(of_d, sharing) - delta[of_head + query as usize]);
        slopes += slope;
        #[unroll]
        for i in 0..share {
            dv[i] += d[i] * Vector::new(p);
            dk[i] += q[i] * Vector::new(slope);
        }
    }
    if own_row < rows {
        #[unroll]
        for i in 0..share {
            let all = dk[i] + bias[channel + i * units] * Vector::new(slopes);
            dqkv[own + width + i * units] = Vector::cast_from(all * Vector::new(scale));
            dqkv[own + 2 * width + i * units] = Vector::cast_from(dv[i]);
        }
        if key >= queries {
            #[unroll]
            for i in 0..share {
                dqkv[own + i * units] = Vector::cast_from(Vector::<f32, Const<4>>::new(0.0));
            }
        }
    }
}
