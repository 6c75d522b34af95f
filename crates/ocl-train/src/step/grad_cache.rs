//! The gradient of a whole batch, a few images in memory at a time.
//!
//! A batch may be larger than what memory holds at once. Its images are then encoded without a
//! graph, the loss gives its gradient at the embeddings, and the networks' gradients follow from
//! encoding again with a graph (GradCache, arXiv 2101.06983). Every image is contrasted with all
//! others. A loss that is a mean over images needs none of this: each is encoded once.

use burn::tensor::Tensor;
use ocl_data::Batch;

use super::MicroBatches;
use super::micro_batches::Parts;
use crate::methods::{Embedded, Learner, Objective};
use crate::optim::NamedGradients;

/// What a batch gives: its objective, and the gradients of all parameters.
pub(super) fn gradients(
    learner: &mut Learner,
    micro: MicroBatches,
    batch: Batch,
) -> (Objective, NamedGradients) {
    let parts = Parts::of(batch, micro.size);
    match learner.is_separable() {
        true => of_mean(learner, parts),
        false => of_whole(learner, micro, parts),
    }
}

/// For a loss that sees the whole batch at once.
fn of_whole(
    learner: &mut Learner,
    micro: MicroBatches,
    mut parts: Parts,
) -> (Objective, NamedGradients) {
    let count = parts.len();
    let whole = micro.chunk >= parts.batch.images;
    let kept = if whole { count } else { (micro.chunk / micro.size).max(1) };

    // The last chunk's graphs are kept; of the images before it only the embeddings are. They are
    // made on the same device: one without autodiff has other kernels, and other roundings.
    let without_graph = (kept < count).then(|| learner.clone().no_grad());
    let mut graphs = vec![];
    let embedded = (0..count).map(|i| match &without_graph {
        Some(learner) if i + kept < count => inner(learner.embed(parts.get(i))),
        _ => {
            let embedded = learner.embed(parts.get(i));
            graphs.push(embedded.rows.clone());
            inner(embedded)
        }
    });
    let embedded = joined(embedded.collect());
    drop(without_graph);

    let [_, rows, width] = embedded.rows.dims();
    let mut objective = learner.objective(embedded);
    let mut sum = std::mem::take(&mut objective.of_heads);
    for i in (0..count).rev() {
        let encoded = graphs.pop().unwrap_or_else(|| learner.embed_again(parts.get(i)));
        let slope = objective.gradient.clone().slice([parts.images(i), 0..rows, 0..width]);
        let gradients = (encoded * Tensor::from_inner(slope)).sum().backward();
        sum = sum.plus(NamedGradients::of(gradients, |take| learner.visit(take)));
    }
    (objective, sum)
}

/// For a loss that is a mean over images.
fn of_mean(learner: &mut Learner, mut parts: Parts) -> (Objective, NamedGradients) {
    let images = parts.batch.images as f64;
    let (mut embedded, mut sum) = (vec![], NamedGradients::default());
    // Last to first, as everywhere, so that one order of sums serves all methods.
    for i in (0..parts.len()).rev() {
        let part = learner.embed(parts.get(i));
        let gradients = part.rows.clone().sum().div_scalar(images).backward();
        sum = sum.plus(NamedGradients::of(gradients, |take| learner.visit(take)));
        embedded.push(inner(part));
    }
    embedded.reverse();
    (learner.objective(joined(embedded)), sum)
}

fn inner(embedded: Embedded) -> Embedded {
    Embedded { rows: embedded.rows.inner(), ..embedded }
}

/// Micro-batches' values as the batch's.
fn joined(parts: Vec<Embedded>) -> Embedded {
    let (rows, beside): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|part| (part.rows, part.beside)).unzip();
    let beside: Option<Vec<_>> = beside.into_iter().collect();
    Embedded { rows: Tensor::cat(rows, 0), beside: beside.map(|beside| Tensor::cat(beside, 0)) }
}
