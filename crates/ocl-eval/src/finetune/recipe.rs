//! The constants of a fine-tuning: what a user writes, in TOML.

use ocl_data::{Mix, SupervisedAugment};
use ocl_model::Pooling;
use ocl_train::AdamWConfig;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::files::read_text;
use crate::settings::with_overrides;

/// Recipes that come with the program, by name.
const BUILT_IN: [(&str, &str); 4] = [
    ("small", include_str!("../../recipes/finetune-small.toml")),
    ("vit-b", include_str!("../../recipes/finetune-vit-b.toml")),
    ("vit-l", include_str!("../../recipes/finetune-vit-l.toml")),
    ("vit-h", include_str!("../../recipes/finetune-vit-h.toml")),
];

/// Parts of a batch that several processes share, at least, so that another number of them can go on.
const USUAL_PARTS: usize = 8;

/// A recipe of fine-tuning. Only `train.parts` may be left out, and no key may be unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneRecipe {
    /// What each image becomes.
    pub augment: SupervisedAugment,
    /// How images and labels are mixed.
    pub mix: Mix,
    /// The classifier.
    pub model: ClassifierRecipe,
    /// The optimiser and its schedule.
    pub optim: FinetuneOptim,
    /// Length, batch, checkpoints.
    pub train: FinetuneTrain,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierRecipe {
    /// `mean` of the patch tokens with a norm of its own, or `cls`.
    pub pool: Pooling,
    /// Probability that a residual branch of the last block is left out; falls to 0 at the first.
    pub drop_path: f64,
}

/// `[optim]`: AdamW under a warm-up and half a cosine, rates falling from layer to layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneOptim {
    /// Learning rate for a batch of 256; the rate used is `base_lr * batch / 256`.
    pub base_lr: f64,
    /// Learning rate at the end, absolute.
    pub min_lr: f64,
    /// Length of the linear warm-up.
    pub warmup_epochs: f64,
    /// Rate of a layer over that of the layer above it.
    pub layer_decay: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Epsilon of AdamW.
    pub eps: f64,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneTrain {
    /// Passes over the data.
    pub epochs: u64,
    /// Images of a step.
    pub batch: usize,
    /// A checkpoint every so many epochs (and at the end, and when interrupted).
    pub checkpoint_every_epochs: f64,
    /// Parts of a batch, a power of two: what is in memory at once, and what several processes
    /// share. The parts' gradients are summed as a binary tree, so that any number of processes
    /// gives the same bits.
    #[serde(default = "one_part")]
    pub parts: usize,
}

fn one_part() -> usize {
    1
}

impl FinetuneRecipe {
    /// Reads a built-in recipe or a file, then `overrides` (`section.key=value`).
    ///
    /// # Errors
    /// [`EvalError::Recipe`] naming the file, the key or the override; [`EvalError::Setting`] for a
    /// value that cannot work.
    pub fn load(name: &str, overrides: &[String]) -> Result<Self, EvalError> {
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        let path = std::path::Path::new(name);
        let recipe: Self = match built_in {
            Some((_, text)) => with_overrides(name, text, overrides)?,
            None if path.exists() => with_overrides(name, &read_text(path)?, overrides)?,
            None => {
                let known = BUILT_IN.map(|(name, _)| name).join(", ");
                let reason =
                    format!("no such file, and no recipe of this name; built in are {known}");
                return Err(EvalError::Recipe { name: name.to_owned(), reason });
            }
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// The same recipe for a new fine-tuning on so many processes: a batch has enough parts for them
    /// and some more, unless the recipe asks for parts.
    #[must_use]
    pub fn for_processes(mut self, processes: usize) -> Self {
        let train = &mut self.train;
        if processes > 1 && train.parts == 1 {
            let most = 1 << (train.batch / 2).max(1).ilog2();
            train.parts = processes.next_power_of_two().max(USUAL_PARTS).min(most);
        }
        self
    }

    /// Constants of the optimiser.
    pub fn adamw(&self) -> AdamWConfig {
        let FinetuneOptim { beta1, beta2, eps, weight_decay, .. } = self.optim;
        AdamWConfig { beta1, beta2, eps, weight_decay }
    }

    fn check(&self) -> Result<(), EvalError> {
        let Self { augment, mix, model, optim, train } = self;
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let range = |[low, high]: [f64; 2], top: f64| low > 0.0 && low <= high && high <= top;
        let checks: [(&'static str, bool, &str); 14] = [
            ("train.epochs", train.epochs >= 1, "is 1 or more"),
            ("augment.crop_scale", range(augment.crop_scale, 1.0), "needs 0 < low <= high <= 1"),
            ("augment.crop_ratio", range(augment.crop_ratio, f64::MAX), "needs 0 < low <= high"),
            ("augment.flip", share(augment.flip) && share(augment.erase), "flip and erase: 0 to 1"),
            (
                "augment.randaugment_magnitude",
                (0.0..=10.0).contains(&augment.randaugment_magnitude)
                    && augment.randaugment_deviation >= 0.0
                    && share(augment.randaugment_probability),
                "is 0 to 10, its deviation 0 or more, the probability 0 to 1",
            ),
            ("mix.mixup", mix.mixup >= 0.0 && mix.cutmix >= 0.0, "mixup and cutmix: 0 or more"),
            ("mix.probability", share(mix.probability) && share(mix.cutmix_share), "is 0 to 1"),
            ("mix.label_smoothing", (0.0..1.0).contains(&mix.label_smoothing), "is 0 to below 1"),
            ("model.drop_path", (0.0..1.0).contains(&model.drop_path), "is 0 to below 1"),
            (
                "optim.base_lr",
                optim.base_lr > 0.0 && optim.base_lr.is_finite() && optim.min_lr >= 0.0,
                "is above 0, min_lr 0 or more",
            ),
            ("optim.layer_decay", optim.layer_decay > 0.0 && optim.layer_decay <= 1.0, "is 0 to 1"),
            (
                "optim.warmup_epochs",
                optim.warmup_epochs >= 0.0 && optim.warmup_epochs < train.epochs as f64,
                "is 0 or more and below train.epochs",
            ),
            (
                "train.parts",
                train.parts.is_power_of_two() && train.parts <= (train.batch / 2).max(1),
                "is a power of two (1, 2, 4 and so on) and at most half of train.batch",
            ),
            (
                "train.batch",
                train.batch >= 2 && train.checkpoint_every_epochs > 0.0,
                "is 2 or more, checkpoint_every_epochs above 0",
            ),
        ];
        match checks.into_iter().find(|(_, fine, _)| !fine) {
            Some((setting, _, reason)) => {
                Err(EvalError::Setting { setting, reason: reason.to_owned() })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_recipe_can_be_used() {
        for (name, _) in BUILT_IN {
            FinetuneRecipe::load(name, &[]).unwrap();
        }
    }

    #[test]
    fn slips_are_named() {
        let text = |name: &str, pair: &str| {
            FinetuneRecipe::load(name, &[pair.to_owned()]).unwrap_err().to_string()
        };
        assert!(text("smal", "train.batch=2").contains("built in are small, vit-b"));
        assert!(text("small", "train.bach=2").contains("did you mean `train.batch`?"));
        assert!(text("small", "model.drop_path=1").starts_with("model.drop_path"));
        assert!(text("small", "train.parts=3").starts_with("train.parts: is a power of two"));
        assert!(text("small", "train.epochs=0").starts_with("train.epochs: is 1 or more"));
        assert!(text("small", "optim.warmup_epochs=1e9").starts_with("optim.warmup_epochs"));
    }
}
