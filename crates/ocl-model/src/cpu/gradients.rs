//! Gradients of weight matrices: outer products summed over all rows of a batch, shared by the
//! threads.

use std::cmp::Reverse;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::gemm::sum_of_products;
use super::math::widest;
use super::view::{Part, View};

/// Rows of a weight's gradient that one task makes, at least and at most: fewer would make packing
/// the other factor felt.
const BAND: RangeInclusive<usize> = 96..=384;

/// `sum over chunks of x^T dy`, `[inputs, outputs]`: the gradient of a linear layer's weight.
pub(super) struct Outer<'a> {
    inputs: usize,
    outputs: usize,
    parts: Vec<Columns<'a>>,
}

/// Some columns of an [`Outer`], to which every `step`th row of the chunks contributes.
struct Columns<'a> {
    columns: Range<usize>,
    step: usize,
    chunks: Vec<(&'a [f32], &'a [f32])>,
}

impl<'a> Outer<'a> {
    pub(super) fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, parts: vec![] }
    }

    /// Adds `sum of x^T dy` over pairs of chunks `[rows, inputs]` and `[rows, outputs]` to some
    /// columns, every `step`th row alone.
    pub(super) fn add(
        mut self,
        columns: Range<usize>,
        step: usize,
        chunks: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    ) -> Self {
        self.parts.push(Columns { columns, step, chunks: chunks.collect() });
        self
    }

    /// Writes rows `first..` of the gradient, as many as `out` holds.
    #[inline(always)]
    fn rows(&self, first: usize, out: &mut [f32]) {
        let rows = out.len() / self.outputs;
        for Columns { columns, step, chunks } in &self.parts {
            let part = |&(x, dy): &(&'a [f32], &'a [f32])| Part {
                a: View::rows(&x[first..], self.inputs).every(*step).transposed(),
                b: View::rows(dy, self.outputs).every(*step).columns(columns.start),
                k: x.len() / self.inputs / step,
            };
            let parts: Vec<Part<'_>> = chunks.iter().map(part).collect();
            let size = [rows, columns.len()];
            sum_of_products(&mut out[columns.start..], self.outputs, size, &parts);
        }
    }
}

widest!(fn rows_of(outer: &Outer<'_>, first: usize, out: &mut [f32]) -> () = Outer::rows);

/// Rows of a gradient, the work of one thread.
pub(super) struct Band<'a> {
    outer: Arc<Outer<'a>>,
    first: usize,
    rows: &'a mut [f32],
}

impl Band<'_> {
    pub(super) fn make(self) {
        rows_of(&self.outer, self.first, self.rows);
    }
}

/// The work on some gradients `[inputs, outputs]`, the largest first.
pub(super) fn bands<'a, const N: usize>(
    outers: [(Outer<'a>, &'a mut Vec<f32>); N],
) -> Vec<Band<'a>> {
    let mut bands = vec![];
    for (outer, gradient) in outers {
        let share = 2 * outer.inputs / rayon::current_num_threads();
        let rows = share.clamp(*BAND.start(), *BAND.end());
        let outer = Arc::new(outer);
        for (i, part) in gradient.chunks_mut(rows * outer.outputs).enumerate() {
            bands.push(Band { outer: outer.clone(), first: i * rows, rows: part });
        }
    }
    bands.sort_by_key(|band| Reverse(band.rows.len()));
    bands
}
