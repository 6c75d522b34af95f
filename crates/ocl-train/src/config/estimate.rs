//! What a plan costs, before it is run.

use std::time::Instant;

use burn::tensor::Device;
use ocl_data::Batch;
use ocl_model::{ConfigError, Precision, fits_gpu_block};

use super::Plan;
use crate::device::Backend;
use crate::methods::Pass;
use crate::step::Trainer;

/// Size and cost of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Trainable parameters of the encoder.
    pub parameters: usize,
    /// Patches kept of an image, by all views together.
    pub kept: usize,
    /// Multiply-adds of forward and backward for an image.
    pub macs_per_image: u64,
    /// Peak memory of a step in bytes: parameters, gradients, moments, activations, one batch.
    pub peak_bytes: u64,
    /// Seconds of a step, from timed steps on synthetic images; none when they were not run.
    pub step_secs: Option<f64>,
}

/// Bytes that the backward pass keeps of a block for each token and channel, and those that it
/// needs beside while it works on one block.
///
/// On GPUs (`ocl-model/src/gpu`): input and middle of the residual stream in f32, and factors of
/// products in their own type: two norms, queries, keys, values, attention and the hidden layer;
/// beside, that layer's gradient, its own and its output's. Elsewhere in f32: inputs and outputs of
/// two norms, of queries, keys and values twice (permuted), attention, projection, two residuals,
/// and the hidden layer before and after GELU.
fn kept_bytes(plan: &Plan, backend: Backend, pass: &Pass) -> (usize, usize) {
    let hidden = pass.shape.mlp_ratio;
    let (width, heads) = (pass.shape.width, pass.shape.heads);
    if backend == Backend::Flex || !fits_gpu_block(pass.tokens, width, heads) {
        return (4 * (14 + 2 * hidden), 0);
    }
    // Of the other backends none computes in bf16 throughout.
    let factor = match plan.precision {
        Precision::Bf16 if backend == Backend::Cuda => 2,
        _ => 4,
    };
    (8 + (6 + hidden) * factor, 12 + 3 * hidden * factor)
}

/// Batches in memory: two that the loader makes ahead, the one it puts together, the one being
/// learnt from.
const BATCHES: usize = 4;

impl Estimate {
    /// Counts what can be counted without running anything.
    pub fn count(plan: &Plan, backend: Backend) -> Self {
        Self {
            parameters: plan.method.parameters(&plan.model),
            kept: kept(plan),
            macs_per_image: plan.method.macs_per_image(&plan.model),
            peak_bytes: peak_bytes(plan, plan.chunk, backend),
            step_secs: None,
        }
    }

    /// Adds the time of a step, measured on a few synthetic images and scaled to the batch.
    ///
    /// # Errors
    /// When the encoder cannot exist.
    pub fn with_time(mut self, plan: &Plan, device: &Device) -> Result<Self, ConfigError> {
        let images = plan.micro_batch.min(plan.batch).min(64);
        let mut trainer = Trainer::new(&plan.model, &plan.method, plan.adamw, plan.seed, device)?
            .with_precision(plan.precision.on(device));
        let mut best = f64::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let loss;
            (trainer, loss) = trainer.step(synthetic_batch(plan, images, self.kept), 1e-6);
            let _: f32 = loss.into_scalar();
            best = best.min(start.elapsed().as_secs_f64());
        }
        // Images before the last chunk are encoded twice; forward is a third of a step.
        let twice = (plan.batch - plan.chunk.min(plan.batch)) as f64 / 3.0;
        self.step_secs = Some(best * (plan.batch as f64 + twice) / images as f64);
        Ok(self)
    }
}

/// Patches that a batch holds of an image.
fn kept(plan: &Plan) -> usize {
    plan.view().kept()
}

/// Peak memory of a step in bytes when `chunk` images are in memory at once: parameters, gradients
/// (and their sum, when there are several micro-batches) and moments, activations of the chunk,
/// embeddings, similarities, and the batches that the loader holds.
pub(super) fn peak_bytes(plan: &Plan, chunk: usize, backend: Backend) -> u64 {
    let model = &plan.model;
    let passes = plan.method.passes(model);
    let activations: usize = passes
        .iter()
        .filter(|pass| pass.graph)
        .map(|pass| {
            let Pass { shape, depth, sequences, tokens, .. } = *pass;
            let (each, beside) = kept_bytes(plan, backend, pass);
            let values = sequences * tokens * shape.width;
            let scores = match beside {
                0 => 8 * sequences * shape.heads * tokens * tokens,
                _ => 0,
            };
            chunk * (depth * (values * each + scores) + values * beside)
        })
        .sum();
    let copies = if plan.micro_batch < plan.batch { 5 } else { 4 };
    let sequences = passes.first().map_or(1, |pass| pass.sequences);
    let embeddings = 8 * plan.batch * sequences * model.width;
    let similarities = 6 * (plan.batch * plan.batch).min(ocl_loss::TILE);
    let batches = BATCHES * plan.batch * plan.view().image_len();
    let others = copies * plan.method.parameters(model) + embeddings + similarities + batches;
    (activations + 4 * others) as u64
}

/// A batch of the plan's shape with synthetic pixels.
fn synthetic_batch(plan: &Plan, images: usize, kept: usize) -> Batch {
    let (patch_len, view) = (plan.model.patch_len(), plan.view());
    let crops = view.crops();
    let pixels = (0..images * view.image_len()).map(|i| (i as f32 * 0.618).fract() - 0.5);
    let batch = Batch {
        samples: (0..images as u64).collect(),
        patches: pixels.collect(),
        positions: (0..images * crops * kept).map(|i| (i % kept) as u32).collect(),
        images,
        crops,
        kept,
        patch_len,
        ..Batch::default()
    };
    view.with_blocks(batch, plan.seed)
}
