//! Fine-tuning: the whole encoder learns the labels (MAE, arXiv 2111.06377, appendix A.1).
//!
//! One seed after the other, each in a folder of its own: augment, mix, forward, backward, AdamW
//! with rates that fall from layer to layer. A seed that was stopped goes on from its checkpoint;
//! every draw is a function of the seed and the step, so that it goes on as if it had not been
//! stopped. The accuracy is that of the last epoch, not the best one's on the test images.

mod augment;
mod batches;
mod checkpoint;
mod classifier;
mod mix;
mod plan;
mod randaugment;
mod recipe;
mod train;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use plan::FinetunePlan;
pub use recipe::FinetuneRecipe;

use crate::error::EvalError;
use crate::features::Labelled;
use crate::features::WeightsRecord;
use crate::heads::Accuracy;
use crate::progress::Progress;
use crate::protocols::Score;
use crate::report::{ResultRecord, commit};

/// What a seed came to, as its folder keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeedResult {
    pub(crate) accuracy: Accuracy,
    /// Mean loss of the last epoch.
    pub(crate) train_loss: f64,
    pub(crate) secs: f64,
}

/// Trains what is left of a plan in its folder, and says what all seeds came to; `None` when `stop`
/// was set before the end, after a checkpoint.
///
/// # Errors
/// When data or weights cannot be read, the loss stops being finite, or the disk or the device
/// fails.
pub fn finetune(
    plan: &FinetunePlan,
    folder: &Path,
    workers: usize,
    backend: ocl_train::Backend,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Option<ResultRecord>, EvalError> {
    let device: Device = backend.device()?;
    let data = Labelled::open(&plan.data, plan.data_kind)?;
    let started = Instant::now();
    let mut results = Vec::new();
    for &seed in &plan.seeds {
        let own = seed_folder(folder, seed);
        let kept = std::fs::read_to_string(own.join("result.json")).ok();
        let result = match kept.and_then(|text| serde_json::from_str(&text).ok()) {
            Some(result) => Some(result),
            None => train::train(plan, &data, &own, seed, workers, &device, stop, progress)?,
        };
        progress.clear();
        let Some(result) = result else { return Ok(None) };
        results.push(result);
    }
    let record =
        record(plan, &data, &results, backend.to_string(), started.elapsed().as_secs_f64());
    Ok(Some(record))
}

/// Where a seed's training lies.
fn seed_folder(folder: &Path, seed: u64) -> PathBuf {
    folder.join(format!("seed-{seed}"))
}

fn record(
    plan: &FinetunePlan,
    data: &Labelled,
    results: &[SeedResult],
    backend: String,
    secs: f64,
) -> ResultRecord {
    let of = |value: fn(&SeedResult) -> f64| results.iter().map(value).collect::<Vec<_>>();
    let source = |split, limit: Option<usize>| {
        let all = data.split(split).len();
        limit.map_or(all, |limit| limit.min(all))
    };
    let weights = plan.from.clone().zip(plan.from_sha256.clone());
    ResultRecord {
        protocol: "finetune".to_owned(),
        says: "the whole encoder learns the labels (MAE, arXiv 2111.06377, appendix A.1)"
            .to_owned(),
        constants: json!({
            "recipe": plan.recipe_name,
            "from": if plan.from.is_some() { "weights" } else { "scratch" },
            "peak_lr": plan.peak_lr(),
            "settings": plan.recipe,
        }),
        subject: match plan.from {
            Some(_) => "fine-tuned encoder".to_owned(),
            None => "encoder trained from scratch".to_owned(),
        },
        weights: weights.map(|(path, sha256)| WeightsRecord { path, sha256 }),
        pool: Some(plan.recipe.model.pool),
        width: plan.model.width,
        data: data.record(
            source(ocl_data::Split::Train, plan.max_train),
            source(ocl_data::Split::Test, plan.max_test),
        ),
        scores: vec![
            Score::new("top-1", of(|r| r.accuracy.top1)),
            Score::new("top-5", of(|r| r.accuracy.top5)),
        ],
        seeds: plan.seeds.clone(),
        features_secs: 0.0,
        // Seeds that were trained in an earlier call count with the time they took.
        protocol_secs: secs.max(of(|r| r.secs).iter().sum()),
        backend,
        version: env!("CARGO_PKG_VERSION"),
        commit: commit(),
    }
}
