//! The report that ends a pre-training: k-NN and linear probe of the trained encoder against the
//! same encoder untrained and against raw pixels.

use std::fmt::Write;
use std::path::PathBuf;

use ocl_data::SourceError;
use ocl_model::OpenOptions;
use ocl_train::{Backend, World, invocation};
use serde::Serialize;

use super::results::{Circumstances, ResultRecord};
use super::table::data_lines;
use super::verdict::Verdict;
use crate::error::EvalError;
use crate::features::{
    Encoder, Extraction, Labelled, Material, Run, Subject, WeightsRecord, default_encode_batch,
    features, open_encoder,
};
use crate::progress::Progress;
use crate::protocols::{EvalRecipe, Protocol};
use crate::text::{percent, shell_word, with_causes, wrap};

/// Images that a report looks at unless told otherwise, of the training and of the test split: it
/// is a first look and must not take longer than the training did.
pub const REPORT_LIMITS: [usize; 2] = [10_000, 5_000];

/// What a pre-trained encoder is worth on the plan's own data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The run folder.
    pub run: PathBuf,
    /// For each of trained, untrained and raw pixels: k-NN, then linear probe.
    pub results: Vec<ResultRecord>,
    /// What the figures mean, in words.
    pub meaning: String,
}

/// A report, or why there is nothing to report.
#[derive(Clone, Debug, PartialEq)]
pub enum Findings {
    /// All figures.
    Measured(Box<Report>),
    /// The data cannot say what a representation is worth; the sentence says why.
    Nothing(String),
}

/// Measures a run on its plan's own data: k-NN and linear probe of three subjects, from one pass
/// over the images.
///
/// # Errors
/// When the run is not complete or its data cannot be read. Data without labels or test split is no
/// error, but [`Findings::Nothing`].
pub fn report(
    run: &Run,
    limits: [usize; 2],
    workers: Option<usize>,
    backend: Backend,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    let planned = &run.plan.data;
    let data = match Labelled::open(&planned.path, planned.kind, &planned.splits) {
        Ok(data) => data,
        Err(
            error @ (EvalError::NoLabels { .. }
            | EvalError::TooSmall { .. }
            | EvalError::Source { source: SourceError::NotFound { .. }, .. }),
        ) => return Ok(Findings::Nothing(with_causes(&error))),
        Err(error) => return Err(error),
    };
    let device = &backend.device()?;
    let Encoder { vit, pooling, weights, .. } =
        open_encoder(&run.folder, &OpenOptions::default(), device)?;
    let subjects = [Subject::Trained(Box::new(vit)), run.untrained(device)?, Subject::RawPixels];
    let how = Extraction {
        pool: pooling,
        encode_batch: default_encode_batch(backend),
        limits: limits.map(Some),
    };
    let mut preparation = run.preparation();
    preparation.workers = workers.unwrap_or(preparation.workers);
    let (features, reading, features_secs) =
        features(&World::One, &preparation, &subjects, &data, &how, device, progress)?;
    let at = Circumstances {
        weights: Some(WeightsRecord::of(&weights)?),
        data: data.record(features[0].train.len(), features[0].test.len()),
        features_secs,
        backend: backend.to_string(),
    };
    let recipe = EvalRecipe::load(None, &[])?;
    let mut results = Vec::new();
    for (subject, splits) in subjects.iter().zip(&features) {
        let (pool, limits) = (how.pool, how.limits);
        let material = Material { subject, pool, splits, data: &data, reading: &reading, limits };
        for protocol in [Protocol::Knn, Protocol::LinearCached] {
            results.push(at.measure(protocol, &recipe, &material, 1, device, progress)?);
        }
    }
    let top1: Vec<f64> = results.iter().map(top1).collect();
    let verdict = Verdict { knn: [0, 2, 4].map(|i| top1[i]), linear: [1, 3, 5].map(|i| top1[i]) };
    let meaning = verdict.sentences();
    Ok(Findings::Measured(Box::new(Report { run: run.folder.clone(), results, meaning })))
}

fn top1(result: &ResultRecord) -> f64 {
    result.headline().map_or(f64::NAN, |score| score.mean)
}

impl Report {
    /// The report for an 80-column terminal.
    pub fn text(&self) -> String {
        let mut text = String::from("What the representation is worth\n\n");
        let Some(first) = self.results.first() else { return text };
        text += &data_lines(&first.data);
        let _ = writeln!(text, "\n{:<32}{:>14}{:>18}", "", "k-NN top-1", "linear top-1");
        for (row, pair) in self.results.chunks_exact(2).enumerate() {
            let (knn, linear) = (percent(top1(&pair[0])), percent(top1(&pair[1])));
            let _ = writeln!(text, "  {:<30}{knn:>14}{linear:>18}", pair[0].subject);
            if row > 0 {
                let [knn, linear] = [0, 1].map(|i| {
                    let gain = top1(&self.results[i]) - top1(&pair[i]);
                    format!("{:+.1} points", gain * 100.0)
                });
                let _ = writeln!(text, "  {:<30}{knn:>14}{linear:>18}", "  the trained one's gain");
            }
        }
        let secs: f64 = self.results.iter().map(|result| result.protocol_secs).sum();
        let _ = writeln!(
            text,
            "\n{}\n\nTook {:.0} s for the features and {secs:.0} s for the six figures.",
            wrap(&self.meaning),
            first.features_secs
        );
        text + &next_steps(&self.run, true)
    }
}

impl Findings {
    /// The findings for an 80-column terminal; `run` names the folder when there is no report.
    pub fn text(&self, run: &Run) -> String {
        match self {
            Self::Measured(report) => report.text(),
            Self::Nothing(why) => {
                let why = format!("What the representation is worth was not measured: {why}.");
                format!("{}\n{}", wrap(&why), next_steps(&run.folder, false))
            }
        }
    }
}

/// Where the run is and what can be done with it.
fn next_steps(run: &std::path::Path, measured: bool) -> String {
    let run = shell_word(&run.to_string_lossy());
    let linear = if measured {
        "Every protocol on all images, here or on other labelled data:"
    } else {
        "Measure on labelled data (train/CLASS/*.jpg and val/CLASS/*.jpg):"
    };
    let ocl = invocation();
    format!(
        "
Run folder: {run}
  encoder.safetensors is the encoder, under timm's names

Next
  {linear}
    {ocl} eval --run {run} --data PATH
  Train on images of your own:
    {ocl} pretrain --data FOLDER
  Look at the curves:
    tensorboard --logdir {run}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_space_can_be_copied_from_the_text() {
        let text = next_steps(std::path::Path::new("my runs/a"), true);
        assert!(text.contains("--run 'my runs/a' --data PATH"), "{text}");
    }
}
