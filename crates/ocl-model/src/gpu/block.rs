//! A transformer block over device memory, forwards and backwards: kernels in the order of the
//! method.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::{into_contiguous, slice};
use burn_cubecl::ops::reshape;
use burn_cubecl::tensor::CubeTensor;

use super::gemm::Gemm;
use super::launch::{
    attention, attention_gradient, column_sums, gelu, gelu_gradient, norm, norm_gradient,
};
use super::shapes::{Lengths, as_factor, matrix};
use super::tensors::{BlockGradients, BlockParameters, BlockSaved};
use crate::precision::Precision;

type Parameters = BlockParameters<CubeBackend>;
type Saved = BlockSaved<CubeBackend>;

/// Numbers of a block that its tensors do not tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) heads: usize,
    /// Leading tokens of a sequence that are asked for.
    pub(crate) queries: usize,
    pub(crate) precision: Precision,
}

impl Form {
    fn product<'a>(self, lhs: &'a CubeTensor, rhs: &'a CubeTensor, out: DType) -> Gemm<'a> {
        Gemm::of(lhs, rhs, out, self.precision)
    }
}

/// `x` `[B, T, D]` to `[B, Q, D]`, with what the backward pass needs.
pub(super) fn forward(x: CubeTensor, parameters: Parameters, form: Form) -> (CubeTensor, Saved) {
    let p: Parameters = parameters.map(into_contiguous);
    let x = into_contiguous(x);
    let lengths = Lengths::of(&x, form.heads, form.queries);
    // What products read: activations are written as this.
    let factor = form.precision.dtype();

    let (norm1, stats1) = norm(&x, &p.norm1_weight, &p.norm1_bias, factor); // [B T, D]
    let qkv_weight = as_factor(p.qkv_weight, factor);
    let qkv = form.product(&norm1, &qkv_weight, factor).run(); // [B T, 3 D]
    let (mixed, normaliser) = attention(&qkv, &p.qkv_bias, lengths); // [B Q, D]
    let proj_weight = as_factor(p.proj_weight, factor);
    let residual = match lengths.queries == lengths.tokens {
        true => x,
        false => slice(x, &[0..lengths.sequences, 0..lengths.queries, 0..lengths.width]),
    };
    let residual = matrix(residual, lengths.asked());
    let middle = Gemm {
        bias: Some(&p.proj_bias),
        plus: Some(&residual),
        ..form.product(&mixed, &proj_weight, DType::F32)
    };
    let middle = middle.run(); // [B Q, D]
    let (norm2, stats2) = norm(&middle, &p.norm2_weight, &p.norm2_bias, factor);
    let fc1_weight = as_factor(p.fc1_weight, factor);
    let hidden = form.product(&norm2, &fc1_weight, factor).run(); // [B Q, 4 D]
    let active = gelu(&hidden, &p.fc1_bias);
    let fc2_weight = as_factor(p.fc2_weight, factor);
    let out = Gemm {
        bias: Some(&p.fc2_bias),
        plus: Some(&middle),
        ..form.product(&active, &fc2_weight, DType::F32)
    };
    let out = out.run(); // [B Q, D]
    let out = reshape(out, Shape::new([lengths.sequences, lengths.queries, lengths.width]));
    let saved = Saved { norm1, stats1, qkv, normaliser, mixed, middle, norm2, stats2, hidden };
    (out, saved)
}

/// Gradients at the input and at the parameters, from that at the output, `[B, Q, D]`.
pub(super) fn backward(
    dout: CubeTensor,
    x: CubeTensor,
    parameters: Parameters,
    saved: Saved,
    form: Form,
) -> BlockGradients<CubeBackend> {
    let p: Parameters = parameters.map(into_contiguous);
    let x = into_contiguous(x);
    let lengths = Lengths::of(&x, form.heads, form.queries);
    // What products read: activations are written as this.
    let factor = form.precision.dtype();
    let weight = |w: CubeTensor| as_factor(w, factor);
    let dout = matrix(dout, lengths.asked()); // [B Q, D]

    let (d, fc2_bias) = column_sums(&dout, factor);
    let dactive = form.product(&d, &weight(p.fc2_weight), factor).rhs_transposed().run(); // [B Q, 4 D]
    let (dhidden, active, fc1_bias) = gelu_gradient(&saved.hidden, &p.fc1_bias, dactive);
    let fc2_weight = form.product(&active, &d, DType::F32).lhs_transposed().run();
    drop((active, d));
    let dnorm = form.product(&dhidden, &weight(p.fc1_weight), factor).rhs_transposed().run(); // [B Q, D]
    let fc1_weight = form.product(&saved.norm2, &dhidden, DType::F32).lhs_transposed().run();
    drop(dhidden);
    let every = [lengths.queries; 2];
    let of_norm2 =
        norm_gradient(dnorm, &saved.middle, &saved.stats2, &p.norm2_weight, dout, every, factor);
    let dmixed =
        form.product(&of_norm2.rounded, &weight(p.proj_weight), factor).rhs_transposed().run(); // [B Q, D]
    let proj_weight =
        form.product(&saved.mixed, &of_norm2.rounded, DType::F32).lhs_transposed().run();
    let dqkv = attention_gradient(
        &saved.qkv,
        &p.qkv_bias,
        &saved.mixed,
        dmixed,
        &saved.normaliser,
        lengths,
    ); // [B T, 3 D]
    let (_, qkv_bias) = column_sums(&dqkv, dqkv.dtype);
    let dnorm = form.product(&dqkv, &weight(p.qkv_weight), factor).rhs_transposed().run(); // [B T, D]
    let qkv_weight = form.product(&saved.norm1, &dqkv, DType::F32).lhs_transposed().run();
    drop(dqkv);
    let shape = x.shape();
    let x = matrix(x, lengths.rows());
    let some = [lengths.tokens, lengths.queries];
    let of_norm1 =
        norm_gradient(dnorm, &x, &saved.stats1, &p.norm1_weight, of_norm2.input, some, DType::F32);
    BlockGradients {
        x: reshape(of_norm1.input, shape),
        parameters: BlockParameters {
            norm1_weight: of_norm1.weight,
            norm1_bias: of_norm1.bias,
            qkv_weight,
            qkv_bias,
            proj_weight,
            proj_bias: of_norm2.before,
            norm2_weight: of_norm2.weight,
            norm2_bias: of_norm2.bias,
            fc1_weight,
            fc1_bias,
            fc2_weight,
            fc2_bias,
        },
    }
}
