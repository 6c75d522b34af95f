//! The block's backward pass.

use std::sync::OnceLock;

use super::super::attention::{self, Scratch};
use super::super::epilogue::{AddTo, Slope, Store};
use super::super::gemm::gemm;
use super::super::gradients::{Band, Outer, bands};
use super::super::math::{add_rows, buffer, sum_groups, widest};
use super::super::norm;
use super::super::view::View;
use super::super::work::share;
use super::{Parameters, Saved, Shape};

/// Gradients of the parameters, in the order of [`Parameters`], weight before bias.
pub(in super::super) type Gradients = [Vec<f32>; 12];

/// Gradients of a chunk's intermediate values, from which those of the matrices follow.
struct Flow {
    dqkv: Vec<f32>,
    dmiddle: Vec<f32>,
    dhidden: Vec<f32>,
    /// Of norms and biases: a sum for each group.
    vectors: [Vec<f32>; 8],
}

/// The gradient with respect to the input, written to `dx`, and those of the parameters.
pub(in super::super) fn backward(
    shape: Shape,
    p: Parameters<'_>,
    x: &[f32],
    saved: &[Saved],
    dout: &[f32],
    dx: &mut [f32],
) -> Gradients {
    let ([len, out_len], d, hidden) = (shape.chunk_lens(), shape.width, shape.hidden);
    let sizes = [[d, 3 * d], [d, d], [d, hidden], [hidden, d]];
    let [mut qkv, mut proj, mut fc1, mut fc2] =
        sizes.map(|[inputs, outputs]| buffer(inputs * outputs));

    let flows: Vec<OnceLock<Flow>> = saved.iter().map(|_| OnceLock::new()).collect();
    let each = || saved.iter().zip(flows.iter().flat_map(OnceLock::get));
    let chunks = x.chunks(len).zip(saved).zip(dout.chunks(out_len)).zip(dx.chunks_mut(len));
    // The gradient of fc2's weight needs nothing of what flows: threads that find no chunk left
    // begin with it.
    let activations = saved.iter().map(|s| &s.active[..]);
    let last = Outer::new(hidden, d).add(0..d, 1, activations.zip(dout.chunks(out_len)));
    share(
        chunks.zip(&flows).collect(),
        |((((x, saved), dout), dx), flow)| {
            flow.get_or_init(|| wide_backward(shape, p, x, saved, dout, dx));
        },
        || {
            let step = shape.step();
            let normed = || each().map(|(s, f)| (&s.normed1[..], &f.dqkv[..]));
            let mixed = each().map(|(s, f)| (&s.mixed[..], &f.dmiddle[..]));
            let normed2 = each().map(|(s, f)| (&s.normed2[..], &f.dhidden[..]));
            bands([
                (
                    Outer::new(d, 3 * d).add(0..d, step, normed()).add(d..3 * d, 1, normed()),
                    &mut qkv,
                ),
                (Outer::new(d, d).add(0..d, 1, mixed), &mut proj),
                (Outer::new(d, hidden).add(0..hidden, 1, normed2), &mut fc1),
            ])
        },
        bands([(last, &mut fc2)]),
        Band::make,
    );

    let vector = |i: usize, len: usize| {
        let mut sum = vec![0.0; len];
        each().for_each(|(_, flow)| add_rows(&flow.vectors[i], &mut sum));
        sum
    };
    let (dw1, db1, dbqkv, dbproj) = (vector(0, d), vector(1, d), vector(2, 3 * d), vector(3, d));
    let (dw2, db2, dbfc1, dbfc2) = (vector(4, d), vector(5, d), vector(6, hidden), vector(7, d));
    [dw1, db1, qkv, dbqkv, proj, dbproj, dw2, db2, fc1, dbfc1, fc2, dbfc2]
}

widest!(
    fn wide_backward(
        shape: Shape,
        p: Parameters<'_>,
        x: &[f32],
        saved: &Saved,
        dout: &[f32],
        dx: &mut [f32],
    ) -> Flow = chunk_backward
);

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
    let (group_in, group_out) = (shape.group() * tokens, shape.group() * queries); // rows of a group
    let groups = rows.div_ceil(group_out);
    let zeros = |len: usize| vec![0.0; groups * len];
    let (mut dw1, mut db1, mut dbqkv, mut dbproj) = (zeros(d), zeros(d), zeros(3 * d), zeros(d));
    let (mut dw2, mut db2, mut dbfc1, mut dbfc2) = (zeros(d), zeros(d), zeros(hidden), zeros(d));

    // MLP: out = middle + fc2(gelu(fc1(norm2(middle)))).
    let mut dhidden = buffer(rows * hidden);
    // Divisions for every few values would be felt.
    let starts: Vec<usize> = (0..rows).map(|row| row / group_out * hidden).collect();
    let weight = View::rows(p.fc2[0], d).transposed();
    gemm(
        [rows, hidden, d],
        View::rows(dout, d),
        weight,
        Slope {
            out: &mut dhidden,
            slope: &saved.slope,
            width: hidden,
            totals: &mut dbfc1,
            starts: &starts,
        },
    );
    sum_groups(dout, group_out, &mut dbfc2, d);
    let mut dnormed = buffer(rows * d);
    let weight = View::rows(p.fc1[0], hidden).transposed();
    gemm(
        [rows, d, hidden],
        View::rows(&dhidden, hidden),
        weight,
        Store { out: &mut dnormed, stride: d },
    );
    let mut dmiddle = dout.to_vec();
    norm::backward(
        &saved.middle,
        &saved.moments2,
        p.norm2[0],
        &dnormed,
        &mut dmiddle,
        [&mut dw2, &mut db2],
        group_out,
    );

    // Attention: middle = x + proj(attention(qkv(norm1(x)))).
    let mut dmixed = buffer(rows * d);
    let weight = View::rows(p.proj[0], d).transposed();
    gemm([rows, d, d], View::rows(&dmiddle, d), weight, Store { out: &mut dmixed, stride: d });
    sum_groups(&dmiddle, group_out, &mut dbproj, d);
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
    sum_groups(&dqkv, group_in, &mut dbqkv, 3 * d);
    let (dy, w) = (View::rows(&dqkv, 3 * d), View::rows(p.qkv[0], 3 * d));
    dnormed.resize(rows * d, 0.0);
    if step == 1 {
        gemm([rows, d, 3 * d], dy, w.transposed(), Store { out: &mut dnormed, stride: d });
        dx.copy_from_slice(&dmiddle);
    } else {
        gemm(
            [rows, d, 2 * d],
            dy.columns(d),
            w.columns(d).transposed(),
            Store { out: &mut dnormed, stride: d },
        );
        gemm(
            [rows / step, d, d],
            dy.every(step),
            w.transposed(),
            AddTo { out: &mut dnormed, stride: step * d },
        );
        dx.fill(0.0);
        for (dx, dmiddle) in dx.chunks_exact_mut(step * d).zip(dmiddle.chunks_exact(d)) {
            dx[..d].copy_from_slice(dmiddle);
        }
    }
    let sums = [&mut dw1[..], &mut db1];
    norm::backward(x, &saved.moments1, p.norm1[0], &dnormed, dx, sums, group_in);

    let vectors = [dw1, db1, dbqkv, dbproj, dw2, db2, dbfc1, dbfc2];
    Flow { dqkv, dmiddle, dhidden, vectors }
}
