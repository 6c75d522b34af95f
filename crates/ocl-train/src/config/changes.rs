//! What may change in a run that has begun, and the record of it.

use serde::{Deserialize, Serialize};

use super::{Chunk, Plan, PlanError};
use crate::device::Backend;

/// A value that was changed when a run went on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The recipe's key.
    pub key: String,
    /// The value before.
    pub from: String,
    /// The value from then on.
    pub to: String,
    /// Steps that the run had done.
    pub after_step: u64,
}

/// Keys that may change, and nothing else may: what the images are, how they are cut, what is
/// contrasted and by which networks is decided when a run begins.
const KEYS: [&str; 13] = [
    "optim.base_lr",
    "optim.min_lr",
    "optim.clip_norm",
    "train.epochs",
    "train.checkpoint_every_epochs",
    "train.keep_checkpoints",
    "train.patience_secs",
    "data.workers",
    "data.max_bad_share",
    "batch.chunk",
    "monitor.every_steps",
    "monitor.knn_every_epochs",
    "monitor.peak_tflops",
];

impl Plan {
    /// Changes values of a run that has done `after_step` steps, given as `KEY=VALUE` by the
    /// recipe's keys, and records what became another.
    ///
    /// # Errors
    /// When a key may not change in a run, or a value cannot work; the plan is then as it was.
    pub fn change(
        &mut self,
        pairs: &[String],
        after_step: u64,
        backend: Backend,
    ) -> Result<(), PlanError> {
        let mut changed = self.clone();
        for pair in pairs {
            let wrong =
                |key: &str, problem: String| Err(PlanError::Value { key: key.to_owned(), problem });
            let Some((key, value)) = pair.split_once('=') else {
                return wrong(pair, "is not KEY=VALUE".to_owned());
            };
            let (key, value) = (key.trim(), value.trim());
            let before = changed.shown(key);
            match changed.set(key, value, after_step, backend) {
                Ok(true) => {}
                Ok(false) => {
                    let problem = format!(
                        "cannot change in a run that has begun: what was learnt so far depends on it. \
                         What can: {}. For another value begin a new run, from this one's encoder \
                         with --init",
                        KEYS.join(", ")
                    );
                    return wrong(key, problem);
                }
                Err(problem) => return wrong(key, format!("{value} {problem}")),
            }
            let after = changed.shown(key);
            if before != after {
                let (from, to) = (before.unwrap_or_default(), after.unwrap_or_default());
                changed.changes.push(Change { key: key.to_owned(), from, to, after_step });
            }
        }
        *self = changed;
        Ok(())
    }

    /// A value as a recipe has it; none of a key that may not change.
    fn shown(&self, key: &str) -> Option<String> {
        let epochs = |steps: u64| steps as f64 / self.steps_per_epoch as f64;
        Some(match key {
            "optim.base_lr" => (self.schedule.lr * 256.0 / self.batch as f64).to_string(),
            "optim.min_lr" => self.schedule.min_lr.to_string(),
            "optim.clip_norm" => self.clip_norm.map_or("none".to_owned(), |norm| norm.to_string()),
            "train.epochs" => self.epochs.to_string(),
            "train.checkpoint_every_epochs" => epochs(self.checkpoint_every_steps).to_string(),
            "train.keep_checkpoints" => self.keep_checkpoints.to_string(),
            "train.patience_secs" => self.patience_secs.to_string(),
            "data.workers" => self.data.workers.to_string(),
            "data.max_bad_share" => self.data.max_bad_share.to_string(),
            "batch.chunk" => self.chunk.to_string(),
            "monitor.every_steps" => self.monitor.every_steps.to_string(),
            "monitor.knn_every_epochs" => epochs(self.monitor.knn_every_steps).to_string(),
            "monitor.peak_tflops" => format!("{:?}", self.monitor.peak_tflops),
            _ => return None,
        })
    }

    /// Sets a value; whether the key may change.
    fn set(
        &mut self,
        key: &str,
        value: &str,
        after_step: u64,
        backend: Backend,
    ) -> Result<bool, String> {
        let steps_per_epoch = self.steps_per_epoch as f64;
        let steps = |epochs: f64| ((epochs * steps_per_epoch).round() as u64).max(1);
        match key {
            "optim.base_lr" => self.schedule.lr = positive(value)? * self.batch as f64 / 256.0,
            "optim.min_lr" => self.schedule.min_lr = at_least_0(value)?,
            "optim.clip_norm" => self.clip_norm = Some(positive(value)?),
            "train.epochs" => {
                let epochs = whole(value)?;
                let done = after_step.div_ceil(self.steps_per_epoch);
                if epochs < done || epochs as f64 <= self.schedule.warmup_epochs {
                    return Err(format!(
                        "is too few: {done} have begun, and {} are a warm-up",
                        self.schedule.warmup_epochs
                    ));
                }
                (self.epochs, self.schedule.epochs) = (epochs, epochs as f64);
                self.steps = epochs * self.steps_per_epoch;
            }
            "train.checkpoint_every_epochs" => {
                self.checkpoint_every_steps = steps(positive(value)?);
            }
            "train.keep_checkpoints" => self.keep_checkpoints = whole(value)?.max(1) as usize,
            "train.patience_secs" => self.patience_secs = whole(value)?,
            "data.workers" => self.data.workers = whole(value)?.clamp(1, 1024) as usize,
            "data.max_bad_share" => match at_least_0(value)? {
                share if share <= 1.0 => self.data.max_bad_share = share,
                _ => return Err("is no share, 0 to 1".to_owned()),
            },
            "batch.chunk" => self.set_chunk(value.parse::<Chunk>()?, backend),
            "monitor.every_steps" => self.monitor.every_steps = whole(value)?,
            "monitor.knn_every_epochs" => {
                let epochs = at_least_0(value)?;
                self.monitor.knn_every_steps = if epochs > 0.0 { steps(epochs) } else { 0 };
            }
            "monitor.peak_tflops" => self.monitor.peak_tflops = Some(positive(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn positive(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("is not a number above 0".to_owned()),
    }
}

fn at_least_0(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("is not a number of at least 0".to_owned()),
    }
}

fn whole(value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| "is not a whole number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;
    use ocl_data::Split;

    fn plan() -> Plan {
        let recipe = Recipe::load("embedded", &["train.epochs=4".to_owned()]).unwrap();
        let source = recipe.data.open(Split::Train).unwrap();
        Plan::resolve("embedded", &recipe, &source).unwrap()
    }

    fn change(plan: &mut Plan, pair: &str) -> Result<(), String> {
        let step = plan.steps_per_epoch + 1;
        plan.change(&[pair.to_owned()], step, Backend::Flex).map_err(|error| error.to_string())
    }

    #[test]
    fn a_change_is_made_as_a_recipe_has_it_and_recorded() {
        let whole = plan();
        let mut changed = plan();
        change(&mut changed, "optim.base_lr=1e-4").unwrap();
        assert_eq!(changed.schedule.lr, 1e-4 * whole.batch as f64 / 256.0);
        change(&mut changed, "train.epochs=6").unwrap();
        assert_eq!(changed.steps, 6 * whole.steps_per_epoch);
        assert_eq!(changed.schedule.epochs, 6.0);
        change(&mut changed, "train.epochs = 6").unwrap();
        let keys: Vec<_> = changed.changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["optim.base_lr", "train.epochs"], "what is the same is no change");
        assert_eq!((&*changed.changes[1].from, &*changed.changes[1].to), ("4", "6"));
        assert_eq!(changed.changes[1].after_step, whole.steps_per_epoch + 1);
        // It comes back from the file, and a plan without changes is written as ever.
        assert_eq!(toml::from_str::<Plan>(&changed.to_toml()).unwrap(), changed);
        assert!(!whole.to_toml().contains("changes"));
    }

    #[test]
    fn every_key_that_may_change_can() {
        for key in KEYS {
            let value = if key == "train.epochs" { "5" } else { "1" };
            change(&mut plan(), &format!("{key}={value}")).unwrap();
            assert!(plan().shown(key).is_some(), "{key}");
        }
    }

    #[test]
    fn what_may_not_change_is_refused_by_name() {
        let mut plan = plan();
        let before = plan.clone();
        for (pair, says) in [
            ("batch.size=64", "batch.size: cannot change in a run"),
            ("method.mask_ratio=0.9", "begin a new run, from this one's encoder with --init"),
            ("optim.base_lr=-1", "optim.base_lr: -1 is not a number above 0"),
            ("optim.base_lr=nan", "is not a number above 0"),
            ("train.epochs=2.5", "train.epochs: 2.5 is not a whole number"),
            ("train.epochs=1", "train.epochs: 1 is too few: 2 have begun"),
            ("data.workers", "is not KEY=VALUE"),
        ] {
            let error = change(&mut plan, pair).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert_eq!(plan, before);
        }
    }
}
