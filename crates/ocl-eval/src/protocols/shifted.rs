//! Shifted data: a probe trained on one data set, measured on folders of others, by a mapping file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use ocl_data::{Source, SourceKind, Split};
use ocl_train::World;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::linear_cached::{CachedConfig, CachedProbe};
use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::{Material, extract};
use crate::progress::Progress;
use crate::settings::read_toml;

/// A mapping file: `[[set]]` for each folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    set: Vec<ShiftedSet>,
}

/// A folder of shifted data, with class folders, and what they are called in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftedSet {
    /// What results call it.
    pub name: String,
    /// The folder; below the mapping file's own unless absolute.
    pub path: PathBuf,
    /// `PATH/CORRUPTION/SEVERITY/CLASS/*`, as ImageNet-C is laid out, instead of `PATH/CLASS/*`.
    #[serde(default)]
    pub corruptions: bool,
    /// Answers are among the set's own classes, as ImageNet-A and -R are measured, instead of all.
    #[serde(default)]
    pub among_own: bool,
    /// Class folders are named by the number of the class, as ImageNet-V2's are.
    #[serde(default)]
    pub by_number: bool,
    /// Training class of each class folder; a folder that is not named has the training class's own
    /// name.
    #[serde(default)]
    pub classes: BTreeMap<String, String>,
    /// For corruptions: a reference model's mean error over severities, which mCE divides by.
    /// ImageNet-C's are AlexNet's (arXiv 1903.12261, table 1).
    #[serde(default)]
    pub reference_errors: BTreeMap<String, f64>,
}

impl ShiftedSet {
    /// Reads a mapping file.
    ///
    /// # Errors
    /// [`EvalError::Recipe`].
    pub fn load(file: &Path) -> Result<Vec<Self>, EvalError> {
        let Mapping { mut set } = read_toml(file)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        set.iter_mut().for_each(|set| set.path = folder.join(&set.path));
        Ok(set)
    }

    /// Label in training of each class folder.
    fn labels(&self, folders: &[String], known: &[String]) -> Result<Vec<u32>, EvalError> {
        let wrong = |reason: String| EvalError::Recipe { name: self.name.clone(), reason };
        let named = |folder: &String| -> Result<u32, EvalError> {
            if self.by_number {
                let number = folder.parse::<u32>().ok();
                return number.filter(|n| (*n as usize) < known.len()).ok_or_else(|| {
                    wrong(format!("folder `{folder}` is no number of {} classes", known.len()))
                });
            }
            let name = self.classes.get(folder).unwrap_or(folder);
            let place = known.iter().position(|class| class == name);
            place.map(|place| place as u32).ok_or_else(|| {
                wrong(format!(
                    "folder `{folder}` is class `{name}`, which the training data do not have; name the \
                     class in [set.classes]"
                ))
            })
        };
        folders.iter().map(named).collect()
    }
}

/// Trains the cached probe (seed 0) on the training images and measures it on each set.
///
/// For a set with corruptions, mCE is the mean over them of the error relative to the reference
/// model's (arXiv 1903.12261, section 4.1), both averaged over severities.
///
/// # Errors
/// When a folder cannot be read, a class is unknown, or the device fails.
pub(super) fn shifted(
    material: &Material<'_>,
    sets: &[ShiftedSet],
    config: &CachedConfig,
    device: &Device,
    progress: &mut Progress,
) -> Result<Measured, EvalError> {
    let classes = material.data.classes();
    let train = &material.splits.train;
    let probe = CachedProbe::fit(train, classes, config, 0, device, progress)?;
    let mut scores = Vec::new();
    for set in sets {
        let name = &set.name;
        if !set.corruptions {
            let top1 = top1(material, &probe, set, &set.path, device, progress)?;
            scores.push(Score::new(format!("{name} top-1"), vec![top1]));
            continue;
        }
        let (mut errors, mut relative) = (vec![], vec![]);
        for corruption in folders(&set.path)? {
            let path = set.path.join(&corruption);
            let mut of_severity = vec![];
            for severity in folders(&path)? {
                let path = path.join(severity);
                of_severity.push(1.0 - top1(material, &probe, set, &path, device, progress)?);
            }
            let error = of_severity.iter().sum::<f64>() / of_severity.len().max(1) as f64;
            scores.push(Score::new(format!("{name} {corruption} error"), vec![error]));
            errors.push(error);
            relative
                .extend(set.reference_errors.get(&corruption).map(|reference| error / reference));
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        scores.push(Score::new(format!("{name} mean error"), vec![mean(&errors)]));
        // Of some corruptions alone it would be another number under the same name.
        if relative.len() == errors.len() {
            scores.push(Score::new(format!("{name} mCE"), vec![mean(&relative)]));
        }
    }
    let constants = json!({ "sets": sets, "probe": config });
    Ok(Measured { constants, scores, seeds: vec![0] })
}

/// Top-1 on one folder of class folders.
fn top1(
    material: &Material<'_>,
    probe: &CachedProbe,
    set: &ShiftedSet,
    path: &Path,
    device: &Device,
    progress: &mut Progress,
) -> Result<f64, EvalError> {
    let split = Split::Train;
    // A folder without `train` in it is opened whole as this split.
    let source = Source::open(&path.to_string_lossy(), SourceKind::Folder, split)
        .map_err(|source| EvalError::Source { split: Split::Test, source })?;
    let known = material.data.split(Split::Train).class_names();
    let names = set.labels(source.class_names(), known)?;
    let own: BTreeSet<u32> = names.iter().copied().collect();
    let extractors = [material.extractor()];
    let source = Arc::new(source);
    let made = extract(
        &World::One,
        &extractors,
        &source,
        split,
        None,
        material.reading,
        device,
        progress,
    )?;
    let Some(features) = made.first().filter(|features| !features.is_empty()) else {
        return Ok(0.0);
    };
    let logits = probe.logits(features)?;
    let classes = logits.len() / features.len();
    let hit = |(scores, label): (&[f32], &u32)| {
        let allowed = (0..classes as u32).filter(|class| !set.among_own || own.contains(class));
        let best = allowed.max_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]));
        best == Some(names[*label as usize])
    };
    let hits =
        logits.chunks_exact(classes).zip(features.labels()).filter(|pair| hit(*pair)).count();
    Ok(hits as f64 / features.len() as f64)
}

/// Names of the folders in a folder, sorted.
fn folders(path: &Path) -> Result<Vec<String>, EvalError> {
    let failed = |source| EvalError::File { doing: "list", path: path.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> ShiftedSet {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sets.toml");
        std::fs::write(&file, format!("[[set]]\nname = \"R\"\npath = \"r\"\n{text}")).unwrap();
        let set = ShiftedSet::load(&file).unwrap().remove(0);
        assert_eq!(set.path, folder.path().join("r"));
        set
    }

    #[test]
    fn folders_find_their_classes_by_name_number_or_mapping() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let known = names(&["cat", "dog", "eel"]);
        assert_eq!(set("").labels(&names(&["eel", "cat"]), &known).unwrap(), [2, 0]);
        let mapped = set("[set.classes]\nhound = \"dog\"\n");
        assert_eq!(mapped.labels(&names(&["hound"]), &known).unwrap(), [1]);
        let numbered = set("by_number = true\n");
        assert_eq!(numbered.labels(&names(&["1", "2"]), &known).unwrap(), [1, 2]);
        let error = numbered.labels(&names(&["3"]), &known).unwrap_err().to_string();
        assert!(error.contains("`3` is no number of 3 classes"), "{error}");
        let error = set("").labels(&names(&["yak"]), &known).unwrap_err().to_string();
        assert!(error.contains("`yak`") && error.contains("[set.classes]"), "{error}");
    }
}
