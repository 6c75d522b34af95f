//! The CPU's own projection of patches to tokens, positions added: one operation with a backward
//! pass of its own, shared by the threads in both directions.
//!
//! Sums over rows are taken in groups that follow from the shapes alone, as in a block.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::block::{CHUNK_ROWS, GROUP_ROWS};
use super::epilogue::{Residual, Store};
use super::gemm::gemm;
use super::gradients::{Band, Outer, bands};
use super::math::{add_rows, buffer, widest};
use super::view::View;
use super::{tensor, values};

/// Backends with a projection of their own.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait FusedProjection: Backend {
    /// `places + (x weight + bias)`; shapes as in [`cpu_projection`].
    fn cpu_projection(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        places: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// `places + (x weight + bias)` on the `flex` backend, with gradients when the device has them.
///
/// # Shapes
/// `x` `[N, K, P]`, `weight` `[P, D]`, `bias` `[D]`, `places` `[N, K, D]`; the result `[N, K, D]`.
pub(crate) fn cpu_projection(
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    places: Tensor<3>,
) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedProjection>::cpu_projection(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        places.into_dispatch(),
    ))
}

impl FusedProjection for Flex {
    fn cpu_projection(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        places: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        forward(&[x, weight, bias, places].map(|input| input.to_contiguous()))
    }
}

/// `x`, `weight`, `bias` and `places`, contiguous.
type Inputs = [FloatTensor<Flex>; 4];

/// Widths of `x` and of the result.
fn widths(inputs: &Inputs) -> [usize; 2] {
    let shape = inputs[1].shape();
    [shape[0], shape[1]]
}

/// Rows that one thread takes at a time, the same for all threads. Each row's result is its own:
/// chunks change no bit.
fn chunk_rows(rows: usize) -> usize {
    let threads = rayon::current_num_threads();
    rows.div_ceil(rows.div_ceil(CHUNK_ROWS * threads) * threads)
}

fn forward(inputs: &Inputs) -> FloatTensor<Flex> {
    let ([p, d], [x, weight, bias, places]) = (widths(inputs), inputs.each_ref().map(values));
    let rows = chunk_rows(places.len() / d);
    let mut out = buffer(places.len());
    x.par_chunks(rows * p)
        .zip(places.par_chunks(rows * d))
        .zip(out.par_chunks_mut(rows * d))
        .for_each(|((x, residual), out)| {
            let size = [x.len() / p, d, p];
            let sink = Residual { out, residual, residual_stride: d, bias };
            wide_tokens(size, View::rows(x, p), View::rows(weight, d), sink);
        });
    tensor(out, inputs[3].shape())
}

widest!(
    fn wide_tokens(size: [usize; 3], x: View<'_>, weight: View<'_>, sink: Residual<'_>) -> ()
        = gemm
);

widest!(
    fn wide_store(size: [usize; 3], dy: View<'_>, weight: View<'_>, sink: Store<'_>) -> ()
        = gemm
);

/// The gradient of `x`, which images do not ask for.
fn input_gradient(inputs: &Inputs, dout: &[f32]) -> Vec<f32> {
    let ([p, d], weight) = (widths(inputs), values(&inputs[1]));
    let rows = chunk_rows(dout.len() / d);
    let mut dx = buffer(dout.len() / d * p);
    dout.par_chunks(rows * d).zip(dx.par_chunks_mut(rows * p)).for_each(|(dy, out)| {
        let weight = View::rows(weight, d).transposed();
        wide_store([dy.len() / d, p, d], View::rows(dy, d), weight, Store { out, stride: p });
    });
    dx
}

fn weight_gradient(inputs: &Inputs, dout: &[f32]) -> Vec<f32> {
    let ([p, d], x) = (widths(inputs), values(&inputs[0]));
    let chunks = x.chunks(CHUNK_ROWS * p).zip(dout.chunks(CHUNK_ROWS * d));
    let outer = Outer::new(p, d).add(0..d, 1, chunks);
    let mut gradient = buffer(p * d);
    // One by one to whichever thread is free: halves of the list would leave a thread waiting.
    bands([(outer, &mut gradient)]).into_iter().par_bridge().for_each(Band::make);
    gradient
}

fn bias_gradient(width: usize, dout: &[f32]) -> Vec<f32> {
    let groups = dout.par_chunks(GROUP_ROWS * width).map(|rows| {
        let mut sum = vec![0.0; width];
        add_rows(rows, &mut sum);
        sum
    });
    let groups: Vec<Vec<f32>> = groups.collect();
    let mut sum = vec![0.0; width];
    groups.iter().for_each(|group| add_rows(group, &mut sum));
    sum
}

#[derive(Debug)]
struct ProjectionBackward;

impl Backward<Flex, 4> for ProjectionBackward {
    type State = Arc<Inputs>;

    fn backward(self, ops: Ops<Arc<Inputs>, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (inputs, dy) = (ops.state, values(&dout));
        let [x, weight, bias, places] = ops.parents;
        let mut register = |parent, i: usize, gradient| {
            grads.register::<Flex>(parent, tensor(gradient, inputs[i].shape()));
        };
        if let Some(x) = x {
            register(x.id, 0, input_gradient(&inputs, dy));
        }
        if let Some(weight) = weight {
            register(weight.id, 1, weight_gradient(&inputs, dy));
        }
        if let Some(bias) = bias {
            register(bias.id, 2, bias_gradient(widths(&inputs)[1], dy));
        }
        if let Some(places) = places {
            grads.register::<Flex>(places.id, dout);
        }
    }
}

impl<C: CheckpointStrategy> FusedProjection for Autodiff<Flex, C> {
    fn cpu_projection(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        places: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let tracked = [x, weight, bias, places];
        let nodes = tracked.each_ref().map(|input| input.node());
        let inputs = tracked.map(|input| input.into_parts().0.to_contiguous());
        let out = forward(&inputs);
        match ProjectionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(Arc::new(inputs), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData, module};

    fn wave<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
        let values = (0..shape.iter().product()).map(|i| (i as f32 * 0.7 + phase).sin());
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
    }

    #[test]
    fn values_and_gradients_are_those_of_the_plain_operations() {
        let device = Device::flex().autodiff();
        // Several chunks with an uneven last one, and less than one.
        for (n, k, p, d) in [(151, 10, 27, 20), (2, 3, 5, 50)] {
            let run = |fused: bool| {
                let x = wave([n, k, p], 0.1, &device).require_grad();
                let weight = wave([p, d], 0.2, &device).require_grad();
                let bias = wave([d], 0.3, &device).require_grad();
                let places = wave([n, k, d], 0.4, &device).require_grad();
                let y = if fused {
                    cpu_projection(x.clone(), weight.clone(), bias.clone(), places.clone())
                } else {
                    module::linear(x.clone(), weight.clone(), Some(bias.clone())) + places.clone()
                };
                let grads = (y.clone() * wave([n, k, d], 0.9, &device)).sum().backward();
                let host = |data: TensorData| data.try_to_vec::<f32>().unwrap();
                [
                    host(y.into_data()),
                    host(x.grad(&grads).unwrap().into_data()),
                    host(weight.grad(&grads).unwrap().into_data()),
                    host(bias.grad(&grads).unwrap().into_data()),
                    host(places.grad(&grads).unwrap().into_data()),
                ]
            };
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>();
            for (i, (plain, fused)) in run(false).iter().zip(&run(true)).enumerate() {
                assert_eq!(plain.len(), fused.len());
                let apart = norm(&mut plain.iter().zip(fused).map(|(a, b)| a - b));
                let relative = (apart / norm(&mut plain.iter().copied())).sqrt();
                assert!(relative < 1e-5, "tensor {i} of {n} x {k}: {relative}");
            }
        }
    }
}
