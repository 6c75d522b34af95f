//! One parameter's update: `p <- p (1 - lr wd) - lr m' / (sqrt(v') + eps)`.

use burn::tensor::Tensor;
#[cfg(any(test, feature = "flex"))]
use burn::tensor::TensorData;
#[cfg(any(test, feature = "flex"))]
use rayon::prelude::*;

use super::AdamWConfig;
use crate::optim::gradients::squares;
#[cfg(any(test, feature = "flex"))]
use crate::optim::gradients::{BAND, band_squares};

/// Moments of one parameter, flat.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub(super) first: Tensor<1>,
    pub(super) second: Tensor<1>,
}

/// Numbers of one step, in f64 until they meet a tensor.
pub(super) struct Factors {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    /// What decay leaves of the parameter.
    pub(super) remain: f64,
    /// The learning rate over the first moment's bias correction.
    pub(super) length: f64,
    /// One over the root of the second moment's bias correction.
    pub(super) correct: f64,
}

impl Factors {
    /// For the step after `steps - 1` others.
    pub(super) fn of(config: &AdamWConfig, steps: u64, lr: f64, decays: bool) -> Self {
        let &AdamWConfig { beta1, beta2, eps, weight_decay } = config;
        let steps = steps as i32;
        Self {
            beta1,
            beta2,
            eps,
            remain: if decays { 1.0 - lr * weight_decay } else { 1.0 },
            length: lr / (1.0 - beta1.powi(steps)),
            correct: (1.0 - beta2.powi(steps)).sqrt().recip(),
        }
    }
}

/// [`Factors`] as kernels and loops take them.
#[cfg(any(test, feature = "flex", feature = "gpu"))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    /// What new gradients and their squares weigh.
    pub(super) new1: f32,
    pub(super) new2: f32,
    pub(super) eps: f32,
    pub(super) remain: f32,
    pub(super) length: f32,
    pub(super) correct: f32,
}

#[cfg(any(test, feature = "flex", feature = "gpu"))]
impl Factors {
    pub(super) fn in_f32(&self) -> Numbers {
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
pub(super) type Moved = (Tensor<1>, Moments, Tensor<1>);

/// The update as tensor operations, on any backend: the definition.
pub(super) fn move_plain(f: &Factors, p: Tensor<1>, g: Tensor<1>, old: Moments) -> Moved {
    let squares = squares(g.clone());
    let first = old.first.mul_scalar(f.beta1) + g.clone().mul_scalar(1.0 - f.beta1);
    let second = old.second.mul_scalar(f.beta2) + g.square().mul_scalar(1.0 - f.beta2);
    let denominator = second.clone().sqrt().mul_scalar(f.correct).add_scalar(f.eps);
    let moved = first.clone().div(denominator).mul_scalar(f.length);
    (p.mul_scalar(f.remain).sub(moved), Moments { first, second }, squares)
}

/// The same in one pass over memory, in place, for tensors that lie in the host's memory.
#[cfg(any(test, feature = "flex"))]
pub(super) fn move_on_host(f: &Factors, p: Tensor<1>, g: Tensor<1>, old: Moments) -> Moved {
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn one_pass_equals_the_plain_update() {
        let device = Device::default();
        let config = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
        let wave = |phase: f32| {
            let values: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
            Tensor::<1>::from_data(TensorData::new(values, [40_000]), &device)
        };
        let old = || Moments { first: wave(1.0), second: wave(2.0).square() };
        for decays in [true, false] {
            let factors = Factors::of(&config, 3, 0.1, decays);
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
