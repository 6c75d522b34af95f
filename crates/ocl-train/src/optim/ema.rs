//! A moving average of the weights.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ocl_model::{NamedMapper, NamedVisitor, map_named, visit_named};

/// An exponential moving average of a module's weights: after each step
/// `average <- decay average + (1 - decay) weights`. It takes no part in training.
#[derive(Clone, Debug)]
pub struct WeightAverage<M> {
    decay: f64,
    average: Option<M>,
}

impl<M: Module> WeightAverage<M> {
    /// Begins at the weights of `module`.
    pub fn new(module: &M, decay: f64) -> Self {
        Self { decay, average: Some(module.valid()) }
    }

    /// Continues with a given average, on a device without autodiff.
    pub fn with(average: M, decay: f64) -> Self {
        Self { decay, average: Some(average) }
    }

    /// The same average, changed in some other way.
    #[must_use]
    pub fn map(mut self, change: impl FnOnce(M) -> M) -> Self {
        self.average = self.average.take().map(change);
        self
    }

    /// Takes in the weights after a step.
    pub fn update(&mut self, module: &M) {
        self.follow(module, self.decay);
    }

    /// `average <- decay average + (1 - decay) weights`, for a decay that changes from step to
    /// step.
    pub fn follow(&mut self, module: &M, decay: f64) {
        let mut weights = Weights::default();
        visit_named(module, "", &mut weights);
        let mut mix = Mix { weights: weights.by_name, decay };
        self.average = self.average.take().map(|average| map_named(average, "", &mut mix));
    }

    /// The average.
    ///
    /// # Panics
    /// Never: an average is only ever replaced by another.
    pub fn weights(&self) -> &M {
        self.average.as_ref().expect("an average is only ever replaced by another")
    }
}

#[derive(Default)]
struct Weights {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedVisitor for Weights {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        self.by_name.insert(name.to_owned(), param.val().inner().flatten(0, D - 1));
    }
}

struct Mix {
    weights: BTreeMap<String, Tensor<1>>,
    decay: f64,
}

impl NamedMapper for Mix {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weights) = self.weights.remove(name) else { return param };
        param.map(|average| {
            let shape = average.dims();
            let new = weights.mul_scalar(1.0 - self.decay).reshape(shape);
            average.mul_scalar(self.decay) + new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use ocl_model::{Vit, VitConfig, state_of};

    #[test]
    fn the_average_follows_the_weights() {
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 1, heads: 2, mlp_ratio: 4 };
        let device = Device::default().autodiff();
        let vit = |seed| Vit::new(&config, seed, &device).unwrap();
        let value = |vit: &Vit| state_of(vit)["patch_embed.proj.weight"].values[5];
        let mut average = WeightAverage::new(&vit(1), 0.75);
        average.update(&vit(2));
        let expected = 0.75 * value(&vit(1)) + 0.25 * value(&vit(2));
        assert!((value(average.weights()) - expected).abs() < 1e-6);
        average.update(&vit(2));
        let expected = 0.75 * expected + 0.25 * value(&vit(2));
        assert!((value(average.weights()) - expected).abs() < 1e-6);
    }
}
