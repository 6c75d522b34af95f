//! A pre-norm transformer block.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};

use super::config::BlockShape;
use super::init::Init;
use super::layers::{LayerNorm, LayerScale, Linear};
#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::device::is_host;
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::precision::{Precision, assert_f32};

/// Multi-head self-attention with a bias on queries, keys and values.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    qkv: Linear,
    proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl Attention {
    fn new(shape: BlockShape, init: &mut Init<'_>) -> Self {
        let d = shape.width;
        Self { qkv: Linear::new(d, 3 * d, init), proj: Linear::new(d, d, init), heads: shape.heads }
    }

    /// `proj(softmax(q k^T / sqrt(d_head)) v)` (ViT section 3.1) for the first `queries` tokens.
    /// Products are computed in `precision`, softmax in f32.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, Q, D]`.
    fn forward_queries(&self, x: Tensor<3>, queries: usize, precision: Precision) -> Tensor<3> {
        let [b, _, d] = x.dims();
        let (weights, v) = self.weights(x, queries, precision); // [B, H, Q, T], [B, H, T, d]
        let mixed = precision.factor(weights).matmul(v); // [B, H, Q, d]
        let mixed = mixed.swap_dims(1, 2).reshape([b, queries, d]); // [B, Q, D]
        precision.result(self.proj.forward_in(precision, mixed))
    }

    /// `softmax(q k^T / sqrt(d_head))` of the first `queries` tokens, and the values `v`.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, H, Q, T]` and `[B, H, T, d]`.
    fn weights(
        &self,
        x: Tensor<3>,
        queries: usize,
        precision: Precision,
    ) -> (Tensor<4>, Tensor<4>) {
        let [b, t, d] = x.dims();
        let head = d / self.heads;
        let qkv = self.qkv.forward_in(precision, precision.factor(x));
        let qkv = qkv.reshape([b, t, 3, self.heads, head]); // [B, T, 3, H, d]
        let qkv = qkv.permute([2, 0, 3, 1, 4]); // [3, B, H, T, d]
        let part = |i: usize| {
            qkv.clone().narrow(0, i, 1).reshape([b, self.heads, t, head]) // [B, H, T, d]
        };
        let (q, k, v) = (part(0).narrow(2, 0, queries), part(1), part(2));
        // Scaling the queries touches T x d values a head, scaling the scores T x T.
        let scores = q.mul_scalar((head as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [B, H, Q, T]
        (activation::softmax(precision.result(scores), 3), v)
    }
}

/// Two linear layers with an exact GELU (by the error function) between.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(shape: BlockShape, init: &mut Init<'_>) -> Self {
        let hidden = shape.width * shape.mlp_ratio;
        Self {
            fc1: Linear::new(shape.width, hidden, init),
            fc2: Linear::new(hidden, shape.width, init),
        }
    }

    /// `fc2(gelu(fc1(x)))`, products in `precision`, GELU in f32.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    fn forward_in(&self, precision: Precision, x: Tensor<3>) -> Tensor<3> {
        let hidden = precision.result(self.fc1.forward_in(precision, precision.factor(x)));
        let active = precision.factor(gelu(hidden));
        precision.result(self.fc2.forward_in(precision, active))
    }
}

/// `x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`; without a layer scale, `ls` is the
/// identity.
#[derive(Module, Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
    /// Its place among its network's blocks, to be named by.
    #[module(skip)]
    index: usize,
    #[module(skip)]
    precision: Precision,
}

impl Block {
    /// A block of this shape, the `index`-th of its network, with parameters drawn from `init`.
    pub fn new(shape: BlockShape, index: usize, init: &mut Init<'_>) -> Self {
        Self {
            norm1: LayerNorm::new(shape.width, init),
            attn: Attention::new(shape, init),
            ls1: None,
            norm2: LayerNorm::new(shape.width, init),
            mlp: Mlp::new(shape, init),
            ls2: None,
            index,
            precision: Precision::F32,
        }
    }

    /// The same block with its products in `precision`.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
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

    /// Runs the block: in one operation of its own on the CPU, and on GPUs where
    /// [`fits_gpu_block`](crate::fits_gpu_block) says so; elsewhere as [`Block::forward_plain`].
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let tokens = x.dims()[1];
        self.forward_queries(x, tokens)
    }

    /// [`Block::forward`] for the first token of each sequence alone. After the last block nobody
    /// reads the others: they serve as keys and values, and need neither query, projection nor MLP.
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

    /// [`Block::forward_plain`] with each residual branch times a number of each sequence, `[B, 1,
    /// 1]`: zero leaves a sequence's branch out, as stochastic depth does (arXiv 1603.09382).
    pub(crate) fn forward_branches(&self, x: Tensor<3>, [attn, mlp]: [Tensor<3>; 2]) -> Tensor<3> {
        self.assert_types(&x);
        let (tokens, precision) = (x.dims()[1], self.precision);
        let branch = self.attn.forward_queries(self.norm1.forward(x.clone()), tokens, precision);
        let x = x + scaled(branch, &self.ls1) * attn;
        let branch = self.mlp.forward_in(precision, self.norm2.forward(x.clone()));
        self.checked(x + scaled(branch, &self.ls2) * mlp)
    }

    /// Where the first `queries` tokens look, by head.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, H, Q, T]`; rows sum to 1.
    pub(crate) fn attention(&self, x: Tensor<3>, queries: usize) -> Tensor<4> {
        self.attn.weights(self.norm1.forward(x), queries, self.precision).0
    }

    fn forward_queries(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        #[cfg(feature = "flex")]
        if is_host(&x.device()) && !self.has_layer_scale() && self.precision == Precision::F32 {
            return self.forward_queries_on_cpu(x, queries);
        }
        #[cfg(feature = "gpu")]
        if !self.has_layer_scale() {
            let [_, tokens, width] = x.dims();
            if gpu::serves(&x.device(), tokens, width, self.attn.heads) {
                return self.forward_queries_on_gpu(x, queries);
            }
        }
        self.forward_queries_plain(x, queries)
    }

    fn forward_queries_plain(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        self.assert_types(&x);
        let residual = x.clone().narrow(1, 0, queries); // [B, Q, D]
        let attn = self.attn.forward_queries(self.norm1.forward(x), queries, self.precision);
        let x = residual + scaled(attn, &self.ls1);
        let mlp = self.mlp.forward_in(self.precision, self.norm2.forward(x.clone()));
        self.checked(x + scaled(mlp, &self.ls2))
    }

    /// The output, which is f32 if nothing in between was of a type that it should not be.
    fn checked(&self, out: Tensor<3>) -> Tensor<3> {
        assert_f32(out.dtype(), format_args!("output of block {}", self.index));
        out
    }

    /// What comes in and what it meets: f32, all of it.
    fn assert_types(&self, x: &Tensor<3>) {
        let i = self.index;
        assert_f32(x.dtype(), format_args!("input of block {i}"));
        for vector in self.vectors() {
            assert_f32(vector.dtype(), format_args!("a norm or bias of block {i}"));
        }
        for matrix in self.matrices() {
            assert_f32(matrix.dtype(), format_args!("a weight of block {i}"));
        }
        for scale in [&self.ls1, &self.ls2].into_iter().flatten() {
            assert_f32(scale.gamma.dtype(), format_args!("a layer scale of block {i}"));
        }
    }

    /// Weights and biases of norms, biases of linear layers, in the order of the forward pass.
    fn vectors(&self) -> [&Param<Tensor<1>>; 8] {
        let Self { norm1, attn, norm2, mlp, .. } = self;
        [
            &norm1.weight,
            &norm1.bias,
            &attn.qkv.bias,
            &attn.proj.bias,
            &norm2.weight,
            &norm2.bias,
            &mlp.fc1.bias,
            &mlp.fc2.bias,
        ]
    }

    /// Weights of linear layers, in the order of the forward pass.
    fn matrices(&self) -> [&Param<Tensor<2>>; 4] {
        let Self { attn, mlp, .. } = self;
        [&attn.qkv.weight, &attn.proj.weight, &mlp.fc1.weight, &mlp.fc2.weight]
    }

    #[cfg(feature = "gpu")]
    fn forward_queries_on_gpu(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        self.assert_types(&x);
        let vectors = self.vectors().map(|p| p.val());
        let matrices = self.matrices().map(|p| p.val());
        let form = gpu::Form { heads: self.attn.heads, queries, precision: self.precision };
        gpu::gpu_block(x, vectors, matrices, form)
    }

    #[cfg(feature = "flex")]
    fn forward_queries_on_cpu(&self, x: Tensor<3>, queries: usize) -> Tensor<3> {
        self.assert_types(&x);
        cpu::cpu_block(
            x,
            self.vectors().map(|p| p.val()),
            self.matrices().map(|p| p.val()),
            self.attn.heads,
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

/// GELU (arXiv 1606.08415): `x (1 + erf(x / sqrt 2)) / 2`. Written out, since burn's own has the
/// error function forwards but, on GPUs, the derivative of its approximation by tanh backwards.
fn gelu(x: Tensor<3>) -> Tensor<3> {
    (x.clone().mul_scalar(std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * x.mul_scalar(0.5)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::encoder::VitConfig;
    use crate::testing::{assert_near, run, wave};
    use burn::tensor::{DType, Device, FloatDType, TensorData};

    #[test]
    fn the_cpu_block_equals_the_plain_one_in_values_and_gradients() {
        let device = Device::flex().autodiff();
        // Several chunks, an uneven last one, sequences above and below a vector's length.
        for (sequences, tokens, heads) in [(70, 11, 4), (3, 33, 2), (1, 1, 1), (2, 300, 4)] {
            let config =
                VitConfig { image_px: 16, patch_px: 4, width: 24, depth: 1, heads, mlp_ratio: 4 };
            let mut init = Init::new(9, &device);
            let mut block = Block::new(config.block(), 0, &mut init);
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
            assert_near(&plain, &run(&block, &x, Block::forward), 1e-5, &case);
            // The first token alone is a row of the whole, in values and gradients, on both paths.
            let first = |x: Tensor<3>| x.narrow(1, 0, 1);
            let whole = run(&block, &x, |block, x| first(block.forward_plain(x)));
            let plain = run(&block, &x, |block, x| block.forward_queries_plain(x, 1));
            assert_near(&whole, &plain, 1e-5, &format!("{case}, first of the plain"));
            let fused = run(&block, &x, Block::forward_first);
            assert_near(&whole, &fused, 1e-5, &format!("{case}, first"));
        }
    }

    /// A block with no parameter at a special value, and an input for it.
    fn some_block(device: &Device) -> (Block, Tensor<3>) {
        let config =
            VitConfig { image_px: 16, patch_px: 4, width: 24, depth: 1, heads: 2, mlp_ratio: 4 };
        let block = Block::new(config.block(), 7, &mut Init::new(9, device));
        (block, wave([5, 6, 24], 0.0, device))
    }

    #[test]
    fn gelu_and_its_slope_are_those_of_the_error_function() {
        let device = Device::default().autodiff();
        let at: Vec<f32> = (-60..=60).map(|i| i as f32 / 10.0).collect();
        let x = Tensor::<3>::from_data(TensorData::new(at.clone(), [1, 1, at.len()]), &device);
        let x = x.require_grad();
        let y = gelu(x.clone());
        let slopes = x.grad(&y.clone().sum().backward()).unwrap();
        let slopes = slopes.try_into_vec_as::<f32>().unwrap();
        // The density is the slope of the distribution, which is 1/2 at 0: Simpson's rule from
        // there.
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let below = |t: f64| {
            let step = t / 400.0;
            let weight =
                |i: usize| if i.is_multiple_of(400) { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
            let sum: f64 = (0..=400).map(|i| weight(i) * density(i as f64 * step)).sum();
            0.5 + sum * step / 3.0
        };
        let values = y.try_into_vec_as::<f32>().unwrap();
        for ((at, value), slope) in at.iter().zip(&values).zip(&slopes) {
            let x = f64::from(*at);
            let (exact, exact_slope) = (x * below(x), below(x) + x * density(x));
            // The approximation by tanh is off by up to 1e-3.
            assert!((f64::from(*value) - exact).abs() < 2e-6, "at {x}: {value}, not {exact}");
            assert!((f64::from(*slope) - exact_slope).abs() < 2e-6, "slope at {x}: {slope}");
        }
    }

    #[test]
    fn products_in_bf16_leave_f32_outside() {
        let device = Device::flex().autodiff();
        let (block, x) = some_block(&device);
        let exact = run(&block, &x, Block::forward_plain);
        let block = block.with_precision(Precision::Bf16);
        assert_eq!(block.forward(x.clone()).dtype(), DType::F32);
        let rounded = run(&block, &x, Block::forward);
        for (i, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
            let apart: Vec<f32> = exact.iter().zip(rounded).map(|(a, b)| a - b).collect();
            let norm = |v: &[f32]| v.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let error = norm(&apart) / norm(exact);
            assert!(error < 1e-2, "tensor {i} differs by {error}");
        }
        assert_ne!(exact[0], rounded[0], "nothing was rounded");
    }

    #[test]
    #[should_panic(expected = "input of block 7: expected F32, got BF16")]
    fn an_input_of_another_type_is_refused_by_name() {
        let (block, x) = some_block(&Device::flex());
        block.forward(x.cast(FloatDType::BF16));
    }

    #[test]
    #[should_panic(expected = "a weight of block 7: expected F32, got BF16")]
    fn a_parameter_of_another_type_is_refused_by_name() {
        let (mut block, x) = some_block(&Device::flex());
        block.mlp.fc2.weight = block.mlp.fc2.weight.map(|w| w.cast(FloatDType::BF16));
        block.forward_plain(x);
    }
}
