//! A pre-norm transformer block.

use burn::module::Module;
use burn::tensor::{Tensor, activation};

use crate::config::VitConfig;
#[cfg(feature = "flex")]
use crate::fused;
use crate::init::Init;
use crate::layers::{LayerNorm, LayerScale, Linear};

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
        let tokens = x.dims()[1];
        self.forward_queries(x, tokens)
    }

    /// [`Attention::forward`] for the first `queries` tokens alone: `[B, T, D]` to `[B, Q, D]`.
    fn forward_queries(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        let [b, t, d] = x.dims();
        let head = d / self.heads;
        let qkv = self.qkv.forward(x).reshape([b, t, 3, self.heads, head]); // [B, T, 3, H, d]
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // [3, B, H, T, d]
        let part = |i: usize| {
            qkv.clone().narrow(0, i, 1).reshape([b, self.heads, t, head]) // [B, H, T, d]
        };
        let (q, k, v) = (part(0).narrow(2, 0, queries), part(1), part(2));
        // Scaling the queries touches T x d values a head, scaling the scores T x T.
        let scores = q.mul_scalar((head as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [B, H, Q, T]
        let mixed = activation::softmax(scores, 3).matmul(v); // [B, H, Q, d]
        self.proj.forward(mixed.swap_dims(1, 2).reshape([b, queries, d])) // [B, Q, D]
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

/// `x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`; without a layer scale, `ls` is the identity.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
}

impl Block {
    pub(crate) fn new(config: &VitConfig, init: &mut Init<'_>) -> Self {
        Self {
            norm1: LayerNorm::new(config.width, init),
            attn: Attention::new(config, init),
            ls1: None,
            norm2: LayerNorm::new(config.width, init),
            mlp: Mlp::new(config, init),
            ls2: None,
        }
    }

    /// Gives both branches a layer scale of ones, for weights that have them.
    pub(crate) fn with_layer_scale(mut self, width: usize, init: &Init<'_>) -> Self {
        self.ls1 = Some(LayerScale::new(width, init));
        self.ls2 = Some(LayerScale::new(width, init));
        self
    }

    /// Whether the branches are scaled.
    pub(crate) fn has_layer_scale(&self) -> bool {
        self.ls1.is_some() || self.ls2.is_some()
    }

    /// Runs the block: on the CPU in one operation of its own, elsewhere as [`Block::forward_plain`].
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let tokens = x.dims()[1];
        self.forward_queries(x, tokens)
    }

    /// [`Block::forward`] for the first token of each sequence alone. After the last block nobody reads the
    /// others: they serve as keys and values, and need neither query, projection nor MLP.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, 1, D]`.
    pub fn forward_first(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward_queries(x, 1)
    }

    /// Runs the block as tensor operations, on any backend: the definition.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn forward_plain(&self, x: Tensor<3>) -> Tensor<3> {
        let tokens = x.dims()[1];
        self.forward_queries_plain(x, tokens)
    }

    /// [`Block::forward_plain`] with each residual branch times a number of each sequence, `[B, 1, 1]`: zero
    /// leaves a sequence's branch out, as stochastic depth does (arXiv 1603.09382).
    pub(crate) fn forward_branches(&self, x: Tensor<3>, [attn, mlp]: [Tensor<3>; 2]) -> Tensor<3> {
        let branch = self.attn.forward(self.norm1.forward(x.clone()));
        let x = x + scaled(branch, &self.ls1) * attn;
        let branch = self.mlp.forward(self.norm2.forward(x.clone()));
        x + scaled(branch, &self.ls2) * mlp
    }

    fn forward_queries(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        #[cfg(feature = "flex")]
        if fused::runs_on(&x.device()) && !self.has_layer_scale() {
            return self.forward_queries_fused(x, queries);
        }
        self.forward_queries_plain(x, queries)
    }

    fn forward_queries_plain(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        let residual = x.clone().narrow(1, 0, queries); // [B, Q, D]
        let attn = self.attn.forward_queries(self.norm1.forward(x), queries);
        let x = residual + scaled(attn, &self.ls1);
        x.clone() + scaled(self.mlp.forward(self.norm2.forward(x)), &self.ls2)
    }

    #[cfg(feature = "flex")]
    fn forward_queries_fused(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        let Self { norm1, attn, norm2, mlp, .. } = self;
        let vectors = [
            &norm1.weight,
            &norm1.bias,
            &attn.qkv.bias,
            &attn.proj.bias,
            &norm2.weight,
            &norm2.bias,
            &mlp.fc1.bias,
            &mlp.fc2.bias,
        ];
        let matrices = [&attn.qkv.weight, &attn.proj.weight, &mlp.fc1.weight, &mlp.fc2.weight];
        fused::fused_block(
            x,
            vectors.map(|p| p.val()),
            matrices.map(|p| p.val()),
            attn.heads,
            queries,
        )
    }
}

fn scaled(branch: Tensor<3>, scale: &Option<LayerScale>) -> Tensor<3> {
    match scale {
        Some(scale) => scale.forward(branch),
        None => branch,
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use burn::module::ModuleVisitor;
    use burn::module::Param;
    use burn::tensor::{Device, Gradients, TensorData};

    fn wave<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
        let values = (0..shape.iter().product()).map(|i| (i as f32 * 0.7 + phase).sin());
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
    }

    /// Gradients of all parameters in order.
    struct Collect<'a>(&'a Gradients, Vec<Vec<f32>>);

    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).unwrap();
            self.1.push(gradient.into_data().try_to_vec().unwrap());
        }
    }

    /// Output, gradient of the input and gradients of the parameters.
    fn run(
        block: &Block,
        x: &Tensor<3>,
        by: impl Fn(&Block, Tensor<3>) -> Tensor<3>,
    ) -> Vec<Vec<f32>> {
        let x = x.clone().require_grad();
        let y = by(block, x.clone());
        let weights = wave(y.dims(), 0.3, &y.device());
        let gradients = (y.clone() * weights).sum().backward();
        let mut collect = Collect(&gradients, vec![]);
        block.visit(&mut collect);
        let host = |t: Tensor<3>| t.into_data().try_to_vec().unwrap();
        let mut all = vec![host(y.inner()), host(x.grad(&gradients).unwrap())];
        all.append(&mut collect.1);
        all
    }

    #[test]
    fn the_cpu_block_equals_the_plain_one_in_values_and_gradients() {
        let device = Device::flex().autodiff();
        // Several chunks, an uneven last one, sequences above and below a vector's length.
        for (sequences, tokens, heads) in [(70, 11, 4), (3, 33, 2), (1, 1, 1), (2, 300, 4)] {
            let config =
                VitConfig { image_px: 16, patch_px: 4, width: 24, depth: 1, heads, mlp_ratio: 4 };
            let mut init = Init::new(9, &device);
            let mut block = Block::new(&config, &mut init);
            // No parameter at a special value: biases and norms too.
            let noise = |p: &Param<Tensor<1>>| {
                p.clone().map(|t| {
                    (t.clone() + wave(t.dims(), 1.0, &device) * 0.1).detach().require_grad()
                })
            };
            block.norm1.weight = noise(&block.norm1.weight);
            block.norm2.bias = noise(&block.norm2.bias);
            block.attn.qkv.bias = noise(&block.attn.qkv.bias);
            block.mlp.fc1.bias = noise(&block.mlp.fc1.bias);
            let x = wave([sequences, tokens, 24], 0.0, &device);
            let case = format!("{sequences} sequences of {tokens}");
            let plain = run(&block, &x, Block::forward_plain);
            equal(&plain, &run(&block, &x, Block::forward), &case);
            // The first token alone is a row of the whole, in values and gradients, on both paths.
            let first = |x: Tensor<3>| x.narrow(1, 0, 1);
            let whole = run(&block, &x, |block, x| first(block.forward_plain(x)));
            let plain = run(&block, &x, |block, x| block.forward_queries_plain(x, 1));
            equal(&whole, &plain, &format!("{case}, first of the plain"));
            let fused = run(&block, &x, Block::forward_first);
            equal(&whole, &fused, &format!("{case}, first"));
        }
    }

    fn equal(expected: &[Vec<f32>], got: &[Vec<f32>], case: &str) {
        assert_eq!((expected.len(), got.len()), (14, 14));
        for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
            let norm = |v: &[f32]| v.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            assert_eq!(expected.len(), got.len(), "tensor {i} of {case}");
            let apart: Vec<f32> = expected.iter().zip(got).map(|(a, b)| a - b).collect();
            let relative = norm(&apart) / norm(expected).max(1e-3);
            assert!(relative < 1e-5, "tensor {i} of {case} differs by {relative}");
        }
    }
}
