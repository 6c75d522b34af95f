//! What a plan costs, before it is run.

use std::time::Instant;

use burn::tensor::Device;
use ocl_data::{Batch, View};
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

/// What the backward pass of a block takes, in bytes.
struct Kept {
    /// Kept for each token and channel.
    each: usize,
    /// Kept for each sequence besides: weights of attention.
    weights: usize,
    /// Kept for each token and channel of a last block that makes the class token alone.
    last: usize,
    /// Needed for each token and channel while a micro-batch goes back through one block.
    beside: usize,
}

/// On the CPU (`ocl-model/src/cpu/block.rs`), in f32: the residual stream at the input and in the
/// middle, two norms, queries, keys, values, attention, and the hidden layer with the slope of its
/// GELU; beside, the gradients of all these but the norms'.
///
/// On GPUs (`ocl-model/src/gpu`): input and middle of the residual stream in f32, and factors of
/// products in their own type: two norms, queries, keys, values, attention and the hidden layer;
/// beside, that layer's gradient, its own and its output's. Where their block does not fit, in f32:
/// inputs and outputs of two norms, of queries, keys and values twice (permuted), attention,
/// projection, two residuals, and the hidden layer before and after GELU.
fn kept(plan: &Plan, backend: Backend, pass: &Pass) -> Kept {
    let Pass { shape, tokens, .. } = *pass;
    let hidden = shape.mlp_ratio;
    if backend == Backend::Flex {
        let padded = tokens.next_multiple_of(16);
        return Kept {
            each: 4 * (8 + 2 * hidden),
            weights: 4 * shape.heads * tokens * padded,
            last: 4 * 4,
            beside: 4 * (6 + hidden),
        };
    }
    if !fits_gpu_block(tokens, shape.width, shape.heads) {
        let each = 4 * (14 + 2 * hidden);
        return Kept { each, weights: 8 * shape.heads * tokens * tokens, last: each, beside: 0 };
    }
    // Of the other backends none computes in bf16 throughout.
    let factor = match plan.precision {
        Precision::Bf16 if backend == Backend::Cuda => 2,
        _ => 4,
    };
    let each = 8 + (6 + hidden) * factor;
    Kept { each, weights: 0, last: each, beside: 12 + 3 * hidden * factor }
}

/// The program itself with its threads and the embedded data, in bytes of the host's memory.
const PROGRAM: usize = 30 << 20;

/// Batches in memory: two that the loader makes ahead, the one it puts together, the one being
/// learnt from.
const BATCHES: usize = 4;

impl Estimate {
    /// Counts what can be counted without running anything.
    pub fn count(plan: &Plan, backend: Backend) -> Self {
        Self {
            parameters: plan.method.parameters(&plan.model),
            kept: plan.view().kept(),
            macs_per_image: plan.method.macs_per_image(&plan.model),
            peak_bytes: peak_bytes(plan, plan.chunk, backend),
            step_secs: None,
        }
    }

    /// Adds the time of a step, measured on synthetic images: a few of them, then whole batches
    /// where these fit into memory and take no more than seconds.
    ///
    /// # Errors
    /// When the encoder cannot exist.
    pub fn with_time(
        mut self,
        plan: &Plan,
        backend: Backend,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let trainer = Trainer::new(&plan.model, &plan.method, plan.adamw, plan.seed, device)?
            .with_precision(plan.precision.on(device))
            .with_micro_batches(plan.micro_batches());
        let few = plan.micro_batch.min(FEW).max(plan.method.least_images()).min(plan.batch);
        let (trainer, few_secs) = timed(trainer, plan, few);
        let batch = synthetic_batch(&plan.view(), few, plan.seed);
        let passes_secs = best_of(TRIES, || {
            let (_, gradients) = trainer.gradients(batch.clone());
            let _: f32 = gradients.norm().into_scalar();
        });
        // Images before the last chunk are encoded twice; forward is a third of a step.
        let twice = (plan.batch - plan.chunk.min(plan.batch)) as f64 / 3.0;
        let images = plan.batch as f64 + twice * f64::from(u8::from(!plan.method.is_separable()));
        let update_secs = (few_secs - passes_secs).max(0.0);
        let guess = update_secs + passes_secs * images / few as f64;
        let fits = plan.largest_fitting(backend, plan.micro_batch).is_some_and(|n| n >= plan.chunk);
        let whole = few < plan.batch && fits && guess < PATIENCE_SECS;
        self.step_secs = Some(if whole { timed(trainer, plan, plan.batch).1 } else { guess });
        Ok(self)
    }
}

/// Images of a step that is timed first.
const FEW: usize = 64;
/// Steps of which the fastest counts.
const TRIES: usize = 3;
/// Whole steps are timed where they take no longer than this.
const PATIENCE_SECS: f64 = 3.0;

/// The seconds of a step on so many synthetic images.
fn timed(trainer: Trainer, plan: &Plan, images: usize) -> (Trainer, f64) {
    let batch = synthetic_batch(&plan.view(), images, plan.seed);
    let mut trainer = Some(trainer);
    let secs = best_of(TRIES, || {
        let (moved, loss) = trainer.take().expect("it is put back").step(batch.clone(), 1e-6);
        let _: f32 = loss.into_scalar();
        trainer = Some(moved);
    });
    (trainer.expect("it is put back"), secs)
}

/// The least seconds that something takes.
fn best_of(tries: usize, mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..tries).map(once).fold(f64::MAX, f64::min)
}

/// Peak memory of a step in bytes when `chunk` images are in memory at once: the program,
/// parameters, gradients (and their sums, when there are several micro-batches), moments and
/// averages, activations of the chunk, what the objective has, and the batches that the loader
/// holds.
pub(super) fn peak_bytes(plan: &Plan, chunk: usize, backend: Backend) -> u64 {
    let model = &plan.model;
    let micro_batch = plan.micro_batch.min(chunk);
    let passes = plan.method.passes(model);
    let activations: usize = passes
        .iter()
        .filter(|pass| pass.graph)
        .map(|pass| {
            let Pass { shape, depth, sequences, tokens, class_only, .. } = *pass;
            let Kept { each, weights, last, beside } = kept(plan, backend, pass);
            let values = sequences * tokens * shape.width;
            let block = values * each + sequences * weights;
            let last = if class_only { values * last } else { block };
            chunk * ((depth - 1) * block + last) + micro_batch * values * beside
        })
        .sum();
    let sums = if plan.micro_batch < plan.batch { 1 + plan.parts.ilog2() as usize } else { 0 };
    let copies = 4 + sums;
    let averages =
        plan.method.averaged_parameters(model) + plan.ema_decay.map_or(0, |_| model.parameters());
    let batches = BATCHES * plan.batch * plan.view().image_len();
    let others = copies * plan.method.parameters(model)
        + averages
        + plan.method.objective_values(model, plan.batch)
        + batches;
    let program = if backend == Backend::Flex { PROGRAM } else { 0 };
    (program + activations + 4 * others) as u64
}

/// A batch of a view's shape with synthetic pixels, for timing steps.
///
/// # Shapes
/// As the loader makes it: `patches` `[images, crops, K, P*P*3]`, `positions` `[images, crops, K]`.
pub fn synthetic_batch(view: &View, images: usize, seed: u64) -> Batch {
    let (crops, kept) = (view.crops(), view.kept());
    let values = images * view.image_len();
    let pixel = |i: usize| ((i as f64 + 0.1 * seed as f64) * 0.618).fract() as f32 - 0.5;
    let batch = Batch {
        index: seed,
        samples: (0..images as u64).collect(),
        patches: (0..values).map(pixel).collect(),
        positions: (0..images * crops * kept).map(|i| (i % kept) as u32).collect(),
        images,
        crops,
        kept,
        patch_len: view.image_len() / (crops * kept),
        ..Batch::default()
    };
    view.with_blocks(batch, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;
    use ocl_data::{Source, SourceKind, Split};

    /// The recipe `embedded` under a method, with other values over it.
    fn plan(method: &str, over: &[&str]) -> Plan {
        let name = format!("method.name={method}");
        let over: Vec<String> =
            [&name[..]].iter().chain(over).map(|pair| (*pair).to_owned()).collect();
        let recipe = Recipe::load("embedded", &over).unwrap();
        let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
        Plan::resolve("embedded", &recipe, &source).unwrap()
    }

    #[test]
    fn memory_is_what_runs_of_each_method_took() {
        // Peaks of the resident memory of whole runs on two threads, whose micro-batches are
        // written out.
        const LARGE: [&str; 3] = ["data.image_px=224", "model.patch_px=16", "batch.size=64"];
        for (method, small, small_micro, large, large_micro) in [
            ("ocl", 103.0, 128, 256.0, 13),
            ("mae", 84.0, 64, 239.0, 6),
            ("i-jepa", 80.0, 37, 231.0, 3),
            ("moco-v3", 228.0, 37, 820.0, 4),
        ] {
            for (over, measured, micro) in
                [(&[][..], small, small_micro), (&LARGE[..], large, large_micro)]
            {
                let micro = format!("batch.micro_batch={micro}");
                let plan = plan(method, &[over, &[&micro]].concat());
                let mib = peak_bytes(&plan, plan.chunk, Backend::Flex) as f64 / f64::from(1 << 20);
                let off = mib / measured - 1.0;
                assert!(off.abs() < 0.2, "{method}: {mib:.0} MiB, measured {measured}");
            }
        }
    }

    #[test]
    fn steps_of_any_micro_batch_can_be_timed() {
        let device = Backend::Flex.device().unwrap();
        for (method, batch) in [("ocl", 2), ("mae", 1), ("i-jepa", 1), ("moco-v3", 2)] {
            let batch = format!("batch.size={batch}");
            let plan = plan(method, &[&batch, "batch.micro_batch=1", "batch.chunk=1"]);
            let estimate = Estimate::count(&plan, Backend::Flex);
            let timed = estimate.with_time(&plan, Backend::Flex, &device).unwrap();
            assert!(timed.step_secs.is_some_and(|secs| secs > 0.0), "{method}");
        }
    }
}
