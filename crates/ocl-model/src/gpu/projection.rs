//! Patches to tokens as one operation: a product with its bias and the positions, and its
//! gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::reshape;
use burn_cubecl::tensor::CubeTensor;

use super::gemm::Gemm;
use super::launch::column_sums;
use super::shapes::{as_factor, matrix};
use crate::precision::Precision;

/// The two passes, without a graph.
#[backend_extension(Cube, Fusion)]
pub(super) trait ProjectionPasses: Backend {
    /// `patches weight + bias + places`: `[N, K, inputs]` to `[N, K, D]`.
    #[fusion(dtype = places, shape = places)]
    fn projection_forward(
        patches: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        places: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;

    /// Gradients of weight and bias, from that at the tokens.
    #[fusion(meta = |_dout, _patches, weight, bias, _precision| (weight.clone(), bias.clone()))]
    fn projection_backward(
        dout: FloatTensor<Self>,
        patches: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl ProjectionPasses for CubeBackend {
    fn projection_forward(
        patches: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        places: CubeTensor,
        precision: Precision,
    ) -> CubeTensor {
        let [weight, bias] = [weight, bias].map(into_contiguous);
        let shape = places.shape();
        let rows = shape[0] * shape[1];
        let patches = as_factor(matrix(patches, rows), precision.dtype());
        let weight = as_factor(weight, precision.dtype());
        let places = matrix(places, rows);
        let tokens = Gemm {
            bias: Some(&bias),
            plus: Some(&places),
            ..Gemm::of(&patches, &weight, DType::F32, precision)
        };
        reshape(tokens.run(), shape)
    }

    fn projection_backward(
        dout: CubeTensor,
        patches: CubeTensor,
        _weight: CubeTensor,
        _bias: CubeTensor,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor) {
        let shape = dout.shape();
        let rows = shape[0] * shape[1];
        let (d, bias) = column_sums(&matrix(dout, rows), precision.dtype());
        let patches = as_factor(matrix(patches, rows), precision.dtype());
        let weight = Gemm::of(&patches, &d, DType::F32, precision).lhs_transposed().run();
        (weight, bias)
    }
}

/// Patches to tokens, with gradients of weight and bias where the backend has them; patches are
/// data.
#[backend_extension(Cube, Fusion, Autodiff)]
pub(super) trait GpuProjection: Backend {
    #[fusion(dtype = places, shape = places)]
    fn gpu_projection(
        patches: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        places: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl GpuProjection for CubeBackend {
    fn gpu_projection(
        patches: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        places: CubeTensor,
        precision: Precision,
    ) -> CubeTensor {
        Self::projection_forward(patches, weight, bias, places, precision)
    }
}

/// What the backward pass holds: patches, weight, bias.
#[derive(Clone)]
struct Kept<B: Backend>([FloatTensor<B>; 3], Precision);

impl<B: Backend> std::fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({})", self.1)
    }
}

#[derive(Debug)]
struct ProjectionBackward;

impl<B: ProjectionPasses> Backward<B, 2> for ProjectionBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Kept<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let Kept([patches, weight, bias], precision) = ops.state;
        let (weight, bias) = B::projection_backward(dout, patches, weight, bias, precision);
        for (parent, gradient) in ops.parents.iter().zip([weight, bias]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: ProjectionPasses, C: CheckpointStrategy> GpuProjection for Autodiff<B, C> {
    fn gpu_projection(
        patches: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        places: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [weight.node(), bias.node()];
        let [patches, weight, bias, places] =
            [patches, weight, bias, places].map(|input| input.into_parts().0);
        let forward = |patches: &FloatTensor<B>, weight: &FloatTensor<B>, bias: &FloatTensor<B>| {
            let (patches, weight, bias) = (patches.clone(), weight.clone(), bias.clone());
            B::projection_forward(patches, weight, bias, places, precision)
        };
        match ProjectionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let out = forward(&patches, &weight, &bias);
                prepared.finish(Kept([patches, weight, bias], precision), out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(forward(&patches, &weight, &bias)),
        }
    }
}

/// `patches weight + bias + places` on a GPU; gradients reach weight and bias alone.
///
/// # Shapes
/// `patches` `[N, K, inputs]`, `weight` `[inputs, D]`, `bias` `[D]`, `places` and result `[N, K,
/// D]`.
pub(crate) fn gpu_projection(
    patches: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    places: Tensor<3>,
    precision: Precision,
) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as GpuProjection>::gpu_projection(
        patches.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        places.into_dispatch(),
        precision,
    ))
}
