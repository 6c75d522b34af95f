//! The seeds of a fine-tuning, one after the other, and their result.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ocl_data::{Split, in_words};
use ocl_train::{World, check_alike, invocation};
use serde_json::json;

use super::confusion::Confusion;
use super::measure::SeedResult;
use super::plan::{FinetunePlan, seed_folder};
use super::train::{self, Place, train};
use crate::error::EvalError;
use crate::features::{Labelled, WeightsRecord};
use crate::progress::Progress;
use crate::protocols::Score;
use crate::report::{ResultRecord, commit};
use crate::text::shell_word;

/// The result of a fine-tuning, all seeds together.
#[derive(Clone, Debug, PartialEq)]
pub struct Finetuned {
    /// The accuracies, for `results.jsonl`.
    pub record: ResultRecord,
    /// The classifiers, one for each seed.
    pub files: Vec<PathBuf>,
    /// Names of the classes; empty where the data have none.
    classes: Vec<String>,
    confusion: Confusion,
}

/// Trains what is left of a plan in its folder; `None` when `stop` was set before the end, after a
/// checkpoint.
///
/// The processes of `world` share the work; the root alone sees the folder, and all get the result.
///
/// A new folder gets the plan as `finetune.toml` once data and plan are known to fit.
///
/// # Errors
/// When data or weights cannot be read, the folder holds another fine-tuning, the loss stops being
/// finite, or the disk or the device fails.
pub fn finetune(
    world: &World,
    plan: &FinetunePlan,
    folder: &Path,
    workers: usize,
    backend: ocl_train::Backend,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Option<Finetuned>, EvalError> {
    let device = backend.device_number(world.place().local_rank).map_err(EvalError::from);
    let device = world.together(device, in_words)?;
    let data = Labelled::open(&plan.data, plan.data_kind, &plan.splits);
    let data = world.together(data, in_words)?;
    for split in [Split::Train, Split::Test] {
        check_alike(world, &plan.data, data.split(split))?;
    }
    world.together(train::check(plan, &data, world), in_words)?;
    world.on_root(|| plan.save(folder), in_words)?;
    world.join_devices(&device)?;
    let place = Place { world, workers, device: &device, stop };
    let started = Instant::now();
    let (mut results, mut files) = (Vec::new(), Vec::new());
    for &seed in &plan.seeds {
        let own = seed_folder(folder, seed);
        let there = world.is_root().then(|| SeedResult::load(&own)).flatten();
        let result = match world.told(there) {
            Some(result) => Some(result),
            None => train(plan, &data, &own, seed, &place, progress)?,
        };
        progress.clear();
        let Some(result) = result else { return Ok(None) };
        results.push(result);
        files.push(own.join("finetuned.safetensors"));
    }
    let secs = started.elapsed().as_secs_f64();
    let record = record(plan, &data, &results, backend.to_string(), secs);
    let confusion = results.iter().map(|result| &result.confusion).sum();
    let classes = data.split(Split::Train).class_names().to_vec();
    Ok(Some(Finetuned { record, files, classes, confusion }))
}

impl Finetuned {
    /// The accuracy of each class, what is taken for what, the files that were written, and what
    /// can be done with them, for an 80-column terminal.
    pub fn text(&self) -> String {
        let mut text = self.confusion.text(&self.classes);
        let Some(first) = self.files.first() else { return text };
        let _ = writeln!(text, "\nFine-tuned classifier, under timm's names, with its classes:");
        for file in &self.files {
            let _ = writeln!(text, "  {}", file.display());
        }
        let (weights, ocl) = (shell_word(&first.to_string_lossy()), invocation());
        let _ = write!(
            text,
            "
Next
  Classify images:
    {ocl} predict IMAGES --weights {weights}
  Measure its features by other protocols:
    {ocl} eval --weights {weights} --data PATH
  Write a folder that timm and Hugging Face load:
    {ocl} export --weights {weights} --out FOLDER
"
        );
        text
    }
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
        data: data.record(source(Split::Train, plan.max_train), source(Split::Test, plan.max_test)),
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
