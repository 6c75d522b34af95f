//! The constants of all protocols: a TOML file, over it the command line.

use serde::{Deserialize, Serialize};

use super::centroid::CentroidConfig;
use super::clustering::ClusteringConfig;
use super::few_shot::FewShotConfig;
use super::knn::KnnConfig;
use super::linear_cached::CachedConfig;
use super::linear_mae::MaeConfig;
use super::retrieval::RetrievalConfig;
use super::robustness::RobustnessConfig;
use super::shifted::ShiftedSet;
use crate::error::EvalError;
use crate::files::read_text;
use crate::settings::with_overrides;

/// The recipe that is used unless another is named.
const BUILT_IN: &str = include_str!("../../recipes/evaluation.toml");

/// A recipe of evaluation: every constant of every protocol. No key is optional and none may be
/// unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EvalRecipe {
    /// The cached linear probe.
    pub linear: CachedConfig,
    /// MAE's linear probe.
    pub linear_mae: MaeConfig,
    /// Weighted k-NN.
    pub knn: KnnConfig,
    /// Logistic regression on few labels.
    pub few_shot: FewShotConfig,
    /// Nearest class mean.
    pub centroid: CentroidConfig,
    /// Retrieval.
    pub retrieval: RetrievalConfig,
    /// k-means.
    pub clustering: ClusteringConfig,
    /// Damaged images.
    pub robustness: RobustnessConfig,
    /// Folders of shifted data; a mapping file of their own says which ([`ShiftedSet::load`]).
    #[serde(skip)]
    pub shifted: Vec<ShiftedSet>,
}

impl EvalRecipe {
    /// Reads a file, or the built-in recipe, then `overrides` (`section.key=value`).
    ///
    /// # Errors
    /// [`EvalError::Overrides`] naming the file, the key or the override.
    pub fn load(file: Option<&std::path::Path>, overrides: &[String]) -> Result<Self, EvalError> {
        match file {
            Some(file) => with_overrides(&file.display().to_string(), &read_text(file)?, overrides),
            None => with_overrides("recipes/evaluation.toml", BUILT_IN, overrides),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::with_causes;

    /// The recipe with one value set over it, or all of an error's words.
    fn load(pair: &str) -> Result<EvalRecipe, String> {
        EvalRecipe::load(None, &[pair.to_owned()]).map_err(|error| with_causes(&error))
    }

    #[test]
    fn values_are_laid_over_the_file() {
        let recipe = load("knn.k=[3, 4]").unwrap();
        assert_eq!(recipe.knn.k, [3, 4]);
        assert_eq!(load("linear-mae.base_lr=1").unwrap().linear_mae.base_lr, 1.0);
    }

    #[test]
    fn a_slip_is_answered_with_the_nearest_key() {
        assert!(load("knn.kk=3").unwrap_err().contains("did you mean `knn.k`?"));
        assert!(load("fewshot.shots=[3]").unwrap_err().contains("did you mean `few-shot.shots`?"));
        let error = load("knn.k=many").unwrap_err();
        assert!(error.contains("evaluation.toml") && error.contains("many"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, format!("{BUILT_IN}\n[weather]\nrain = 1\n")).unwrap();
        let error = EvalRecipe::load(Some(&file), &[]).unwrap_err();
        let error = with_causes(&error);
        assert!(error.contains("mine.toml") && error.contains("weather"), "{error}");
    }
}
