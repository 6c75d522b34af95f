//! k-NN on held-out labelled images while a run goes on: is what is learnt of any use?
//!
//! A quick look at a few hundred images, for a curve; the figure to quote is the evaluation's.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use ocl_data::{Batch, EvalView, Loader, LoaderConfig, LoaderError, Order, Source, Split, View};
use ocl_model::Vit;

use crate::config::{PROBE_BANK, PROBE_QUERIES, Plan};
use crate::device::batch_tensors;

/// Images encoded at a time.
const BATCH: usize = 50;
/// Neighbours that vote, and the temperature of a vote's weight (DINO, arXiv 2104.14294).
const NEIGHBOURS: usize = 20;
const TEMPERATURE: f32 = 0.07;

/// Labelled images of a data set's two parts.
pub(crate) struct Probe {
    bank: Arc<Source>,
    queries: Arc<Source>,
    view: EvalView,
    workers: usize,
    max_bad_share: f64,
}

/// Features of length 1, `[N, D]`, with their labels.
struct Features {
    rows: Tensor<2>,
    labels: Vec<u32>,
}

impl Probe {
    /// A probe, when the plan asks for one, the data has labels, and there is a part to hold out.
    pub(crate) fn new(plan: &Plan, source: &Arc<Source>) -> Option<Self> {
        if plan.monitor.knn_every_steps == 0 || source.labels().is_none() {
            return None;
        }
        let queries = plan.data.open(Split::Test).ok()?;
        queries.labels()?;
        Some(Self {
            bank: Arc::clone(source),
            queries: Arc::new(queries),
            view: EvalView {
                geometry: plan.geometry(),
                normalisation: plan.normalisation(),
                resize_ratio: plan.data.resize_ratio,
            },
            workers: plan.data.workers,
            max_bad_share: plan.data.max_bad_share,
        })
    }

    /// The share of held-out images whose label the nearest training images tell, 0..1.
    ///
    /// # Errors
    /// When the images cannot be read.
    pub(crate) fn top_1(&self, vit: &Vit) -> Result<f64, LoaderError> {
        let vit = vit.valid();
        let bank = self.features(&vit, &self.bank, PROBE_BANK)?;
        let queries = self.features(&vit, &self.queries, PROBE_QUERIES)?;
        let (rows, columns) = (queries.labels.len(), bank.labels.len());
        let cosines = queries.rows.matmul(bank.rows.transpose()).into_data(); // [Q, B]
        let cosines = cosines.as_slice::<f32>().expect("features are f32");
        let right = cosines
            .chunks_exact(columns)
            .zip(&queries.labels)
            .filter(|(cosines, label)| vote(cosines, &bank.labels) == Some(**label));
        Ok(right.count() as f64 / rows.max(1) as f64)
    }

    /// Of `most` images at even distances.
    fn features(
        &self,
        vit: &Vit,
        source: &Arc<Source>,
        most: usize,
    ) -> Result<Features, LoaderError> {
        let count = source.len().min(most);
        let config = LoaderConfig {
            batch: BATCH,
            workers: self.workers,
            order: Order::Sequential,
            max_bad_share: self.max_bad_share,
            subset: Some((0..count).map(|i| (i * source.len() / count) as u32).collect()),
            ..LoaderConfig::default()
        };
        let (mut rows, mut labels) = (vec![], vec![]);
        for batch in Loader::start(Arc::clone(source), View::Eval(self.view), config)? {
            let mut batch = batch?;
            labels.append(&mut batch.labels);
            rows.push(encode(vit, batch));
        }
        Ok(Features { rows: Tensor::cat(rows, 0), labels })
    }
}

/// Class tokens at length 1, `[N, D]`.
fn encode(vit: &Vit, batch: Batch) -> Tensor<2> {
    let shape = [batch.images, batch.kept, batch.patch_len];
    let (patches, positions) = batch_tensors(batch.patches, &batch.positions, shape, &vit.device());
    let features = vit.pooled(vit.tokens(patches, positions), vit.usual_pooling()); // [N, D]
    let length = features.clone().square().sum_dim(1).sqrt(); // [N, 1]
    features / length
}

/// The label with the most weight among the nearest.
fn vote(cosines: &[f32], labels: &[u32]) -> Option<u32> {
    let mut order: Vec<usize> = (0..cosines.len()).collect();
    let nearest = NEIGHBOURS.min(order.len());
    order.sort_by(|a, b| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b)));
    let mut votes: Vec<(u32, f32)> = vec![];
    for i in &order[..nearest] {
        let weight = (cosines[*i] / TEMPERATURE).exp();
        match votes.iter_mut().find(|(label, _)| *label == labels[*i]) {
            Some((_, sum)) => *sum += weight,
            None => votes.push((labels[*i], weight)),
        }
    }
    votes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_decide() {
        let mut cosines = vec![0.1; 40];
        cosines[7] = 0.9;
        cosines[9] = 0.95;
        let mut labels = vec![4; 40];
        (labels[7], labels[9]) = (2, 2);
        assert_eq!(vote(&cosines, &labels), Some(2));
        assert_eq!(vote(&[], &[]), None);
    }
}
