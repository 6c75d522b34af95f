//! What is kept of a step that went wrong, so that it can be run again exactly.
//!
//! `captures/step-00000120/` holds `capture.json`, the plan, and the checkpoint that the run was on
//! its way from. A batch and every random number follow from the plan's seed and the step, so that
//! replaying the few steps in between gives the very state; copying it at every step would cost
//! each run its memory twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use ocl_data::{Loader, Source};
use serde::{Deserialize, Serialize};

use super::atomic_file::replace_file;
use super::checkpoint::{self, Checkpoint};
use super::error::TrainError;
use super::setup::{fresh_trainer, loader_config};
use crate::config::Plan;
use crate::world::World;

/// A step whose loss or gradient was NaN or infinite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// Version of the program.
    pub version: String,
    /// The step, counted from 1.
    pub step: u64,
    /// Its epoch, and its place in it.
    pub epoch: u64,
    /// Its place in the epoch.
    pub batch: u64,
    /// Decides parameters, order, crops and masks.
    pub seed: u64,
    /// Its learning rate.
    pub lr: f64,
    /// The bits of its loss as f32.
    pub loss_bits: u32,
    /// The loss in words.
    pub loss: String,
    /// The norm of its gradients in words.
    pub gradient_norm: String,
    /// Indices of the batch's samples.
    pub samples: Vec<u64>,
    /// Steps done at the checkpoint that is kept beside it; 0 when there was none.
    pub from_step: u64,
}

/// What running a capture again gave.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What was captured.
    pub capture: Capture,
    /// The loss now.
    pub loss: f32,
    /// Whether samples and loss are those of the capture, bit for bit.
    pub same: bool,
    /// Norm of each parameter's gradient, in the order of names.
    pub gradient_norms: Vec<(String, f64)>,
}

/// Where a step is captured.
pub(super) fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("captures").join(format!("step-{step:08}"))
}

/// Writes a capture of `capture.step` into the run folder.
///
/// # Errors
/// When the disk refuses.
pub(super) fn write(run: &Path, plan: &Plan, mut capture: Capture) -> Result<PathBuf, TrainError> {
    let folder = folder(run, capture.step);
    let failed = |source| TrainError::Folder { path: folder.clone(), source };
    let newest = checkpoint::list(run)?.pop();
    capture.from_step = newest.as_deref().and_then(checkpoint::step_of).unwrap_or(0);
    let copied = || -> std::io::Result<()> {
        fs::create_dir_all(&folder)?;
        if let Some(newest) = &newest {
            let into = folder.join(newest.file_name().unwrap_or_default());
            fs::create_dir_all(&into)?;
            for entry in fs::read_dir(newest)? {
                let entry = entry?;
                fs::copy(entry.path(), into.join(entry.file_name()))?;
            }
        }
        replace_file(&folder.join("plan.toml"), plan.to_toml().as_bytes())?;
        let json = serde_json::to_vec_pretty(&capture).expect("a capture is plain data");
        replace_file(&folder.join("capture.json"), &json)
    };
    copied().map_err(failed)?;
    Ok(folder)
}

/// Runs a capture's step again, from the checkpoint beside it, and tells `observe` each step's loss
/// on the way.
///
/// # Errors
/// When the capture or the data cannot be read.
pub fn replay(
    folder: &Path,
    plan: &Plan,
    source: Arc<Source>,
    device: &Device,
    mut observe: impl FnMut(u64, f32),
) -> Result<Replay, TrainError> {
    let path = folder.join("capture.json");
    let failed = |source| TrainError::Folder { path: path.clone(), source };
    let json = fs::read(&path).map_err(failed)?;
    let capture: Capture = serde_json::from_slice(&json).map_err(|e| failed(e.into()))?;
    let checkpoint = folder.join(format!("step-{:08}", capture.from_step));
    let (mut trainer, mut step) = match checkpoint.exists() {
        true => {
            let Checkpoint { step, trainer } = checkpoint::load(&checkpoint, plan, device)?;
            (trainer, step)
        }
        false => (fresh_trainer(plan, device)?, 0),
    };
    let config = loader_config(plan, None, step, &World::One);
    for batch in Loader::start(source, plan.view(), config)? {
        let batch = batch?;
        step += 1;
        if step == capture.step {
            let same = batch.samples == capture.samples;
            let (objective, gradients) = trainer.gradients(batch);
            let loss: f32 = objective.loss.into_scalar();
            // A NaN has many patterns of bits, and which one is left to the processor.
            let captured = f32::from_bits(capture.loss_bits);
            let equal = loss.to_bits() == capture.loss_bits || (loss.is_nan() && captured.is_nan());
            let gradient_norms = gradients.norms().into_iter().collect();
            return Ok(Replay { capture, loss, same: same && equal, gradient_norms });
        }
        let loss;
        (trainer, loss) = trainer.step(batch, plan.rates(step - 1));
        observe(step, loss.into_scalar());
    }
    Err(failed(std::io::Error::other("the run ends before the captured step")))
}
