//! The encoder: patches to tokens, tokens to features.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::block::Block;
use super::config::{ConfigError, VitConfig};
use super::init::Init;
use super::layers::{LayerNorm, Linear};
use super::pooling::Pooling;
use super::positions::sincos_table;
#[cfg(feature = "flex")]
use crate::cpu;
#[cfg(feature = "flex")]
use crate::device::is_host;
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::precision::{Precision, assert_f32};

/// The patch projection: on cut patches a convolution with stride P is a linear layer.
#[derive(Module, Debug)]
pub(crate) struct PatchEmbed {
    proj: Linear,
}

/// A Vision Transformer encoder (ViT, arXiv 2010.11929) with fixed positions and no head.
///
/// The optional parts are those that weights from elsewhere may have ([`crate::open_weights`]).
#[derive(Module, Debug)]
pub struct Vit {
    /// `[1, 1, D]`; I-JEPA's encoders have none.
    pub(crate) cls_token: Option<Param<Tensor<3>>>,
    /// `[1, R, D]`, registers: tokens of no place, dropped after the blocks (arXiv 2309.16588).
    pub(crate) reg_token: Option<Param<Tensor<3>>>,
    patch_embed: PatchEmbed,
    pub(crate) blocks: Vec<Block>,
    /// Before pooling: ours.
    pub(crate) norm: Option<LayerNorm>,
    /// After pooling: fine-tuned encoders that pool the patch tokens.
    pub(crate) fc_norm: Option<LayerNorm>,
    /// `[1+L, D]`, row 0 being zero; not a parameter.
    pub(crate) pos_embed: Tensor<2>,
    #[module(skip)]
    pub(crate) config: VitConfig,
    #[module(skip)]
    precision: Precision,
}

impl Vit {
    /// A new encoder whose parameters follow from `seed` alone: Xavier uniform for matrices (the
    /// patch projection seen as one), zero biases, `Normal(0, 0.02)` for the class token.
    ///
    /// # Errors
    /// When no encoder of this shape can exist.
    pub fn new(config: &VitConfig, seed: u64, device: &Device) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut init = Init::new(seed, device);
        let (d, grid) = (config.width, config.grid());
        Ok(Self {
            cls_token: Some(Param::from_tensor(init.normal([1, 1, d], 0.02))),
            reg_token: None,
            patch_embed: PatchEmbed { proj: Linear::new(config.patch_len(), d, &mut init) },
            blocks: (0..config.depth).map(|i| Block::new(config.block(), i, &mut init)).collect(),
            norm: Some(LayerNorm::new(d, &init)),
            fc_norm: None,
            pos_embed: init.tensor(sincos_table(d, grid), [1 + grid * grid, d]),
            config: config.clone(),
            precision: Precision::F32,
        })
    }

    /// The same encoder with its matrix products in another precision. Parameters and features stay
    /// f32.
    ///
    /// # Panics
    /// If the device has no such numbers; [`Precision::on`] tells.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        assert!(precision.exists_on(&self.device()), "the device does not compute in {precision}");
        self.precision = precision;
        let blocks = self.blocks.into_iter().map(|block| block.with_precision(precision));
        self.blocks = blocks.collect();
        self
    }

    /// The encoder's shape.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Where the parameters live: inputs must be made there.
    pub fn device(&self) -> Device {
        self.pos_embed.device()
    }

    /// Embeds patches and adds their positions: `token = proj(patch) + position`.
    ///
    /// # Shapes
    /// - `patches`: `[N, K, P*P*3]`, normalised; inside a patch row, column, channel.
    /// - `positions`: `[N, K]`, the patch's row-major index in the grid, `0..L`.
    /// - result: `[N, K, D]`.
    ///
    /// # Panics
    /// If the shapes do not fit one another or the configuration.
    pub fn tokens(&self, patches: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<3> {
        let [n, k, len] = patches.dims();
        assert_eq!(len, self.config.patch_len(), "values of a patch: expected P*P*3");
        assert_eq!([n, k], positions.dims(), "positions: expected one for each patch");
        let rows = positions.reshape([n * k]).add_scalar(1); // row 0 is the class token's
        let places = self.pos_embed.clone().select(0, rows).reshape([n, k, self.config.width]);
        let (proj, precision) = (&self.patch_embed.proj, self.precision);
        for found in [patches.dtype(), proj.weight.dtype(), proj.bias.dtype(), places.dtype()] {
            assert_f32(found, format_args!("patches and their projection"));
        }
        #[cfg(feature = "flex")]
        if precision == Precision::F32 && is_host(&patches.device()) {
            return cpu::cpu_projection(patches, proj.weight.val(), proj.bias.val(), places);
        }
        #[cfg(feature = "gpu")]
        if gpu::projects(&patches.device(), self.config.width) {
            let (weight, bias) = (proj.weight.val(), proj.bias.val());
            return gpu::gpu_projection(patches, weight, bias, places, precision);
        }
        let tokens = precision.result(proj.forward_in(precision, precision.factor(patches)));
        tokens + places // [N, K, D]
    }

    /// Puts the class token before each sequence, runs the blocks and the norm before pooling.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, 1+T, D]`; row 0 is the class token. `[B, T, D]` for an encoder without.
    pub fn encode(&self, tokens: Tensor<3>) -> Tensor<3> {
        let x = self.with_prefix(tokens); // [B, 1+R+T, D]
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        normed(&self.norm, self.without_registers(x)) // [B, 1+T, D]
    }

    /// Where the last block's class token looks among the patch tokens, by head; without a class
    /// token, where all tokens look on average. What goes to the class token itself and to registers
    /// is left out, so that rows sum to less than 1.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, H, T]`.
    pub fn last_attention(&self, tokens: Tensor<3>) -> Tensor<3> {
        let patches = tokens.dims()[1];
        let x = self.with_prefix(tokens); // [B, 1+R+T, D]
        let (last, blocks) = self.blocks.split_last().expect("a valid encoder has blocks");
        let x = blocks.iter().fold(x, |x, block| block.forward(x));
        let all = x.dims()[1];
        let queries = if self.has_cls_token() { 1 } else { all };
        let weights = last.attention(x, queries).mean_dim(2); // [B, H, 1, 1+R+T]
        weights.narrow(3, all - patches, patches).squeeze_dim(2)
    }

    /// The class tokens of [`Vit::encode`], without the work of the last block on the patch tokens.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, D]`.
    ///
    /// # Panics
    /// If the encoder has no class token.
    pub fn encode_cls(&self, tokens: Tensor<3>) -> Tensor<2> {
        assert!(self.has_cls_token(), "this encoder has no class token; pool by the mean");
        let [b, _, d] = tokens.dims();
        let x = self.with_prefix(tokens); // [B, 1+R+T, D]
        let (last, blocks) = self.blocks.split_last().expect("a valid encoder has blocks");
        let x = blocks.iter().fold(x, |x, block| block.forward(x));
        let cls = normed(&self.norm, last.forward_first(x)); // [B, 1, D]
        normed(&self.fc_norm, cls).reshape([b, d]) // [B, D]
    }

    /// One feature for each sequence: its class token, or the mean of its patch tokens, after the
    /// encoder's norm, which stands before or after pooling as the weights want it.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, D]`.
    pub fn pooled(&self, tokens: Tensor<3>, pooling: Pooling) -> Tensor<2> {
        let [b, t, d] = tokens.dims();
        match pooling {
            Pooling::Cls => self.encode_cls(tokens),
            Pooling::Mean => {
                let first = usize::from(self.has_cls_token());
                let mean = self.encode(tokens).narrow(1, first, t).mean_dim(1); // [B, 1, D]
                normed(&self.fc_norm, mean).reshape([b, d]) // [B, D]
            }
        }
    }

    /// [`Vit::encode`] without the final norm and under stochastic depth (arXiv 1603.09382):
    /// `branches[i]` holds what the attention and the MLP of block `i` are multiplied by in each
    /// sequence, `[B]` each; a block without runs as it is.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, 1+T, D]`.
    pub fn encode_branches(
        &self,
        tokens: Tensor<3>,
        branches: &[Option<[Tensor<1>; 2]>],
    ) -> Tensor<3> {
        let b = tokens.dims()[0];
        let mut x = self.with_prefix(tokens); // [B, 1+R+T, D]
        for (i, block) in self.blocks.iter().enumerate() {
            x = match branches.get(i).and_then(Option::as_ref) {
                Some(of) => block.forward_branches(x, of.clone().map(|v| v.reshape([b, 1, 1]))),
                None => block.forward(x),
            };
        }
        self.without_registers(x) // [B, 1+T, D]
    }

    /// The norm that [`Vit::encode`] ends with; nothing for weights that have none there.
    ///
    /// # Shapes
    /// `[B, T, D]` to `[B, T, D]`.
    pub fn final_norm(&self, x: Tensor<3>) -> Tensor<3> {
        normed(&self.norm, x)
    }

    fn with_prefix(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [b, _, d] = tokens.dims();
        // The class token's position is zero: nothing to add.
        let cls = self.cls_token.as_ref().map(|cls| cls.val().expand([b, 1, d]));
        let mut parts: Vec<_> = cls.into_iter().collect();
        if let Some(registers) = &self.reg_token {
            parts.push(registers.val().expand([b, self.registers(), d]));
        }
        parts.push(tokens);
        Tensor::cat(parts, 1) // [B, 1+R+T, D]
    }

    fn without_registers(&self, x: Tensor<3>) -> Tensor<3> {
        let (r, [_, t, _]) = (self.registers(), x.dims());
        if r == 0 {
            return x;
        }
        let cls = usize::from(self.has_cls_token());
        let patches = x.clone().narrow(1, cls + r, t - cls - r);
        if cls == 0 {
            return patches;
        }
        Tensor::cat(vec![x.narrow(1, 0, 1), patches], 1) // [B, 1+T, D]
    }

    /// Whether there is a class token; without one an image is the mean of its patch tokens.
    pub fn has_cls_token(&self) -> bool {
        self.cls_token.is_some()
    }

    /// The same encoder without a class token.
    #[must_use]
    pub fn without_cls_token(self) -> Self {
        Self { cls_token: None, ..self }
    }

    /// The same encoder, whose patch projection learns nothing: MoCo v3 (arXiv 2104.02057, section
    /// 4.3) trains more steadily over a fixed random one.
    #[must_use]
    pub fn with_frozen_patches(self) -> Self {
        Self { patch_embed: self.patch_embed.no_grad(), ..self }
    }

    /// Number of register tokens `R`.
    pub(crate) fn registers(&self) -> usize {
        self.reg_token.as_ref().map_or(0, |registers| registers.val().dims()[1])
    }

    /// Class tokens of the two views of each image: the first half of the kept patches is view 1,
    /// the rest view 2 (OCL, section 3.2). Both run as one batch, rows `2i` and `2i+1` being image
    /// `i`.
    ///
    /// # Shapes
    /// - `patches` `[N, K, P*P*3]`, `positions` `[N, K]`, K even.
    /// - result: `[N, 2, D]`.
    ///
    /// # Panics
    /// If K is odd, or as [`Vit::tokens`] does.
    pub fn views(&self, patches: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<3> {
        let tokens = self.tokens(patches, positions); // [N, K, D]
        let [n, k, d] = tokens.dims();
        assert!(
            k.is_multiple_of(2) && k > 0,
            "two equal views need an even number of patches, got {k}"
        );
        self.encode_cls(tokens.reshape([2 * n, k / 2, d])).reshape([n, 2, d]) // [N, 2, D]
    }
}

fn normed(norm: &Option<LayerNorm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    fn small() -> (Vit, VitConfig, Device) {
        let config =
            VitConfig { image_px: 8, patch_px: 2, width: 8, depth: 2, heads: 2, mlp_ratio: 4 };
        let device = Device::default();
        (Vit::new(&config, 3, &device).unwrap(), config, device)
    }

    fn patches(n: usize, k: usize, len: usize, device: &Device) -> Tensor<3> {
        let values: Vec<f32> = (0..n * k * len).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(values, [n, k, len]), device)
    }

    fn close<const D: usize>(a: Tensor<D>, b: Tensor<D>) {
        let worst: f32 = (a - b).abs().max().into_scalar();
        assert!(worst < 1e-5, "differs by {worst}");
    }

    #[test]
    fn a_view_does_not_see_the_other() {
        let (vit, config, device) = small();
        let a = patches(3, 4, config.patch_len(), &device);
        let places =
            || Tensor::<2, Int>::from_data([[0, 5, 9, 3], [1, 2, 3, 4], [15, 0, 7, 8]], &device);
        let both = vit.views(a.clone(), places());
        let alone = vit.encode(vit.tokens(a.slice([0..3, 0..2]), places().slice([0..3, 0..2])));
        close(both.slice([0..3, 0..1]), alone.slice([0..3, 0..1]));
    }

    #[test]
    fn a_branch_times_one_changes_nothing_and_times_zero_leaves_it_out() {
        let (vit, config, device) = small();
        let a = patches(3, 4, config.patch_len(), &device);
        let places = Tensor::<2, Int>::from_data([[0, 5, 9, 3]], &device).expand([3, 4]);
        let tokens = vit.tokens(a, places);
        let times = |values: [f32; 3]| Tensor::<1>::from_data(values, &device);
        let both = |values| Some([times(values), times(values)]);
        let whole = vit.encode(tokens.clone());
        let ones = vit.encode_branches(tokens.clone(), &[both([1.0; 3]), None]);
        close(whole.clone(), vit.final_norm(ones));
        // Without any branch a sequence stays what it was; the others see nothing of it.
        let out =
            vit.encode_branches(tokens.clone(), &[both([1.0, 0.0, 1.0]), both([1.0, 0.0, 1.0])]);
        close(out.clone().slice([1..2, 1..5]), tokens.slice([1..2, 0..4]));
        close(vit.final_norm(out).slice([2..3, 0..5]), whole.slice([2..3, 0..5]));
    }

    #[test]
    fn attention_is_a_share_of_what_each_head_looks_at() {
        let (vit, config, device) = small();
        let a = patches(3, 4, config.patch_len(), &device);
        let places = Tensor::<2, Int>::from_data([[0, 5, 9, 3]], &device).expand([3, 4]);
        let tokens = vit.tokens(a, places);
        for vit in [vit.clone(), vit.without_cls_token()] {
            let attention = vit.last_attention(tokens.clone());
            assert_eq!(attention.dims(), [3, 2, 4]);
            let shares: Vec<f32> = attention.sum_dim(2).try_into_vec_as().unwrap();
            let (expected, within) = match vit.has_cls_token() {
                // Weights as small as new ones look at all tokens nearly alike: at 4 of 5 here.
                true => (0.8, 0.1),
                false => (1.0, 1e-5),
            };
            assert!(shares.iter().all(|share| (share - expected).abs() < within), "{shares:?}");
        }
    }

    #[test]
    fn the_class_token_ignores_the_order_of_patches() {
        let (vit, config, device) = small();
        let a = patches(1, 4, config.patch_len(), &device);
        let places = Tensor::<2, Int>::from_data([[0, 5, 9, 3]], &device);
        let order = Tensor::<1, Int>::from_data([2, 0, 3, 1], &device);
        let cls =
            |x: Tensor<3>, p: Tensor<2, Int>| vit.encode(vit.tokens(x, p)).slice([0..1, 0..1]);
        let shuffled = cls(a.clone().select(1, order.clone()), places.clone().select(1, order));
        close(cls(a, places), shuffled);
    }
}
