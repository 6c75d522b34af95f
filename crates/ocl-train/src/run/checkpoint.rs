//! Checkpoints: a folder each, complete or absent.
//!
//! `checkpoints/step-00000120/` holds `weights.safetensors` (timm's names),
//! `optimizer.safetensors`, `plan.toml`, `average.safetensors` when there is a weight average, and
//! `state.json` with the step, the code's version and the length and CRC-32 of each file. The step
//! says where in the data the run is, and with the plan's seed every random number: none is drawn
//! from a state that moves. A checkpoint is written under another name, synced and renamed; a
//! damaged one is passed over for the one before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ocl_model::WeightsError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::atomic_file::{sync_folder, write_synced};
use super::stored::Stored;
use crate::config::Plan;
use crate::methods::Learner;
use crate::step::Trainer;

pub(super) const WEIGHTS: &str = "weights.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const AVERAGE: &str = "average.safetensors";
const PLAN: &str = "plan.toml";
const STATE: &str = "state.json";

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The content is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// No checkpoint can be used.
    #[error("{} holds no checkpoint that can be resumed from", folder.display())]
    None {
        /// The run folder.
        folder: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
struct State {
    version: String,
    step: u64,
    files: BTreeMap<String, Digest>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Digest {
    bytes: u64,
    crc32: u32,
}

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }
}

/// What a run continues from.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// Steps done.
    pub(crate) step: u64,
    /// The encoder, on the autodiff device, with its optimiser.
    pub(crate) trainer: Trainer,
}

/// Writes the state after `step` steps and removes old checkpoints: all but the newest, as many as
/// the plan keeps, and those the plan keeps for good.
///
/// # Errors
/// [`CheckpointError::Io`]; the checkpoints that were there before are untouched then.
pub(crate) fn save(run: &Path, state: &Stored, plan: &Plan) -> Result<PathBuf, CheckpointError> {
    let step = state.step;
    let parent = run.join("checkpoints");
    let (target, draft) =
        (parent.join(format!("step-{step:08}")), parent.join(format!(".step-{step:08}.draft")));
    let written = write(&draft, state, plan).and_then(|()| {
        if target.exists() {
            fs::remove_dir_all(&target).map_err(io("replace", &target))?;
        }
        fs::rename(&draft, &target).map_err(io("rename", &draft))?;
        sync_folder(&parent).map_err(io("sync", &parent))
    });
    if let Err(error) = written {
        // Whatever the draft holds is useless and may be what filled the disk.
        let _ = fs::remove_dir_all(&draft);
        return Err(error);
    }
    let for_good = |folder: &PathBuf| {
        let every = plan.keep_every_steps;
        every.zip(step_of(folder)).is_some_and(|(every, step)| step % every == 0)
    };
    for old in list(run)?.into_iter().rev().skip(plan.keep_checkpoints) {
        if !for_good(&old) {
            fs::remove_dir_all(&old).map_err(io("remove", &old))?;
        }
    }
    Ok(target)
}

fn write(draft: &Path, stored: &Stored, plan: &Plan) -> Result<(), CheckpointError> {
    if draft.exists() {
        fs::remove_dir_all(draft).map_err(io("remove", draft))?;
    }
    fs::create_dir_all(draft).map_err(io("create", draft))?;
    let plan = plan.to_toml();
    let mut contents = vec![
        (WEIGHTS, &stored.weights[..]),
        (OPTIMIZER, &stored.optimizer[..]),
        (PLAN, plan.as_bytes()),
    ];
    contents.extend(stored.average.as_ref().map(|average| (AVERAGE, &average[..])));
    let mut files = BTreeMap::new();
    for (name, bytes) in contents {
        files.insert(name.to_owned(), Digest::of(bytes));
        let path = draft.join(name);
        write_synced(&path, bytes).map_err(io("write", &path))?;
    }
    let state = State { version: env!("CARGO_PKG_VERSION").to_owned(), step: stored.step, files };
    let json = serde_json::to_vec_pretty(&state).expect("a state is plain data");
    let path = draft.join(STATE);
    write_synced(&path, &json).map_err(io("write", &path))?;
    sync_folder(draft).map_err(io("sync", draft))
}

/// The newest checkpoint that is whole, with the reason each newer one was passed over.
///
/// # Errors
/// [`CheckpointError::None`] when there is none.
pub(crate) fn load_latest(
    run: &Path,
    plan: &Plan,
    device: &Device,
) -> Result<(Checkpoint, Vec<CheckpointError>), CheckpointError> {
    let mut passed_over = vec![];
    for folder in list(run)?.into_iter().rev() {
        match load(&folder, plan, device) {
            Ok(checkpoint) => return Ok((checkpoint, passed_over)),
            Err(error) => passed_over.push(error),
        }
    }
    Err(passed_over.pop().unwrap_or(CheckpointError::None { folder: run.to_owned() }))
}

/// The networks of a run's newest checkpoint that is whole.
///
/// # Errors
/// [`CheckpointError::None`] when there is none.
pub fn saved_learner(run: &Path, plan: &Plan, device: &Device) -> Result<Learner, CheckpointError> {
    let (checkpoint, _) = load_latest(run, plan, device)?;
    Ok(checkpoint.trainer.learner().clone())
}

/// Steps that a run's newest checkpoint has done; none without a checkpoint.
pub fn saved_step(run: &Path) -> Option<u64> {
    list(run).ok()?.last().and_then(|folder| step_of(folder))
}

/// One checkpoint, every file checked.
///
/// # Errors
/// [`CheckpointError`] saying which file is not what was written.
pub(crate) fn load(
    folder: &Path,
    plan: &Plan,
    device: &Device,
) -> Result<Checkpoint, CheckpointError> {
    let damaged =
        |name: &str, reason: String| CheckpointError::Damaged { path: folder.join(name), reason };
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(io("read", &path))
    };
    let state: State =
        serde_json::from_slice(&read(STATE)?).map_err(|error| damaged(STATE, error.to_string()))?;
    if step_of(folder).is_some_and(|step| step != state.step) {
        return Err(damaged(STATE, format!("it is of step {}", state.step)));
    }
    let whole = |name: &str| {
        let bytes = read(name)?;
        let found = Digest::of(&bytes);
        let expected = state
            .files
            .get(name)
            .ok_or_else(|| damaged(STATE, format!("it does not list {name}")))?;
        if *expected != found {
            return Err(damaged(name, format!("expected {expected:?}, found {found:?}")));
        }
        Ok(bytes)
    };
    let averaged = plan.ema_decay.is_some() && state.files.contains_key(AVERAGE);
    let stored = Stored {
        step: state.step,
        weights: whole(WEIGHTS)?,
        optimizer: whole(OPTIMIZER)?,
        average: averaged.then(|| whole(AVERAGE)).transpose()?,
    };
    Ok(Checkpoint { step: state.step, trainer: stored.trainer(folder, plan, device)? })
}

/// The step that a checkpoint's folder is named after.
pub(crate) fn step_of(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Complete checkpoints, oldest first.
pub(crate) fn list(run: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let parent = run.join("checkpoints");
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(io("read", &parent)(error)),
    };
    let mut folders: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")))
        .collect();
    folders.sort();
    Ok(folders)
}

fn io<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> CheckpointError + 'a {
    move |source| CheckpointError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use ocl_data::{Source, SourceKind, Split};
    use ocl_model::state_of;

    use crate::config::Recipe;
    use crate::optim::AdamWState;
    use crate::run::setup;

    fn plan(pairs: &[&str]) -> Plan {
        let small = ["data.image_px=8", "model.patch_px=4", "model.width=8", "model.heads=2"];
        let pairs: Vec<String> = small.iter().chain(pairs).map(|pair| (*pair).to_owned()).collect();
        let recipe = Recipe::load("embedded", &pairs).unwrap();
        let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
        Plan::resolve("embedded", &recipe, &source).unwrap()
    }

    /// A trainer like no other: parameters from `seed`, moments of one parameter, an average of
    /// another seed.
    fn trainer(plan: &Plan, seed: u64) -> Trainer {
        let device = Device::default();
        let learner =
            |seed| plan.method.learner(&plan.model, seed, &device.clone().autodiff()).unwrap();
        let moments = [("norm.bias".to_owned(), (vec![1.0, -2.0], vec![0.5, 1e-20]))];
        let state = AdamWState { steps: 7, moments: moments.into() };
        let average = learner(seed + 1).encoder().valid();
        setup::trainer(plan, learner(seed), state, Some(average), &device)
    }

    #[test]
    fn a_checkpoint_comes_back_and_old_ones_go() {
        let run = tempfile::tempdir().unwrap();
        let plan = plan(&["train.keep_checkpoints=2", "optim.ema_decay=0.9"]);
        for step in [3, 12, 100] {
            save(run.path(), &Stored::of(step, &trainer(&plan, step)), &plan).unwrap();
        }
        assert_eq!(list(run.path()).unwrap().len(), 2);
        let (back, passed) = load_latest(run.path(), &plan, &Device::default()).unwrap();
        assert_eq!(back.step, 100);
        assert!(passed.is_empty());
        let before = trainer(&plan, 100);
        assert!(state_of(back.trainer.encoder()) == state_of(before.encoder()));
        assert_eq!(back.trainer.optimizer().state(), before.optimizer().state());
        let average = |trainer: &Trainer| state_of(trainer.average().unwrap().weights());
        assert!(average(&back.trainer) == average(&before));
    }

    #[test]
    fn every_nth_is_kept_for_good() {
        let run = tempfile::tempdir().unwrap();
        let mut plan = plan(&["train.keep_checkpoints=1"]);
        plan.keep_every_steps = Some(10);
        for step in [5, 10, 15, 20, 25, 30, 35] {
            save(run.path(), &Stored::of(step, &trainer(&plan, 1)), &plan).unwrap();
        }
        let steps: Vec<_> = list(run.path()).unwrap().iter().filter_map(|f| step_of(f)).collect();
        assert_eq!(steps, [10, 20, 30, 35]);
    }

    #[test]
    fn a_damaged_one_is_passed_over_with_the_reason() {
        let plan = plan(&["train.keep_checkpoints=9"]);
        for (name, text) in [
            (WEIGHTS, "weights.safetensors is damaged"),
            (OPTIMIZER, "optimizer.safetensors is damaged"),
            (STATE, "state.json is damaged"),
        ] {
            let run = tempfile::tempdir().unwrap();
            save(run.path(), &Stored::of(1, &trainer(&plan, 1)), &plan).unwrap();
            let newer = save(run.path(), &Stored::of(2, &trainer(&plan, 2)), &plan).unwrap();
            let path = newer.join(name);
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).unwrap();
            let (back, passed) = load_latest(run.path(), &plan, &Device::default()).unwrap();
            assert_eq!(back.step, 1);
            assert!(passed[0].to_string().contains(text), "{}", passed[0]);
        }
    }

    #[test]
    fn drafts_are_not_checkpoints() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir_all(run.path().join("checkpoints/.step-00000009.draft")).unwrap();
        assert!(matches!(
            load_latest(run.path(), &plan(&[]), &Device::default()),
            Err(CheckpointError::None { .. })
        ));
    }
}
