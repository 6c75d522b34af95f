//! What a plan costs, before it is run.

use std::time::Instant;

use burn::tensor::Device;
use ocl_data::{Batch, View};

use crate::plan::{Plan, PlanError};
use crate::trainer::Trainer;

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
    /// Seconds of a step, from timed steps on made-up images; none when they were not run.
    pub step_secs: Option<f64>,
}

/// Values that backward keeps for a token of width 1 in a block: inputs and outputs of two norms, of
/// queries, keys and values twice (permuted), attention, projection, two residuals, and the MLP's hidden
/// layer before and after GELU.
fn kept_values(mlp_ratio: usize) -> usize {
    14 + 2 * mlp_ratio
}

/// Batches in memory: two that the loader makes ahead, the one it puts together, the one being learnt from.
const BATCHES: usize = 4;

impl Estimate {
    /// Counts what can be counted without running anything.
    pub fn count(plan: &Plan) -> Self {
        let model = &plan.model;
        let (sequences, tokens) = plan.method.sequences(model.patches());
        let kept = View::Train(plan.view()).kept();
        Self {
            parameters: model.parameters(),
            kept,
            macs_per_image: 3 * sequences as u64 * model.cls_macs(tokens),
            peak_bytes: peak_bytes(plan, plan.chunk),
            step_secs: None,
        }
    }

    /// Adds the time of a step, measured on a few made-up images and scaled to the batch.
    ///
    /// # Errors
    /// When the encoder cannot exist.
    pub fn with_time(mut self, plan: &Plan, device: &Device) -> Result<Self, PlanError> {
        let images = plan.grain.min(plan.batch).min(64);
        let mut trainer = Trainer::new(&plan.model, &plan.method, plan.adamw, plan.seed, device)
            .map_err(|error| PlanError::Value { key: "model".into(), problem: error.to_string() })?
            .with_precision(plan.precision.on(device));
        let mut best = f64::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let loss;
            (trainer, loss) = trainer.step(made_up_batch(plan, images, self.kept), 1e-6);
            let _: f32 = loss.into_scalar();
            best = best.min(start.elapsed().as_secs_f64());
        }
        // Images before the last chunk are encoded twice; forward is a third of a step.
        let twice = (plan.batch - plan.chunk.min(plan.batch)) as f64 / 3.0;
        self.step_secs = Some(best * (plan.batch as f64 + twice) / images as f64);
        Ok(self)
    }
}

/// Peak memory of a step in bytes when `chunk` images are in memory at once: parameters, gradients (and
/// their sum, when there are several grains) and moments, activations of the chunk, embeddings, similarities,
/// and the batches that the loader holds. All are counted as f32, which with products in bf16 is too much.
pub(crate) fn peak_bytes(plan: &Plan, chunk: usize) -> u64 {
    let model = &plan.model;
    let (sequences, tokens) = plan.method.sequences(model.patches());
    let kept = View::Train(plan.view()).kept();
    let per_block = sequences * tokens * model.width * kept_values(model.mlp_ratio)
        + 2 * sequences * model.heads * tokens * tokens;
    let activations = chunk * model.depth * per_block;
    let copies = if plan.grain < plan.batch { 5 } else { 4 };
    let embeddings = 8 * plan.batch * sequences * model.width;
    let similarities = 6 * (plan.batch * plan.batch).min(ocl_loss::TILE);
    let batches = BATCHES * plan.batch * kept * model.patch_len();
    let values = copies * model.parameters() + activations + embeddings + similarities + batches;
    4 * values as u64
}

/// A batch of the plan's shape with made-up pixels.
fn made_up_batch(plan: &Plan, images: usize, kept: usize) -> Batch {
    let patch_len = plan.model.patch_len();
    let pixels = (0..images * kept * patch_len).map(|i| (i as f32 * 0.618).fract() - 0.5);
    Batch {
        epoch: 0,
        index: 0,
        samples: (0..images as u64).collect(),
        labels: vec![],
        patches: pixels.collect(),
        positions: (0..images * kept).map(|i| (i % kept) as u32).collect(),
        images,
        kept,
        patch_len,
    }
}
