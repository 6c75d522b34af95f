//! The layers with parameters. Their fields carry timm's names, so that a parameter's path in the
//! module is its name in a weights file.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, module};

use super::init::Init;
use crate::precision::{NORM_EPSILON, Precision};

/// `y = x W + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[inputs, outputs]`: the transpose of PyTorch's, so that the product needs no transposition.
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`.
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// Xavier uniform weight, zero bias.
    pub fn new(inputs: usize, outputs: usize, init: &mut Init<'_>) -> Self {
        Self {
            weight: Param::from_tensor(init.xavier(inputs, outputs)),
            bias: Param::from_tensor(init.constant([outputs], 0.0)),
        }
    }

    /// Applies the layer to the last dimension.
    ///
    /// # Shapes
    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_in(Precision::F32, x)
    }

    /// [`Linear::forward`] with its product in `precision`; input and result are f32.
    pub fn apply<const D: usize>(&self, precision: Precision, x: Tensor<D>) -> Tensor<D> {
        precision.result(self.forward_in(precision, precision.factor(x)))
    }

    /// [`Linear::forward`] of a factor of this precision; the result is of it too.
    pub(crate) fn forward_in<const D: usize>(
        &self,
        precision: Precision,
        x: Tensor<D>,
    ) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        module::linear(x, precision.factor(weight), Some(precision.factor(bias)))
    }
}

/// `y = x * gamma`, a factor for each channel of a branch: "Going deeper with Image Transformers"
/// (arXiv 2103.17239), section 2. Encoders from elsewhere may have it; ours have not.
#[derive(Module, Debug)]
pub(crate) struct LayerScale {
    /// `[D]`.
    pub(crate) gamma: Param<Tensor<1>>,
}

impl LayerScale {
    pub(crate) fn new(width: usize, init: &Init<'_>) -> Self {
        Self { gamma: Param::from_tensor(init.constant([width], 1.0)) }
    }

    /// Scales the last dimension.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        x * self.gamma.val().unsqueeze::<3>()
    }
}

/// `y = (x - mean) / sqrt(var + 1e-6) * weight + bias` over the last dimension, `var` biased.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[D]`.
    pub weight: Param<Tensor<1>>,
    /// `[D]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    pub fn new(width: usize, init: &Init<'_>) -> Self {
        Self {
            weight: Param::from_tensor(init.constant([width], 1.0)),
            bias: Param::from_tensor(init.constant([width], 0.0)),
        }
    }

    /// Normalises the last dimension.
    ///
    /// # Shapes
    /// `[.., D]` to `[.., D]`.
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        module::layer_norm(x, self.weight.val(), Some(self.bias.val()), NORM_EPSILON)
    }
}
