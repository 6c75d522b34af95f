//! The loop: from a plan and a data set to an encoder on disk. Read it top to bottom.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use ocl_data::{Batch, Loader, LoaderConfig, LoaderError, Order, Source, View};
use ocl_model::{ConfigError, WeightsError, save_weights};
use thiserror::Error;

use crate::checkpoint::{self, CheckpointError};
use crate::journal::{Journal, JournalError, StepRecord};
use crate::plan::Plan;
use crate::trainer::Trainer;

/// Why a run stopped.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The loss is not a number.
    #[error(
        "the loss of step {step} is {loss} (lr {lr:.3e}); samples {}; nothing of this step was saved. \
         Resume from the last checkpoint with a lower optim.base_lr or a longer optim.warmup_epochs",
        sample_list(samples)
    )]
    NonFinite {
        /// The step, counted from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// Its learning rate.
        lr: f64,
        /// Indices of the batch's samples.
        samples: Vec<u64>,
    },
    /// The run folder holds a run already.
    #[error(
        "{path} already holds a run; continue it with `--resume {path}`, or give another name",
        path = .0.display()
    )]
    Occupied(PathBuf),
    /// The run folder cannot be made.
    #[error("cannot write to run folder {}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The encoder cannot exist.
    #[error(transparent)]
    Model(#[from] ConfigError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] LoaderError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The encoder cannot be written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

fn sample_list(samples: &[u64]) -> String {
    let shown: Vec<String> = samples.iter().take(16).map(u64::to_string).collect();
    let more = samples.len().saturating_sub(16);
    if more == 0 { shown.join(" ") } else { format!("{} and {more} more", shown.join(" ")) }
}

/// What happens during a run, for whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins, or goes on after `step` steps; each damaged checkpoint that was passed over.
    Started {
        /// Steps done before.
        step: u64,
        /// Why newer checkpoints could not be used.
        passed_over: &'a [CheckpointError],
    },
    /// A step is done and its loss known.
    Step(&'a StepRecord),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether all steps of the plan are done; otherwise the run was interrupted and can be resumed.
    pub finished: bool,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Images skipped because they could not be read.
    pub skipped: u64,
}

/// Whether a run begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new run; the folder must not hold one.
    Fresh,
    /// Continue from the newest whole checkpoint, or from the beginning when there is none yet.
    Resume,
}

/// Runs a plan in folder `run` until its end or until `stop` is set, which ends the current step and
/// writes a checkpoint. The encoder is left in `run/encoder.safetensors`.
///
/// # Errors
/// [`TrainError`]; what was saved before stays.
pub fn pretrain(
    plan: &Plan,
    source: Arc<Source>,
    run: &Path,
    start: Start,
    device: &Device,
    stop: &AtomicBool,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    prepare_folder(plan, run, start)?;
    let (mut trainer, mut step) = begin(plan, run, start, device, &mut observe)?;
    let mut journal = Journal::open(run, step)?;
    let mut loader = Loader::start(source, View::Train(plan.view()), loader_config(plan, run, step))?;

    let mut clock = Clock::start();
    let mut last_loss = None;
    // A step's loss is read after the next step has been handed to the device, which is never idle then.
    let mut pending: Option<Pending> = None;
    while step < plan.steps && !stop.load(Ordering::Relaxed) {
        let Some(batch) = loader.next() else { break };
        let batch: Batch = batch?;
        let lr = plan.schedule.at(plan.epoch_at(step));
        let samples = batch.samples.clone();
        let loss;
        (trainer, loss) = trainer.step(batch, lr);
        step += 1;
        let previous = pending.replace(Pending { step, lr, loss, samples });

        if let Some(previous) = previous {
            let record = previous.finish(plan, &mut clock, &loader)?;
            last_loss = Some(record.loss);
            journal.record(&record)?;
            observe(Event::Step(&record));
        }
        if step % plan.checkpoint_every_steps == 0 || step == plan.steps {
            // The loss of the step just done comes first: a broken state must not be saved.
            settle(&mut pending, plan, &mut clock, &loader, &mut journal, &mut observe, &mut last_loss)?;
            save(plan, run, step, &trainer, &mut observe)?;
        }
    }
    if pending.is_some() {
        settle(&mut pending, plan, &mut clock, &loader, &mut journal, &mut observe, &mut last_loss)?;
        save(plan, run, step, &trainer, &mut observe)?;
    }
    let finished = step >= plan.steps;
    if finished {
        save_encoder(plan, run, &trainer)?;
    }
    Ok(Outcome { step, finished, last_loss, skipped: loader.skipped() })
}

/// A step whose loss has not been read from the device yet.
struct Pending {
    step: u64,
    lr: f64,
    loss: Tensor<1>,
    samples: Vec<u64>,
}

impl Pending {
    fn finish(self, plan: &Plan, clock: &mut Clock, loader: &Loader) -> Result<StepRecord, TrainError> {
        let Self { step, lr, loss, samples } = self;
        let loss = f64::from(loss.into_scalar::<f32>());
        if !loss.is_finite() {
            return Err(TrainError::NonFinite { step, loss, lr, samples });
        }
        let (secs, data_wait) = clock.lap(loader.wait_time());
        Ok(StepRecord {
            step,
            epoch: plan.epoch_at(step),
            loss,
            lr,
            images_per_sec: plan.batch as f64 / secs,
            data_wait,
        })
    }
}

fn settle(
    pending: &mut Option<Pending>,
    plan: &Plan,
    clock: &mut Clock,
    loader: &Loader,
    journal: &mut Journal,
    observe: &mut impl FnMut(Event<'_>),
    last_loss: &mut Option<f64>,
) -> Result<(), TrainError> {
    if let Some(step) = pending.take() {
        let record = step.finish(plan, clock, loader)?;
        *last_loss = Some(record.loss);
        journal.record(&record)?;
        observe(Event::Step(&record));
    }
    Ok(journal.flush()?)
}

fn save(
    plan: &Plan,
    run: &Path,
    step: u64,
    trainer: &Trainer,
    observe: &mut impl FnMut(Event<'_>),
) -> Result<(), TrainError> {
    let folder =
        checkpoint::save(run, step, trainer.vit(), trainer.optimizer(), plan.keep_checkpoints)?;
    observe(Event::Saved(&folder));
    Ok(())
}

fn save_encoder(plan: &Plan, run: &Path, trainer: &Trainer) -> Result<(), TrainError> {
    let metadata = [("ocl.recipe", plan.recipe.clone()), ("ocl.version", plan.version.clone())];
    let (draft, target) = (run.join(".encoder.draft"), run.join("encoder.safetensors"));
    save_weights(trainer.vit(), &draft, &metadata)?;
    std::fs::rename(&draft, &target).map_err(|source| TrainError::Folder { path: target, source })
}

fn prepare_folder(plan: &Plan, run: &Path, start: Start) -> Result<(), TrainError> {
    let path = run.join("plan.toml");
    if start == Start::Resume {
        return Ok(());
    }
    if path.exists() {
        return Err(TrainError::Occupied(run.to_owned()));
    }
    std::fs::create_dir_all(run)
        .and_then(|()| std::fs::write(&path, plan.to_toml()))
        .map_err(|source| TrainError::Folder { path, source })
}

fn begin(
    plan: &Plan,
    run: &Path,
    start: Start,
    device: &Device,
    observe: &mut impl FnMut(Event<'_>),
) -> Result<(Trainer, u64), TrainError> {
    if start == Start::Resume {
        match checkpoint::load_latest(run, plan.adamw, device) {
            Ok((found, passed_over)) => {
                observe(Event::Started { step: found.step, passed_over: &passed_over });
                let trainer = Trainer::with(found.vit, &plan.method, found.optimizer);
                return Ok((trainer, found.step));
            }
            // Stopped before its first checkpoint: the plan alone says how to begin.
            Err(CheckpointError::None { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    observe(Event::Started { step: 0, passed_over: &[] });
    let trainer = Trainer::new(&plan.model, &plan.method, plan.adamw, plan.seed, device)?;
    Ok((trainer, 0))
}

fn loader_config(plan: &Plan, run: &Path, step: u64) -> LoaderConfig {
    LoaderConfig {
        batch: plan.batch,
        workers: plan.data.workers,
        seed: plan.seed,
        order: Order::Shuffled,
        epochs: step / plan.steps_per_epoch..plan.epochs,
        first_batch: step % plan.steps_per_epoch,
        max_bad_share: plan.data.max_bad_share,
        quarantine: Some(run.join("quarantine.jsonl")),
        subset: None,
    }
}

/// Time of a step, and how much of it was spent waiting for data.
struct Clock {
    since: Instant,
    waited: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO }
    }

    /// Seconds since the last lap and the share of them spent waiting.
    fn lap(&mut self, waited: Duration) -> (f64, f64) {
        let secs = self.since.elapsed().as_secs_f64().max(1e-9);
        let share = (waited.saturating_sub(self.waited).as_secs_f64() / secs).min(1.0);
        (self.since, self.waited) = (Instant::now(), waited);
        (secs, share)
    }
}
