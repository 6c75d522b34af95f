//! What is measured: the encoder of a run or of a file, the same encoder untrained, or raw pixels.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ocl_data::Geometry;
use ocl_model::{Pooling, Vit};
use ocl_train::{Plan, command_line};

use super::extract::Extractor;
use super::preparation::{Preparation, geometry};
use crate::error::EvalError;
use crate::text::shell_word;

/// A run folder and its plan.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its `plan.toml`.
    pub plan: Plan,
}

/// A source of features.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An encoder with the weights of a file.
    Trained(Box<Vit>),
    /// The run's encoder as it was before its first step.
    Untrained(Box<Vit>),
    /// No encoder.
    RawPixels,
}

impl Run {
    /// Opens a run folder.
    ///
    /// # Errors
    /// When its plan cannot be read.
    pub fn open(folder: &Path) -> Result<Self, EvalError> {
        let plan = Plan::load(folder).map_err(EvalError::Plan)?;
        Ok(Self { folder: folder.to_owned(), plan })
    }

    /// How the run's images were prepared.
    pub fn preparation(&self) -> Preparation {
        Preparation::of_plan(&self.plan)
    }

    /// Where the final weights lie.
    pub fn final_weights(&self) -> PathBuf {
        self.folder.join("encoder.safetensors")
    }

    /// Where the final weights lie, if they are there.
    ///
    /// # Errors
    /// When the run has not ended; the error says how to finish it.
    pub fn existing_weights(&self) -> Result<PathBuf, EvalError> {
        let path = self.final_weights();
        if path.exists() {
            return Ok(path);
        }
        Err(EvalError::NoWeights { advice: self.unfinished(), path })
    }

    /// The encoder with the parameters that the run's seed gives.
    ///
    /// # Errors
    /// When the plan's encoder cannot exist.
    pub fn untrained(&self, device: &Device) -> Result<Subject, EvalError> {
        let Plan { method, model, seed, .. } = &self.plan;
        let learner = method.learner(model, *seed, device)?;
        Ok(Subject::Untrained(Box::new(learner.encoder().clone())))
    }

    /// What to do about a run without final weights.
    fn unfinished(&self) -> String {
        let run = shell_word(&self.folder.to_string_lossy());
        let newest = self.newest_checkpoint().map_or(String::new(), |file| {
            let file = shell_word(&file.to_string_lossy());
            format!(
                "; to measure its newest checkpoint, give eval-linear or eval-knn --weights {file}"
            )
        });
        let resume = command_line(&format!("pretrain --resume {run}"));
        format!("the run has not ended; finish it with {resume}{newest}")
    }

    /// The weights that the run has come to: those of its newest checkpoint.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn newest_weights(&self) -> Result<PathBuf, EvalError> {
        self.newest_checkpoint().ok_or_else(|| EvalError::NoWeights {
            path: self.folder.join("checkpoints"),
            advice: self.unfinished(),
        })
    }

    fn newest_checkpoint(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("checkpoints")).ok()?;
        let files =
            entries.filter_map(|entry| Some(entry.ok()?.path().join("weights.safetensors")));
        // The step number has leading zeros, so the order of names is that of steps.
        files.filter(|file| file.exists()).max()
    }
}

impl Subject {
    /// What a table calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Trained(_) => "trained encoder",
            Self::Untrained(_) => "untrained encoder",
            Self::RawPixels => "raw pixels",
        }
    }

    /// The encoder, if there is one.
    pub fn vit(&self) -> Option<&Vit> {
        match self {
            Self::Trained(vit) | Self::Untrained(vit) => Some(vit),
            Self::RawPixels => None,
        }
    }

    /// Sides of the encoder's crop and patches, if there is one.
    pub(super) fn geometry(&self) -> Option<Geometry> {
        self.vit().map(|vit| geometry(vit.config()))
    }

    pub(super) fn extractor(&self, pool: Pooling) -> Extractor<'_> {
        match self {
            Self::Trained(vit) | Self::Untrained(vit) => Extractor::Encoder(vit, pool),
            Self::RawPixels => Extractor::RawPixels,
        }
    }
}
