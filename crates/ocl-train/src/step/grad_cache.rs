//! The gradient of a whole batch, a few images in memory at a time.
//!
//! A batch may be larger than what memory holds at once. Its images are then encoded without a
//! graph, the loss gives its gradient at the embeddings, and the networks' gradients follow from
//! encoding again with a graph (GradCache, arXiv 2101.06983). Every image is contrasted with all
//! others. A loss that is a mean over images needs none of this: each is encoded once.
//!
//! Several processes take a share of the images each. They gather the embeddings, compute the loss
//! and its gradient at their own rows, and sum the networks' gradients.

use std::ops::Range;

use burn::tensor::Tensor;
use ocl_data::Batch;

use super::MicroBatches;
use super::micro_batches::Cut;
use super::tree::{parts_of, sum_of_parts};
use crate::methods::{Embedded, Learner, Objective, Own};
use crate::optim::NamedGradients;
use crate::world::World;

/// A process's part of a batch.
struct Share<'a> {
    world: &'a World,
    micro: MicroBatches,
    /// Images of the whole batch.
    images: usize,
    /// Where this process's begin among them.
    first_image: usize,
    /// Parts of the batch that are this process's.
    parts: Range<usize>,
}

impl<'a> Share<'a> {
    /// # Panics
    /// If the images are not this process's share of what all have together.
    fn of(world: &'a World, micro: MicroBatches, images: usize) -> Self {
        let all: usize = world.exchange(images).into_iter().sum();
        let own = micro.share(all, world.rank(), world.size());
        assert_eq!(own.len(), images, "images of rank {} of a batch of {all}", world.rank());
        let parts = parts_of(world, micro.parts);
        Self { world, micro, images: all, first_image: own.start, parts }
    }

    /// This process's micro-batches of a part, counted from its first.
    fn of_part(&self, part: usize) -> Range<usize> {
        let at = |part: usize| self.micro.first_of(part, self.images);
        let first = at(self.parts.start);
        at(part) - first..at(part + 1) - first
    }

    /// The sum over the whole batch of what `gradients` gives for each micro-batch of this process,
    /// which it is asked for from the last to the first.
    fn sum(&self, mut gradients: impl FnMut(usize) -> NamedGradients) -> NamedGradients {
        sum_of_parts(self.world, self.micro.parts, |part| {
            let own = self.of_part(part).rev().map(&mut gradients);
            own.reduce(NamedGradients::plus).unwrap_or_default()
        })
    }

    /// What all processes embedded, in order.
    fn gathered(&self, own: Embedded) -> Embedded {
        let gather = |rows| self.world.rows(rows);
        Embedded { rows: gather(own.rows), beside: own.beside.map(gather) }
    }

    /// The objective of what all processes embedded.
    fn objective(&self, learner: &mut Learner, embedded: Embedded) -> Objective {
        let pieces = self.parts.clone().map(|part| {
            let image = |micro: usize| {
                self.first_image
                    .saturating_add(micro.saturating_mul(self.micro.size))
                    .min(self.images)
            };
            let own = self.of_part(part);
            image(own.start)..image(own.end)
        });
        let own = Own { pieces: pieces.collect(), gather: &|rows| self.world.rows(rows) };
        learner.objective(embedded, &own)
    }
}

/// What a batch gives: its objective, and the gradients of all parameters. `batch` is this
/// process's share of it.
pub(super) fn gradients(
    learner: &mut Learner,
    micro: MicroBatches,
    batch: Batch,
    world: &World,
) -> (Objective, NamedGradients) {
    let share = Share::of(world, micro, batch.images);
    let cut = Cut::of(batch, micro.size);
    match learner.is_separable() {
        true => of_mean(learner, &share, cut),
        false => of_whole(learner, &share, cut),
    }
}

/// For a loss that sees the whole batch at once.
fn of_whole(learner: &mut Learner, share: &Share<'_>, mut cut: Cut) -> (Objective, NamedGradients) {
    let (count, micro) = (cut.len(), share.micro);
    let whole = micro.chunk >= cut.batch.images;
    let kept = if whole { count } else { (micro.chunk / micro.size).max(1) };

    // The last chunk's graphs are kept; of the images before it only the embeddings are. They are
    // made on the same device: one without autodiff has other kernels, and other roundings.
    let without_graph = (kept < count).then(|| learner.clone().no_grad());
    let mut graphs = vec![];
    let embedded = (0..count).map(|i| match &without_graph {
        Some(learner) if i + kept < count => inner(learner.embed(cut.get(i))),
        _ => {
            let embedded = learner.embed(cut.get(i));
            graphs.push(embedded.rows.clone());
            inner(embedded)
        }
    });
    let embedded = share.gathered(joined(embedded.collect()));
    drop(without_graph);

    let [_, rows, width] = embedded.rows.dims();
    let mut objective = share.objective(learner, embedded);
    let sum = share.sum(|i| {
        let encoded = graphs.pop().unwrap_or_else(|| learner.embed_again(cut.get(i)));
        let slope = objective.gradient.clone().slice([cut.images(i), 0..rows, 0..width]);
        let gradients = (encoded * Tensor::from_inner(slope)).sum().backward();
        NamedGradients::of(gradients, |take| learner.visit(take))
    });
    // Every process has the whole batch's gradients of the heads already.
    let of_heads = std::mem::take(&mut objective.of_heads);
    (objective, sum.plus(of_heads))
}

/// For a loss that is a mean over images.
fn of_mean(learner: &mut Learner, share: &Share<'_>, mut cut: Cut) -> (Objective, NamedGradients) {
    let images = share.images as f64;
    let mut embedded = vec![];
    // Last to first, as everywhere, so that one order of sums serves all methods.
    let sum = share.sum(|i| {
        let part = learner.embed(cut.get(i));
        let gradients = part.rows.clone().sum().div_scalar(images).backward();
        embedded.push(inner(part));
        NamedGradients::of(gradients, |take| learner.visit(take))
    });
    embedded.reverse();
    let embedded = share.gathered(joined(embedded));
    (share.objective(learner, embedded), sum)
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
