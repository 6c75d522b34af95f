//! A transformer block on slices: forward that keeps what backward needs, and backward.
//!
//! Sequences are worked on in chunks, one for each thread or more: a chunk goes through the whole block on
//! one thread. Sums over rows are taken within groups of sequences and then over the groups in their order;
//! groups follow from the shapes alone and chunks are whole groups, so that results do not depend on the
//! number of threads.

use rayon::prelude::*;

use super::attention::{self, Heads, Scratch};
use super::finish::{Activate, AddTo, Biased, Gelu, Residual, Slope, Store};
use super::gradients::{Outer, weight_gradients};
use super::math::{buffer, sum_groups, sum_rows, widest};
use super::norm;
use super::product::{View, product};

/// Most rows of a chunk. Fewer make packing the matrices felt: 250 rows ran at 0.85 of the speed of 700.
pub(super) const CHUNK_ROWS: usize = 704;

/// Most rows of a group of several sequences. Fewer would make more sums than rows, more would make chunks
/// uneven.
pub(super) const GROUP_ROWS: usize = 64;

/// Parameters of a block in timm's order; matrices `[inputs, outputs]`.
#[derive(Clone, Copy)]
pub(super) struct Parameters<'a> {
    pub(super) norm1: [&'a [f32]; 2],
    pub(super) qkv: [&'a [f32]; 2],
    pub(super) proj: [&'a [f32]; 2],
    pub(super) norm2: [&'a [f32]; 2],
    pub(super) fc1: [&'a [f32]; 2],
    pub(super) fc2: [&'a [f32]; 2],
}

/// Shape of a block's input `[B, T, D]` and output `[B, Q, D]`, its heads and the hidden width of its MLP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    /// Tokens that come out: all, or the first alone.
    pub(super) queries: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) hidden: usize,
}

impl Shape {
    fn chunk_sequences(self) -> usize {
        let threads = rayon::current_num_threads();
        let rounds = (self.sequences * self.tokens).div_ceil(CHUNK_ROWS * threads);
        self.sequences.div_ceil(rounds * threads).next_multiple_of(self.group())
    }

    /// Sequences of a group: a power of two, as batches mostly are.
    fn group(self) -> usize {
        1 << (GROUP_ROWS / self.tokens).max(1).ilog2()
    }

    /// Values of a chunk's input and of its output.
    fn chunk_lens(self) -> [usize; 2] {
        [self.tokens, self.queries].map(|rows| self.chunk_sequences() * rows * self.width)
    }

    /// Rows of the input from one that comes out to the next.
    fn step(self) -> usize {
        assert!([1, self.tokens].contains(&self.queries), "one query or all, not {}", self.queries);
        self.tokens / self.queries
    }

    fn attention(self) -> Heads {
        let Self { tokens, queries, heads, width, .. } = self;
        Heads { tokens, queries, heads, width }
    }
}

/// What backward needs of a chunk.
pub(super) struct Saved {
    moments1: norm::Moments,
    normed1: Vec<f32>,
    qkv: Vec<f32>,
    weights: Vec<f32>,
    mixed: Vec<f32>,
    middle: Vec<f32>,
    moments2: norm::Moments,
    normed2: Vec<f32>,
    slope: Vec<f32>,
    active: Vec<f32>,
}

/// Runs the block; `out` is `[B, Q, D]`. Keeps what [`backward`] needs if it is to be called.
pub(super) fn forward(
    shape: Shape,
    p: Parameters<'_>,
    x: &[f32],
    out: &mut [f32],
    keep: bool,
) -> Vec<Saved> {
    let [len, out_len] = shape.chunk_lens();
    x.par_chunks(len)
        .zip(out.par_chunks_mut(out_len))
        .filter_map(|(x, out)| wide_forward(shape, p, x, out, keep))
        .collect()
}

widest!(
    fn wide_forward(
        shape: Shape,
        p: Parameters<'_>,
        x: &[f32],
        out: &mut [f32],
        keep: bool,
    ) -> Option<Saved> = chunk_forward
);

#[inline(always)]
fn chunk_forward(
    shape: Shape,
    p: Parameters<'_>,
    x: &[f32],
    out: &mut [f32],
    keep: bool,
) -> Option<Saved> {
    let Shape { tokens, queries, width, hidden, .. } = shape;
    let rows = x.len() / width;
    let heads = shape.attention();

    let mut normed1 = buffer(rows * width);
    let moments1 = norm::forward(x, p.norm1[0], p.norm1[1], &mut normed1);
    let qkv = queries_keys_values(&normed1, p.qkv, shape.step());

    let rows = rows / shape.step(); // from here on those that come out
    let mut mixed = buffer(rows * width);
    let mut weights = buffer(rows / queries * heads.weights_len());
    let mut scratch = Scratch::new(heads);
    for ((qkv, mixed), weights) in qkv
        .chunks_exact(tokens * 3 * width)
        .zip(mixed.chunks_exact_mut(queries * width))
        .zip(weights.chunks_exact_mut(heads.weights_len()))
    {
        attention::forward(heads, qkv, mixed, weights, &mut scratch);
    }
    // Bias, residual and GELU are applied while a product's sums are at hand.
    let mut middle = buffer(rows * width);
    let (weight, bias) = (View::rows(p.proj[0], width), p.proj[1]);
    product(
        [rows, width, width],
        View::rows(&mixed, width),
        weight,
        Residual { out: &mut middle, residual: x, residual_stride: shape.step() * width, bias },
    );

    let mut normed2 = buffer(rows * width);
    let moments2 = norm::forward(&middle, p.norm2[0], p.norm2[1], &mut normed2);
    // Only a backward pass asks for the slope.
    let mut slope = buffer(if keep { rows * hidden } else { 0 });
    let mut active = buffer(rows * hidden);
    let (weight, bias) = (View::rows(p.fc1[0], hidden), p.fc1[1]);
    let (size, x2) = ([rows, hidden, width], View::rows(&normed2, width));
    if keep {
        let sink = Activate { active: &mut active, slope: &mut slope, bias };
        product(size, x2, weight, sink);
    } else {
        product(size, x2, weight, Gelu { out: &mut active, bias });
    }
    let (weight, bias) = (View::rows(p.fc2[0], width), p.fc2[1]);
    product(
        [rows, width, hidden],
        View::rows(&active, hidden),
        weight,
        Residual { out, residual: &middle, residual_stride: width, bias },
    );
    let saved =
        Saved { moments1, normed1, qkv, weights, mixed, middle, moments2, normed2, slope, active };
    keep.then_some(saved)
}

/// Rows `[q, k, v]` of all tokens; with a `step` above 1, queries are made of every `step`th row alone.
#[inline(always)]
fn queries_keys_values(x: &[f32], [weight, bias]: [&[f32]; 2], step: usize) -> Vec<f32> {
    let (n, d) = (bias.len(), bias.len() / 3);
    let rows = x.len() / d;
    let (x, w) = (View::rows(x, d), View::rows(weight, n));
    let mut out = buffer(rows * n);
    if step == 1 {
        product([rows, n, d], x, w, Biased { out: &mut out, stride: n, bias });
    } else {
        let queries = Biased { out: &mut out, stride: step * n, bias };
        product([rows / step, d, d], x.every(step), w, queries);
        let others = Biased { out: &mut out[d..], stride: n, bias: &bias[d..] };
        product([rows, 2 * d, d], x, w.columns(d), others);
    }
    out
}

/// Gradients of the parameters, in the order of [`Parameters`], weight before bias.
pub(super) type Gradients = [Vec<f32>; 12];

/// Gradients of a chunk's intermediate values, from which those of the matrices follow.
struct Flow {
    dqkv: Vec<f32>,
    dmiddle: Vec<f32>,
    dhidden: Vec<f32>,
    /// Of norms and biases: a sum for each group.
    vectors: [Vec<f32>; 8],
}

/// The gradient with respect to the input, written to `dx`, and those of the parameters.
pub(super) fn backward(
    shape: Shape,
    p: Parameters<'_>,
    x: &[f32],
    saved: &[Saved],
    dout: &[f32],
    dx: &mut [f32],
) -> Gradients {
    let ([len, out_len], d, hidden) = (shape.chunk_lens(), shape.width, shape.hidden);
    let flows: Vec<Flow> = x
        .par_chunks(len)
        .zip(saved)
        .zip(dout.par_chunks(out_len))
        .zip(dx.par_chunks_mut(len))
        .map(|(((x, saved), dout), dx)| wide_backward(shape, p, x, saved, dout, dx))
        .collect();

    let each = || saved.iter().zip(&flows);
    let whole = |inputs, outputs, chunks| {
        let mut outer = Outer::new(inputs, outputs);
        outer.add(0..outputs, 1, chunks);
        outer
    };
    let step = shape.step();
    let mut qkv = Outer::new(d, 3 * d);
    let normed: Vec<_> = each().map(|(s, f)| (&s.normed1[..], &f.dqkv[..])).collect();
    if step == 1 {
        qkv.add(0..3 * d, 1, normed);
    } else {
        qkv.add(0..d, step, normed.clone());
        qkv.add(d..3 * d, 1, normed);
    }
    let [qkv, proj, fc1, fc2] = weight_gradients([
        qkv,
        whole(d, d, each().map(|(s, f)| (&s.mixed[..], &f.dmiddle[..])).collect()),
        whole(d, hidden, each().map(|(s, f)| (&s.normed2[..], &f.dhidden[..])).collect()),
        whole(hidden, d, saved.iter().map(|s| &s.active[..]).zip(dout.chunks(out_len)).collect()),
    ]);

    let vector = |i: usize, len: usize| {
        let mut sum = vec![0.0; len];
        flows.iter().for_each(|flow| add_rows(&flow.vectors[i], &mut sum));
        sum
    };
    let (dw1, db1, dbqkv, dbproj) = (vector(0, d), vector(1, d), vector(2, 3 * d), vector(3, d));
    let (dw2, db2, dbfc1, dbfc2) = (vector(4, d), vector(5, d), vector(6, hidden), vector(7, d));
    [dw1, db1, qkv, dbqkv, proj, dbproj, dw2, db2, fc1, dbfc1, fc2, dbfc2]
}

widest!(pub(super) fn add_rows(rows: &[f32], sums: &mut [f32]) -> () = sum_rows);

widest!(
    fn wide_backward(
        shape: Shape,
        p: Parameters<'_>,
        x: &[f32],
        saved: &Saved,
        dout: &[f32],
        dx: &mut [f32],
    ) -> Flow = chunk_backward
);

#[inline(always)]
fn chunk_backward(
    shape: Shape,
    p: Parameters<'_>,
    x: &[f32],
    saved: &Saved,
    dout: &[f32],
    dx: &mut [f32],
) -> Flow {
    let Shape { tokens, queries, width: d, hidden, .. } = shape;
    let rows = dout.len() / d;
    let heads = shape.attention();
    let (group_in, group_out) = (shape.group() * tokens, shape.group() * queries); // rows of a group
    let groups = rows.div_ceil(group_out);
    let zeros = |len: usize| vec![0.0; groups * len];
    let (mut dw1, mut db1, mut dbqkv, mut dbproj) = (zeros(d), zeros(d), zeros(3 * d), zeros(d));
    let (mut dw2, mut db2, mut dbfc1, mut dbfc2) = (zeros(d), zeros(d), zeros(hidden), zeros(d));

    // MLP: out = middle + fc2(gelu(fc1(norm2(middle)))).
    let mut dhidden = buffer(rows * hidden);
    // Divisions for every few values would be felt.
    let starts: Vec<usize> = (0..rows).map(|row| row / group_out * hidden).collect();
    let weight = View::rows(p.fc2[0], d).transposed();
    product(
        [rows, hidden, d],
        View::rows(dout, d),
        weight,
        Slope {
            out: &mut dhidden,
            slope: &saved.slope,
            width: hidden,
            totals: &mut dbfc1,
            starts: &starts,
        },
    );
    sum_groups(dout, group_out, &mut dbfc2, d);
    let mut dnormed = buffer(rows * d);
    let weight = View::rows(p.fc1[0], hidden).transposed();
    product(
        [rows, d, hidden],
        View::rows(&dhidden, hidden),
        weight,
        Store { out: &mut dnormed, stride: d },
    );
    let mut dmiddle = dout.to_vec();
    norm::backward(
        &saved.middle,
        &saved.moments2,
        p.norm2[0],
        &dnormed,
        &mut dmiddle,
        [&mut dw2, &mut db2],
        group_out,
    );

    // Attention: middle = x + proj(attention(qkv(norm1(x)))).
    let mut dmixed = buffer(rows * d);
    let weight = View::rows(p.proj[0], d).transposed();
    product([rows, d, d], View::rows(&dmiddle, d), weight, Store { out: &mut dmixed, stride: d });
    sum_groups(&dmiddle, group_out, &mut dbproj, d);
    let (rows, step) = (x.len() / d, shape.step()); // all tokens again
    let mut dqkv = buffer(rows * 3 * d);
    let mut scratch = Scratch::new(heads);
    for (((qkv, weights), dmixed), dqkv) in saved
        .qkv
        .chunks_exact(tokens * 3 * d)
        .zip(saved.weights.chunks_exact(heads.weights_len()))
        .zip(dmixed.chunks_exact(queries * d))
        .zip(dqkv.chunks_exact_mut(tokens * 3 * d))
    {
        attention::backward(heads, qkv, weights, dmixed, dqkv, &mut scratch);
    }
    sum_groups(&dqkv, group_in, &mut dbqkv, 3 * d);
    let (dy, w) = (View::rows(&dqkv, 3 * d), View::rows(p.qkv[0], 3 * d));
    dnormed.resize(rows * d, 0.0);
    if step == 1 {
        product([rows, d, 3 * d], dy, w.transposed(), Store { out: &mut dnormed, stride: d });
        dx.copy_from_slice(&dmiddle);
    } else {
        product(
            [rows, d, 2 * d],
            dy.columns(d),
            w.columns(d).transposed(),
            Store { out: &mut dnormed, stride: d },
        );
        product(
            [rows / step, d, d],
            dy.every(step),
            w.transposed(),
            AddTo { out: &mut dnormed, stride: step * d },
        );
        dx.fill(0.0);
        for (dx, dmiddle) in dx.chunks_exact_mut(step * d).zip(dmiddle.chunks_exact(d)) {
            dx[..d].copy_from_slice(dmiddle);
        }
    }
    let sums = [&mut dw1[..], &mut db1];
    norm::backward(x, &saved.moments1, p.norm1[0], &dnormed, dx, sums, group_in);

    let vectors = [dw1, db1, dbqkv, dbproj, dw2, db2, dbfc1, dbfc2];
    Flow { dqkv, dmiddle, dhidden, vectors }
}
