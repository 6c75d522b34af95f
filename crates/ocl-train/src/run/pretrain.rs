//! The loop: from a plan and a data set to an encoder on disk. Read it top to bottom.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use burn::tensor::Device;
use ocl_data::{Loader, Source};
use ocl_model::{Vit, state_bytes};

use super::atomic_file::{folders_are_unsynced, replace_file};
use super::checkpoint::{self, Checkpoint, CheckpointError};
use super::error::TrainError;
use super::inventory::Inventory;
use super::lock::RunLock;
use super::pending::{Handed, Ledger, Pending};
use super::ranks::{same_everywhere, turn};
use super::setup::{fresh_trainer, loader_config};
use super::stored::Stored;
use crate::config::Plan;
use crate::log::{Event, Journal};
use crate::monitor::{self, Probe};
use crate::step::{Readback, Trainer};
use crate::world::World;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Whether all steps of the plan are done; otherwise the run was interrupted and can be
    /// resumed.
    pub finished: bool,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Images skipped because they could not be read.
    pub skipped: u64,
}

/// How far a run goes before it is put down, to be resumed later.
#[derive(Clone, Copy, Debug)]
pub struct Until<'a> {
    /// After so many steps; [`u64::MAX`] for the plan's end.
    pub step: u64,
    /// As soon as it is set: at the end of the step that is under way.
    pub stop: &'a AtomicBool,
}

impl<'a> Until<'a> {
    /// The plan's end, unless `stop` is set before.
    pub fn end_or(stop: &'a AtomicBool) -> Self {
        Self { step: u64::MAX, stop }
    }
}

/// Whether a run begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new run; the folder must not hold one.
    Fresh,
    /// Continue from the newest whole checkpoint, or from the beginning when there is none yet.
    Resume,
}

/// Runs a plan in folder `run`, to its end or to where it is put down, which writes a checkpoint.
/// The encoder is left in `run/encoder.safetensors` at the end.
///
/// # Errors
/// [`TrainError`]; what was saved before stays.
pub fn pretrain(
    plan: &Plan,
    source: Arc<Source>,
    run: &Path,
    start: Start,
    device: &Device,
    until: Until<'_>,
    observe: impl FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    pretrain_in(&World::One, plan, source, run, start, device, until, observe)
}

/// The same as one of several processes, which all call this with the same plan. The root alone
/// reads and writes the run folder; its observer is told what a run of one process would tell.
///
/// # Errors
/// [`TrainError`] in every process, whichever failed.
#[allow(clippy::too_many_arguments, reason = "one more than `pretrain` has")]
pub fn pretrain_in(
    world: &World,
    plan: &Plan,
    source: Arc<Source>,
    run: &Path,
    start: Start,
    device: &Device,
    until: Until<'_>,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let lock = world.on_root(|| prepare_folder(plan, &source, run, start), TrainError::in_words)?;
    for note in lock.iter().flat_map(what_is_missing) {
        observe(Event::Note(&note));
    }
    let (mut trainer, mut step, mut saved) = begin(world, plan, run, start, device, &mut observe)?;
    let journal = world.on_root(|| Ok(Journal::open(run, step)?), TrainError::in_words)?;
    let mut probe = if world.is_root() { Probe::new(plan, &source) } else { None };
    let loader = Loader::start(source, plan.view(), loader_config(plan, Some(run), step, world));
    let mut loader = world.together(loader.map_err(TrainError::from), TrainError::in_words)?;

    let readback = Readback::of(device);
    let mut ledger = Ledger::new(plan, run, journal, observe);
    ledger.pause(exchanged(world));
    while step < plan.steps.min(until.step) {
        let Some((batch, samples)) = turn(world, plan, &mut loader, until.stop)? else { break };
        enough(plan, run, step + 1, samples.len())?;
        let rates = plan.rates(step);
        let output;
        (trainer, output) = trainer.step_watched(batch, rates);
        step += 1;
        let handed = Handed::now(loader.wait_time(), exchanged(world));
        let pending = Pending {
            step,
            lr: rates.lr,
            sample: monitor::sample(plan, step, &output).filter(|_| world.is_root()),
            output: readback.ask(output.into_figures()),
            knn_top1: look(plan, step, &mut probe, &trainer, &mut ledger),
            samples,
            handed,
        };
        ended_by_all(world, ledger.enter(pending))?;
        if plan.saves_at(step) {
            ended_by_all(world, ledger.settle())?;
            save(world, plan, run, step, &trainer, &mut ledger)?;
            ledger.pause(exchanged(world));
            saved = Some(step);
        }
    }
    ended_by_all(world, ledger.settle())?;
    if saved != Some(step) {
        save(world, plan, run, step, &trainer, &mut ledger)?;
    }
    let finished = step >= plan.steps;
    if finished {
        world.on_root(|| save_encoder(plan, run, &trainer), TrainError::in_words)?;
    }
    drop(lock);
    Ok(Outcome { step, finished, last_loss: ledger.last_loss(), skipped: loader.skipped() })
}

/// Time spent in exchanges, where there are other processes.
fn exchanged(world: &World) -> Option<Duration> {
    (world.size() > 1).then(|| world.time_spent())
}

/// A loss that is NaN or infinite is so in all processes: each ends by itself.
fn ended_by_all(world: &World, result: Result<(), TrainError>) -> Result<(), TrainError> {
    if matches!(result, Err(TrainError::NonFinite { .. })) {
        world.leave();
    }
    result
}

/// Images that cannot be read are missing from their batch; a method may need more than are left.
fn enough(plan: &Plan, run: &Path, step: u64, read: usize) -> Result<(), TrainError> {
    let least = plan.method.least_images();
    if read >= least {
        return Ok(());
    }
    let (batch, method) = (plan.batch, plan.method.name());
    let quarantine = run.join("quarantine.jsonl");
    Err(TrainError::FewImages { step, read, batch, method, least, quarantine })
}

/// k-NN accuracy when step `step` asks for it. A probe that cannot read its images ends, and not
/// the run.
fn look(
    plan: &Plan,
    step: u64,
    probe: &mut Option<Probe>,
    trainer: &Trainer,
    ledger: &mut Ledger<'_, impl FnMut(Event<'_>)>,
) -> Option<f64> {
    let due = step.checked_rem(plan.monitor.knn_every_steps) == Some(0);
    match probe.as_ref().filter(|_| due)?.top_1(trainer.encoder()) {
        Ok(share) => Some(share),
        Err(error) => {
            ledger.tell(Event::Note(&format!("no more k-NN in this run: {error}")));
            *probe = None;
            None
        }
    }
}

fn save(
    world: &World,
    plan: &Plan,
    run: &Path,
    step: u64,
    trainer: &Trainer,
    ledger: &mut Ledger<'_, impl FnMut(Event<'_>)>,
) -> Result<(), TrainError> {
    let stored = Stored::of(step, trainer);
    same_everywhere(world, &stored)?;
    let save = || Ok(checkpoint::save(run, &stored, plan)?);
    if let Some(folder) = world.on_root(save, TrainError::in_words)? {
        ledger.tell(Event::Saved(&folder));
    }
    Ok(())
}

fn save_encoder(plan: &Plan, run: &Path, trainer: &Trainer) -> Result<(), TrainError> {
    let metadata = [("recipe", plan.recipe.clone()), ("version", plan.version.clone())];
    let write = |name: &str, vit: &Vit| {
        let path = run.join(name);
        replace_file(&path, &state_bytes(vit, &metadata))
            .map_err(|source| TrainError::Folder { path, source })
    };
    if let Some(average) = trainer.average() {
        write("encoder-average.safetensors", average.weights())?;
    }
    write("encoder.safetensors", trainer.encoder())
}

/// Makes the folder of a new run, or finds that of an old one, and keeps others out of it.
fn prepare_folder(
    plan: &Plan,
    source: &Source,
    run: &Path,
    start: Start,
) -> Result<RunLock, TrainError> {
    let path = run.join("plan.toml");
    let failed = |source| TrainError::Folder { path: path.clone(), source };
    std::fs::create_dir_all(run).map_err(failed)?;
    let lock = RunLock::take(run)?;
    if start == Start::Fresh {
        if path.exists() {
            return Err(TrainError::Occupied(run.to_owned()));
        }
        replace_file(&path, plan.to_toml().as_bytes()).map_err(failed)?;
    } else if Plan::load(run).is_ok_and(|there| there.changes != plan.changes) {
        replace_file(&path, plan.to_toml().as_bytes()).map_err(failed)?;
    }
    same_data(plan, source, run)?;
    Ok(lock)
}

/// Keeps a note of the data with a run that begins, and compares them with it when the run goes on.
/// Of a run that has none, as it was begun by an earlier version, only the number is known.
fn same_data(plan: &Plan, source: &Source, run: &Path) -> Result<(), TrainError> {
    let other = |difference| TrainError::OtherData { data: plan.data.path.clone(), difference };
    let path = run.join("data.json");
    let failed = |source| TrainError::Folder { path: path.clone(), source };
    let now = Inventory::of(source);
    match std::fs::read(&path) {
        Ok(then) => {
            let then: Inventory =
                serde_json::from_slice(&then).map_err(|error| failed(error.into()))?;
            then.difference(&now).map_or(Ok(()), |difference| Err(other(difference)))
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        Err(_) if source.len() != plan.data.images => {
            Err(other(format!("{} images, there were {}", source.len(), plan.data.images)))
        }
        Err(_) => {
            let text = serde_json::to_vec_pretty(&now).map_err(|error| failed(error.into()))?;
            replace_file(&path, &text).map_err(failed)
        }
    }
}

/// What the file system of a run folder does not protect from, in words.
fn what_is_missing(lock: &RunLock) -> Vec<String> {
    let mut missing = vec![];
    if let Some(error) = lock.unguarded() {
        missing.push(format!(
            "this file system has no locks ({error}): nothing keeps a second process out of the run \
             folder, so start none there"
        ));
    }
    if folders_are_unsynced() {
        missing.push(
            "this file system cannot sync folders: after a power cut the newest checkpoint may be \
             missing, and the run goes on from the one before"
                .to_owned(),
        );
    }
    missing
}

/// The trainer, the steps it has done, and the step of the checkpoint that it comes from. The root's
/// go to all processes.
fn begin(
    world: &World,
    plan: &Plan,
    run: &Path,
    start: Start,
    device: &Device,
    observe: &mut impl FnMut(Event<'_>),
) -> Result<(Trainer, u64, Option<u64>), TrainError> {
    let on_root = || begin_alone(plan, run, start, device, observe);
    let own = world.on_root(on_root, TrainError::in_words)?;
    if world.size() == 1 {
        return Ok(own.expect("one process is the root"));
    }
    let bytes = own.as_ref().map(|(trainer, step, saved)| {
        let mut bytes = vec![u8::from(saved.is_some())];
        bytes.extend(Stored::of(*step, trainer).into_bytes());
        bytes
    });
    let bytes = world.from_root(bytes.unwrap_or_default());
    let (trainer, step, saved) = match own {
        Some(own) => own,
        None => {
            let (stored, saved) = (Stored::from_bytes(&bytes[1..]), bytes[0] == 1);
            drop(bytes);
            let trainer = stored.trainer(run, plan, device)?;
            (trainer, stored.step, saved.then_some(stored.step))
        }
    };
    Ok((trainer.with_world(world.clone()), step, saved))
}

fn begin_alone(
    plan: &Plan,
    run: &Path,
    start: Start,
    device: &Device,
    observe: &mut impl FnMut(Event<'_>),
) -> Result<(Trainer, u64, Option<u64>), TrainError> {
    if start == Start::Resume {
        match checkpoint::load_latest(run, plan, device) {
            Ok((Checkpoint { step, trainer }, passed_over)) => {
                let passed_over: Vec<String> =
                    passed_over.iter().map(ToString::to_string).collect();
                observe(Event::Started { step, passed_over: &passed_over });
                return Ok((trainer, step, Some(step)));
            }
            // Stopped before its first checkpoint: the plan alone says how to begin.
            Err(CheckpointError::None { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    observe(Event::Started { step: 0, passed_over: &[] });
    Ok((fresh_trainer(plan, device)?, 0, None))
}
