//! Gradients of weight matrices: outer products summed over all rows of a batch, shared by the threads.

use std::cmp::Reverse;
use std::ops::{Range, RangeInclusive};

use rayon::prelude::*;

use super::math::{buffer, widest};
use super::product::{Part, View, sum_of_products};

/// Rows of a weight's gradient that one task makes, at least and at most: fewer would make packing the
/// other factor felt.
const BAND: RangeInclusive<usize> = 96..=384;

/// `sum over chunks of x^T dy`, `[inputs, outputs]`: the gradient of a linear layer's weight.
pub(super) struct Outer<'a> {
    inputs: usize,
    outputs: usize,
    bands: Vec<Columns<'a>>,
}

/// Some columns of an [`Outer`], to which every `step`th row of the chunks contributes.
struct Columns<'a> {
    columns: Range<usize>,
    step: usize,
    chunks: Vec<(&'a [f32], &'a [f32])>,
}

impl<'a> Outer<'a> {
    pub(super) fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, bands: vec![] }
    }

    pub(super) fn add(
        &mut self,
        columns: Range<usize>,
        step: usize,
        chunks: Vec<(&'a [f32], &'a [f32])>,
    ) {
        self.bands.push(Columns { columns, step, chunks });
    }

    /// Writes rows `first..` of the gradient, as many as `out` holds.
    #[inline(always)]
    fn rows(&self, first: usize, out: &mut [f32]) {
        let rows = out.len() / self.outputs;
        for Columns { columns, step, chunks } in &self.bands {
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

/// The gradients of some matrices, in bands of rows that the threads share.
pub(super) fn weight_gradients<const N: usize>(outers: [Outer<'_>; N]) -> [Vec<f32>; N] {
    let mut gradients = outers.each_ref().map(|outer| buffer(outer.inputs * outer.outputs));
    let mut tasks = vec![];
    for (outer, gradient) in outers.iter().zip(&mut gradients) {
        let share = 2 * outer.inputs / rayon::current_num_threads();
        let band = share.clamp(*BAND.start(), *BAND.end());
        for (i, rows) in gradient.chunks_mut(band * outer.outputs).enumerate() {
            tasks.push((outer, i * band, rows));
        }
    }
    // The largest first, each to the thread that is free: dividing the list left one thread idle for a quarter
    // of the time.
    tasks.sort_by_key(|(_, _, rows)| Reverse(rows.len()));
    let tasks = tasks.into_iter().par_bridge();
    tasks.for_each(|(outer, first, rows)| rows_of(outer, first, rows));
    gradients
}
