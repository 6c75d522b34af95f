//! `results.jsonl` of a run folder: one JSON object a line for each measurement.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::EvalError;
use crate::features::Pool;
use crate::knn::KnnConfig;
use crate::labelled::DataRecord;
use crate::linear::LinearConfig;
use crate::metrics::{Accuracy, mean_and_deviation};
use crate::subject::Subject;

/// One measurement and everything it depends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultRecord {
    /// The protocol and its constants.
    #[serde(flatten)]
    pub protocol: Protocol,
    /// `trained encoder`, `untrained encoder` or `raw pixels`.
    pub subject: &'static str,
    /// The file the encoder's weights came from, if one was trained.
    pub weights: Option<PathBuf>,
    /// What of the encoder's output was the feature; none for raw pixels.
    pub pool: Option<Pool>,
    /// Values of a feature, `D`.
    pub width: usize,
    /// What was measured on.
    pub data: DataRecord,
    /// Share of test labels that score highest, mean over seeds, in `0..=1`.
    pub top1: f64,
    /// Share of test labels among the five highest, mean over seeds, in `0..=1`.
    pub top5: f64,
    /// Sample standard deviation of `top1` over seeds; 0 with one seed.
    pub top1_deviation: f64,
    /// Each seed's result; k-NN has none.
    pub seeds: Vec<SeedRecord>,
    /// Time for the features, those of other subjects of the same pass included.
    pub features_secs: f64,
    /// Time for the protocol, all seeds.
    pub protocol_secs: f64,
    /// The backend that computed.
    pub backend: String,
    /// Version of this program.
    pub version: &'static str,
}

/// The protocol and its constants.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "protocol", content = "constants", rename_all = "lowercase")]
pub enum Protocol {
    /// Weighted k-NN.
    Knn {
        /// Neighbours that vote.
        k: usize,
        /// Temperature of a vote's weight.
        temperature: f64,
    },
    /// Linear probe.
    Linear {
        /// Passes over the features.
        epochs: usize,
        /// Epochs of warm-up.
        warmup_epochs: usize,
        /// Features a step.
        batch: usize,
        /// Learning rate of a batch of 256.
        base_lr: f64,
        /// Learning rate at the end of the warm-up.
        peak_lr: f64,
        /// LARS momentum.
        momentum: f64,
        /// LARS trust coefficient.
        trust_coefficient: f64,
        /// LARS weight decay.
        weight_decay: f64,
        /// Epsilon of the batch normalisation.
        bn_eps: f64,
        /// Momentum of the running statistics.
        bn_momentum: f64,
        /// What the head sees; MAE's sees augmented crops.
        augmentation: &'static str,
    },
}

/// One seed's result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedRecord {
    /// The seed.
    pub seed: u64,
    /// Share of test labels that score highest.
    pub top1: f64,
    /// Share of test labels among the five highest.
    pub top5: f64,
    /// Mean cross entropy on the training features in the last epoch.
    pub train_loss: f64,
}

impl Protocol {
    /// k-NN with these settings.
    pub fn knn(config: &KnnConfig) -> Self {
        Self::Knn { k: config.k, temperature: config.temperature }
    }

    /// A linear probe with these settings on `images` features.
    pub fn linear(config: &LinearConfig, images: usize) -> Self {
        Self::Linear {
            epochs: config.epochs,
            warmup_epochs: config.warmup_epochs,
            batch: config.batch_for(images),
            base_lr: config.base_lr_for(images),
            peak_lr: config.peak_lr(images),
            momentum: config.lars.momentum,
            trust_coefficient: config.lars.trust_coefficient,
            weight_decay: config.lars.weight_decay,
            bn_eps: config.norm.eps,
            bn_momentum: config.norm.momentum,
            augmentation: "none: centre view",
        }
    }
}

/// What the measurements of one pass over the images have in common.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The weights file of a trained encoder.
    pub weights: Option<PathBuf>,
    /// What of the encoder's output was the feature.
    pub pool: Pool,
    /// What was measured on.
    pub data: DataRecord,
    /// Time for the features.
    pub features_secs: f64,
    /// The backend that computed.
    pub backend: String,
}

impl Circumstances {
    /// A record of what `subject`, whose features have `width` values, came to.
    pub fn record(
        &self,
        subject: &Subject,
        width: usize,
        protocol: Protocol,
        outcome: Outcome,
    ) -> ResultRecord {
        let trained = matches!(subject, Subject::Trained(_));
        let encoder = !matches!(subject, Subject::RawPixels);
        ResultRecord {
            protocol,
            subject: subject.name(),
            weights: self.weights.clone().filter(|_| trained),
            pool: encoder.then_some(self.pool),
            width,
            data: self.data.clone(),
            top1: outcome.accuracy.top1,
            top5: outcome.accuracy.top5,
            top1_deviation: outcome.top1_deviation,
            seeds: outcome.seeds,
            features_secs: self.features_secs,
            protocol_secs: outcome.secs,
            backend: self.backend.clone(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// What a protocol came to, over its seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    accuracy: Accuracy,
    top1_deviation: f64,
    seeds: Vec<SeedRecord>,
    secs: f64,
}

impl Outcome {
    /// Of a protocol without chance.
    pub fn exact(accuracy: Accuracy, secs: f64) -> Self {
        Self { accuracy, top1_deviation: 0.0, seeds: Vec::new(), secs }
    }

    /// Mean and deviation over seeds.
    pub fn over_seeds(seeds: Vec<SeedRecord>, secs: f64) -> Self {
        let of = |value: fn(&SeedRecord) -> f64| {
            mean_and_deviation(&seeds.iter().map(value).collect::<Vec<_>>())
        };
        let ((top1, top1_deviation), (top5, _)) = (of(|s| s.top1), of(|s| s.top5));
        Self { accuracy: Accuracy { top1, top5 }, top1_deviation, seeds, secs }
    }
}

/// The file of a run folder that results are appended to.
pub fn results_file(run: &Path) -> PathBuf {
    run.join("results.jsonl")
}

/// Appends each record as a line, all in one write: a reader never sees half a line, and lines of two
/// evaluations at once do not mix.
///
/// # Errors
/// [`EvalError::Results`].
pub fn append_results(run: &Path, records: &[ResultRecord]) -> Result<(), EvalError> {
    let path = results_file(run);
    let mut lines = String::new();
    for record in records {
        lines += &serde_json::to_string(record).expect("a record is plain data");
        lines.push('\n');
    }
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(|source| EvalError::Results { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ResultRecord {
        let data = DataRecord {
            path: "x".to_owned(),
            train: "ten".to_owned(),
            test: "five".to_owned(),
            train_images: 10,
            test_images: 5,
            classes: 2,
        };
        let circumstances = Circumstances {
            weights: Some("w".into()),
            pool: Pool::Cls,
            data,
            features_secs: 1.0,
            backend: "flex".to_owned(),
        };
        let seed = |seed, top1| SeedRecord { seed, top1, top5: 1.0, train_loss: 0.5 };
        let outcome = Outcome::over_seeds(vec![seed(0, 0.6), seed(1, 0.8)], 2.0);
        let protocol = Protocol::linear(&LinearConfig::default(), 10);
        circumstances.record(&Subject::RawPixels, 7, protocol, outcome)
    }

    #[test]
    fn a_line_says_all_and_nothing_of_an_encoder_that_was_not_there() {
        let run = tempfile::tempdir().unwrap();
        append_results(run.path(), &[record()]).unwrap();
        append_results(run.path(), &[record(), record()]).unwrap();
        let text = std::fs::read_to_string(results_file(run.path())).unwrap();
        assert_eq!(text.lines().count(), 3);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["protocol"], "linear");
        assert_eq!(line["constants"]["batch"], 10);
        assert!(line["weights"].is_null() && line["pool"].is_null());
        assert!((line["top1"].as_f64().unwrap() - 0.7).abs() < 1e-12);
        assert_eq!(line["seeds"][1]["seed"], 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = append_results(Path::new("/nowhere/at/all"), &[record()]).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all/results.jsonl"));
    }
}
