//! A transformer block on slices: forward that keeps what backward needs, and backward.
//!
//! Sequences are worked on in chunks, one for each thread or more: a chunk goes through the whole block on
//! one thread. Sums over chunks are taken in their order, so that results depend on the shapes and the
//! number of threads, and on nothing else.

use std::ops::Range;

use rayon::prelude::*;

use super::attention::{self, Heads, Scratch};
use super::math::{
    View, add_bias, buffer, gelu, gelu_slope, product, product_into, simd, sum_rows,
};
use super::norm;

/// Most rows of a chunk. Fewer make packing the matrices felt: 250 rows ran at 0.85 of the speed of 700.
const CHUNK_ROWS: usize = 704;

/// Rows of a weight's gradient that one task makes, at most and at least, for the same reason.
const BAND: std::ops::RangeInclusive<usize> = 96..=384;

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
        self.sequences.div_ceil(rounds * threads)
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
    hidden: Vec<f32>,
    active: Vec<f32>,
}

/// Runs the block; `out` is `[B, Q, D]`.
pub(super) fn forward(shape: Shape, p: Parameters<'_>, x: &[f32], out: &mut [f32]) -> Vec<Saved> {
    let [len, out_len] = shape.chunk_lens();
    x.par_chunks(len)
        .zip(out.par_chunks_mut(out_len))
        .map(|(x, out)| simd(|| chunk_forward(shape, p, x, out)))
        .collect()
}

#[inline(always)]
fn chunk_forward(shape: Shape, p: Parameters<'_>, x: &[f32], out: &mut [f32]) -> Saved {
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
    let mut middle = every_row(x, width, shape.step());
    add_linear(&mut middle, &mixed, p.proj, [rows, width, width]);

    let mut normed2 = buffer(rows * width);
    let moments2 = norm::forward(&middle, p.norm2[0], p.norm2[1], &mut normed2);
    let mut inner = buffer(rows * hidden);
    linear(&mut inner, &normed2, p.fc1, [rows, hidden, width]);
    let mut active = buffer(rows * hidden);
    for (active, inner) in active.iter_mut().zip(&inner) {
        *active = gelu(*inner);
    }
    out.copy_from_slice(&middle);
    add_linear(out, &active, p.fc2, [rows, width, hidden]);
    Saved {
        moments1,
        normed1,
        qkv,
        weights,
        mixed,
        middle,
        moments2,
        normed2,
        hidden: inner,
        active,
    }
}

/// Rows `[q, k, v]` of all tokens; with a `step` above 1, queries are made of every `step`th row alone.
#[inline(always)]
fn queries_keys_values(x: &[f32], [weight, bias]: [&[f32]; 2], step: usize) -> Vec<f32> {
    let (n, d) = (bias.len(), bias.len() / 3);
    let rows = x.len() / d;
    let (x, w) = (View::rows(x, d), View::rows(weight, n));
    let mut out;
    if step == 1 {
        out = buffer(rows * n);
        product(&mut out, false, [rows, n, d], x, w);
    } else {
        out = vec![0.0; rows * n];
        product_into(&mut out, step * n, false, [rows / step, d, d], x.every(step), w);
        product_into(&mut out[d..], n, false, [rows, 2 * d, d], x, w.columns(d));
    }
    add_bias(&mut out, bias);
    out
}

/// Every `step`th of the rows of `d` values, from the first.
fn every_row(x: &[f32], d: usize, step: usize) -> Vec<f32> {
    if step == 1 {
        x.to_vec()
    } else {
        x.chunks_exact(step * d).flat_map(|x| &x[..d]).copied().collect()
    }
}

/// `out = x W + b`.
#[inline(always)]
fn linear(out: &mut [f32], x: &[f32], [weight, bias]: [&[f32]; 2], [m, n, k]: [usize; 3]) {
    product(out, false, [m, n, k], View::rows(x, k), View::rows(weight, n));
    add_bias(out, bias);
}

/// `out += x W + b`.
#[inline(always)]
fn add_linear(out: &mut [f32], x: &[f32], [weight, bias]: [&[f32]; 2], [m, n, k]: [usize; 3]) {
    product(out, true, [m, n, k], View::rows(x, k), View::rows(weight, n));
    add_bias(out, bias);
}

/// Gradients of the parameters, in the order of [`Parameters`], weight before bias.
pub(super) type Gradients = [Vec<f32>; 12];

/// Gradients of a chunk's intermediate values, from which those of the matrices follow.
struct Flow {
    dqkv: Vec<f32>,
    dmiddle: Vec<f32>,
    dhidden: Vec<f32>,
    vectors: Vec<Vec<f32>>,
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
        .map(|(((x, saved), dout), dx)| simd(|| chunk_backward(shape, p, x, saved, dout, dx)))
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

    // Sums over chunks in their order.
    let mut vectors = flows[0].vectors.clone();
    for flow in &flows[1..] {
        for (sum, part) in vectors.iter_mut().zip(&flow.vectors) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    let mut vector = vectors.into_iter();
    let mut next = || vector.next().unwrap_or_default();
    [next(), next(), qkv, next(), proj, next(), next(), next(), fc1, next(), fc2, next()]
}

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
    let zeros = |len: usize| vec![0.0; len];
    let (mut dw1, mut db1, mut dbqkv, mut dbproj) = (zeros(d), zeros(d), zeros(3 * d), zeros(d));
    let (mut dw2, mut db2, mut dbfc1, mut dbfc2) = (zeros(d), zeros(d), zeros(hidden), zeros(d));

    // MLP: out = middle + fc2(gelu(fc1(norm2(middle)))).
    let mut dhidden = buffer(rows * hidden);
    product(
        &mut dhidden,
        false,
        [rows, hidden, d],
        View::rows(dout, d),
        View::rows(p.fc2[0], d).transposed(),
    );
    sum_rows(dout, &mut dbfc2);
    for (slope, inner) in dhidden.iter_mut().zip(&saved.hidden) {
        *slope *= gelu_slope(*inner);
    }
    sum_rows(&dhidden, &mut dbfc1);
    let mut dnormed = buffer(rows * d);
    product(
        &mut dnormed,
        false,
        [rows, d, hidden],
        View::rows(&dhidden, hidden),
        View::rows(p.fc1[0], hidden).transposed(),
    );
    let mut dmiddle = dout.to_vec();
    norm::backward(
        &saved.middle,
        &saved.moments2,
        p.norm2[0],
        &dnormed,
        &mut dmiddle,
        &mut dw2,
        &mut db2,
    );

    // Attention: middle = x + proj(attention(qkv(norm1(x)))).
    let mut dmixed = buffer(rows * d);
    product(
        &mut dmixed,
        false,
        [rows, d, d],
        View::rows(&dmiddle, d),
        View::rows(p.proj[0], d).transposed(),
    );
    sum_rows(&dmiddle, &mut dbproj);
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
    sum_rows(&dqkv, &mut dbqkv);
    let (dy, w) = (View::rows(&dqkv, 3 * d), View::rows(p.qkv[0], 3 * d));
    if step == 1 {
        product(&mut dnormed, false, [rows, d, 3 * d], dy, w.transposed());
        dx.copy_from_slice(&dmiddle);
    } else {
        dnormed = buffer(rows * d);
        let (keys, queries) = (dy.columns(d), dy.every(step));
        product(&mut dnormed, false, [rows, d, 2 * d], keys, w.columns(d).transposed());
        product_into(&mut dnormed, step * d, true, [rows / step, d, d], queries, w.transposed());
        dx.fill(0.0);
        for (dx, dmiddle) in dx.chunks_exact_mut(step * d).zip(dmiddle.chunks_exact(d)) {
            dx[..d].copy_from_slice(dmiddle);
        }
    }
    norm::backward(x, &saved.moments1, p.norm1[0], &dnormed, dx, &mut dw1, &mut db1);

    let vectors = vec![dw1, db1, dbqkv, dbproj, dw2, db2, dbfc1, dbfc2];
    Flow { dqkv, dmiddle, dhidden, vectors }
}

/// `sum over chunks of x^T dy`, `[inputs, outputs]`: the gradient of a linear layer's weight.
struct Outer<'a> {
    inputs: usize,
    outputs: usize,
    parts: Vec<Part<'a>>,
}

/// Some columns of an [`Outer`], to which every `step`th row of the chunks contributes.
struct Part<'a> {
    columns: Range<usize>,
    step: usize,
    chunks: Vec<(&'a [f32], &'a [f32])>,
}

impl<'a> Outer<'a> {
    fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, parts: vec![] }
    }

    fn add(&mut self, columns: Range<usize>, step: usize, chunks: Vec<(&'a [f32], &'a [f32])>) {
        self.parts.push(Part { columns, step, chunks });
    }

    /// Rows `first..` of the gradient, as many as `out` holds.
    fn rows(&self, first: usize, out: &mut [f32]) {
        let rows = out.len() / self.outputs;
        for Part { columns, step, chunks } in &self.parts {
            for (chunk, (x, dy)) in chunks.iter().enumerate() {
                let size = [rows, columns.len(), x.len() / self.inputs / step];
                let x = View::rows(&x[first..], self.inputs).every(*step).transposed();
                let dy = View::rows(dy, self.outputs).every(*step).columns(columns.start);
                product_into(&mut out[columns.start..], self.outputs, chunk > 0, size, x, dy);
            }
        }
    }
}

/// The gradients of all matrices, in bands of rows that the threads share.
fn weight_gradients(outers: [Outer<'_>; 4]) -> [Vec<f32>; 4] {
    let mut gradients = outers.each_ref().map(|outer| buffer(outer.inputs * outer.outputs));
    let mut tasks = vec![];
    for (outer, gradient) in outers.iter().zip(&mut gradients) {
        let share = 2 * outer.inputs / rayon::current_num_threads();
        let band = share.clamp(*BAND.start(), *BAND.end());
        for (i, rows) in gradient.chunks_mut(band * outer.outputs).enumerate() {
            tasks.push((outer, i * band, rows));
        }
    }
    tasks.into_par_iter().for_each(|(outer, first, rows)| outer.rows(first, rows));
    gradients
}
