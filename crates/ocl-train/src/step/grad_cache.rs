//! The gradient of a whole batch, a few images in memory at a time.
//!
//! A batch may be larger than what memory holds at once. Its images are then encoded without a
//! graph, the loss gives its gradient at the embeddings, and the networks' gradients follow from
//! encoding again with a graph (GradCache, arXiv 2101.06983). Every image is contrasted with all
//! others.

use burn::tensor::Tensor;
use ocl_data::Batch;

use super::MicroBatches;
use super::micro_batches::Parts;
use crate::methods::{Learner, Objective};
use crate::optim::NamedGradients;

/// What a batch gives: its objective, the gradients of all parameters, and its embeddings
/// `[N, V, D]` without a graph.
pub(super) fn gradients(
    learner: &Learner,
    micro: MicroBatches,
    batch: Batch,
) -> (Objective, NamedGradients, Tensor<3>) {
    let mut parts = Parts::of(batch, micro.size);
    let count = parts.len();
    let whole = micro.chunk >= parts.batch.images;
    let kept = if whole { count } else { (micro.chunk / micro.size).max(1) };

    // The last chunk's graphs are kept; of the images before it only the embeddings are. They are
    // made on the same device: one without autodiff has other kernels, and other roundings.
    let without_graph = (kept < count).then(|| learner.clone().no_grad());
    let mut graphs = vec![];
    let embeddings = (0..count).map(|i| match &without_graph {
        Some(learner) if i + kept < count => learner.embed(parts.get(i)).inner(),
        _ => {
            let embeddings = learner.embed(parts.get(i));
            graphs.push(embeddings.clone());
            embeddings.inner()
        }
    });
    let embeddings = Tensor::cat(embeddings.collect(), 0); // [N, V, D]
    drop(without_graph);

    let mut objective = learner.objective(embeddings.clone());
    let [_, rows, width] = embeddings.dims();
    let mut sum = std::mem::take(&mut objective.of_heads);
    for i in (0..count).rev() {
        let encoded = graphs.pop().unwrap_or_else(|| learner.embed(parts.get(i)));
        let slope = objective.gradient.clone().slice([parts.images(i), 0..rows, 0..width]);
        let gradients = (encoded * Tensor::from_inner(slope)).sum().backward();
        sum = sum.plus(NamedGradients::of(gradients, |take| learner.visit(take)));
    }
    (objective, sum, embeddings)
}
