//! The tensors that a block is given and gives, by name.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType};

/// A block's parameters, f32, in the order of the forward pass: `[D]`, and weights `[inputs,
/// outputs]`.
#[derive(ExtensionType, Clone)]
#[extension_type(fusion)]
pub(crate) struct BlockParameters<B: Backend> {
    pub(crate) norm1_weight: FloatTensor<B>,
    pub(crate) norm1_bias: FloatTensor<B>,
    pub(crate) qkv_weight: FloatTensor<B>,
    pub(crate) qkv_bias: FloatTensor<B>,
    pub(crate) proj_weight: FloatTensor<B>,
    pub(crate) proj_bias: FloatTensor<B>,
    pub(crate) norm2_weight: FloatTensor<B>,
    pub(crate) norm2_bias: FloatTensor<B>,
    pub(crate) fc1_weight: FloatTensor<B>,
    pub(crate) fc1_bias: FloatTensor<B>,
    pub(crate) fc2_weight: FloatTensor<B>,
    pub(crate) fc2_bias: FloatTensor<B>,
}

impl<B: Backend> BlockParameters<B> {
    pub(super) fn map<O: Backend>(
        self,
        mut by: impl FnMut(FloatTensor<B>) -> FloatTensor<O>,
    ) -> BlockParameters<O> {
        BlockParameters {
            norm1_weight: by(self.norm1_weight),
            norm1_bias: by(self.norm1_bias),
            qkv_weight: by(self.qkv_weight),
            qkv_bias: by(self.qkv_bias),
            proj_weight: by(self.proj_weight),
            proj_bias: by(self.proj_bias),
            norm2_weight: by(self.norm2_weight),
            norm2_bias: by(self.norm2_bias),
            fc1_weight: by(self.fc1_weight),
            fc1_bias: by(self.fc1_bias),
            fc2_weight: by(self.fc2_weight),
            fc2_bias: by(self.fc2_bias),
        }
    }

    pub(super) fn into_array(self) -> [FloatTensor<B>; 12] {
        [
            self.norm1_weight,
            self.norm1_bias,
            self.qkv_weight,
            self.qkv_bias,
            self.proj_weight,
            self.proj_bias,
            self.norm2_weight,
            self.norm2_bias,
            self.fc1_weight,
            self.fc1_bias,
            self.fc2_weight,
            self.fc2_bias,
        ]
    }
}

/// What the backward pass of a block needs beside its input: factors of products in their type, the
/// rest f32.
#[derive(ExtensionType, Clone)]
#[extension_type(fusion)]
pub(crate) struct BlockSaved<B: Backend> {
    /// `[B T, D]`
    pub(crate) norm1: FloatTensor<B>,
    /// `[B T, 2]`
    pub(crate) stats1: FloatTensor<B>,
    /// `[B T, 3 D]`, without the bias.
    pub(crate) qkv: FloatTensor<B>,
    /// `[B H Q]`
    pub(crate) normaliser: FloatTensor<B>,
    /// `[B Q, D]`, the heads' outputs.
    pub(crate) mixed: FloatTensor<B>,
    /// `[B Q, D]`, after the first residual sum.
    pub(crate) middle: FloatTensor<B>,
    /// `[B Q, D]`
    pub(crate) norm2: FloatTensor<B>,
    /// `[B Q, 2]`
    pub(crate) stats2: FloatTensor<B>,
    /// `[B Q, 4 D]`, without the bias.
    pub(crate) hidden: FloatTensor<B>,
}

/// Gradients of a block.
#[derive(ExtensionType)]
#[extension_type(fusion)]
pub(crate) struct BlockGradients<B: Backend> {
    pub(crate) x: FloatTensor<B>,
    #[extension_type]
    pub(crate) parameters: BlockParameters<B>,
}
