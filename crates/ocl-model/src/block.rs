//! A pre-norm transformer block.

use burn::module::Module;
use burn::tensor::{Tensor, activation};

use crate::config::VitConfig;
use crate::init::Init;
use crate::layers::{LayerNorm, Linear};

/// Multi-head self-attention with a bias on queries, keys and values.
#[derive(Module, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(config: &VitConfig, init: &mut Init<'_>) -> Self {
        let d = config.width;
        Self {
            qkv: Linear::new(d, 3 * d, init),
            proj: Linear::new(d, d, init),
            heads: config.heads,
        }
    }

    /// `proj(softmax(q k^T / sqrt(d_head)) v)`, ViT section 3.1.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = x.dims();
        let head = d / self.heads;
        let qkv = self.qkv.forward(x).reshape([b, t, 3, self.heads, head]); // [B, T, 3, H, d]
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // [3, B, H, T, d]
        let part = |i: usize| {
            qkv.clone().slice([i..i + 1]).reshape([b, self.heads, t, head]) // [B, H, T, d]
        };
        let (q, k, v) = (part(0), part(1), part(2));
        // Scaling the queries touches T x d values a head, scaling the scores T x T.
        let scores = q.mul_scalar((head as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [B, H, T, T]
        let mixed = activation::softmax(scores, 3).matmul(v); // [B, H, T, d]
        self.proj.forward(mixed.swap_dims(1, 2).reshape([b, t, d])) // [B, T, D]
    }
}

/// Two linear layers with an exact GELU (by the error function) between.
#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(config: &VitConfig, init: &mut Init<'_>) -> Self {
        let hidden = config.width * config.mlp_ratio;
        Self {
            fc1: Linear::new(config.width, hidden, init),
            fc2: Linear::new(hidden, config.width, init),
        }
    }

    /// `fc2(gelu(fc1(x)))`.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(activation::gelu(self.fc1.forward(x)))
    }
}

/// `x + attn(norm1(x))`, then `x + mlp(norm2(x))`.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    pub(crate) fn new(config: &VitConfig, init: &mut Init<'_>) -> Self {
        Self {
            norm1: LayerNorm::new(config.width, init),
            attn: Attention::new(config, init),
            norm2: LayerNorm::new(config.width, init),
            mlp: Mlp::new(config, init),
        }
    }

    /// Runs the block.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x));
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }
}
