//! Checkpoints: a folder each, complete or absent.
//!
//! `checkpoints/step-00000120/` holds `weights.safetensors` (timm's names), `optimizer.safetensors` and
//! `state.json` with the length and CRC-32 of both. It is written under another name, synced and renamed;
//! a damaged one is passed over for the one before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ocl_model::{Vit, WeightsError, state_bytes, weights_from};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::adamw::{AdamW, AdamWConfig, AdamWState};

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
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
    /// The encoder, on the autodiff device.
    pub(crate) vit: Vit,
    /// The optimiser.
    pub(crate) optimizer: AdamW,
}

/// Writes the state after `step` steps and removes all but the newest `keep` checkpoints.
///
/// # Errors
/// [`CheckpointError::Io`]; the checkpoints that were there before are untouched then.
pub(crate) fn save(
    run: &Path,
    step: u64,
    vit: &Vit,
    optimizer: &AdamW,
    keep: usize,
) -> Result<PathBuf, CheckpointError> {
    let parent = run.join("checkpoints");
    let (target, draft) =
        (parent.join(format!("step-{step:08}")), parent.join(format!(".step-{step:08}.draft")));
    let written = write(&draft, step, vit, optimizer).and_then(|()| {
        if target.exists() {
            fs::remove_dir_all(&target).map_err(io("replace", &target))?;
        }
        fs::rename(&draft, &target).map_err(io("rename", &draft))?;
        sync(&parent)
    });
    if let Err(error) = written {
        // Whatever the draft holds is useless and may be what filled the disk.
        let _ = fs::remove_dir_all(&draft);
        return Err(error);
    }
    for old in list(run)?.into_iter().rev().skip(keep) {
        fs::remove_dir_all(&old).map_err(io("remove", &old))?;
    }
    Ok(target)
}

fn write(draft: &Path, step: u64, vit: &Vit, optimizer: &AdamW) -> Result<(), CheckpointError> {
    if draft.exists() {
        fs::remove_dir_all(draft).map_err(io("remove", draft))?;
    }
    fs::create_dir_all(draft).map_err(io("create", draft))?;
    let mut files = BTreeMap::new();
    for (name, bytes) in [
        (WEIGHTS, state_bytes(vit, &[("step", step.to_string())])),
        (OPTIMIZER, optimizer_bytes(&optimizer.state())),
    ] {
        files.insert(name.to_owned(), Digest::of(&bytes));
        write_synced(&draft.join(name), &bytes)?;
    }
    let state = State { version: env!("CARGO_PKG_VERSION").to_owned(), step, files };
    let json = serde_json::to_vec_pretty(&state).expect("a state is plain data");
    write_synced(&draft.join(STATE), &json)?;
    sync(draft)
}

/// The newest checkpoint that is whole, with the reason each newer one was passed over.
///
/// # Errors
/// [`CheckpointError::None`] when there is none.
pub(crate) fn load_latest(
    run: &Path,
    adamw: AdamWConfig,
    device: &Device,
) -> Result<(Checkpoint, Vec<CheckpointError>), CheckpointError> {
    let mut passed_over = vec![];
    for folder in list(run)?.into_iter().rev() {
        match load(&folder, adamw, device) {
            Ok(checkpoint) => return Ok((checkpoint, passed_over)),
            Err(error) => passed_over.push(error),
        }
    }
    Err(passed_over.pop().unwrap_or(CheckpointError::None { folder: run.to_owned() }))
}

fn load(folder: &Path, adamw: AdamWConfig, device: &Device) -> Result<Checkpoint, CheckpointError> {
    let damaged =
        |name: &str, reason: String| CheckpointError::Damaged { path: folder.join(name), reason };
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(io("read", &path))
    };
    let state: State =
        serde_json::from_slice(&read(STATE)?).map_err(|error| damaged(STATE, error.to_string()))?;
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
    let (weights, optimizer) = (whole(WEIGHTS)?, whole(OPTIMIZER)?);
    let vit = weights_from(&weights, &folder.join(WEIGHTS), &device.clone().autodiff())?;
    let moments = read_optimizer(&optimizer).map_err(|reason| damaged(OPTIMIZER, reason))?;
    Ok(Checkpoint { step: state.step, vit, optimizer: AdamW::with_state(adamw, moments, device) })
}

/// Complete checkpoints, oldest first.
fn list(run: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
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

/// Both moments of every parameter as `first.NAME` and `second.NAME`, the steps as `steps`.
fn optimizer_bytes(state: &AdamWState) -> Vec<u8> {
    let le = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors: BTreeMap<String, (Dtype, Vec<u8>)> = BTreeMap::new();
    tensors.insert("steps".to_owned(), (Dtype::U64, state.steps.to_le_bytes().to_vec()));
    for (name, (first, second)) in &state.moments {
        tensors.insert(format!("first.{name}"), (Dtype::F32, le(first)));
        tensors.insert(format!("second.{name}"), (Dtype::F32, le(second)));
    }
    let views = tensors.iter().map(|(name, (dtype, bytes))| {
        let length = if *dtype == Dtype::U64 { 1 } else { bytes.len() / 4 };
        let view = TensorView::new(*dtype, vec![length], bytes);
        (name.as_str(), view.expect("the length was taken from the bytes"))
    });
    safetensors::serialize(views, None).expect("names and shapes are valid")
}

fn read_optimizer(bytes: &[u8]) -> Result<AdamWState, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let of = |name: &str| tensors.tensor(name).map_err(|error| error.to_string());
    let floats = |view: &TensorView<'_>| {
        let value = |chunk: &[u8]| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        view.data().chunks_exact(4).map(value).collect::<Vec<f32>>()
    };
    let steps = <[u8; 8]>::try_from(of("steps")?.data()).map_err(|error| error.to_string())?;
    let mut moments = BTreeMap::new();
    for name in tensors.names() {
        if let Some(parameter) = name.strip_prefix("first.") {
            let second = of(&format!("second.{parameter}"))?;
            moments.insert(parameter.to_owned(), (floats(&of(name)?), floats(&second)));
        }
    }
    Ok(AdamWState { steps: u64::from_le_bytes(steps), moments })
}

/// Writes a file and waits until it is on the disk.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    File::create(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(io("write", path))
}

/// Waits until a folder's entries are on the disk.
fn sync(folder: &Path) -> Result<(), CheckpointError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync", folder))
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
    use ocl_model::{VitConfig, state_of};

    const ADAMW: AdamWConfig =
        AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };

    fn vit(seed: u64) -> Vit {
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 1, heads: 2, mlp_ratio: 4 };
        Vit::new(&config, seed, &Device::default().autodiff()).unwrap()
    }

    fn optimizer() -> AdamW {
        let moments = [("norm.bias".to_owned(), (vec![1.0, -2.0], vec![0.5, 1e-20]))];
        let state = AdamWState { steps: 7, moments: moments.into() };
        AdamW::with_state(ADAMW, state, &Device::default())
    }

    #[test]
    fn a_checkpoint_comes_back_and_old_ones_go() {
        let run = tempfile::tempdir().unwrap();
        for step in [3, 12, 100] {
            save(run.path(), step, &vit(step), &optimizer(), 2).unwrap();
        }
        assert_eq!(list(run.path()).unwrap().len(), 2);
        let (back, passed) = load_latest(run.path(), ADAMW, &Device::default()).unwrap();
        assert_eq!(back.step, 100);
        assert!(passed.is_empty());
        assert_eq!(state_of(&back.vit), state_of(&vit(100)));
        assert_eq!(back.optimizer.state(), optimizer().state());
    }

    #[test]
    fn a_damaged_one_is_passed_over_with_the_reason() {
        let run = tempfile::tempdir().unwrap();
        save(run.path(), 1, &vit(1), &optimizer(), 3).unwrap();
        let newer = save(run.path(), 2, &vit(2), &optimizer(), 3).unwrap();
        let path = newer.join(WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (back, passed) = load_latest(run.path(), ADAMW, &Device::default()).unwrap();
        assert_eq!(back.step, 1);
        assert!(passed[0].to_string().contains("weights.safetensors is damaged"), "{}", passed[0]);
    }

    #[test]
    fn drafts_are_not_checkpoints() {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir_all(run.path().join("checkpoints/.step-00000009.draft")).unwrap();
        assert!(matches!(
            load_latest(run.path(), ADAMW, &Device::default()),
            Err(CheckpointError::None { .. })
        ));
    }
}
