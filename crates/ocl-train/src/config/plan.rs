//! A plan: every number a run depends on, resolved from a recipe and the data, saved as
//! `plan.toml`.

use std::path::{Path, PathBuf};

use ocl_data::{
    Geometry, Normalisation, Source, SourceError, SourceKind, Split, SplitNames, TrainCrop,
    TrainView, View,
};
use ocl_model::{Precision, VitConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Change, MonitorPlan};
use crate::methods::Method;
use crate::optim::{AdamWConfig, Clock, Rates, WarmupCosine};

/// Everything a run depends on. Two runs of one plan, one code version and one backend are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the program that made the plan.
    pub version: String,
    /// Name or path of the recipe.
    pub recipe: String,
    /// Decides parameters, order, crops and masks.
    pub seed: u64,
    /// Passes over the data.
    pub epochs: u64,
    /// Images contrasted with one another in a step.
    pub batch: usize,
    /// Images whose intermediate values are in memory at once. The result does not depend on it.
    #[serde(default)]
    pub chunk: usize,
    /// Images that are encoded together, and whose gradients are summed together.
    #[serde(default, alias = "grain")]
    pub micro_batch: usize,
    /// Parts of a batch, a power of two, whose gradients are summed as a binary tree: as many
    /// processes may share a run.
    #[serde(default = "one")]
    pub parts: usize,
    /// Seconds that a process waits for the others before it ends all of them; 0 for ever.
    #[serde(default = "usual_patience")]
    pub patience_secs: u64,
    /// Steps of an epoch; the last partial batch is dropped.
    pub steps_per_epoch: u64,
    /// Steps of the run.
    pub steps: u64,
    /// A checkpoint every so many steps.
    pub checkpoint_every_steps: u64,
    /// Checkpoints kept.
    pub keep_checkpoints: usize,
    /// Checkpoints at multiples of this are written too, and never removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every_steps: Option<u64>,
    /// Global norm at which gradients are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// What matrix products are computed in, on devices that have it.
    #[serde(default)]
    pub precision: Precision,
    /// Decay of the average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// What is read.
    pub data: DataPlan,
    /// The encoder.
    pub model: VitConfig,
    /// Weights that the encoder begins from; drawn from the seed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitPlan>,
    /// The method and its constants.
    pub method: Method,
    /// Constants of the optimiser.
    pub adamw: AdamWConfig,
    /// Learning rates, absolute.
    pub schedule: WarmupCosine,
    /// Epochs of warm-up as the recipe wrote them, where a shorter run has fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_written: Option<f64>,
    /// When the run is looked at more closely.
    #[serde(default)]
    pub monitor: MonitorPlan,
    /// What was changed since the run began, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// Seconds that a process waits for the others when a recipe says nothing of it.
pub(super) const PATIENCE_SECS: u64 = 600;

fn one() -> usize {
    1
}

fn usual_patience() -> u64 {
    PATIENCE_SECS
}

/// Weights that an encoder begins from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InitPlan {
    /// The file.
    pub path: PathBuf,
    /// CRC-32 of its bytes: a run begins from this file and no other.
    pub crc32: u32,
    /// Which of several networks in the file is taken, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether the method's decoder is the file's too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decoder: bool,
}

/// What is read, and the crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataPlan {
    /// A folder, or `embedded`.
    pub path: String,
    /// What the path holds.
    pub kind: SourceKind,
    /// `train_split` and `test_split`: what the parts are called, where names do not tell.
    #[serde(flatten)]
    pub splits: SplitNames,
    /// Training images.
    pub images: usize,
    /// Area of a random crop, as a share of the image.
    pub crop_scale: [f64; 2],
    /// Width over height of a random crop.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// For evaluation: the short side is resized to this times the crop's side.
    pub resize_ratio: f64,
    /// Mean of each channel.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// Share of unreadable images that stops the run.
    pub max_bad_share: f64,
    /// Loader threads. Batches do not depend on it.
    pub workers: usize,
}

impl DataPlan {
    /// Opens a part of the data.
    ///
    /// # Errors
    /// As [`Source::open_named`].
    pub fn open(&self, split: Split) -> Result<Source, SourceError> {
        Source::open_named(&self.path, self.kind, split, &self.splits)
    }
}

/// Why no plan follows from a recipe, or none can be read.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A value that cannot work.
    #[error("{key}: {problem}")]
    Value {
        /// The recipe's key.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The folder has no readable plan.
    #[error("{} is not a run folder: its plan.toml cannot be read{}", folder.display(), meant(inside))]
    Read {
        /// The folder.
        folder: PathBuf,
        /// The latest run inside of it.
        inside: Option<PathBuf>,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The plan is damaged or of another version.
    #[error("{} is damaged, or of another version of this program", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: toml::de::Error,
    },
}

impl Plan {
    /// Reads `plan.toml` of a run folder.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(run: &Path) -> Result<Self, PlanError> {
        let path = run.join("plan.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| PlanError::Read {
            folder: run.to_owned(),
            inside: latest_inside(run),
            source,
        })?;
        let mut plan: Self =
            toml::from_str(&text).map_err(|source| PlanError::Parse { path, source })?;
        if plan.micro_batch == 0 {
            // A plan of before there were chunks: batches were taken whole.
            (plan.chunk, plan.micro_batch) = (plan.batch, plan.batch);
        }
        Ok(plan)
    }

    /// The plan as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan is plain data")
    }

    /// The same run in so many steps, with a warm-up of the same share. Its last epoch need not be
    /// whole, and it is saved at its end and where it is interrupted only.
    ///
    /// # Panics
    /// If there are no steps.
    pub fn of_length(mut self, steps: u64) -> Self {
        assert!(steps > 0, "a run has steps");
        let epochs = steps as f64 / self.steps_per_epoch as f64;
        self.schedule.warmup_epochs *= epochs / self.schedule.epochs;
        self.schedule.epochs = epochs;
        self.epochs = steps.div_ceil(self.steps_per_epoch);
        self.checkpoint_every_steps = steps;
        self.keep_every_steps = None;
        self.steps = steps;
        self
    }

    /// Whether a checkpoint is due after so many steps.
    pub fn saves_at(&self, step: u64) -> bool {
        step.is_multiple_of(self.checkpoint_every_steps)
            || self.keep_every_steps.is_some_and(|every| step.is_multiple_of(every))
            || step == self.steps
    }

    /// What training makes of an image.
    pub fn view(&self) -> View {
        View::Train(TrainView {
            geometry: self.geometry(),
            normalisation: self.normalisation(),
            crop: TrainCrop {
                scale: self.data.crop_scale.into(),
                ratio: self.data.crop_ratio.into(),
                flip: self.data.flip,
                filter: self.method.filter(),
            },
            augment: self.method.augment(),
            keep: self.method.keep(self.model.patches()),
        })
    }

    /// Sides of crop and patch.
    pub fn geometry(&self) -> Geometry {
        let px = |side: usize| u32::try_from(side).expect("checked when the plan was resolved");
        Geometry { image_px: px(self.model.image_px), patch_px: px(self.model.patch_px) }
    }

    /// Mean and standard deviation of the channels.
    pub fn normalisation(&self) -> Normalisation {
        Normalisation { mean: self.data.mean, std: self.data.std }
    }

    /// The numbers of a step counted from 0.
    pub fn rates(&self, step: u64) -> Rates {
        self.method.rates(&self.schedule, self.adamw.weight_decay, self.clock(step))
    }

    /// The fractional epoch of a step counted from 0.
    pub fn epoch_at(&self, step: u64) -> f64 {
        self.clock(step).epoch()
    }

    fn clock(&self, step: u64) -> Clock {
        Clock { step, steps_per_epoch: self.steps_per_epoch, steps: self.steps }
    }
}

/// Folders of runs are kept in a folder of runs, which is easily taken for one of them.
fn latest_inside(folder: &Path) -> Option<PathBuf> {
    let made =
        |run: &PathBuf| run.join("plan.toml").metadata().and_then(|plan| plan.modified()).ok();
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.filter_map(|run| Some((made(&run)?, run))).max().map(|(_, run)| run)
}

fn meant(run: &Option<PathBuf>) -> String {
    run.as_ref().map_or_else(String::new, |run| format!("; did you mean {}?", run.display()))
}
