//! A classifier on the test images, and what a seed's folder keeps.

use std::path::Path;

use burn::tensor::Device;
use ocl_data::{Batch, LoaderConfig, Order, Split, View};
use ocl_train::World;
use serde::{Deserialize, Serialize};

use super::classifier::Classifier;
use super::confusion::Confusion;
use super::plan::FinetunePlan;
use crate::error::EvalError;
use crate::features::{Labelled, default_encode_batch_of, in_turns, tokens};
use crate::files::replace;
use crate::heads::{Accuracy, Tally};
use crate::progress::Progress;

/// The result of a seed, as its folder keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SeedResult {
    pub(super) accuracy: Accuracy,
    /// Mean loss of the last epoch.
    pub(super) train_loss: f64,
    pub(super) secs: f64,
    /// Absent in folders of before it was counted.
    #[serde(default)]
    pub(super) confusion: Confusion,
}

impl SeedResult {
    /// What a seed's folder keeps, if its training has ended.
    pub(super) fn load(folder: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join("result.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes `result.json`.
    pub(super) fn save(&self, folder: &Path) -> Result<(), EvalError> {
        let text = serde_json::to_string(self).expect("a result is plain data");
        replace(&folder.join("result.json"), text.as_bytes())
    }
}

/// Accuracy on the test images' centre views, and what they were taken for; the processes of `world`
/// share the images, and the root alone gets what was counted. The classifier lies on the plain
/// device, where nothing is kept for a backward pass.
pub(super) fn measure(
    world: &World,
    classifier: &Classifier,
    plan: &FinetunePlan,
    data: &Labelled,
    workers: usize,
    device: &Device,
    progress: &mut Progress,
) -> Result<(Accuracy, Confusion), EvalError> {
    let config = plan.preparation(workers).reading(default_encode_batch_of(device));
    let loader = LoaderConfig {
        batch: config.batch,
        workers,
        order: Order::Sequential,
        max_bad_share: config.max_bad_share,
        subset: data.sample(Split::Test, plan.max_test),
        ..LoaderConfig::default()
    };
    let source = data.split(Split::Test);
    let labels = source.labels().unwrap_or_default();
    let (mut tally, mut confusion) = (Tally::default(), Confusion::default());
    let make = |batch: &Batch| {
        if batch.images == 0 {
            return Ok(vec![vec![]]);
        }
        let tokens = tokens(&classifier.vit, batch, 0..batch.images, device);
        let logits = classifier.logits(tokens, None);
        Ok(vec![logits.try_into_vec_as().map_err(EvalError::Device)?])
    };
    let view = View::Eval(config.view);
    let bad = in_turns(world, source, Split::Test, view, loader, make, |made| {
        let labels: Vec<u32> = made.samples.iter().map(|&sample| labels[sample as usize]).collect();
        tally.add_scores(&made.rows[0], &labels);
        confusion.add_scores(&made.rows[0], &labels);
        progress.line(|| "fine-tuning: test images".to_owned());
        Ok(())
    })?;
    progress.left_out(&bad);
    Ok((tally.accuracy(), confusion))
}
