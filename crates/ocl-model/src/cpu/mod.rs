//! The CPU's own transformer block: one operation with a backward pass of its own; `projection`
//! holds the one before the blocks.
//!
//! [`Block`](crate::Block) composed of tensor operations is the definition; on the `flex` backend
//! this module computes the same in a few passes over memory instead of some forty. Equality of
//! values and of every gradient is tested below.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod epilogue;
mod gemm;
mod gradients;
mod math;
mod norm;
mod projection;
mod sink;
mod small;
mod view;
mod work;

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape as TensorShape, Tensor, TensorData};

use block::{Parameters, Saved, Shape};
pub(crate) use projection::cpu_projection;

/// Backends with a transformer block of their own.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait CpuBlock: Backend {
    /// `x` `[B, T, D]` through a block to `[B, Q, D]`; the parameters are those of [`Parameters`].
    #[allow(clippy::too_many_arguments, reason = "one tensor each, as the macro wants them")]
    fn cpu_block(
        x: FloatTensor<Self>,
        norm1_weight: FloatTensor<Self>,
        norm1_bias: FloatTensor<Self>,
        qkv_weight: FloatTensor<Self>,
        qkv_bias: FloatTensor<Self>,
        proj_weight: FloatTensor<Self>,
        proj_bias: FloatTensor<Self>,
        norm2_weight: FloatTensor<Self>,
        norm2_bias: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc1_bias: FloatTensor<Self>,
        fc2_weight: FloatTensor<Self>,
        fc2_bias: FloatTensor<Self>,
        heads: usize,
        queries: usize,
    ) -> FloatTensor<Self>;
}

/// A block on the `flex` backend, with gradients when the device has them.
///
/// # Shapes
/// `x` `[B, T, D]` to `[B, Q, D]`, `queries` being 1 or T; `vectors` are the eight norms' weights
/// and biases and linear layers' biases, `matrices` the four linear layers' weights, both in the
/// order of the forward pass.
pub(crate) fn cpu_block(
    x: Tensor<3>,
    vectors: [Tensor<1>; 8],
    matrices: [Tensor<2>; 4],
    heads: usize,
    queries: usize,
) -> Tensor<3> {
    let [
        norm1_weight,
        norm1_bias,
        qkv_bias,
        proj_bias,
        norm2_weight,
        norm2_bias,
        fc1_bias,
        fc2_bias,
    ] = vectors.map(Tensor::into_dispatch);
    let [qkv, proj, fc1, fc2] = matrices.map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as CpuBlock>::cpu_block(
        x.into_dispatch(),
        norm1_weight,
        norm1_bias,
        qkv,
        qkv_bias,
        proj,
        proj_bias,
        norm2_weight,
        norm2_bias,
        fc1,
        fc1_bias,
        fc2,
        fc2_bias,
        heads,
        queries,
    ))
}

/// Input and parameters of a block, contiguous, in the order of [`CpuBlock::cpu_block`].
type Inputs = [FloatTensor<Flex>; 13];

fn values(tensor: &FloatTensor<Flex>) -> &[f32] {
    tensor.as_slice().expect("inputs were made contiguous, and are f32")
}

fn parameters(inputs: &Inputs) -> Parameters<'_> {
    let pair = |i: usize| [values(&inputs[i]), values(&inputs[i + 1])];
    Parameters {
        norm1: pair(1),
        qkv: pair(3),
        proj: pair(5),
        norm2: pair(7),
        fc1: pair(9),
        fc2: pair(11),
    }
}

fn shape(inputs: &Inputs, heads: usize, queries: usize) -> Shape {
    let x = inputs[0].shape();
    let hidden = inputs[9].shape()[1];
    Shape { sequences: x[0], tokens: x[1], queries, width: x[2], heads, hidden }
}

fn tensor(values: Vec<f32>, shape: TensorShape) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(values, shape))
}

fn run(inputs: &Inputs, shape: Shape, keep: bool) -> (FloatTensor<Flex>, Vec<Saved>) {
    let dims = [shape.sequences, shape.queries, shape.width];
    let mut out = math::buffer(dims.iter().product());
    let saved = block::forward(shape, parameters(inputs), values(&inputs[0]), &mut out, keep);
    (tensor(out, dims.into()), saved)
}

impl CpuBlock for Flex {
    fn cpu_block(
        x: FloatTensor<Self>,
        norm1_weight: FloatTensor<Self>,
        norm1_bias: FloatTensor<Self>,
        qkv_weight: FloatTensor<Self>,
        qkv_bias: FloatTensor<Self>,
        proj_weight: FloatTensor<Self>,
        proj_bias: FloatTensor<Self>,
        norm2_weight: FloatTensor<Self>,
        norm2_bias: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc1_bias: FloatTensor<Self>,
        fc2_weight: FloatTensor<Self>,
        fc2_bias: FloatTensor<Self>,
        heads: usize,
        queries: usize,
    ) -> FloatTensor<Self> {
        let inputs = [
            x,
            norm1_weight,
            norm1_bias,
            qkv_weight,
            qkv_bias,
            proj_weight,
            proj_bias,
            norm2_weight,
            norm2_bias,
            fc1_weight,
            fc1_bias,
            fc2_weight,
            fc2_bias,
        ];
        let inputs = inputs.map(|input| input.to_contiguous());
        run(&inputs, shape(&inputs, heads, queries), false).0
    }
}

/// What the backward pass of a block needs.
#[derive(Clone)]
struct Kept {
    inputs: Arc<Inputs>,
    saved: Arc<Vec<Saved>>,
    shape: Shape,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({:?})", self.shape)
    }
}

#[derive(Debug)]
struct BlockBackward;

impl Backward<Flex, 13> for BlockBackward {
    type State = Kept;

    fn backward(self, ops: Ops<Kept, 13>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<Flex>(&ops.node).to_contiguous();
        let Kept { inputs, saved, shape } = ops.state;
        let mut dx = math::buffer(values(&inputs[0]).len());
        let own = block::backward(
            shape,
            parameters(&inputs),
            values(&inputs[0]),
            &saved,
            values(&dout),
            &mut dx,
        );
        let all = std::iter::once(dx).chain(own);
        for ((parent, gradient), input) in ops.parents.iter().zip(all).zip(inputs.iter()) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(gradient, input.shape()));
            }
        }
    }
}

impl<C: CheckpointStrategy> CpuBlock for Autodiff<Flex, C> {
    fn cpu_block(
        x: FloatTensor<Self>,
        norm1_weight: FloatTensor<Self>,
        norm1_bias: FloatTensor<Self>,
        qkv_weight: FloatTensor<Self>,
        qkv_bias: FloatTensor<Self>,
        proj_weight: FloatTensor<Self>,
        proj_bias: FloatTensor<Self>,
        norm2_weight: FloatTensor<Self>,
        norm2_bias: FloatTensor<Self>,
        fc1_weight: FloatTensor<Self>,
        fc1_bias: FloatTensor<Self>,
        fc2_weight: FloatTensor<Self>,
        fc2_bias: FloatTensor<Self>,
        heads: usize,
        queries: usize,
    ) -> FloatTensor<Self> {
        let tracked = [
            x,
            norm1_weight,
            norm1_bias,
            qkv_weight,
            qkv_bias,
            proj_weight,
            proj_bias,
            norm2_weight,
            norm2_bias,
            fc1_weight,
            fc1_bias,
            fc2_weight,
            fc2_bias,
        ];
        let nodes = tracked.each_ref().map(|input| input.node());
        let inputs = tracked.map(|input| input.into_parts().0.to_contiguous());
        let shape = shape(&inputs, heads, queries);
        match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (out, saved) = run(&inputs, shape, true);
                let kept = Kept { inputs: Arc::new(inputs), saved: Arc::new(saved), shape };
                prepared.finish(kept, out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(run(&inputs, shape, false).0),
        }
    }
}
