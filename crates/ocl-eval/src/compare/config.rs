//! What is compared: plain data, kept beside what was found.

use ocl_data::Source;
use ocl_train::{Backend, Chunk, Method, MonitorPlan, Plan, Recipe};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// What a method may spend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// The same time for each, as [`Backend::time_used`] counts it.
    Minutes(f64),
    /// The same passes over the data for each, whatever they take.
    Epochs(u64),
}

/// What a comparison was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareConfig {
    /// Version of the program.
    pub version: String,
    /// The recipe that every method is put over.
    pub recipe: String,
    /// Values set for every method, `section.key=value`.
    pub overrides: Vec<String>,
    /// The backend's name.
    pub backend: String,
    /// What a method may spend.
    pub budget: Budget,
    /// Runs of each method.
    pub seeds: Vec<u64>,
    /// Points of a run at which it is measured, its end among them; the untrained encoder is
    /// measured beside.
    pub marks: u64,
    /// At most so many training and test images for a measurement.
    pub limits: [usize; 2],
    /// Who takes part.
    pub entrants: Vec<Entrant>,
}

/// A method that takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entrant {
    /// Its name.
    pub method: String,
    /// Values set for it alone.
    pub overrides: Vec<String>,
    /// Time of a step as it was measured before the first run, in seconds; 0 before that.
    #[serde(default)]
    pub step_secs: f64,
    /// Steps that its budget allows; 0 before the time of one was measured.
    #[serde(default)]
    pub steps: u64,
}

impl CompareConfig {
    /// The same question, whatever it was found to take.
    pub(super) fn asked(&self) -> Self {
        let entrants = self.entrants.iter().map(|entrant| Entrant {
            step_secs: 0.0,
            steps: 0,
            ..entrant.clone()
        });
        Self { entrants: entrants.collect(), ..self.clone() }
    }

    /// Splits `--set` values into those for all and those of one method, written `METHOD.key=value`.
    pub fn split_overrides(overrides: &[String], method: &str) -> Vec<String> {
        let of = |pair: &&String| pair.strip_prefix(method)?.strip_prefix('.').map(str::to_owned);
        overrides.iter().filter_map(|pair| of(&pair)).collect()
    }

    /// Those of `--set` values that are no method's own.
    pub fn common_overrides(overrides: &[String]) -> Vec<String> {
        let own = |pair: &String| {
            Method::NAMES.iter().any(|method| {
                pair.trim_start().strip_prefix(method).is_some_and(|rest| rest.starts_with('.'))
            })
        };
        overrides.iter().filter(|pair| !own(pair)).cloned().collect()
    }

    /// A setting that cannot work.
    ///
    /// # Errors
    /// [`EvalError::Setting`].
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong =
            |setting, reason: &str| Err(EvalError::Setting { setting, reason: reason.to_owned() });
        match self.budget {
            Budget::Minutes(minutes) if !(minutes > 0.0 && minutes.is_finite()) => {
                return wrong("minutes", "is above 0");
            }
            Budget::Epochs(0) => return wrong("epochs", "is at least 1"),
            Budget::Minutes(_) | Budget::Epochs(_) => {}
        }
        if self.seeds.is_empty() {
            return wrong("seeds", "at least 1 is needed");
        }
        if self.marks == 0 {
            return wrong("marks", "at least 1 is needed: the end");
        }
        if self.limits.iter().any(|&limit| limit < 2) {
            return wrong("max-train, max-test", "at least 2 images are needed");
        }
        if self.entrants.is_empty() {
            return wrong("methods", "at least 1 is needed");
        }
        let twice = self.entrants.iter().enumerate().find(|(at, entrant)| {
            self.entrants[..*at].iter().any(|other| other.method == entrant.method)
        });
        if let Some((_, Entrant { method, .. })) = twice {
            return wrong("methods", &format!("{method} is named twice"));
        }
        Ok(())
    }

    /// The plan of a method with a seed; its length is the recipe's until the time of a step is
    /// known.
    ///
    /// # Errors
    /// As [`Recipe::load`] and [`Plan::resolve`].
    pub(super) fn plan(
        &self,
        entrant: &Entrant,
        seed: u64,
        source: &Source,
        backend: Backend,
    ) -> Result<Plan, EvalError> {
        let mut overrides = self.overrides.clone();
        overrides.extend(entrant.overrides.iter().cloned());
        overrides.push(format!("method.name={}", entrant.method));
        overrides.push(format!("train.seed={seed}"));
        let recipe = Recipe::load(&self.recipe, &overrides)?;
        let mut plan = Plan::resolve(&self.recipe, &recipe, source).map_err(EvalError::Plan)?;
        plan.set_chunk(recipe.batch.chunk.unwrap_or(Chunk::Auto), backend);
        // Looks into a run would count as its time.
        plan.monitor = MonitorPlan::default();
        Ok(match entrant.steps {
            0 => plan,
            steps => plan.of_length(steps),
        })
    }

    /// The step of a mark.
    pub(super) fn step_of(&self, entrant: &Entrant, mark: u64) -> u64 {
        entrant.steps * mark / self.marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_to_all_or_to_one() {
        let pairs = ["optim.base_lr=1", "mae.optim.base_lr=2", "i-jepa.method.targets=3"];
        let pairs = pairs.map(str::to_owned);
        assert_eq!(CompareConfig::common_overrides(&pairs), ["optim.base_lr=1"]);
        assert_eq!(CompareConfig::split_overrides(&pairs, "mae"), ["optim.base_lr=2"]);
        assert_eq!(CompareConfig::split_overrides(&pairs, "i-jepa"), ["method.targets=3"]);
        assert!(CompareConfig::split_overrides(&pairs, "ocl").is_empty());
    }
}
