//! Layer normalisation of rows, forward and backward.

use super::math::sum_with;
use crate::precision::NORM_EPSILON;

const EPSILON: f32 = NORM_EPSILON as f32;

/// Mean and reciprocal deviation of each row: what backward needs beside the input.
pub(super) struct Moments {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

/// `out = (x - mean) / sqrt(var + 1e-6) * weight + bias` for each row of `x`.
#[inline(always)]
pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) -> Moments {
    let d = weight.len();
    let rows = x.len() / d;
    let mut moments = Moments { mean: Vec::with_capacity(rows), scale: Vec::with_capacity(rows) };
    for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        let mean = sum_with(x, x, |v, _| v) / d as f32;
        let variance = sum_with(x, x, |v, _| (v - mean) * (v - mean)) / d as f32;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        for i in 0..d {
            out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
        }
        moments.mean.push(mean);
        moments.scale.push(scale);
    }
    moments
}

/// Adds the gradient with respect to `x` to `dx`, those of weight and bias to the sums of a row's
/// group, `rows_of_group` rows one after the other.
#[inline(always)]
pub(super) fn backward(
    x: &[f32],
    moments: &Moments,
    weight: &[f32],
    dout: &[f32],
    dx: &mut [f32],
    [dweights, dbiases]: [&mut [f32]; 2],
    rows_of_group: usize,
) {
    let d = weight.len();
    let mut unit = vec![0.0; d];
    let mut dunit = vec![0.0; d];
    for (row, (x, dout)) in x.chunks_exact(d).zip(dout.chunks_exact(d)).enumerate() {
        let (mean, scale) = (moments.mean[row], moments.scale[row]);
        let group = row / rows_of_group * d;
        let (dweight, dbias) = (&mut dweights[group..][..d], &mut dbiases[group..][..d]);
        for i in 0..d {
            unit[i] = (x[i] - mean) * scale;
            dunit[i] = dout[i] * weight[i];
            dweight[i] += dout[i] * unit[i];
            dbias[i] += dout[i];
        }
        let along_one = sum_with(&dunit, &dunit, |v, _| v) / d as f32;
        let along_unit = sum_with(&dunit, &unit, |a, b| a * b) / d as f32;
        let dx = &mut dx[row * d..(row + 1) * d];
        for i in 0..d {
            dx[i] += scale * (dunit[i] - along_one - unit[i] * along_unit);
        }
    }
}
