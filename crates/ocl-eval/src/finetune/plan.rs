//! Everything that a fine-tuning depends on, kept in its folder as `finetune.toml`.

use std::path::{Path, PathBuf};

use ocl_data::{Normalisation, SourceKind, SplitNames};
use ocl_model::{Preprocessing, VitConfig};
use serde::{Deserialize, Serialize};

use super::recipe::FinetuneRecipe;
use crate::error::EvalError;
use crate::features::{Preparation, geometry};
use crate::files::replace;

/// A fine-tuning with every value resolved; resuming needs nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetunePlan {
    /// Version of the program that made the plan.
    pub version: String,
    /// Name or path of the recipe.
    pub recipe_name: String,
    /// Seeds, each a training of its own.
    pub seeds: Vec<u64>,
    /// Weights that training begins from; none begins from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// SHA-256 of that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_sha256: Option<String>,
    /// Which of several networks in that file is taken, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_prefix: Option<String>,
    /// Labelled data.
    pub data: String,
    /// What the path holds.
    pub data_kind: SourceKind,
    /// What its parts are called, where names do not tell.
    #[serde(flatten)]
    pub splits: SplitNames,
    /// At most so many training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_train: Option<usize>,
    /// At most so many test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_test: Option<usize>,
    /// Mean of each channel.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// For the test images: the short side is resized to this times the crop's side.
    pub resize_ratio: f64,
    /// Share of unreadable images that stops the run.
    pub max_bad_share: f64,
    /// The encoder.
    pub model: VitConfig,
    /// The recipe as used.
    pub recipe: FinetuneRecipe,
}

impl FinetunePlan {
    /// Peak learning rate.
    pub fn peak_lr(&self) -> f64 {
        self.recipe.optim.base_lr * self.recipe.train.batch as f64 / 256.0
    }

    /// Channels' mean and deviation.
    pub(crate) fn normalisation(&self) -> Normalisation {
        Normalisation { mean: self.mean, std: self.std }
    }

    /// How test images are prepared.
    pub(crate) fn preparation(&self, workers: usize) -> Preparation {
        Preparation {
            normalisation: self.normalisation(),
            resize_ratio: self.resize_ratio,
            workers,
            max_bad_share: self.max_bad_share,
            geometry: geometry(&self.model),
        }
    }

    /// How images are prepared, in the words of files of weights.
    pub(crate) fn preprocessing(&self) -> Preprocessing {
        // Workers have no part in it.
        self.preparation(1).preprocessing()
    }

    /// Refuses a folder that holds a fine-tuning that can be resumed. One that failed before
    /// its first checkpoint is no such.
    ///
    /// # Errors
    /// When the folder is taken.
    pub fn check_folder(folder: &Path) -> Result<(), EvalError> {
        if !begun(folder) {
            return Ok(());
        }
        let reason = format!(
            "{} holds a fine-tuning; resume it with --resume, or give another --out",
            folder.display()
        );
        Err(EvalError::Setting { setting: "out", reason })
    }

    /// Writes `finetune.toml`, making the folder, unless it stands there already.
    pub(super) fn save(&self, folder: &Path) -> Result<(), EvalError> {
        if Self::load(folder).is_ok_and(|there| there == *self) {
            return Ok(());
        }
        Self::check_folder(folder)?;
        std::fs::create_dir_all(folder).map_err(|source| EvalError::File {
            doing: "create",
            path: folder.to_owned(),
            source,
        })?;
        let text = toml::to_string(self).expect("a plan is plain data");
        replace(&folder.join("finetune.toml"), text.as_bytes())
    }

    /// Reads `finetune.toml` of a folder.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(folder: &Path) -> Result<Self, EvalError> {
        let path = folder.join("finetune.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| EvalError::File {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| EvalError::Recipe {
            name: path.display().to_string(),
            reason: error.to_string().trim_end().replace('\n', " "),
        })
    }
}

/// Where a seed's training lies.
pub(super) fn seed_folder(folder: &Path, seed: u64) -> PathBuf {
    folder.join(format!("seed-{seed}"))
}

/// Whether a seed of the fine-tuning in a folder has left anything to resume.
fn begun(folder: &Path) -> bool {
    let left = |seed: &Path| {
        ["checkpoint.safetensors", "result.json"].iter().any(|name| seed.join(name).is_file())
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| left(&path))
}
