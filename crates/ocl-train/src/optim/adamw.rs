//! AdamW over the parameters of a module.
//!
//! Burn's own keys its state by process-wide parameter ids, loads records on the process's default
//! device, and keeps bias corrections in f32. Here the state is keyed by the parameter's name, so that a
//! checkpoint is plain safetensors and resuming is exact.

#[cfg(feature = "gpu")]
mod gpu;

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
#[cfg(any(test, feature = "flex"))]
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

#[cfg(feature = "flex")]
use super::gradients::is_on_host;
#[cfg(any(test, feature = "flex"))]
use super::gradients::{BAND, band_squares};
use super::gradients::{NamedGradients, squares};
use super::layer_decay::LayerDecay;

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

/// Moments of one parameter, flat.
#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
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

    /// The same optimiser, which lets every parameter decay, not only those of two or more dimensions.
    #[must_use]
    pub fn with_decay_of_all(self) -> Self {
        Self { decays_all: true, ..self }
    }

    /// Decays by another weight from the next step on.
    pub fn set_weight_decay(&mut self, weight_decay: f64) {
        self.config.weight_decay = weight_decay;
    }

    /// The same optimiser, which scales the gradients of a step down to this global norm where they exceed it.
    #[must_use]
    pub fn with_clip_norm(self, norm: f64) -> Self {
        Self { clip_norm: Some(norm), ..self }
    }

    /// Moves every parameter that has a gradient:
    /// `p <- p (1 - lr wd) - lr m' / (sqrt(v') + eps)`, `m'` and `v'` bias-corrected.
    ///
    /// Parameters of two or more dimensions decay. The class token `[1, 1, D]` is one of them, as in the
    /// authors' program.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, lr: f64) -> M {
        let gradients = NamedGradients::of(gradients, |take| module.visit(take));
        self.step_by(gradients, lr, |update| module.map(update)).0
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
        let mut update = Update { optimizer: self, gradients, factor, lr, path: vec![], squares };
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

    /// One parameter's update, flat; its moments move along, and its gradient's squares are added up.
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
        let factors = self.factors(lr * scale, decays);
        let (p, moments) = moved(&factors, p, g, old, squares);
        self.moments.insert(name, moments);
        p
    }

    fn factors(&self, lr: f64, decays: bool) -> Factors {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let steps = self.steps as i32;
        Factors {
            beta1,
            beta2,
            eps,
            remain: if decays { 1.0 - lr * weight_decay } else { 1.0 },
            length: lr / (1.0 - beta1.powi(steps)),
            correct: (1.0 - beta2.powi(steps)).sqrt().recip(),
        }
    }
}

/// Numbers of one step, in f64 until they meet a tensor.
struct Factors {
    beta1: f64,
    beta2: f64,
    eps: f64,
    /// What decay leaves of the parameter.
    remain: f64,
    /// The learning rate over the first moment's bias correction.
    length: f64,
    /// One over the root of the second moment's bias correction.
    correct: f64,
}

/// [`Factors`] as kernels and loops take them.
#[cfg(any(test, feature = "flex", feature = "gpu"))]
#[derive(Clone, Copy, Debug)]
struct Numbers {
    beta1: f32,
    beta2: f32,
    /// What new gradients and their squares weigh.
    new1: f32,
    new2: f32,
    eps: f32,
    remain: f32,
    length: f32,
    correct: f32,
}

#[cfg(any(test, feature = "flex", feature = "gpu"))]
impl Factors {
    fn in_f32(&self) -> Numbers {
        Numbers {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            new1: (1.0 - self.beta1) as f32,
            new2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
            remain: self.remain as f32,
            length: self.length as f32,
            correct: self.correct as f32,
        }
    }
}

/// The parameter, its moments, and the sum of its gradient's squares, `[1]`.
type Moved = (Tensor<1>, Moments, Tensor<1>);

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
    let (p, moments, sum) = match is_on_host(&p) {
        true => move_on_host(f, p, g, old),
        false => move_plain(f, p, g, old),
    };
    #[cfg(not(feature = "flex"))]
    let (p, moments, sum) = move_plain(f, p, g, old);
    squares.single.push(sum);
    (p, moments)
}

/// The update as tensor operations, on any backend: the definition.
fn move_plain(f: &Factors, p: Tensor<1>, g: Tensor<1>, old: Moments) -> Moved {
    let squares = squares(g.clone());
    let first = old.first.mul_scalar(f.beta1) + g.clone().mul_scalar(1.0 - f.beta1);
    let second = old.second.mul_scalar(f.beta2) + g.square().mul_scalar(1.0 - f.beta2);
    let denominator = second.clone().sqrt().mul_scalar(f.correct).add_scalar(f.eps);
    let moved = first.clone().div(denominator).mul_scalar(f.length);
    (p.mul_scalar(f.remain).sub(moved), Moments { first, second }, squares)
}

/// The same in one pass over memory, in place, for tensors that lie in the host's memory.
#[cfg(any(test, feature = "flex"))]
fn move_on_host(f: &Factors, p: Tensor<1>, g: Tensor<1>, old: Moments) -> Moved {
    let Numbers { beta1, beta2, new1, new2, eps, remain, length, correct } = f.in_f32();
    let device = p.device();
    let host = |t: Tensor<1>| t.into_data().try_into_vec::<f32>().expect("parameters are f32");
    let (mut p, g, mut m, mut v) = (host(p), host(g), host(old.first), host(old.second));
    let squares: Vec<f64> = p
        .par_chunks_mut(BAND)
        .zip(g.par_chunks(BAND))
        .zip(m.par_chunks_mut(BAND))
        .zip(v.par_chunks_mut(BAND))
        .map(|(((p, g), m), v)| {
            // First of all, so that the pass below finds the band in the cache.
            let squares = band_squares(g);
            pulp::Arch::new().dispatch(|| {
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    *m = *m * beta1 + *g * new1;
                    *v = *v * beta2 + *g * *g * new2;
                    *p = *p * remain - *m / (v.sqrt() * correct + eps) * length;
                }
            });
            squares
        })
        .collect();
    let squares = Tensor::from_data([squares.iter().sum::<f64>() as f32], &device);
    let back = |values: Vec<f32>| {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &device)
    };
    (back(p), Moments { first: back(m), second: back(v) }, squares)
}

/// Moves each parameter that it is given.
pub struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: NamedGradients,
    /// What clipping leaves of the gradients, `[1]`.
    factor: Option<Tensor<1>>,
    lr: f64,
    path: Vec<String>,
    squares: Squares,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(gradient) = self.gradients.remove(&name) else { return param };
        let gradient = match &self.factor {
            Some(factor) => gradient * factor.clone(),
            None => gradient,
        };
        param.map(|tensor| {
            let tracked = tensor.is_require_grad();
            let shape = tensor.dims();
            let plain = tensor.inner().flatten::<1>(0, D - 1);
            let kind = (self.lr, D >= 2 || self.optimizer.decays_all);
            let moved = self.optimizer.update(name, plain, gradient, kind, &mut self.squares);
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

    #[test]
    fn one_pass_equals_the_plain_update() {
        let device = Device::default();
        let config = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
        let optimizer = AdamW { steps: 3, ..AdamW::new(config) };
        let wave = |phase: f32| {
            let values: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
            Tensor::<1>::from_data(TensorData::new(values, [40_000]), &device)
        };
        let old = || Moments { first: wave(1.0), second: wave(2.0).square() };
        for decays in [true, false] {
            let factors = optimizer.factors(0.1, decays);
            let (a, m, s) = move_plain(&factors, wave(0.0), wave(3.0), old());
            let (b, n, t) = move_on_host(&factors, wave(0.0), wave(3.0), old());
            assert!(((s - t.clone()) / t).abs().into_scalar::<f32>() < 1e-5);
            for (a, b) in [(a, b), (m.first, n.first), (m.second, n.second)] {
                let worst: f32 = (a - b).abs().max().into_scalar();
                assert!(worst < 1e-6, "differs by {worst}");
            }
        }
    }
}
