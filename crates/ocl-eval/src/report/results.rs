//! `results.jsonl`: one JSON object a line for each measurement.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use ocl_model::Pooling;
use serde::Serialize;
use serde_json::Value;

use crate::error::EvalError;
use crate::features::{DataRecord, Material, Subject, WeightsRecord};
use crate::progress::Progress;
use crate::protocols::{EvalRecipe, Measured, Protocol, Score};

/// One measurement and everything it depends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultRecord {
    /// The protocol's name.
    pub protocol: String,
    /// What it does and its source.
    pub says: String,
    /// Every constant, as used.
    pub constants: Value,
    /// `trained encoder`, `untrained encoder`, `raw pixels` or `fine-tuned encoder`.
    pub subject: String,
    /// The file the encoder's weights came from, if one was trained.
    pub weights: Option<WeightsRecord>,
    /// What of the encoder's output was the feature; none for raw pixels.
    pub pool: Option<Pooling>,
    /// Values of a feature, `D`.
    pub width: usize,
    /// What was measured on.
    pub data: DataRecord,
    /// The figures; the first is the headline.
    pub scores: Vec<Score>,
    /// The seeds of the values; empty where nothing is random.
    pub seeds: Vec<u64>,
    /// Time for the features, those of other subjects of the same pass included.
    pub features_secs: f64,
    /// Time for the protocol, all seeds.
    pub protocol_secs: f64,
    /// The backend that computed.
    pub backend: String,
    /// Version of this program.
    pub version: &'static str,
    /// Commit that it was built from; unknown without `cargo xtask`.
    pub commit: Option<String>,
}

impl ResultRecord {
    /// The first figure.
    pub fn headline(&self) -> Option<&Score> {
        self.scores.first()
    }
}

/// What the measurements of one pass over the images have in common.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The weights file of a trained encoder.
    pub weights: Option<WeightsRecord>,
    /// What was measured on.
    pub data: DataRecord,
    /// Time for the features.
    pub features_secs: f64,
    /// The backend that computed.
    pub backend: String,
}

impl Circumstances {
    /// Runs a protocol, times it, and records what it came to.
    ///
    /// # Errors
    /// As [`Protocol::run`]; also when there is no seed.
    pub fn measure(
        &self,
        protocol: Protocol,
        recipe: &EvalRecipe,
        material: &Material<'_>,
        seeds: u64,
        device: &Device,
        progress: &mut Progress,
    ) -> Result<ResultRecord, EvalError> {
        if seeds == 0 {
            let reason = "at least 1 is needed".to_owned();
            return Err(EvalError::Setting { setting: "seeds", reason });
        }
        let seeds: Vec<u64> = (0..seeds).collect();
        let started = Instant::now();
        let measured = protocol.run(recipe, material, &seeds, device, progress)?;
        progress.clear();
        let secs = started.elapsed().as_secs_f64();
        Ok(self.record(protocol.name(), protocol.says(), material, measured, secs))
    }

    fn record(
        &self,
        protocol: &str,
        says: &str,
        material: &Material<'_>,
        measured: Measured,
        secs: f64,
    ) -> ResultRecord {
        let subject = material.subject;
        let trained = matches!(subject, Subject::Trained(_));
        ResultRecord {
            protocol: protocol.to_owned(),
            says: says.to_owned(),
            constants: measured.constants,
            subject: subject.name().to_owned(),
            weights: self.weights.clone().filter(|_| trained),
            pool: subject.vit().map(|_| material.pool),
            width: material.splits.train.width(),
            data: self.data.clone(),
            scores: measured.scores,
            seeds: measured.seeds,
            features_secs: self.features_secs,
            protocol_secs: secs,
            backend: self.backend.clone(),
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
        }
    }
}

/// The commit that `cargo xtask` says it built.
pub(crate) fn commit() -> Option<String> {
    std::env::var("OCL_COMMIT").ok().filter(|commit| !commit.is_empty())
}

/// The file of a folder that results are appended to.
pub fn results_file(folder: &Path) -> PathBuf {
    folder.join("results.jsonl")
}

/// Makes the folder if it is not there and sees whether results can be kept in it: before hours are
/// spent on them.
///
/// # Errors
/// [`EvalError::File`].
pub fn prepare_results(folder: &Path) -> Result<(), EvalError> {
    std::fs::create_dir_all(folder).map_err(|source| EvalError::File {
        doing: "make the folder of results",
        path: folder.to_owned(),
        source,
    })?;
    append_results(folder, &[])
}

/// Appends each record as a line, all in one write: a reader never sees half a line, and lines of
/// two evaluations at once do not mix.
///
/// # Errors
/// [`EvalError::File`].
pub fn append_results(folder: &Path, records: &[ResultRecord]) -> Result<(), EvalError> {
    let path = results_file(folder);
    let mut lines = String::new();
    for record in records {
        lines += &serde_json::to_string(record).expect("a record is plain data");
        lines.push('\n');
    }
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(|source| EvalError::File {
        doing: "append to",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ResultRecord {
        ResultRecord {
            protocol: "knn".to_owned(),
            says: String::new(),
            constants: serde_json::json!({ "k": [1] }),
            subject: "raw pixels".to_owned(),
            weights: None,
            pool: None,
            width: 7,
            data: DataRecord {
                path: "x".to_owned(),
                train: "ten".to_owned(),
                test: "five".to_owned(),
                train_images: 10,
                test_images: 5,
                classes: 2,
                digests: ["a".to_owned(), "b".to_owned()],
            },
            scores: vec![Score::new("k=1 top-1", vec![0.6, 0.8])],
            seeds: vec![0, 1],
            features_secs: 1.0,
            protocol_secs: 2.0,
            backend: "flex".to_owned(),
            version: "0",
            commit: None,
        }
    }

    #[test]
    fn a_line_says_all() {
        let run = tempfile::tempdir().unwrap();
        append_results(run.path(), &[record()]).unwrap();
        append_results(run.path(), &[record(), record()]).unwrap();
        let text = std::fs::read_to_string(results_file(run.path())).unwrap();
        assert_eq!(text.lines().count(), 3);
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&line["protocol"], &line["constants"]["k"][0]), (&"knn".into(), &1.into()));
        assert!(line["weights"].is_null() && line["pool"].is_null());
        let score = &line["scores"][0];
        assert!((score["mean"].as_f64().unwrap() - 0.7).abs() < 1e-12);
        assert!((score["deviation"].as_f64().unwrap() - 0.02f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_folder_is_made_or_the_reason_is_named() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("a/b");
        prepare_results(&folder).unwrap();
        append_results(&folder, &[record()]).unwrap();
        let file = results_file(&folder);
        let error = prepare_results(&file).unwrap_err().to_string();
        assert!(error.contains("results.jsonl"), "{error}");
        let error = append_results(&file, &[record()]).unwrap_err().to_string();
        assert!(error.contains("results.jsonl/results.jsonl"), "{error}");
    }
}
