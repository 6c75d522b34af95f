//! What is done with a product's sums while they are in the nearest cache.
//!
//! These are types in place of closures because they must be inlined, which no closure with a name
//! can be made to: a function of its own would be compiled for the narrowest vectors.

use super::math::{add, gelu};

/// Takes the sums of a product, part of a row at a time; for a given column, rows come in their
/// order.
pub(super) trait Epilogue {
    /// Takes the sums of row `row` from column `column` on.
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]);
}

/// `out = sums`; rows start every `stride` values.
pub(super) struct Store<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl Epilogue for Store<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        self.out[row * self.stride + column..][..sums.len()].copy_from_slice(sums);
    }
}

/// `out += sums`; rows start every `stride` values.
pub(super) struct AddTo<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl Epilogue for AddTo<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        let out = &mut self.out[row * self.stride + column..][..sums.len()];
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

/// `out = sums + bias`; rows start every `stride` values.
pub(super) struct Biased<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) bias: &'a [f32],
}

impl Epilogue for Biased<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        let out = &mut self.out[row * self.stride + column..][..sums.len()];
        let bias = &self.bias[column..][..sums.len()];
        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
            *out = sum + bias;
        }
    }
}

/// `out = residual + (sums + bias)`; rows of the residual start every `residual_stride` values.
pub(super) struct Residual<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) residual: &'a [f32],
    pub(super) residual_stride: usize,
    pub(super) bias: &'a [f32],
}

impl Epilogue for Residual<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        let out = &mut self.out[row * self.bias.len() + column..][..sums.len()];
        let residual = &self.residual[row * self.residual_stride + column..][..sums.len()];
        add(out, residual, sums, &self.bias[column..][..sums.len()]);
    }
}

/// GELU and its slope of `sums + bias`.
pub(super) struct Activate<'a> {
    pub(super) active: &'a mut [f32],
    pub(super) slope: &'a mut [f32],
    pub(super) bias: &'a [f32],
}

impl Epilogue for Activate<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        let at = row * self.bias.len() + column;
        let active = &mut self.active[at..][..sums.len()];
        let slope = &mut self.slope[at..][..sums.len()];
        let bias = &self.bias[column..][..sums.len()];
        for i in 0..sums.len() {
            (active[i], slope[i]) = gelu(sums[i] + bias[i]);
        }
    }
}

/// GELU of `sums + bias`.
pub(super) struct Gelu<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) bias: &'a [f32],
}

impl Epilogue for Gelu<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        let out = &mut self.out[row * self.bias.len() + column..][..sums.len()];
        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&self.bias[column..]) {
            *out = gelu(sum + bias).0;
        }
    }
}

/// `out = sums slope`, added to the totals of a row's group as well.
pub(super) struct Slope<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) slope: &'a [f32],
    pub(super) width: usize,
    pub(super) totals: &'a mut [f32],
    /// Where the totals of each row's group start: divisions for every few values would be felt.
    pub(super) starts: &'a [usize],
}

impl Epilogue for Slope<'_> {
    #[inline(always)]
    fn finish(&mut self, row: usize, column: usize, sums: &[f32]) {
        let at = row * self.width + column;
        let out = &mut self.out[at..][..sums.len()];
        let slope = &self.slope[at..][..sums.len()];
        let total = &mut self.totals[self.starts[row] + column..][..sums.len()];
        for i in 0..sums.len() {
            out[i] = sums[i] * slope[i];
            total[i] += out[i];
        }
    }
}
