//! One protocol on one subject's features: run, time, record.

use std::time::Instant;

use burn::tensor::Device;

use crate::error::EvalError;
use crate::knn::{KnnConfig, knn};
use crate::linear::{LinearConfig, linear_probe};
use crate::progress::Progress;
use crate::results::{Circumstances, Outcome, Protocol, ResultRecord, SeedRecord};
use crate::subject::{Splits, Subject};

/// Weighted k-NN of the test features in the training features.
///
/// # Errors
/// As [`knn`].
pub fn measure_knn(
    subject: &Subject,
    splits: &Splits,
    config: &KnnConfig,
    at: &Circumstances,
    device: &Device,
    progress: &mut Progress,
) -> Result<ResultRecord, EvalError> {
    let started = Instant::now();
    let classes = at.data.classes;
    let accuracy = knn(&splits.train, &splits.test, classes, config, device, progress)?;
    progress.clear();
    let outcome = Outcome::exact(accuracy, started.elapsed().as_secs_f64());
    Ok(at.record(subject, splits.train.width(), Protocol::knn(config), outcome))
}

/// Linear probe on the training features, measured on the test features, once for each of `seeds`
/// seeds from 0 on.
///
/// # Errors
/// As [`linear_probe`]; also when `seeds` is 0.
pub fn measure_linear(
    subject: &Subject,
    splits: &Splits,
    config: &LinearConfig,
    seeds: u64,
    at: &Circumstances,
    device: &Device,
    progress: &mut Progress,
) -> Result<ResultRecord, EvalError> {
    if seeds == 0 {
        let reason = "at least 1 is needed".to_owned();
        return Err(EvalError::Setting { setting: "seeds", reason });
    }
    let started = Instant::now();
    let mut records = Vec::new();
    for seed in 0..seeds {
        let (train, test) = (&splits.train, &splits.test);
        let outcome = linear_probe(train, test, at.data.classes, config, seed, device, progress)?;
        let crate::Accuracy { top1, top5 } = outcome.accuracy;
        records.push(SeedRecord { seed, top1, top5, train_loss: outcome.train_loss });
    }
    progress.clear();
    let outcome = Outcome::over_seeds(records, started.elapsed().as_secs_f64());
    let protocol = Protocol::linear(config, splits.train.len());
    Ok(at.record(subject, splits.train.width(), protocol, outcome))
}
