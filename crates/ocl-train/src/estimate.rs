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

impl Estimate {
    /// Counts what can be counted without running anything.
    pub fn count(plan: &Plan) -> Self {
        let model = &plan.model;
        let (sequences, tokens) = plan.method.sequences(model.patches());
        let kept = View::Train(plan.view()).kept();
        let rows = plan.batch * sequences * tokens;
        let per_block = rows * model.width * kept_values(model.mlp_ratio)
            + 2 * plan.batch * sequences * model.heads * tokens * tokens;
        let activations = model.depth * per_block + 3 * plan.batch * plan.batch;
        let batch = 2 * plan.batch * kept * model.patch_len();
        let values = 4 * model.parameters() + activations + batch;
        Self {
            parameters: model.parameters(),
            kept,
            macs_per_image: 3 * sequences as u64 * model.forward_macs(tokens),
            peak_bytes: 4 * values as u64,
            step_secs: None,
        }
    }

    /// Adds the time of a step, measured on a few made-up images and scaled to the batch.
    ///
    /// # Errors
    /// When the encoder cannot exist.
    pub fn with_time(mut self, plan: &Plan, device: &Device) -> Result<Self, PlanError> {
        let images = plan.batch.min(16);
        let mut trainer =
            Trainer::new(&plan.model, &plan.method, plan.adamw, plan.seed, device).map_err(
                |error| PlanError::Value { key: "model".into(), problem: error.to_string() },
            )?;
        let mut best = f64::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let loss;
            (trainer, loss) = trainer.step(made_up_batch(plan, images, self.kept), 1e-6);
            let _: f32 = loss.into_scalar();
            best = best.min(start.elapsed().as_secs_f64());
        }
        self.step_secs = Some(best * plan.batch as f64 / images as f64);
        Ok(self)
    }
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
