//! Masked autoencoders (MAE, arXiv 2111.06377): the encoder sees a few patches, a small decoder
//! beside it tells the pixels of all others.
//!
//! A batch brings every patch of its crops in a drawn order: the first `K` are kept, the rest are
//! hidden and are the target. No patch goes back to its place: attention does not ask for the order
//! of tokens, only for their positions.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use ocl_data::{Batch, Keep};
use ocl_model::{
    Block, BlockShape, Draw, HostTensor, Init, LayerNorm, Linear, Precision, Vit, VitConfig,
    WeightsError, apply_module_state, module_state, redraw, sincos_table,
};
use serde::{Deserialize, Serialize};

use super::figures::feature_spread;
use super::{Embedded, Objective, Pass, PendingFigures, share_masked};
use crate::device::batch_tensors;
use crate::optim::NamedGradients;

/// Added to the variance of a patch's pixels.
const PIXEL_EPSILON: f64 = 1e-6;

/// Streams of draws apart from the encoder's.
const DECODER_STREAM: u64 = u64::from_le_bytes(*b"mae-deco");
const BIAS_STREAM: u64 = u64::from_le_bytes(*b"mae-bias");

/// Constants of MAE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mae {
    /// Share of the patches that the encoder does not see, `0..1`.
    pub mask_ratio: f64,
    /// Whether the target is the pixels less their patch's mean, over its deviation.
    pub norm_pix: bool,
    /// Token width of the decoder.
    pub decoder_width: usize,
    /// Blocks of the decoder.
    pub decoder_depth: usize,
    /// Attention heads of the decoder.
    pub decoder_heads: usize,
}

/// An encoder that learns by MAE, with its decoder.
#[derive(Clone, Debug)]
pub struct MaeLearner {
    /// The constants.
    pub mae: Mae,
    /// What is left of a run.
    pub encoder: Vit,
    /// What is there to train with.
    pub decoder: MaeDecoder,
}

/// The decoder: a narrow transformer over all patches, and a linear layer to pixels. Its parameters
/// have the names of MAE's published weights.
#[derive(Module, Debug)]
pub struct MaeDecoder {
    decoder_embed: Linear,
    /// `[1, 1, Dd]`, stands for every hidden patch.
    mask_token: Param<Tensor<3>>,
    decoder_blocks: Vec<Block>,
    decoder_norm: LayerNorm,
    decoder_pred: Linear,
    /// `[1+L, Dd]`, fixed; not a parameter.
    decoder_pos_embed: Tensor<2>,
    #[module(skip)]
    precision: Precision,
}

impl Mae {
    /// Kept patches of `patches`: `floor(L (1 - r))`, in floating point as the authors' program
    /// has it.
    pub fn kept(&self, patches: usize) -> usize {
        (patches as f64 * (1.0 - self.mask_ratio)) as usize
    }

    /// The method with an encoder that has learnt nothing. It begins as [`Vit::new`] has it, but
    /// for the bias of the patch projection, which keeps a convolution's usual `U(-a, a)`, `a = 1 /
    /// sqrt(3 P^2)`.
    pub(super) fn fresh(self, encoder: Vit, seed: u64) -> MaeLearner {
        let bound = (encoder.config().patch_len() as f64).sqrt().recip();
        let device = encoder.device();
        let mut init = Init::new(seed ^ BIAS_STREAM, &device);
        let rule = |name: &str, _: &[usize]| {
            (name == "patch_embed.proj.bias").then_some(Draw::Uniform(bound))
        };
        self.learner(redraw(encoder, &mut init, rule), seed)
    }

    /// The method with its encoder and a decoder drawn from `seed`.
    pub fn learner(self, encoder: Vit, seed: u64) -> MaeLearner {
        let decoder = MaeDecoder::new(&self, encoder.config(), seed, &encoder.device());
        MaeLearner { mae: self, encoder, decoder }
    }

    /// The method with the sizes of the decoder that stands beside an encoder in a file of weights;
    /// none where there is no decoder.
    ///
    /// How many heads it has cannot be told from weights: as many as here where it is as wide, else
    /// one for 32 channels, as in the authors' files.
    pub fn with_decoder_of(self, beside: &BTreeMap<String, HostTensor>) -> Option<Self> {
        let width = *beside.get("decoder_embed.bias")?.shape.first()?;
        let is_there =
            |block: &usize| beside.contains_key(&format!("decoder_blocks.{block}.norm1.bias"));
        let depth = (0..).take_while(is_there).count();
        let heads =
            if width == self.decoder_width { self.decoder_heads } else { width.div_ceil(32) };
        Some(Self { decoder_width: width, decoder_depth: depth, decoder_heads: heads, ..self })
    }

    fn block(&self, mlp_ratio: usize) -> BlockShape {
        BlockShape { width: self.decoder_width, heads: self.decoder_heads, mlp_ratio }
    }

    pub(super) fn keep(&self, patches: usize) -> Keep {
        // All of them, in drawn order.
        Keep::Random { kept: patches }
    }

    pub(super) fn passes(&self, model: &VitConfig) -> Vec<Pass> {
        let patches = model.patches();
        let pass = |shape, depth, tokens| Pass {
            shape,
            depth,
            sequences: 1,
            tokens,
            graph: true,
            class_only: false,
        };
        vec![
            pass(model.block(), model.depth, 1 + self.kept(patches)),
            pass(self.block(model.mlp_ratio), self.decoder_depth, 1 + patches),
        ]
    }

    pub(super) fn parameters(&self, model: &VitConfig) -> usize {
        let (d, w) = (model.width, self.decoder_width);
        let linear = |inputs: usize, outputs: usize| inputs * outputs + outputs;
        let decoder = self.as_encoder(model);
        // A decoder's blocks and norm are an encoder's without patch projection and class token.
        let blocks = decoder.parameters() - linear(model.patch_len(), w) - w;
        model.parameters() + linear(d, w) + w + blocks + linear(w, model.patch_len())
    }

    pub(super) fn macs_per_image(&self, model: &VitConfig) -> u64 {
        let patches = model.patches();
        let kept = 1 + self.kept(patches);
        let (d, w, pixels) =
            (model.width as u64, self.decoder_width as u64, model.patch_len() as u64);
        let hidden = (patches + 1 - kept) as u64;
        let decoder =
            self.as_encoder(model).forward_macs(1 + patches) - patches as u64 * pixels * w;
        3 * (model.forward_macs(kept) + kept as u64 * d * w + decoder + hidden * w * pixels)
    }

    /// An encoder of the decoder's shape, to count by.
    fn as_encoder(&self, model: &VitConfig) -> VitConfig {
        VitConfig {
            width: self.decoder_width,
            depth: self.decoder_depth,
            heads: self.decoder_heads,
            ..model.clone()
        }
    }

    pub(super) fn describe(&self, patches: usize) -> String {
        format!(
            "MAE: {} of {patches} patches seen (mask ratio {}), pixels{} told by a decoder of {} \
             blocks, {} wide",
            self.kept(patches),
            self.mask_ratio,
            if self.norm_pix { ", normalised patch by patch," } else { "" },
            self.decoder_depth,
            self.decoder_width
        )
    }

    pub(super) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        if let Some(reason) = share_masked(self.mask_ratio) {
            return Some(("mask_ratio", reason));
        }
        let kept = self.kept(patches);
        if kept == 0 || kept == patches {
            let reason = format!(
                "{} leaves {kept} of {patches} patches to be seen; at least one must be seen and one \
                 hidden",
                self.mask_ratio
            );
            return Some(("mask_ratio", reason));
        }
        if self.decoder_depth == 0 {
            return Some(("decoder_depth", "is at least 1".into()));
        }
        let (width, heads) = (self.decoder_width, self.decoder_heads);
        if width == 0 || !width.is_multiple_of(4) {
            return Some(("decoder_width", format!("{width} is not a multiple of 4")));
        }
        if heads == 0 || !width.is_multiple_of(heads) {
            return Some((
                "decoder_heads",
                format!("{heads} heads do not divide decoder_width, {width}"),
            ));
        }
        None
    }
}

impl MaeDecoder {
    fn new(mae: &Mae, model: &VitConfig, seed: u64, device: &Device) -> Self {
        let mut init = Init::new(seed ^ DECODER_STREAM, device);
        let (w, grid) = (mae.decoder_width, model.grid());
        let shape = mae.block(model.mlp_ratio);
        Self {
            decoder_embed: Linear::new(model.width, w, &mut init),
            mask_token: Param::from_tensor(init.normal([1, 1, w], 0.02)),
            decoder_blocks: (0..mae.decoder_depth)
                .map(|i| Block::new(shape, i, &mut init))
                .collect(),
            decoder_norm: LayerNorm::new(w, &init),
            decoder_pred: Linear::new(w, model.patch_len(), &mut init),
            decoder_pos_embed: init.tensor(sincos_table(w, grid), [1 + grid * grid, w]),
            precision: Precision::F32,
        }
    }

    /// What the first block sees: the class token's and the kept patches' embeddings, a mask token
    /// for each hidden patch, positions added.
    ///
    /// # Shapes
    /// - `latent` `[N, 1+K, D]`; `positions` `[N, L]`, those of the kept patches first.
    /// - result `[N, 1+L, Dd]`, in the order of `positions`.
    pub fn tokens(&self, latent: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<3> {
        let [n, kept, _] = latent.dims();
        let [_, patches] = positions.dims();
        let seen = self.decoder_embed.apply(self.precision, latent); // [N, 1+K, Dd]
        let w = seen.dims()[2];
        let hidden = self.mask_token.val().expand([n, patches + 1 - kept, w]);
        let rows = positions.reshape([n * patches]).add_scalar(1); // row 0 is the class token's
        let places = self.decoder_pos_embed.clone().select(0, rows).reshape([n, patches, w]);
        let none = Tensor::zeros([n, 1, w], &places.device());
        Tensor::cat(vec![seen, hidden], 1) + Tensor::cat(vec![none, places], 1) // [N, 1+L, Dd]
    }

    /// Pixels of the hidden patches, in the order of their positions.
    ///
    /// # Shapes
    /// As [`MaeDecoder::tokens`]; result `[N, L-K, P*P*3]`.
    pub fn forward(&self, latent: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<3> {
        let kept = latent.dims()[1];
        let x = self.tokens(latent, positions);
        let x = self.decoder_blocks.iter().fold(x, |x, block| block.forward(x));
        let hidden = x.dims()[1] - kept;
        let x = self.decoder_norm.forward(x.narrow(1, kept, hidden)); // [N, L-K, Dd]
        self.decoder_pred.apply(self.precision, x) // [N, L-K, P*P*3]
    }
}

/// What the encoder sees of a batch, `[N, K, P*P*3]`, what it does not, `[N, L-K, P*P*3]`, and where
/// all of them lie, `[N, L]`.
struct Halves {
    seen: Tensor<3>,
    hidden: Tensor<3>,
    positions: Tensor<2, Int>,
}

/// Each patch's mean, what its pixels differ by from that, and their deviation: `[N, H, 1]`, `[N, H,
/// P*P*3]`, `[N, H, 1]`.
fn normalised(patches: Tensor<3>) -> (Tensor<3>, Tensor<3>, Tensor<3>) {
    let values = patches.dims()[2] as f64;
    let mean = patches.clone().mean_dim(2);
    // From differences: a flat patch would cancel in f32.
    let apart = patches - mean.clone();
    let variance = apart.clone().square().sum_dim(2).div_scalar(values - 1.0);
    (mean, apart, variance.add_scalar(PIXEL_EPSILON).sqrt())
}

impl MaeLearner {
    pub(super) fn loss(&self, batch: Batch) -> Tensor<1> {
        self.embed(batch).rows.mean()
    }

    /// A batch's patches on the device.
    fn halves(&self, batch: Batch) -> Halves {
        let Batch { images: n, kept: all, patch_len, patches, positions, .. } = batch;
        let device = self.encoder.device();
        let (patches, positions): (Tensor<3>, Tensor<2, Int>) =
            batch_tensors(patches, &positions, [n, all, patch_len], &device);
        let kept = self.mae.kept(all);
        let (seen, hidden) =
            (patches.clone().narrow(1, 0, kept), patches.narrow(1, kept, all - kept));
        Halves { seen, hidden, positions }
    }

    /// What the encoder makes of the patches that it sees, `[N, K, P*P*3]` to `[N, 1+K, D]`.
    fn latent(&self, seen: Tensor<3>, positions: &Tensor<2, Int>) -> Tensor<3> {
        let kept = seen.dims()[1];
        let tokens = self.encoder.tokens(seen, positions.clone().narrow(1, 0, kept));
        self.encoder.encode(tokens)
    }

    /// Each image's loss: the mean square of what the decoder missed of its hidden patches. Beside
    /// it the class token, and the loss of a decoder that tells the mean alone.
    pub(super) fn embed(&self, batch: Batch) -> Embedded {
        let Halves { seen, hidden, positions } = self.halves(batch);
        let latent = self.latent(seen, &positions); // [N, 1+K, D]
        let class = latent.clone().narrow(1, 0, 1).inner(); // [N, 1, D]
        let target = self.target(hidden);
        let of_mean = target.clone().inner().square().mean_dim(2).mean_dim(1); // [N, 1, 1]
        let missed = self.decoder.forward(latent, positions) - target;
        let rows = missed.square().mean_dim(2).mean_dim(1); // [N, 1, 1]
        Embedded { rows, beside: Some(Tensor::cat(vec![class, of_mean], 2)) } // [N, 1, D+1]
    }

    /// A batch's patches, the hidden ones as the decoder tells them. Of normalised pixels it cannot
    /// tell mean and deviation: each patch's own are given back to it.
    ///
    /// # Shapes
    /// Result `[N, L, P*P*3]`, in the order of the batch's positions.
    pub fn reconstruct(&self, batch: Batch) -> Tensor<3> {
        let Halves { seen, hidden, positions } = self.halves(batch);
        let latent = self.latent(seen.clone(), &positions);
        let told = self.decoder.forward(latent, positions);
        let told = match self.mae.norm_pix {
            true => {
                let (mean, _, deviation) = normalised(hidden);
                told * deviation + mean
            }
            false => told,
        };
        Tensor::cat(vec![seen, told], 1)
    }

    /// What the decoder has to tell of patches `[N, H, P*P*3]`.
    fn target(&self, patches: Tensor<3>) -> Tensor<3> {
        if !self.mae.norm_pix {
            return patches;
        }
        let (_, apart, deviation) = normalised(patches);
        apart / deviation
    }

    pub(super) fn objective(&self, embedded: Embedded) -> Objective {
        let Embedded { rows, beside } = embedded;
        let beside = beside.expect("the class tokens are watched"); // [N, 1, D+1]
        let width = beside.dims()[2] - 1;
        let (class, of_mean) = (beside.clone().narrow(2, 0, width), beside.narrow(2, width, 1));
        let loss = rows.clone().mean();
        let mean_loss = of_mean.mean();
        // Targets are pixels less a mean: each patch's own, or the data's. 0 for a decoder that tells
        // nothing else, 1 for one that tells all.
        let share = loss.clone() / mean_loss.clone().clamp_min(PIXEL_EPSILON);
        let explained = share.neg().add_scalar(1.0);
        let mut figures = PendingFigures::default();
        figures.add(&["pixels/mean_loss"], mean_loss);
        figures.add(&["pixels/explained"], explained);
        figures.add(&["features/feature_spread"], feature_spread(class.clone()));
        let gradient = Tensor::ones_like(&rows).div_scalar(rows.dims()[0] as f64);
        Objective { loss, gradient, of_heads: NamedGradients::default(), figures, watched: class }
    }

    /// The decoder's parameters by name.
    pub(super) fn others(&self) -> BTreeMap<String, HostTensor> {
        module_state(&self.decoder, "")
    }

    pub(super) fn with_others(
        mut self,
        others: &mut BTreeMap<String, HostTensor>,
    ) -> Result<Self, WeightsError> {
        self.decoder = apply_module_state(self.decoder, "", others)?;
        Ok(self)
    }

    /// The learner with the decoder that stands beside an encoder in a file of weights.
    pub(crate) fn with_decoder(
        self,
        mut beside: BTreeMap<String, HostTensor>,
    ) -> Result<Self, WeightsError> {
        // Other programs keep it, though it is no parameter.
        beside.remove("decoder_pos_embed");
        self.with_others(&mut beside)
    }

    pub(super) fn with_precision(mut self, precision: Precision) -> Self {
        self.encoder = self.encoder.with_precision(precision);
        let blocks = self.decoder.decoder_blocks.into_iter();
        self.decoder.decoder_blocks = blocks.map(|block| block.with_precision(precision)).collect();
        self.decoder.precision = precision;
        self
    }
}
