//! The constants of all protocols: a TOML file, over it the command line.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::protocols::{
    CachedConfig, CentroidConfig, ClusteringConfig, FewShotConfig, KnnConfig, MaeConfig,
    RetrievalConfig, RobustnessConfig, ShiftedSet,
};

/// The recipe that is used unless another is named.
const BUILT_IN: &str = include_str!("../../../recipes/evaluation.toml");

/// A recipe of evaluation: every constant of every protocol. No key is optional and none may be unknown.
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
    /// [`EvalError::Recipe`] naming the file, the key or the override.
    pub fn load(file: Option<&std::path::Path>, overrides: &[String]) -> Result<Self, EvalError> {
        load_toml(file, BUILT_IN, overrides)
    }
}

/// A settings file of ours with overrides laid over it.
pub(crate) fn load_toml<T: for<'a> Deserialize<'a>>(
    file: Option<&std::path::Path>,
    built_in: &str,
    overrides: &[String],
) -> Result<T, EvalError> {
    let name = file.map_or("the built-in recipe".to_owned(), |file| file.display().to_string());
    let wrong = |reason: String| EvalError::Recipe { name: name.clone(), reason };
    let text = match file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?,
        None => built_in.to_owned(),
    };
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
    for pair in overrides {
        lay_over(&mut table, pair).map_err(|reason| wrong(format!("--set {pair}: {reason}")))?;
    }
    table
        .try_into()
        .map_err(|error: toml::de::Error| wrong(error.to_string().trim_end().replace('\n', " ")))
}

/// Replaces one value that is there.
fn lay_over(table: &mut toml::Table, pair: &str) -> Result<(), String> {
    let (path, value) = pair.split_once('=').ok_or("is not of the form section.key=value")?;
    let (section, key) = path.trim().split_once('.').ok_or("names no section")?;
    let known: Vec<&str> = table.keys().map(String::as_str).collect();
    let known = known.join(", ");
    let section = table
        .get_mut(section)
        .and_then(toml::Value::as_table_mut)
        .ok_or_else(|| format!("there is no section `{section}`; there are {known}"))?;
    if !section.contains_key(key) {
        let known: Vec<&str> = section.keys().map(String::as_str).collect();
        return Err(format!("there is no key `{key}`; there are {}", known.join(", ")));
    }
    // What is no TOML value is a word.
    let parsed = toml::from_str::<toml::Table>(&format!("value = {}", value.trim()))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::from(value.trim()));
    // `1` is meant where `1.0` stands.
    let parsed = match (&section[key], parsed) {
        (toml::Value::Float(_), toml::Value::Integer(whole)) => toml::Value::Float(whole as f64),
        (_, parsed) => parsed,
    };
    section.insert(key.to_owned(), parsed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pair: &str) -> Result<EvalRecipe, String> {
        EvalRecipe::load(None, &[pair.to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_laid_over_the_file() {
        let recipe = load("knn.k=[3, 4]").unwrap();
        assert_eq!(recipe.knn.k, [3, 4]);
        assert_eq!(load("linear-mae.base_lr=1").unwrap().linear_mae.base_lr, 1.0);
    }

    #[test]
    fn slips_are_answered_with_what_there_is() {
        assert!(load("knn.kk=3").unwrap_err().contains("there are k, temperature"));
        assert!(load("nn.k=3").unwrap_err().contains("clustering, few-shot"));
        let error = load("knn.k=many").unwrap_err();
        assert!(error.contains("knn.k") && error.contains("many"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, format!("{BUILT_IN}\n[weather]\nrain = 1\n")).unwrap();
        let error = EvalRecipe::load(Some(&file), &[]).unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("weather"), "{error}");
    }
}
