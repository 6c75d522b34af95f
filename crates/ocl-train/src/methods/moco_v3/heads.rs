//! Projector and predictor: linear layers without bias, each followed by batch norm, ReLU between.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use ocl_model::{HostTensor, Init, WeightsError};

/// Added to the variance.
const EPSILON: f64 = 1e-5;
/// What a batch's statistics weigh in the running ones.
const NEW: f64 = 0.1;

/// A projector or predictor. Layers count as in MoCo v3's published weights: of each three, 0 is
/// linear, 1 a norm, 2 the ReLU. The last norm has no parameters.
#[derive(Module, Debug)]
pub struct MocoHead {
    layers: Vec<Layer>,
}

#[derive(Module, Debug)]
struct Layer {
    /// `[inputs, outputs]`.
    weight: Param<Tensor<2>>,
    scale: Option<Param<Tensor<1>>>,
    shift: Option<Param<Tensor<1>>>,
    /// Running mean and variance, `[outputs]`: told of every batch and used by none. Not
    /// parameters.
    mean: Tensor<1>,
    variance: Tensor<1>,
}

/// Mean and variance (unbiased) that each norm of a head has seen in a batch, without a graph.
#[derive(Clone, Debug)]
pub struct Statistics(Vec<[Tensor<1>; 2]>);

impl MocoHead {
    /// Layers from width to width, `U(-a, a)` with `a = 1 / sqrt(inputs)`, PyTorch's usual; scales
    /// 1, shifts 0.
    pub(super) fn new(widths: &[usize], init: &mut Init<'_>) -> Self {
        let last = widths.len() - 2;
        let layer = |(i, pair): (usize, &[usize])| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let bound = (inputs as f32).sqrt().recip();
            let parameter = |value| (i < last).then_some(value);
            Layer {
                weight: Param::from_tensor(init.uniform([inputs, outputs], bound)),
                scale: parameter(1.0).map(|one| Param::from_tensor(init.constant([outputs], one))),
                shift: parameter(0.0)
                    .map(|zero| Param::from_tensor(init.constant([outputs], zero))),
                mean: init.constant([outputs], 0.0),
                variance: init.constant([outputs], 1.0),
            }
        };
        Self { layers: widths.windows(2).enumerate().map(layer).collect() }
    }

    /// Runs a whole batch through, and tells what its norms have seen.
    ///
    /// # Shapes
    /// `[N, inputs]` to `[N, outputs]`.
    ///
    /// # Panics
    /// If the batch has a single image, which has no variance.
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Statistics) {
        let n = x.dims()[0];
        assert!(n > 1, "batch norm needs at least two images, got {n}");
        let mut seen = vec![];
        let last = self.layers.len() - 1;
        let x = self.layers.iter().enumerate().fold(x, |x, (i, layer)| {
            let x = x.matmul(layer.weight.val()); // [N, outputs]
            let mean = x.clone().mean_dim(0); // [1, outputs]
            let apart = x - mean.clone();
            let variance = apart.clone().square().mean_dim(0);
            let unbiased = variance.clone().mul_scalar(n as f64 / (n as f64 - 1.0));
            seen.push([mean, unbiased].map(|row| plain(row.flatten(0, 1))));
            let mut y = apart / variance.add_scalar(EPSILON).sqrt();
            if let (Some(scale), Some(shift)) = (&layer.scale, &layer.shift) {
                y = y * scale.val().unsqueeze() + shift.val().unsqueeze();
            }
            if i < last { activation::relu(y) } else { y }
        });
        (x, Statistics(seen))
    }

    /// The same head, its running statistics moved towards those of a batch.
    pub(super) fn taking(mut self, seen: Statistics) -> Self {
        for (layer, [mean, variance]) in self.layers.iter_mut().zip(seen.0) {
            let moved = |old: Tensor<1>, new: Tensor<1>| {
                let new = new.mul_scalar(NEW) + plain(old.clone()).mul_scalar(1.0 - NEW);
                if old.device() == new.device() { new } else { Tensor::from_inner(new) }
            };
            layer.mean = moved(layer.mean.clone(), mean);
            layer.variance = moved(layer.variance.clone(), variance);
        }
        self
    }

    /// Running statistics on the host, by name under `prefix`.
    pub fn statistics(&self, prefix: &str) -> BTreeMap<String, HostTensor> {
        let host = |tensor: &Tensor<1>| HostTensor {
            shape: tensor.dims().to_vec(),
            values: tensor.to_data().try_into_vec().expect("statistics are f32"),
        };
        let of = |(i, layer): (usize, &Layer)| {
            [("mean", &layer.mean), ("variance", &layer.variance)]
                .map(|(what, tensor)| (format!("{prefix}layers.{i}.{what}"), host(tensor)))
        };
        self.layers.iter().enumerate().flat_map(of).collect()
    }

    /// The same head with running statistics taken out of `state`.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] naming what is missing or of another length.
    pub fn with_statistics(
        mut self,
        prefix: &str,
        state: &mut BTreeMap<String, HostTensor>,
    ) -> Result<Self, WeightsError> {
        let (mut missing, mut shapes) = (vec![], vec![]);
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for (what, place) in [("mean", &mut layer.mean), ("variance", &mut layer.variance)] {
                let name = format!("{prefix}layers.{i}.{what}");
                match state.remove(&name) {
                    None => missing.push(name),
                    Some(host) if host.shape != place.dims() => {
                        shapes.push((name, place.dims().to_vec(), host.shape));
                    }
                    Some(host) => {
                        let data = TensorData::new(host.values, host.shape);
                        *place = Tensor::from_data(data, &place.device());
                    }
                }
            }
        }
        if missing.is_empty() && shapes.is_empty() {
            return Ok(self);
        }
        Err(WeightsError::Mismatch { missing, unexpected: vec![], shapes })
    }
}

/// A tensor without a graph, whatever device it is on.
fn plain(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.device().is_autodiff() { tensor.inner() } else { tensor }
}
