//! AdamW over the parameters of a module.
//!
//! Burn's own keys its state by process-wide parameter ids, loads records on the process's default
//! device, and keeps bias corrections in f32. Here the state is keyed by the parameter's name, so that a
//! checkpoint is plain safetensors and resuming is exact.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use serde::{Deserialize, Serialize};

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
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// State of [`AdamW`] on the host: the steps taken and, by parameter name, both moments.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWState {
    /// Steps taken.
    pub steps: u64,
    /// `(first, second)` moments, in the memory layout of the parameter.
    pub moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// A fresh optimiser.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// Moves every parameter that has a gradient:
    /// `p <- p (1 - lr wd) - lr m' / (sqrt(v') + eps)`, `m'` and `v'` bias-corrected.
    ///
    /// Parameters of two or more dimensions decay. The class token `[1, 1, D]` is one of them, as in the
    /// authors' program.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, lr: f64) -> M {
        self.steps += 1;
        module.map(&mut Update { optimizer: self, gradients, lr, path: vec![] })
    }

    /// Copies the state to the host.
    pub fn state(&self) -> AdamWState {
        let host = |tensor: &Tensor<1>| {
            tensor.to_data().try_into_vec::<f32>().expect("moments are f32")
        };
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
        Self { config, steps: state.steps, moments }
    }

    fn update<const D: usize>(&mut self, name: String, p: Tensor<D>, g: Tensor<D>, lr: f64) -> Tensor<D> {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let shape = p.dims();
        let (p, g) = (p.flatten::<1>(0, D - 1), g.flatten::<1>(0, D - 1));
        let grown = |old: Option<Tensor<1>>, new: Tensor<1>, beta: f64| match old {
            Some(old) => old.mul_scalar(beta) + new.mul_scalar(1.0 - beta),
            None => new.mul_scalar(1.0 - beta),
        };
        let (m, v) = match self.moments.remove(&name) {
            Some(old) => (Some(old.first), Some(old.second)),
            None => (None, None),
        };
        let m = grown(m, g.clone(), beta1);
        let v = grown(v, g.square(), beta2);
        let steps = self.steps as i32;
        let (correct1, correct2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
        let denominator = v.clone().sqrt().mul_scalar(correct2.sqrt().recip()).add_scalar(eps);
        let moved = m.clone().div(denominator).mul_scalar(lr / correct1);
        let decay = if D >= 2 { lr * weight_decay } else { 0.0 };
        let p = p.mul_scalar(1.0 - decay).sub(moved);
        self.moments.insert(name, Moments { first: m, second: v });
        p.reshape(shape)
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: Gradients,
    lr: f64,
    path: Vec<String>,
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
        param.map(|tensor| match tensor.grad_remove(&mut self.gradients) {
            Some(gradient) => {
                let plain = self.optimizer.update(name, tensor.inner(), gradient, self.lr);
                Tensor::from_inner(plain).require_grad()
            }
            None => tensor,
        })
    }
}
