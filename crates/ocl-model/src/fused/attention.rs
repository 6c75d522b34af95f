//! Attention within sequences of ten to a few hundred tokens, forward and backward.
//!
//! At these lengths a head's matrices fit the first-level cache, so that plain loops over vectors beat
//! batched products with their packing and permutations. Queries, keys and values are read in place from
//! the rows `[q, k, v]` that one linear layer makes.

use super::math::{axpy, exp_negative, sum_with};

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

    /// Row `t` of part `part` (0 queries, 1 keys, 2 values) of head `h` in rows of `3 D`.
    fn at(self, part: usize, h: usize, t: usize) -> std::ops::Range<usize> {
        let start = t * 3 * self.width + part * self.width + h * self.head();
        start..start + self.head()
    }

    /// Row `t` of head `h` in rows of `D`.
    fn out(self, h: usize, t: usize) -> std::ops::Range<usize> {
        let start = t * self.width + h * self.head();
        start..start + self.head()
    }

    /// Values of the weights of one sequence: `[H, Q, T]`.
    pub(super) fn weights_len(self) -> usize {
        self.heads * self.queries * self.tokens
    }
}

/// Space for one head, used again for every head.
pub(super) struct Scratch {
    /// Keys or values of a head, transposed: `[d, T padded]`.
    turned: Vec<f32>,
    /// A row of scores.
    row: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(shape: Heads) -> Self {
        let padded = shape.padded();
        Self { turned: vec![0.0; shape.head() * padded], row: vec![0.0; padded] }
    }

    #[inline(always)]
    fn turn(&mut self, shape: Heads, qkv: &[f32], part: usize, h: usize) {
        let padded = shape.padded();
        for t in 0..shape.tokens {
            for (d, value) in qkv[shape.at(part, h, t)].iter().enumerate() {
                self.turned[d * padded + t] = *value;
            }
        }
    }

    /// `row[t] = sum_d x[d] turned[d, t]`, a vector of results at a time in a register.
    #[inline(always)]
    fn project(&mut self, x: &[f32]) {
        let padded = self.row.len();
        for (i, row) in self.row.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut sums = [0.0; 16];
            for (x, turned) in x.iter().zip(self.turned.chunks_exact(padded)) {
                let turned = &turned.as_chunks::<16>().0[i];
                for (sum, turned) in sums.iter_mut().zip(turned) {
                    *sum += x * turned;
                }
            }
            *row = sums;
        }
    }
}

/// One sequence: `out = softmax(q k^T / sqrt(d)) v` for each head and query; the weights `[H, Q, T]`
/// are kept.
#[inline(always)]
pub(super) fn forward(
    shape: Heads,
    qkv: &[f32],
    out: &mut [f32],
    weights: &mut [f32],
    scratch: &mut Scratch,
) {
    let (tokens, scale) = (shape.tokens, shape.scale());
    for h in 0..shape.heads {
        scratch.turn(shape, qkv, 1, h);
        for i in 0..shape.queries {
            scratch.project(&qkv[shape.at(0, h, i)]);
            let row = &mut weights[(h * shape.queries + i) * tokens..][..tokens];
            let top = scratch.row[..tokens].iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            for (weight, score) in row.iter_mut().zip(&scratch.row) {
                *weight = exp_negative((score - top) * scale);
            }
            let total = sum_with(row, row, |v, _| v);
            let out = &mut out[shape.out(h, i)];
            out.fill(0.0);
            for (j, weight) in row.iter_mut().enumerate() {
                *weight /= total;
                axpy(out, *weight, &qkv[shape.at(2, h, j)]);
            }
        }
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
    let (tokens, scale) = (shape.tokens, shape.scale());
    dqkv.fill(0.0);
    for h in 0..shape.heads {
        scratch.turn(shape, qkv, 2, h);
        for i in 0..shape.queries {
            let dout = &dout[shape.out(h, i)];
            scratch.project(dout); // gradients of the weights of row i
            let row = &weights[(h * shape.queries + i) * tokens..][..tokens];
            let along = sum_with(row, &scratch.row[..tokens], |w, d| w * d);
            for (j, weight) in row.iter().enumerate() {
                axpy(&mut dqkv[shape.at(2, h, j)], *weight, dout);
                let dscore = weight * (scratch.row[j] - along) * scale;
                axpy(&mut dqkv[shape.at(0, h, i)], dscore, &qkv[shape.at(1, h, j)]);
                axpy(&mut dqkv[shape.at(1, h, j)], dscore, &qkv[shape.at(0, h, i)]);
            }
        }
    }
}
