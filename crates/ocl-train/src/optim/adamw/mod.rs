//! AdamW over the parameters of a module.
//!
//! Burn's own keys its state by process-wide parameter ids, loads records on the process's default
//! device, and keeps bias corrections in f32. Here the state is keyed by the parameter's name, so
//! that a checkpoint is plain safetensors and resuming is exact.

#[cfg(feature = "gpu")]
mod gpu;
mod rule;

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
#[cfg(feature = "flex")]
use ocl_model::is_host;
use ocl_model::{NamedMapper, map_named, visit_named};
use serde::{Deserialize, Serialize};

use super::gradients::NamedGradients;
use super::layer_decay::LayerDecay;
use rule::{Factors, Moments};

/// Constants of AdamW (arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of parameters of two or more dimensions; biases and norms have none.
    pub weight_decay: f64,
}

/// AdamW and its state.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    layer_decay: Option<LayerDecay>,
    clip_norm: Option<f64>,
    /// Whether biases, norms and tokens decay too.
    decays_all: bool,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// State of [`AdamW`] on the host: the steps taken and, by parameter name, both moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamWState {
    /// Steps taken.
    pub steps: u64,
    /// `(first, second)` moments, in the memory layout of the parameter.
    pub moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// A fresh optimiser.
    pub fn new(config: AdamWConfig) -> Self {
        Self::with_moments(config, 0, BTreeMap::new())
    }

    /// The same optimiser with a rate of its own for each layer, told from the parameters' names.
    #[must_use]
    pub fn with_layer_decay(self, layers: LayerDecay) -> Self {
        Self { layer_decay: Some(layers), ..self }
    }

    /// The same optimiser, which lets every parameter decay, not only those of two or more
    /// dimensions.
    #[must_use]
    pub fn with_decay_of_all(self) -> Self {
        Self { decays_all: true, ..self }
    }

    /// Decays by another weight from the next step on.
    pub fn set_weight_decay(&mut self, weight_decay: f64) {
        self.config.weight_decay = weight_decay;
    }

    /// The same optimiser, which scales the gradients of a step down to this global norm where they
    /// exceed it.
    #[must_use]
    pub fn with_clip_norm(self, norm: f64) -> Self {
        Self { clip_norm: Some(norm), ..self }
    }

    /// Moves every parameter that has a gradient:
    /// `p <- p (1 - lr wd) - lr m' / (sqrt(v') + eps)`, `m'` and `v'` bias-corrected.
    ///
    /// Parameters of two or more dimensions decay. The class token `[1, 1, D]` is one of them, as
    /// in the authors' program.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, lr: f64) -> M {
        let gradients = NamedGradients::of(gradients, |take| visit_named(&module, "", take));
        self.step_by(gradients, lr, |update| map_named(module, "", update)).0
    }

    /// [`AdamW::step`] with gradients that may be sums, of anything whose parameters `map` shows to
    /// the mapper that it is given. The second value is the norm of all gradients together before
    /// clipping, `[1]`; it is not read from the device.
    pub fn step_by<T>(
        &mut self,
        gradients: NamedGradients,
        lr: f64,
        map: impl FnOnce(&mut Update<'_>) -> T,
    ) -> (T, Tensor<1>) {
        self.steps += 1;
        let clip = self.clip_norm.map(|most| {
            let norm = gradients.norm();
            let factor = norm.clone().add_scalar(1e-6).recip().mul_scalar(most).clamp_max(1.0);
            (norm, factor)
        });
        let factor = clip.as_ref().map(|(_, factor)| factor.clone());
        let squares = Squares::of(gradients.len());
        let mut update = Update { optimizer: self, gradients, factor, lr, squares };
        let moved = map(&mut update);
        let squares = update.squares;
        let norm = clip.map_or_else(|| squares.sum().sqrt(), |(norm, _)| norm);
        (moved, norm)
    }

    /// Copies the state to the host.
    pub fn state(&self) -> AdamWState {
        let host =
            |tensor: &Tensor<1>| tensor.to_data().try_into_vec::<f32>().expect("moments are f32");
        let moments = self.moments.iter();
        let moments = moments.map(|(name, m)| (name.clone(), (host(&m.first), host(&m.second))));
        AdamWState { steps: self.steps, moments: moments.collect() }
    }

    /// Continues from a state.
    pub fn with_state(config: AdamWConfig, state: AdamWState, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let load = |values: Vec<f32>| {
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), &device)
        };
        let moments = state.moments.into_iter();
        let moments = moments
            .map(|(name, (m, v))| (name, Moments { first: load(m), second: load(v) }))
            .collect();
        Self::with_moments(config, state.steps, moments)
    }

    fn with_moments(config: AdamWConfig, steps: u64, moments: BTreeMap<String, Moments>) -> Self {
        Self { config, layer_decay: None, clip_norm: None, decays_all: false, steps, moments }
    }

    /// One parameter's update, flat; its moments move along, and its gradient's squares are added
    /// up.
    fn update(
        &mut self,
        name: String,
        p: Tensor<1>,
        g: Tensor<1>,
        (lr, decays): (f64, bool),
        squares: &mut Squares,
    ) -> Tensor<1> {
        let old = self.moments.remove(&name).unwrap_or_else(|| {
            let zeros = || Tensor::zeros(p.dims(), &p.device());
            Moments { first: zeros(), second: zeros() }
        });
        let scale = self.layer_decay.map_or(1.0, |layers| layers.scale(&name));
        let factors = Factors::of(&self.config, self.steps, lr * scale, decays);
        let (p, moments) = moved(&factors, p, g, old, squares);
        self.moments.insert(name, moments);
        p
    }
}

/// The sums of squares of a step's gradients: what their norm is made of.
struct Squares {
    /// `[1]` each.
    single: Vec<Tensor<1>>,
    #[cfg(feature = "gpu")]
    shared: gpu::SharedSquares,
}

impl Squares {
    /// For a step of so many gradients.
    fn of(gradients: usize) -> Self {
        #[cfg(not(feature = "gpu"))]
        let _ = gradients;
        Self {
            single: vec![],
            #[cfg(feature = "gpu")]
            shared: gpu::SharedSquares::of(gradients),
        }
    }

    /// The sum of them all, `[1]`.
    fn sum(self) -> Tensor<1> {
        #[cfg(feature = "gpu")]
        let single = self.single.into_iter().chain(self.shared.sum()).collect();
        #[cfg(not(feature = "gpu"))]
        let single = self.single;
        Tensor::cat(single, 0).sum()
    }
}

/// One parameter's update in the way that its device does best.
fn moved(
    f: &Factors,
    p: Tensor<1>,
    g: Tensor<1>,
    old: Moments,
    squares: &mut Squares,
) -> (Tensor<1>, Moments) {
    #[cfg(feature = "gpu")]
    if gpu::serves(&p) {
        return gpu::move_on_gpu(f, p, g, old, &mut squares.shared);
    }
    #[cfg(feature = "flex")]
    let (p, moments, sum) = match is_host(&p.device()) {
        true => rule::move_on_host(f, p, g, old),
        false => rule::move_plain(f, p, g, old),
    };
    #[cfg(not(feature = "flex"))]
    let (p, moments, sum) = rule::move_plain(f, p, g, old);
    squares.single.push(sum);
    (p, moments)
}

/// Moves each parameter that it is given.
pub struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: NamedGradients,
    /// What clipping leaves of the gradients, `[1]`.
    factor: Option<Tensor<1>>,
    lr: f64,
    squares: Squares,
}

impl NamedMapper for Update<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove(name) else { return param };
        let gradient = match &self.factor {
            Some(factor) => gradient * factor.clone(),
            None => gradient,
        };
        param.map(|tensor| {
            let tracked = tensor.is_require_grad();
            let shape = tensor.dims();
            let plain = tensor.inner().flatten::<1>(0, D - 1);
            let kind = (self.lr, D >= 2 || self.optimizer.decays_all);
            let moved =
                self.optimizer.update(name.to_owned(), plain, gradient, kind, &mut self.squares);
            let moved = Tensor::from_inner(moved.reshape(shape));
            if tracked { moved.require_grad() } else { moved }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Module, Debug)]
    struct TwoLayers {
        patch_embed: Param<Tensor<1>>,
        head: Param<Tensor<1>>,
    }

    #[test]
    fn a_lower_layer_moves_less() {
        let device = Device::default().autodiff();
        let config = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
        let zeros = || Param::from_tensor(Tensor::<1>::zeros([3], &device));
        let mut module = TwoLayers { patch_embed: zeros(), head: zeros() };
        let mut optimizer =
            AdamW::new(config).with_layer_decay(LayerDecay { decay: 0.5, depth: 1 });
        let loss = (module.patch_embed.val() + module.head.val()).sum();
        module = optimizer.step(module, loss.backward(), 0.1);
        let at = |p: &Param<Tensor<1>>| p.val().inner().into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((at(&module.head) + 0.1).abs() < 1e-6);
        assert!((at(&module.patch_embed) + 0.1 * 0.25).abs() < 1e-6);
    }
}
