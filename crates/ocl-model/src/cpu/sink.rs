//! Where a product's sums come from and go to, as the kernels see it.

use super::epilogue::Epilogue;

/// Where the results of a product go, part of a row at a time, and what they start with.
pub(super) trait Sink {
    /// Whether the sums start with something else than zero.
    fn goes_on(&self) -> bool;

    /// What the sums of row `row` from column `column` on start with.
    fn start(&self, row: usize, column: usize, sums: &mut [f32]);

    /// Takes the sums. For a given column, rows come in their order.
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]);
}

/// Sums from zero, handed on.
pub(super) struct Then<F>(pub(super) F);

impl<F: Epilogue> Sink for Then<F> {
    #[inline(always)]
    fn goes_on(&self) -> bool {
        false
    }

    #[inline(always)]
    fn start(&self, _: usize, _: usize, sums: &mut [f32]) {
        sums.fill(0.0);
    }

    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        self.0.finish(row, column, sums);
    }
}

/// Sums that go on from those of an earlier part, `[m, n]`, handed on.
pub(super) struct After<'a, F> {
    pub(super) sums: &'a [f32],
    pub(super) columns: usize,
    pub(super) finish: F,
}

impl<F: Epilogue> Sink for After<'_, F> {
    #[inline(always)]
    fn goes_on(&self) -> bool {
        true
    }

    #[inline(always)]
    fn start(&self, row: usize, column: usize, sums: &mut [f32]) {
        sums.copy_from_slice(&self.sums[row * self.columns + column..][..sums.len()]);
    }

    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        self.finish.finish(row, column, sums);
    }
}

/// Sums written to the rows of a slice, going on from what these hold.
pub(super) struct Into<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) goes_on: bool,
}

impl Sink for Into<'_> {
    #[inline(always)]
    fn goes_on(&self) -> bool {
        self.goes_on
    }

    #[inline(always)]
    fn start(&self, row: usize, column: usize, sums: &mut [f32]) {
        sums.copy_from_slice(&self.out[row * self.stride + column..][..sums.len()]);
    }

    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        self.out[row * self.stride + column..][..sums.len()].copy_from_slice(sums);
    }
}
