//! A transformer block on slices: forward, which keeps what backward needs.
//!
//! Sequences are worked on in chunks, one for each thread or more: a chunk goes through the whole
//! block on one thread. Sums over rows are taken within groups of sequences and then over the
//! groups in their order; groups follow from the shapes alone and chunks are whole groups, so that
//! results do not depend on the number of threads.

mod backward;

use rayon::prelude::*;

pub(super) use self::backward::backward;
use super::attention::{self, Heads, Scratch};
use super::epilogue::{Activate, Biased, Gelu, Residual};
use super::gemm::gemm;
use super::math::{buffer, widest};
use super::norm;
use super::view::View;

/// Most rows of a chunk. Fewer make packing the matrices felt: 250 rows ran at 0.85 of the speed of
/// 700.
pub(super) const CHUNK_ROWS: usize = 704;

/// Most rows of a group of several sequences. Fewer would make more sums than rows, more would make
/// chunks uneven.
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

/// Shape of a block's input `[B, T, D]` and output `[B, Q, D]`, its heads and the hidden width of
/// its MLP.
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
    gemm(
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
        gemm(size, x2, weight, sink);
    } else {
        gemm(size, x2, weight, Gelu { out: &mut active, bias });
    }
    let (weight, bias) = (View::rows(p.fc2[0], width), p.fc2[1]);
    gemm(
        [rows, width, hidden],
        View::rows(&active, hidden),
        weight,
        Residual { out, residual: &middle, residual_stride: width, bias },
    );
    let saved =
        Saved { moments1, normed1, qkv, weights, mixed, middle, moments2, normed2, slope, active };
    keep.then_some(saved)
}

/// Rows `[q, k, v]` of all tokens; with a `step` above 1, queries are made of every `step`th row
/// alone.
#[inline(always)]
fn queries_keys_values(x: &[f32], [weight, bias]: [&[f32]; 2], step: usize) -> Vec<f32> {
    let (n, d) = (bias.len(), bias.len() / 3);
    let rows = x.len() / d;
    let (x, w) = (View::rows(x, d), View::rows(weight, n));
    let mut out = buffer(rows * n);
    if step == 1 {
        gemm([rows, n, d], x, w, Biased { out: &mut out, stride: n, bias });
    } else {
        let queries = Biased { out: &mut out, stride: step * n, bias };
        gemm([rows / step, d, d], x.every(step), w, queries);
        let others = Biased { out: &mut out[d..], stride: n, bias: &bias[d..] };
        gemm([rows, 2 * d, d], x, w.columns(d), others);
    }
    out
}
