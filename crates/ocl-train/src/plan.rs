//! A plan: every number a run depends on, resolved from a recipe and the data, saved as `plan.toml`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ocl_data::{Geometry, Normalisation, Source, SourceKind, TrainView};
use ocl_model::{ConfigError, Precision, Vit, VitConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::adamw::{AdamW, AdamWConfig, AdamWState};
use crate::backend::Backend;
use crate::batching::{Chunk, grain};
use crate::ema::WeightAverage;
use crate::methods::Method;
use crate::monitor::{MonitorPlan, peak_tflops, probe_interval};
use crate::recipe::Recipe;
use crate::schedule::WarmupCosine;
use crate::trainer::Trainer;

/// Steps between closer looks when nothing else is asked for: 30 ms each, well under 1 % of the time.
const MONITOR_STEPS: u64 = 100;

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
    #[serde(default)]
    pub grain: usize,
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
    /// The method and its constants.
    pub method: Method,
    /// Constants of the optimiser.
    pub adamw: AdamWConfig,
    /// Learning rates, absolute.
    pub schedule: WarmupCosine,
    /// When the run is looked at more closely.
    #[serde(default)]
    pub monitor: MonitorPlan,
}

/// What is read, and the crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataPlan {
    /// A folder, or `embedded`.
    pub path: String,
    /// What the path holds.
    pub kind: SourceKind,
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
    #[error("{} is not a run folder: its plan.toml cannot be read", folder.display())]
    Read {
        /// The folder.
        folder: PathBuf,
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
    /// Resolves a recipe against its data.
    ///
    /// # Errors
    /// [`PlanError::Value`] naming the first key that cannot work.
    pub fn resolve(name: &str, recipe: &Recipe, source: &Source) -> Result<Self, PlanError> {
        let Recipe { data, method, optim, batch, train, monitor, .. } = recipe;
        let model = model(recipe)?;
        check(recipe, &model, source.len())?;
        let workers = match data.workers {
            0 => {
                std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1)).max(1)
            }
            workers => workers,
        };
        let steps_per_epoch = (source.len() / batch.size) as u64;
        let chunk = batch.chunk.unwrap_or(Chunk::Auto);
        let (sequences, tokens) = method.sequences(model.patches());
        let grain = grain(batch.size, sequences * tokens, batch.grain, chunk);
        let steps = |epochs: f64| ((epochs * steps_per_epoch as f64).round() as u64).max(1);
        let mut plan = Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: name.to_owned(),
            seed: train.seed,
            epochs: train.epochs,
            batch: batch.size,
            chunk: batch.size,
            grain,
            steps_per_epoch,
            steps: steps_per_epoch * train.epochs,
            checkpoint_every_steps: steps(train.checkpoint_every_epochs),
            keep_checkpoints: train.keep_checkpoints,
            keep_every_steps: train.keep_every_epochs.map(steps),
            clip_norm: optim.clip_norm,
            precision: train.precision.unwrap_or_default(),
            ema_decay: optim.ema_decay,
            data: DataPlan {
                path: data.path.clone(),
                kind: data.kind,
                images: source.len(),
                crop_scale: data.crop_scale,
                crop_ratio: data.crop_ratio,
                flip: data.flip,
                resize_ratio: data.resize_ratio,
                mean: data.mean,
                std: data.std,
                max_bad_share: data.max_bad_share,
                workers,
            },
            model,
            method: method.clone(),
            adamw: AdamWConfig {
                beta1: optim.beta1,
                beta2: optim.beta2,
                eps: optim.eps,
                weight_decay: optim.weight_decay,
            },
            schedule: WarmupCosine {
                lr: optim.base_lr * batch.size as f64 / 256.0,
                min_lr: optim.min_lr,
                warmup_epochs: optim.warmup_epochs,
                epochs: train.epochs as f64,
            },
            monitor: MonitorPlan::default(),
        };
        plan.set_chunk(chunk, Backend::Flex);
        plan.monitor = MonitorPlan {
            every_steps: monitor.every_steps.unwrap_or(MONITOR_STEPS),
            knn_every_steps: match monitor.knn_every_epochs {
                None => probe_interval(&plan),
                Some(never) if never <= 0.0 => 0,
                Some(epochs) => steps(epochs),
            },
            peak_tflops: monitor.peak_tflops,
        };
        Ok(plan)
    }

    /// Reads `plan.toml` of a run folder.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(run: &Path) -> Result<Self, PlanError> {
        let path = run.join("plan.toml");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| PlanError::Read { folder: run.to_owned(), source })?;
        let mut plan: Self =
            toml::from_str(&text).map_err(|source| PlanError::Parse { path, source })?;
        if plan.grain == 0 {
            // A plan of before there were chunks: batches were taken whole.
            (plan.chunk, plan.grain) = (plan.batch, plan.batch);
        }
        Ok(plan)
    }

    /// The plan as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan is plain data")
    }

    /// The optimiser, continuing from a state; [`AdamWState::default`] for a fresh one.
    pub fn optimizer(&self, state: AdamWState, device: &Device) -> AdamW {
        let optimizer = AdamW::with_state(self.adamw, state, device);
        match self.clip_norm {
            Some(norm) => optimizer.with_clip_norm(norm),
            None => optimizer,
        }
    }

    /// A trainer that has done nothing yet: parameters drawn from the seed.
    ///
    /// # Errors
    /// When no encoder of this shape can exist.
    pub fn fresh_trainer(&self, device: &Device) -> Result<Trainer, ConfigError> {
        let vit = Vit::new(&self.model, self.seed, &device.clone().autodiff())?
            .with_precision(self.precision.on(device));
        let average = self.ema_decay.map(|decay| WeightAverage::new(&vit, decay));
        let optimizer = self.optimizer(AdamWState::default(), device);
        let trainer = Trainer::with(vit, &self.method, optimizer).with_split(self.split());
        Ok(match average {
            Some(average) => trainer.with_average(average),
            None => trainer,
        })
    }

    /// Takes the device's peak from a GPU's name, where the recipe does not say it.
    pub fn find_peak(&mut self, backend: Backend, device: &Device) {
        if backend != Backend::Flex && self.monitor.peak_tflops.is_none() {
            self.monitor.peak_tflops = peak_tflops(self.precision.on(device));
        }
    }

    /// Whether a checkpoint is due after so many steps.
    pub fn saves_at(&self, step: u64) -> bool {
        step.is_multiple_of(self.checkpoint_every_steps)
            || self.keep_every_steps.is_some_and(|every| step.is_multiple_of(every))
            || step == self.steps
    }

    /// The training view of an image.
    pub fn view(&self) -> TrainView {
        TrainView {
            geometry: self.geometry(),
            normalisation: self.normalisation(),
            scale: self.data.crop_scale.into(),
            ratio: self.data.crop_ratio.into(),
            flip: self.data.flip,
            keep: self.method.keep(),
        }
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

    /// The fractional epoch of a step counted from 0.
    pub fn epoch_at(&self, step: u64) -> f64 {
        step as f64 / self.steps_per_epoch as f64
    }
}

fn model(recipe: &Recipe) -> Result<VitConfig, PlanError> {
    let written = &recipe.model;
    let wrong = |key: &str, problem: String| PlanError::Value { key: key.to_owned(), problem };
    let named = match &written.size {
        Some(size) => {
            Some(VitConfig::named(size).map_err(|error| wrong("model.size", error.to_string()))?)
        }
        None => None,
    };
    let part = |key: &str, own: Option<usize>, of: fn(&VitConfig) -> usize| {
        own.or(named.as_ref().map(of))
            .ok_or_else(|| wrong(key, "is missing; give it, or model.size".to_owned()))
    };
    let config = VitConfig {
        image_px: recipe.data.image_px,
        patch_px: written.patch_px,
        width: part("model.width", written.width, |v| v.width)?,
        depth: part("model.depth", written.depth, |v| v.depth)?,
        heads: part("model.heads", written.heads, |v| v.heads)?,
        mlp_ratio: written.mlp_ratio.unwrap_or(4),
    };
    config.validate().map_err(|error| wrong("model", error.to_string()))?;
    if config.image_px > 1 << 14 {
        return Err(wrong("data.image_px", format!("{} is above 16384", config.image_px)));
    }
    Ok(config)
}

/// The first value of a recipe that cannot work.
fn check(recipe: &Recipe, model: &VitConfig, images: usize) -> Result<(), PlanError> {
    let Recipe { data, method, optim, batch, train, .. } = recipe;
    let range = |low_high: [f64; 2], top: f64| {
        let [low, high] = low_high;
        low > 0.0 && low <= high && high <= top
    };
    let positive = |value: f64| value > 0.0 && value.is_finite();
    let checks: [(&str, bool, String); 18] = [
        ("data.crop_scale", range(data.crop_scale, 1.0), "needs 0 < low <= high <= 1".into()),
        ("data.crop_ratio", range(data.crop_ratio, f64::MAX), "needs 0 < low <= high".into()),
        ("data.flip", (0.0..=1.0).contains(&data.flip), "is a probability, 0..1".into()),
        ("data.resize_ratio", data.resize_ratio >= 1.0, "is at least 1".into()),
        ("data.std", data.std.iter().all(|v| *v > 0.0), "is above 0 for each channel".into()),
        (
            "data.max_bad_share",
            (0.0..=1.0).contains(&data.max_bad_share),
            "is a share, 0..1".into(),
        ),
        ("batch.size", batch.size >= 2, "contrasting needs at least 2 images".into()),
        (
            "batch.size",
            batch.size <= images,
            format!("{} is more than the {images} images there are", batch.size),
        ),
        ("batch.grain", batch.grain != Some(0), "is at least 1 image".into()),
        ("train.epochs", train.epochs >= 1, "is at least 1".into()),
        ("optim.clip_norm", optim.clip_norm.is_none_or(positive), "is above 0".into()),
        (
            "optim.ema_decay",
            optim.ema_decay.is_none_or(|decay| (0.0..1.0).contains(&decay)),
            "is a share, 0..1".into(),
        ),
        (
            "train.keep_every_epochs",
            train.keep_every_epochs.is_none_or(positive),
            "is above 0".into(),
        ),
        ("train.keep_checkpoints", train.keep_checkpoints >= 1, "is at least 1".into()),
        (
            "train.checkpoint_every_epochs",
            positive(train.checkpoint_every_epochs),
            "is above 0".into(),
        ),
        ("optim.base_lr", positive(optim.base_lr), "is above 0".into()),
        (
            "optim.warmup_epochs",
            optim.warmup_epochs >= 0.0 && optim.warmup_epochs < train.epochs as f64,
            format!(
                "{0} is not below train.epochs, {1}; a run of {1} wants --set optim.warmup_epochs={2}",
                optim.warmup_epochs,
                train.epochs,
                train.epochs as f64 / 10.0
            ),
        ),
        (
            "optim.beta1, beta2, eps",
            (0.0..1.0).contains(&optim.beta1)
                && (0.0..1.0).contains(&optim.beta2)
                && optim.eps > 0.0,
            "need 0 <= beta < 1 and eps > 0".into(),
        ),
    ];
    if let Some((key, _, problem)) = checks.into_iter().find(|(_, fine, _)| !fine) {
        return Err(PlanError::Value { key: key.to_owned(), problem });
    }
    match method.problem(model.patches()) {
        Some((key, problem)) => Err(PlanError::Value { key: format!("method.{key}"), problem }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_data::Split;

    fn resolve(overrides: &[&str]) -> Result<Plan, PlanError> {
        let overrides: Vec<String> = overrides.iter().map(|pair| (*pair).to_owned()).collect();
        let recipe = Recipe::load("embedded", &overrides).unwrap();
        let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
        Plan::resolve("embedded", &recipe, &source)
    }

    #[test]
    fn a_plan_is_absolute_and_survives_its_file() {
        let plan = resolve(&["batch.size=512", "optim.base_lr=1e-3", "train.epochs=10"]).unwrap();
        assert_eq!(plan.schedule.lr, 2e-3);
        assert_eq!(plan.steps_per_epoch, 8000 / 512);
        assert_eq!(plan.steps, 150);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plan.toml"), plan.to_toml()).unwrap();
        assert_eq!(Plan::load(folder.path()).unwrap(), plan);
    }

    #[test]
    fn impossible_values_are_named() {
        for (pair, key) in [
            ("batch.size=1", "batch.size"),
            ("train.batch=8001", "batch.size"),
            ("method.mask_ratio=1.0", "method.mask_ratio"),
            ("method.temperature=0", "method.temperature"),
            ("data.crop_scale=[0.5, 0.2]", "data.crop_scale"),
            ("model.patch_px=5", "model"),
            ("model.size=enormous", "model.size"),
            ("optim.warmup_epochs=1e6", "optim.warmup_epochs"),
        ] {
            let text = resolve(&[pair]).unwrap_err().to_string();
            assert!(text.starts_with(key), "{pair}: {text}");
        }
    }
}
