//! Attention within sequences of ten to a few hundred tokens, forward and backward.
//!
//! At these lengths a head's matrices fit the first-level cache, so that plain loops over vectors
//! beat batched products with their packing and permutations. Queries, keys and values are read in
//! place from the rows `[q, k, v]` that one linear layer makes.

use super::math::{exp_negative, greatest, sum_with};
use super::small::{small_gemm, transpose};
use super::view::View;

/// Shape of one sequence's attention.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) tokens: usize,
    /// The first tokens, whose results are asked for.
    pub(super) queries: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
}

impl Heads {
    fn head(self) -> usize {
        self.width / self.heads
    }

    /// Tokens, rounded up so that rows of scores are whole vectors.
    fn padded(self) -> usize {
        self.tokens.next_multiple_of(16)
    }

    fn scale(self) -> f32 {
        (self.head() as f32).powf(-0.5)
    }

    /// Values of the weights of one sequence: `[H, Q, T]`.
    pub(super) fn weights_len(self) -> usize {
        self.heads * self.queries * self.padded()
    }

    /// Part `part` of head `h` in rows of `3 D`, `[T, d]`.
    fn view(self, rows: &[f32], part: usize, h: usize) -> View<'_> {
        View::rows(rows, 3 * self.width).columns(part * self.width + h * self.head())
    }
}

/// Space for one head, used again for every head.
pub(super) struct Scratch {
    /// Gradients of a head's weights, then of its scores: `[Q, T padded]`.
    dscores: Vec<f32>,
    /// Keys or values, transposed: `[d, T padded]`.
    turned: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(shape: Heads) -> Self {
        let padded = shape.padded();
        Self {
            dscores: vec![0.0; shape.queries * padded],
            turned: vec![0.0; shape.head() * padded],
        }
    }
}

/// One sequence: `out = softmax(q k^T / sqrt(d)) v` for each head and query; the weights `[H, Q,
/// T]` are kept.
#[inline(always)]
pub(super) fn forward(
    shape: Heads,
    qkv: &[f32],
    out: &mut [f32],
    weights: &mut [f32],
    scratch: &mut Scratch,
) {
    let Heads { tokens, queries, width, .. } = shape;
    let (padded, scale, d) = (shape.padded(), shape.scale(), shape.head());
    for (h, weights) in weights.chunks_exact_mut(queries * padded).enumerate() {
        let [q, k, v] = [0, 1, 2].map(|part| shape.view(qkv, part, h));
        // Columns past the last token become zero, too.
        let turned = &mut scratch.turned;
        transpose(turned, padded, [tokens, d], k);
        small_gemm(weights, padded, [queries, padded, d], q, View::rows(turned, padded));
        for row in weights.chunks_exact_mut(padded) {
            row[tokens..].fill(f32::NEG_INFINITY);
            let top = greatest(row);
            for weight in row.iter_mut() {
                *weight = exp_negative((*weight - top) * scale);
            }
            row[tokens..].fill(0.0);
            let share = 1.0 / sum_with(row, row, |v, _| v);
            row.iter_mut().for_each(|weight| *weight *= share);
        }
        let out = &mut out[h * d..];
        small_gemm(out, width, [queries, d, tokens], View::rows(weights, padded), v);
    }
}

/// The gradient of [`forward`] with respect to queries, keys and values, written to `dqkv`.
#[inline(always)]
pub(super) fn backward(
    shape: Heads,
    qkv: &[f32],
    weights: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    scratch: &mut Scratch,
) {
    let Heads { tokens, queries, width, .. } = shape;
    let (padded, scale, d) = (shape.padded(), shape.scale(), shape.head());
    if queries < tokens {
        dqkv.fill(0.0);
    }
    for (h, weights) in weights.chunks_exact(queries * padded).enumerate() {
        let [q, k, v] = [0, 1, 2].map(|part| shape.view(qkv, part, h));
        let dout = View::rows(dout, width).columns(h * d);
        let dscores = &mut scratch.dscores;
        let turned = &mut scratch.turned;
        transpose(turned, padded, [tokens, d], v);
        small_gemm(dscores, padded, [queries, padded, d], dout, View::rows(turned, padded));
        for (row, weights) in dscores.chunks_exact_mut(padded).zip(weights.chunks_exact(padded)) {
            let along = sum_with(weights, row, |w, d| w * d);
            for (dscore, weight) in row.iter_mut().zip(weights) {
                *dscore = weight * (*dscore - along) * scale;
            }
        }
        let (dscores, weights) = (View::rows(dscores, padded), View::rows(weights, padded));
        let at = |part: usize| part * width + h * d;
        small_gemm(&mut dqkv[at(0)..], 3 * width, [queries, d, tokens], dscores, k);
        small_gemm(&mut dqkv[at(1)..], 3 * width, [tokens, d, queries], dscores.transposed(), q);
        small_gemm(&mut dqkv[at(2)..], 3 * width, [tokens, d, queries], weights.transposed(), dout);
    }
}
