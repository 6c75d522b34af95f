//! Matrices in slices.

/// A matrix in a slice: element `(row, column)` is `values[row * row_stride + column *
/// column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> View<'a> {
    /// Row-major with `columns` columns.
    pub(super) fn rows(values: &'a [f32], columns: usize) -> Self {
        Self { values, row_stride: columns, column_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub(super) fn transposed(self) -> Self {
        Self { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// Every `step`th row, from the first.
    pub(super) fn every(self, step: usize) -> Self {
        Self { row_stride: self.row_stride * step, ..self }
    }

    /// Columns `first..`.
    pub(super) fn columns(self, first: usize) -> Self {
        Self { values: &self.values[first * self.column_stride..], ..self }
    }

    /// Rows `first..`.
    pub(super) fn below(self, first: usize) -> Self {
        self.transposed().columns(first).transposed()
    }

    pub(super) fn reaches(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.values.len()
    }
}

/// One part of a product's inner dimension: `a` `[m, k]` and `b` `[k, n]`.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) a: View<'a>,
    pub(super) b: View<'a>,
    pub(super) k: usize,
}
