//! Initial parameters, drawn on the host.
//!
//! Burn's own seeds are global to the process and its parameters initialise in the order of their
//! first use; drawn here, a model depends on its seed alone, on every backend.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::named::{NamedMapper, map_named};

/// Draws the parameters of one model, each from a stream of its own.
pub struct Init<'a> {
    seed: u64,
    drawn: u64,
    device: &'a Device,
}

impl<'a> Init<'a> {
    /// Streams that follow from `seed`; tensors are made on `device`.
    pub fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed, drawn: 0, device }
    }

    /// `U(-bound, bound)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Tensor<D> {
        let mut stream = self.stream();
        let values = (0..shape.iter().product())
            .map(|_| bound * (2.0 * stream.random::<f32>() - 1.0))
            .collect();
        self.tensor(values, shape)
    }

    /// Xavier uniform: `U(-a, a)` with `a = sqrt(6 / (inputs + outputs))`, stored `[inputs,
    /// outputs]`.
    pub fn xavier(&mut self, inputs: usize, outputs: usize) -> Tensor<2> {
        self.uniform([inputs, outputs], (6.0 / (inputs + outputs) as f64).sqrt() as f32)
    }

    /// `Normal(0, std)` by the Box-Muller transform.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Tensor<D> {
        let mut stream = self.stream();
        let values = (0..shape.iter().product()).map(|_| {
            // 1 - u lies in (0, 1], so that the logarithm is finite.
            let (u, v) = (1.0 - stream.random::<f64>(), stream.random::<f64>());
            std * ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        });
        let values = values.collect();
        self.tensor(values, shape)
    }

    /// All `value`.
    pub fn constant<const D: usize>(&self, shape: [usize; D], value: f32) -> Tensor<D> {
        self.tensor(vec![value; shape.iter().product()], shape)
    }

    /// Given values.
    pub fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    fn stream(&mut self) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.drawn.to_le_bytes());
        key[16..24].copy_from_slice(b"ocl-init");
        self.drawn += 1;
        ChaCha8Rng::from_seed(key)
    }
}

/// What a parameter is drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// `U(-bound, bound)`.
    Uniform(f64),
    /// `Normal(0, std)`.
    Normal(f64),
}

/// `module` with some of its parameters drawn anew: those for which `rule`, told the dotted name
/// and the dimensions, names what to draw from. Methods begin from other values than
/// [`Vit::new`]'s.
///
/// [`Vit::new`]: crate::Vit::new
pub fn redraw<M: Module>(
    module: M,
    init: &mut Init<'_>,
    rule: impl FnMut(&str, &[usize]) -> Option<Draw>,
) -> M {
    struct Redraw<'a, 'b, R> {
        init: &'a mut Init<'b>,
        rule: R,
    }
    impl<R: FnMut(&str, &[usize]) -> Option<Draw>> NamedMapper for Redraw<'_, '_, R> {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape = param.val().dims();
            let Some(draw) = (self.rule)(name, &shape) else { return param };
            param.map(|old| {
                let new = match draw {
                    Draw::Uniform(bound) => self.init.uniform(shape, bound as f32),
                    Draw::Normal(std) => self.init.normal(shape, std as f32),
                };
                if old.is_require_grad() { new.require_grad() } else { new }
            })
        }
    }
    map_named(module, "", &mut Redraw { init, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_their_bounds_and_moments() {
        let device = Device::default();
        let mut init = Init::new(7, &device);
        let xavier: Vec<f32> = init.xavier(60, 40).into_data().try_to_vec().unwrap();
        let bound = (6.0f32 / 100.0).sqrt();
        assert!(xavier.iter().all(|v| v.abs() <= bound));
        let variance = xavier.iter().map(|v| v * v).sum::<f32>() / 2400.0;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.1);
        let normal: Vec<f32> = init.normal([5000], 0.02).into_data().try_to_vec().unwrap();
        let variance = normal.iter().map(|v| v * v).sum::<f32>() / 5000.0;
        assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.05);
    }

    #[test]
    fn the_seed_decides() {
        let device = Device::default();
        let draw = |seed| Init::new(seed, &device).xavier(3, 4).into_data();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
