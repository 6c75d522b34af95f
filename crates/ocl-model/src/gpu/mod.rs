//! The GPU's own transformer block: one operation with a backward pass of its own.
//!
//! [`Block`](crate::Block) composed of tensor operations is the definition. On backends of cubecl
//! this module computes the same in eight kernels forwards and twenty backwards, casts of weights
//! apart: products by cuBLASLt where CUDA has it (`product`, `cublas`), the rest by kernels in
//! cubecl's language (`norm`, `attention`, `gelu`, `sums`), which run on CUDA and Vulkan alike.
//! Only what the backward pass needs is kept.

mod attention;
mod block;
#[cfg(feature = "cuda")]
mod cublas;
mod gelu;
mod gemm;
mod launch;
mod norm;
mod projection;
mod shapes;
mod sums;
mod tensors;
#[cfg(test)]
mod tests;

use std::fmt;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::CubeBackend;

use crate::device::fits_gpu_block;
pub(crate) use block::Form;
pub(crate) use projection::gpu_projection;
pub(crate) use tensors::{BlockGradients, BlockParameters, BlockSaved};
use tensors::{BlockGradientsMetadata, BlockParametersMetadata, BlockSavedMetadata};

/// The two passes of a block, without a graph: what [`GpuBlock`] is made of. A trait of its own,
/// since backends with a graph have the one and not the other.
#[backend_extension(Cube, Fusion)]
pub(crate) trait BlockPasses: Backend {
    /// `x` `[B, T, D]` to `[B, Q, D]`.
    #[fusion(meta = forward_metadata)]
    fn block_forward(
        x: FloatTensor<Self>,
        #[extension_type] parameters: BlockParameters<Self>,
        form: Form,
    ) -> (FloatTensor<Self>, BlockSaved<Self>);

    /// Gradients from that at the output.
    #[fusion(meta = backward_metadata)]
    fn block_backward(
        dout: FloatTensor<Self>,
        x: FloatTensor<Self>,
        #[extension_type] parameters: BlockParameters<Self>,
        #[extension_type] saved: BlockSaved<Self>,
        form: Form,
    ) -> BlockGradients<Self>;
}

fn forward_metadata(
    x: &TensorSpec,
    parameters: &BlockParametersMetadata,
    form: &Form,
) -> (TensorSpec, BlockSavedMetadata) {
    let [b, t, d] = [0, 1, 2].map(|i| x.shape[i]);
    let (q, factor) = (form.queries, form.precision.dtype());
    let hidden = parameters.fc1_weight.shape[1];
    let of = |dims: [usize; 2], dtype| TensorSpec::new(Shape::new(dims), dtype);
    let saved = BlockSavedMetadata {
        norm1: of([b * t, d], factor),
        stats1: of([b * t, 2], DType::F32),
        qkv: of([b * t, 3 * d], factor),
        normaliser: TensorSpec::new(Shape::new([b * form.heads * q]), DType::F32),
        mixed: of([b * q, d], factor),
        middle: of([b * q, d], DType::F32),
        norm2: of([b * q, d], factor),
        stats2: of([b * q, 2], DType::F32),
        hidden: of([b * q, hidden], factor),
    };
    (TensorSpec::new(Shape::new([b, q, d]), DType::F32), saved)
}

fn backward_metadata(
    _dout: &TensorSpec,
    x: &TensorSpec,
    parameters: &BlockParametersMetadata,
    _saved: &BlockSavedMetadata,
    _form: &Form,
) -> BlockGradientsMetadata {
    BlockGradientsMetadata { x: x.clone(), parameters: parameters.clone() }
}

impl BlockPasses for CubeBackend {
    fn block_forward(
        x: FloatTensor<Self>,
        parameters: BlockParameters<Self>,
        form: Form,
    ) -> (FloatTensor<Self>, BlockSaved<Self>) {
        block::forward(x, parameters, form)
    }

    fn block_backward(
        dout: FloatTensor<Self>,
        x: FloatTensor<Self>,
        parameters: BlockParameters<Self>,
        saved: BlockSaved<Self>,
        form: Form,
    ) -> BlockGradients<Self> {
        block::backward(dout, x, parameters, saved, form)
    }
}

/// A block, with gradients where the backend has them.
#[backend_extension(Cube, Fusion, Autodiff)]
pub(crate) trait GpuBlock: Backend {
    /// `x` `[B, T, D]` to `[B, Q, D]`.
    #[fusion(dtype = x, shape = Shape::new([x[0], form.queries, x[2]]))]
    fn gpu_block(
        x: FloatTensor<Self>,
        #[extension_type] parameters: BlockParameters<Self>,
        form: Form,
    ) -> FloatTensor<Self>;
}

impl GpuBlock for CubeBackend {
    fn gpu_block(
        x: FloatTensor<Self>,
        parameters: BlockParameters<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        block::forward(x, parameters, form).0
    }
}

/// What the backward pass holds.
#[derive(Clone)]
struct Kept<B: Backend> {
    x: FloatTensor<B>,
    parameters: BlockParameters<B>,
    saved: BlockSaved<B>,
    form: Form,
}

impl<B: Backend> fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({:?})", self.form)
    }
}

#[derive(Debug)]
struct BlockBackward;

impl<B: BlockPasses> Backward<B, 13> for BlockBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Kept<B>, 13>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let Kept { x, parameters, saved, form } = ops.state;
        let found = B::block_backward(dout, x, parameters, saved, form);
        let all = std::iter::once(found.x).chain(found.parameters.into_array());
        for (parent, gradient) in ops.parents.iter().zip(all) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: BlockPasses, C: CheckpointStrategy> GpuBlock for Autodiff<B, C> {
    fn gpu_block(
        x: FloatTensor<Self>,
        parameters: BlockParameters<Self>,
        form: Form,
    ) -> FloatTensor<Self> {
        let mut nodes = vec![x.node()];
        let x = x.into_parts().0;
        let parameters = parameters.map::<B>(|parameter| {
            nodes.push(parameter.node());
            parameter.into_parts().0
        });
        let nodes: [_; 13] = nodes.try_into().unwrap_or_else(|_| unreachable!("13 inputs"));
        match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (out, saved) = B::block_forward(x.clone(), parameters.clone(), form);
                prepared.finish(Kept { x, parameters, saved, form }, out)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::block_forward(x, parameters, form).0)
            }
        }
    }
}

/// Whether a patch projection to this width runs here.
pub(crate) fn projects(device: &Device, width: usize) -> bool {
    serves(device, 1, width, 1)
}

/// Whether a block of these lengths runs here.
pub(crate) fn serves(device: &Device, tokens: usize, width: usize, heads: usize) -> bool {
    let device = device.clone().without_autodiff();
    let DispatchDevice::Cube(device) = device.as_dispatch() else { return false };
    let most_units = device.client().properties().hardware.max_units_per_cube as usize;
    fits_gpu_block(tokens, width, heads)
        && (width / launch::VECTOR).next_multiple_of(32) <= most_units
}

/// A block on a GPU, with gradients when the device has them.
///
/// # Shapes
/// `x` `[B, T, D]` to `[B, Q, D]`; `vectors` are the norms' weights and biases and the linear
/// layers' biases, `matrices` the linear layers' weights, both in the order of the forward pass.
pub(crate) fn gpu_block(
    x: Tensor<3>,
    vectors: [Tensor<1>; 8],
    matrices: [Tensor<2>; 4],
    form: Form,
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
    let [qkv_weight, proj_weight, fc1_weight, fc2_weight] = matrices.map(Tensor::into_dispatch);
    let parameters = BlockParameters::<Dispatch> {
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
    };
    Tensor::from_dispatch(<Dispatch as GpuBlock>::gpu_block(x.into_dispatch(), parameters, form))
}
