//! I-JEPA (arXiv 2301.08243): from the patches of a context block, the features of four target
//! blocks are predicted, as an average of the encoder's own past gives them. No pixel is
//! reconstructed, and nothing is done to the colours.
//!
//! The encoder has no class token; an image is the mean of its patch tokens. What is left of a run
//! is the averaged encoder.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::{Batch, BlockMasks, Blocks, Keep};
use ocl_model::{
    Block, BlockShape, Draw, HostTensor, Init, LayerNorm, Linear, Precision, Vit, VitConfig,
    WeightsError, apply_module_state, module_state, redraw, sincos_table,
};
use serde::{Deserialize, Serialize};

use super::figures::feature_spread;
use super::{Embedded, Objective, Pass, PendingFigures};
use crate::device::batch_tensors;
use crate::optim::{Clock, NamedGradients, Rates, WarmupCosine, WeightAverage, half_cosine};

/// Epsilon of the norm of the targets, which has no parameters; PyTorch's default, unlike the
/// encoder's.
const TARGET_EPSILON: f64 = 1e-5;
/// Deviation of all initial weights.
const INITIAL: f64 = 0.02;
/// Streams of draws apart from the encoder's.
const ENCODER_STREAM: u64 = u64::from_le_bytes(*b"jepa-enc");
const PREDICTOR_STREAM: u64 = u64::from_le_bytes(*b"jepa-pre");

/// Constants of I-JEPA.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IJepa {
    /// How blocks are drawn.
    #[serde(flatten)]
    pub masks: BlockMasks,
    /// Token width of the predictor.
    pub predictor_width: usize,
    /// Blocks of the predictor.
    pub predictor_depth: usize,
    /// Attention heads of the predictor.
    pub predictor_heads: usize,
    /// What the averaged encoder keeps of itself in a step, at the beginning and at the end.
    pub momentum: [f64; 2],
    /// Learning rate at the beginning of the warm-up, absolute.
    pub start_lr: f64,
    /// Weight decay at the end, where the optimiser's is that of the beginning.
    pub final_weight_decay: f64,
    /// Schedules run over this times the steps of the run; 1.25 stops them before their end.
    pub schedule_stretch: f64,
}

/// An encoder that learns by I-JEPA, with its predictor and its average.
#[derive(Clone, Debug)]
pub struct IJepaLearner {
    /// The constants.
    pub ijepa: IJepa,
    /// What learns.
    pub encoder: Vit,
    /// What is there to train with.
    pub predictor: IJepaPredictor,
    /// What is left of a run.
    pub target: WeightAverage<Vit>,
}

/// The predictor: a narrow transformer over a context and the places of one target block. Its
/// parameters have the names of I-JEPA's published weights.
#[derive(Module, Debug)]
pub struct IJepaPredictor {
    predictor_embed: Linear,
    /// `[1, 1, Dp]`, stands for every patch to be predicted.
    mask_token: Param<Tensor<3>>,
    predictor_blocks: Vec<Block>,
    predictor_norm: LayerNorm,
    predictor_proj: Linear,
    /// `[1+L, Dp]`, fixed; not a parameter. Row 0 is nobody's.
    predictor_pos_embed: Tensor<2>,
    #[module(skip)]
    precision: Precision,
}

impl IJepa {
    /// The method with networks that have learnt nothing: all weights `Normal(0, 0.02)`, biases 0,
    /// the average equal to the encoder.
    pub(super) fn fresh(self, encoder: Vit, seed: u64) -> IJepaLearner {
        let device = encoder.device();
        let mut init = Init::new(seed ^ ENCODER_STREAM, &device);
        let encoder = redraw(encoder.without_cls_token(), &mut init, initial);
        let target = WeightAverage::new(&encoder, 1.0);
        self.learner(encoder, target, seed)
    }

    /// The method with given encoders and a predictor drawn from `seed`.
    pub fn learner(self, encoder: Vit, target: WeightAverage<Vit>, seed: u64) -> IJepaLearner {
        let device = encoder.device();
        let mut init = Init::new(seed ^ PREDICTOR_STREAM, &device);
        let predictor = IJepaPredictor::new(&self, encoder.config(), &mut init);
        let predictor = redraw(predictor, &mut init, initial);
        IJepaLearner { ijepa: self, encoder, predictor, target }
    }

    fn block(&self, model: &VitConfig) -> BlockShape {
        let (width, heads) = (self.predictor_width, self.predictor_heads);
        BlockShape { width, heads, mlp_ratio: model.mlp_ratio }
    }

    pub(super) fn keep(&self) -> Keep {
        Keep::Blocks(self.masks)
    }

    /// A context's and a target's patches, as they are on an average: half of what a block of
    /// middling size has is left of a context.
    fn usual(&self, patches: usize) -> (usize, usize) {
        let middle = |[low, high]: [f64; 2]| patches as f64 * 0.5 * (low + high);
        let target = middle(self.masks.target_scale);
        let context = middle(self.masks.context_scale) * (1.0 - target / patches as f64).powi(4);
        ((context as usize).max(1), (target as usize).max(1))
    }

    pub(super) fn passes(&self, model: &VitConfig) -> Vec<Pass> {
        let (context, target) = self.usual(model.patches());
        let encoder = |tokens, graph| Pass {
            shape: model.block(),
            depth: model.depth,
            sequences: 1,
            tokens,
            graph,
            class_only: false,
        };
        vec![
            encoder(context, true),
            encoder(model.patches(), false),
            Pass {
                shape: self.block(model),
                depth: self.predictor_depth,
                sequences: self.masks.targets,
                tokens: context + target,
                graph: true,
                class_only: false,
            },
        ]
    }

    /// What passes through the blocks, through the patch projections of both encoders, and into and
    /// out of the predictor.
    pub(super) fn macs_per_image(&self, model: &VitConfig) -> u64 {
        let patches = model.patches();
        let (context, target) = self.usual(patches);
        let (d, w) = (model.width, self.predictor_width);
        // A step's patches have no gradient.
        let projections = (2 * context + patches) * model.patch_len() * d;
        let predictor = 3 * (context + self.masks.targets * target) * d * w;
        let blocks: u64 = self.passes(model).iter().map(Pass::macs).sum();
        blocks + (projections + predictor) as u64
    }

    pub(super) fn parameters(&self, model: &VitConfig) -> usize {
        let (d, w) = (model.width, self.predictor_width);
        let linear = |inputs: usize, outputs: usize| inputs * outputs + outputs;
        let blocks = self.predictor_depth * self.block(model).parameters();
        // No class token; mask token, norm and two layers beside the predictor's blocks.
        model.parameters() - d + linear(d, w) + w + blocks + 2 * w + linear(w, d)
    }

    pub(super) fn describe(&self, patches: usize) -> String {
        let (context, target) = self.usual(patches);
        format!(
            "I-JEPA: from some {context} of {patches} patches, {} blocks of some {target}; predictor \
             of {} blocks, {} wide; averaged encoder, momentum {} to {}",
            self.masks.targets,
            self.predictor_depth,
            self.predictor_width,
            self.momentum[0],
            self.momentum[1]
        )
    }

    pub(super) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        if let Err(problem) = self.masks.check(patches.isqrt()) {
            return Some(problem);
        }
        let (width, heads) = (self.predictor_width, self.predictor_heads);
        if width == 0 || !width.is_multiple_of(4) {
            return Some(("predictor_width", format!("{width} is not a multiple of 4")));
        }
        if heads == 0 || !width.is_multiple_of(heads) {
            let reason = format!("{heads} heads do not divide predictor_width, {width}");
            return Some(("predictor_heads", reason));
        }
        if self.predictor_depth == 0 {
            return Some(("predictor_depth", "is at least 1".into()));
        }
        if !self.momentum.iter().all(|share| (0.0..=1.0).contains(share)) {
            let reason = format!(
                "{:?} is not two shares, 0 to 1: at the beginning and at the end",
                self.momentum
            );
            return Some(("momentum", reason));
        }
        let rates = [("start_lr", self.start_lr), ("final_weight_decay", self.final_weight_decay)];
        if let Some((key, value)) =
            rates.into_iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite()))
        {
            return Some((key, format!("{value} is not a number of at least 0")));
        }
        if !(self.schedule_stretch >= 1.0 && self.schedule_stretch.is_finite()) {
            return Some(("schedule_stretch", format!("{} is below 1", self.schedule_stretch)));
        }
        None
    }

    /// The first step is one step up the slope already; learning rate and weight decay turn over
    /// the stretched run, and momentum rises in a straight line.
    pub(super) fn rates(&self, schedule: &WarmupCosine, weight_decay: f64, clock: Clock) -> Rates {
        let (steps, k) = (clock.steps as f64, (clock.step + 1) as f64);
        let total = (self.schedule_stretch * steps).floor();
        let warmup = (schedule.warmup_epochs * clock.steps_per_epoch as f64).floor();
        let lr = if k < warmup {
            self.start_lr + (schedule.lr - self.start_lr) * k / warmup
        } else {
            let turned = (k - warmup) / (total - warmup).max(1.0);
            half_cosine(schedule.lr, schedule.min_lr, turned).max(schedule.min_lr)
        };
        let [first, last] = self.momentum;
        Rates {
            lr,
            weight_decay: Some(half_cosine(weight_decay, self.final_weight_decay, k / total)),
            momentum: Some(
                first + clock.step as f64 * (last - first) / (steps * self.schedule_stretch),
            ),
        }
    }
}

/// Every matrix and the mask token `Normal(0, 0.02)`.
fn initial(name: &str, dims: &[usize]) -> Option<Draw> {
    let matrix = name.ends_with(".weight") && dims.len() == 2;
    (matrix || name == "mask_token").then_some(Draw::Normal(INITIAL))
}

impl IJepaPredictor {
    fn new(ijepa: &IJepa, model: &VitConfig, init: &mut Init<'_>) -> Self {
        let (w, grid, shape) = (ijepa.predictor_width, model.grid(), ijepa.block(model));
        let blocks = (0..ijepa.predictor_depth).map(|i| Block::new(shape, i, init)).collect();
        Self {
            predictor_embed: Linear::new(model.width, w, init),
            mask_token: Param::from_tensor(init.normal([1, 1, w], INITIAL as f32)),
            predictor_blocks: blocks,
            predictor_norm: LayerNorm::new(w, init),
            predictor_proj: Linear::new(w, model.width, init),
            predictor_pos_embed: init.tensor(sincos_table(w, grid), [1 + grid * grid, w]),
            precision: Precision::F32,
        }
    }

    /// Features of the target blocks, each predicted by itself.
    ///
    /// # Shapes
    /// - `context` `[N, Kc, D]`, `context_ids` `[N, Kc]`, `target_ids` `[M, N, Kt]`.
    /// - result `[M N, Kt, D]`, block by block.
    pub fn forward(
        &self,
        context: Tensor<3>,
        context_ids: Tensor<2, Int>,
        target_ids: Tensor<3, Int>,
    ) -> Tensor<3> {
        let [m, n, kt] = target_ids.dims();
        let seen = self.predictor_embed.apply(self.precision, context) + self.places(context_ids);
        let asked = self.places(target_ids.reshape([m * n, kt])) + self.mask_token.val();
        let x = Tensor::cat(vec![Tensor::cat(vec![seen; m], 0), asked], 1); // [M N, Kc+Kt, Dp]
        let x = self.predictor_blocks.iter().fold(x, |x, block| block.forward(x));
        let first = x.dims()[1] - kt;
        let x = self.predictor_norm.forward(x.narrow(1, first, kt)); // [M N, Kt, Dp]
        self.predictor_proj.apply(self.precision, x) // [M N, Kt, D]
    }

    /// `[B, K]` to `[B, K, Dp]`.
    fn places(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let ([b, k], w) = (ids.dims(), self.predictor_pos_embed.dims()[1]);
        let rows = ids.reshape([b * k]).add_scalar(1); // row 0 would be a class token's
        self.predictor_pos_embed.clone().select(0, rows).reshape([b, k, w])
    }
}

impl IJepaLearner {
    pub(super) fn loss(&self, batch: Batch) -> Tensor<1> {
        self.embed(batch).rows.mean()
    }

    /// Each image's loss: how far the predictor is from the targets, by the smooth L1 distance.
    pub(super) fn embed(&self, batch: Batch) -> Embedded {
        let n = batch.images;
        let device = self.encoder.device();
        let blocks = batch.blocks.clone().expect("I-JEPA's view draws blocks");
        let (context_ids, target_ids) = ids(&blocks, n, &device);
        let context = self.context(&batch, &blocks, &device); // [N, Kc, D]
        let predicted = self.predictor.forward(context, context_ids, target_ids.clone());
        let (targets, features) = self.targets(batch, target_ids.inner());

        let apart = (predicted - Tensor::from_inner(targets)).abs();
        let near = apart.clone().clamp_max(1.0);
        let distance = near.clone().square().mul_scalar(0.5) + (apart - near); // [M N, Kt, D]
        let [_, kt, d] = distance.dims();
        let rows = distance.reshape([blocks.blocks, n, kt * d]).mean_dim(2).mean_dim(0);
        Embedded { rows: rows.reshape([n, 1, 1]), beside: Some(features) }
    }

    /// Features of the context, `[N, Kc, D]`; no other patch is embedded.
    pub fn context(&self, batch: &Batch, blocks: &Blocks, device: &Device) -> Tensor<3> {
        let (k, len) = (blocks.context_len, batch.patch_len);
        let mut patches = Vec::with_capacity(batch.images * k * len);
        for (image, ids) in
            batch.patches.chunks_exact(batch.kept * len).zip(blocks.context.chunks_exact(k))
        {
            ids.iter()
                .for_each(|&id| patches.extend_from_slice(&image[id as usize * len..][..len]));
        }
        let (patches, positions) =
            batch_tensors(patches, &blocks.context, [batch.images, k, len], device);
        self.encoder.encode(self.encoder.tokens(patches, positions)) // [N, Kc, D]
    }

    /// The targets `[M N, Kt, D]`, standardised token by token, and the mean features of each image
    /// before that, `[N, 1, D]`.
    pub fn targets(&self, batch: Batch, target_ids: Tensor<3, Int>) -> (Tensor<3>, Tensor<3>) {
        let Batch { images: n, kept: l, patch_len, patches, positions, .. } = batch;
        let encoder = self.target.weights();
        let (patches, positions) =
            batch_tensors(patches, &positions, [n, l, patch_len], &encoder.device());
        let features = encoder.encode(encoder.tokens(patches, positions)); // [N, L, D]
        let d = features.dims()[2];
        let apart = features.clone() - features.clone().mean_dim(2);
        let variance = apart.clone().square().mean_dim(2);
        let standard = apart / variance.add_scalar(TARGET_EPSILON).sqrt(); // [N, L, D]

        let [m, _, kt] = target_ids.dims();
        let first = Tensor::<1, Int>::arange(0..n as i64, &target_ids.device());
        let first = first.mul_scalar(l as i64).reshape([1, n, 1]);
        let rows = (target_ids + first).reshape([m * n * kt]);
        let targets = standard.reshape([n * l, d]).select(0, rows).reshape([m * n, kt, d]);
        (targets, features.mean_dim(1))
    }

    pub(super) fn objective(&self, embedded: Embedded) -> Objective {
        let Embedded { rows, beside } = embedded;
        let features = beside.expect("the targets' features are watched"); // [N, 1, D]
        let gradient = Tensor::ones_like(&rows).div_scalar(rows.dims()[0] as f64);
        let mut figures = PendingFigures::default();
        // Zero when the averaged encoder gives every image the same: then the loss is low and
        // worthless.
        let apart = features.clone() - features.clone().mean_dim(0);
        let spread = apart.square().mean_dim(0).sqrt().mean(); // [1]
        figures.add(&["targets/spread"], spread);
        figures.add(&["features/feature_spread"], feature_spread(features.clone()));
        Objective {
            loss: rows.mean(),
            gradient,
            of_heads: NamedGradients::default(),
            figures,
            watched: features,
        }
    }

    /// The average takes in the weights that the step has led to.
    pub(super) fn follow(mut self, rates: &Rates) -> Self {
        let momentum = rates.momentum.unwrap_or(self.ijepa.momentum[0]);
        self.target.follow(&self.encoder, momentum);
        self
    }

    /// What a checkpoint holds beside the averaged encoder.
    pub(super) fn others(&self) -> BTreeMap<String, HostTensor> {
        let mut others = module_state(&self.encoder, "encoder.");
        others.extend(module_state(&self.predictor, "predictor."));
        others
    }

    pub(super) fn with_others(
        mut self,
        others: &mut BTreeMap<String, HostTensor>,
    ) -> Result<Self, WeightsError> {
        self.encoder = apply_module_state(self.encoder, "encoder.", others)?;
        self.predictor = apply_module_state(self.predictor, "predictor.", others)?;
        Ok(self)
    }

    pub(super) fn with_precision(mut self, precision: Precision) -> Self {
        self.encoder = self.encoder.with_precision(precision);
        self.target = self.target.map(|target| target.with_precision(precision));
        let blocks = self.predictor.predictor_blocks.into_iter();
        self.predictor.predictor_blocks =
            blocks.map(|block| block.with_precision(precision)).collect();
        self.predictor.precision = precision;
        self
    }
}

/// Ids as tensors: `[N, Kc]` and, block by block, `[M, N, Kt]`.
fn ids(blocks: &Blocks, n: usize, device: &Device) -> (Tensor<2, Int>, Tensor<3, Int>) {
    let whole = |ids: &[u32]| ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let context = TensorData::new(whole(&blocks.context), [n, blocks.context_len]);
    let targets = TensorData::new(whole(&blocks.targets), [n, blocks.blocks, blocks.target_len]);
    let targets = Tensor::<3, Int>::from_data(targets, device).swap_dims(0, 1);
    (Tensor::from_data(context, device), targets)
}
