//! Occlusion-based contrastive learning: kept patches, two views, one encoder, one loss.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use ocl_data::{Batch, Keep};
use ocl_loss::{
    ContrastiveShare, TspSimilarity, agreement, contrastive_gradient, contrastive_loss,
};
use ocl_model::{Vit, VitConfig};
use serde::{Deserialize, Serialize};

use super::{Objective, Own, Pass, PendingFigures, share_masked};
use crate::device::batch_tensors;
use crate::optim::NamedGradients;

/// Constants of OCL (arXiv 2411.09858, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ocl {
    /// Share of the patches that no view sees, `0..1`.
    pub mask_ratio: f64,
    /// Concentration of the similarity.
    pub kappa: f64,
    /// Temperature of the similarity.
    pub temperature: f64,
    /// Images contrasted with one another: the batch is taken in groups of so many, in its order,
    /// and its loss is the groups' mean. All of the batch when absent, or where it has no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
}

/// An encoder that learns by OCL.
#[derive(Clone, Debug)]
pub struct OclLearner {
    /// The constants.
    pub ocl: Ocl,
    /// What is trained, and what is left.
    pub encoder: Vit,
}

impl Ocl {
    /// The method with its encoder.
    pub fn learner(self, encoder: Vit) -> OclLearner {
        OclLearner { ocl: self, encoder }
    }

    /// Kept patches of `patches`: `K = floor(L (1 - r))`, rounded down to even, since the first
    /// half is view 1 and the rest view 2.
    ///
    /// The product is taken in f64 as the authors' program does, so that 196 patches at 0.9 give 19
    /// and then 18, not 20.
    pub fn kept(&self, patches: usize) -> usize {
        // A float-to-integer cast saturates, so that a ratio above 1 or NaN gives 0.
        let kept = (patches as f64 * (1.0 - self.mask_ratio)) as usize;
        kept.min(patches) / 2 * 2
    }

    pub(super) fn keep(&self, patches: usize) -> Keep {
        Keep::Random { kept: self.kept(patches) }
    }

    pub(super) fn passes(&self, model: &VitConfig) -> Vec<Pass> {
        vec![Pass {
            shape: model.block(),
            depth: model.depth,
            sequences: 2,
            tokens: 1 + self.kept(model.patches()) / 2,
            graph: true,
            class_only: true,
        }]
    }

    /// Images of a batch of so many that are contrasted with one another.
    pub fn contrasted(&self, batch: usize) -> usize {
        self.group.unwrap_or(batch).min(batch)
    }

    /// Embeddings with their gradients, and a tile of similarities.
    pub(super) fn objective_values(&self, model: &VitConfig, batch: usize) -> usize {
        let group = self.contrasted(batch);
        16 * batch * model.width + 6 * (group * group).min(ocl_loss::TILE)
    }

    pub(super) fn macs_per_image(&self, model: &VitConfig) -> u64 {
        3 * 2 * model.cls_macs(1 + self.kept(model.patches()) / 2)
    }

    pub(super) fn describe(&self, patches: usize) -> String {
        let groups = self.group.map(|group| format!(", contrasted in groups of {group}"));
        format!(
            "OCL: 2 views of {} of {patches} patches (mask ratio {}), kappa {:.6}, temperature {}{}",
            self.kept(patches) / 2,
            self.mask_ratio,
            self.kappa,
            self.temperature,
            groups.unwrap_or_default()
        )
    }

    fn similarity(&self) -> TspSimilarity {
        TspSimilarity { kappa: self.kappa, temperature: self.temperature }
    }

    pub(super) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        if let Some(reason) = share_masked(self.mask_ratio) {
            return Some(("mask_ratio", reason));
        }
        if self.kept(patches) < 2 {
            let reason = format!(
                "{} of {patches} patches leaves fewer than the 2 that two views need; lower it, or \
                 use smaller patches or larger images",
                self.mask_ratio
            );
            return Some(("mask_ratio", reason));
        }
        if !(self.kappa >= 0.0 && self.kappa.is_finite()) {
            return Some(("kappa", format!("{} is not a number of at least 0", self.kappa)));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Some(("temperature", format!("{} is not above 0", self.temperature)));
        }
        if let Some(group @ ..2) = self.group {
            let reason = format!("{group} is too small: an image needs another to differ from");
            return Some(("group", reason));
        }
        None
    }

    /// What is wrong with a batch of so many images.
    pub(super) fn batch_problem(&self, batch: usize) -> Option<(&'static str, String)> {
        let group = self.contrasted(batch).max(1);
        (!batch.is_multiple_of(group)).then(|| {
            let fitting = batch / group * group;
            let reason = format!(
                "groups of {group} do not divide a batch of {batch}; give a batch.size of {fitting} \
                 or {}, another group, or a group of the batch's size to contrast all",
                fitting + group
            );
            ("group", reason)
        })
    }
}

impl OclLearner {
    /// The loss by its definition; what trains is [`OclLearner::objective`].
    pub(super) fn loss(&self, batch: Batch) -> Tensor<1> {
        let groups = self.groups(self.embed(batch));
        let of_group = |group| {
            let [view_1, view_2] = views(group);
            contrastive_loss(&self.ocl.similarity(), view_1, view_2)
        };
        mean(groups.into_iter().map(of_group).collect())
    }

    /// Class tokens of both views of each image, `[N, 2, D]`.
    pub(super) fn embed(&self, batch: Batch) -> Tensor<3> {
        let Batch { images, kept, patch_len, patches, positions, .. } = batch;
        let device = self.encoder.device();
        let (patches, positions): (Tensor<3>, Tensor<2, Int>) =
            batch_tensors(patches, &positions, [images, kept, patch_len], &device);
        self.encoder.views(patches, positions) // [N, 2, D]
    }

    pub(super) fn objective(&self, embeddings: Tensor<3>, own: &Own<'_>) -> Objective {
        let groups = self.groups(embeddings.clone());
        let agreements = groups.iter().cloned().map(views).map(|[a, b]| agreement(a, b)).collect();
        let (loss, gradient) = match &own.pieces[..] {
            [all] if all.len() == embeddings.dims()[0] => self.contrast(groups),
            pieces => self.contrast_own(groups, pieces, own.gather),
        };
        let mut figures = PendingFigures::default();
        figures.add(&["views/alignment", "views/positive", "views/negative"], mean(agreements));
        let of_heads = NamedGradients::default();
        Objective { loss, gradient, of_heads, figures, watched: embeddings }
    }

    /// The loss of all groups and its gradient, `[N, 2, D]`.
    fn contrast(&self, groups: Vec<Tensor<3>>) -> (Tensor<1>, Tensor<3>) {
        let (mut losses, mut gradients) = (vec![], vec![]);
        for [view_1, view_2] in groups.into_iter().map(views) {
            let found = contrastive_gradient(&self.ocl.similarity(), view_1, view_2);
            losses.push(found.loss);
            gradients.push(Tensor::stack(vec![found.view_1, found.view_2], 1)); // [G, 2, D]
        }
        let gradient = match losses.len() {
            1 => gradients.remove(0),
            groups => Tensor::cat(gradients, 0).div_scalar(groups as f64), // [N, 2, D]
        };
        (mean(losses), gradient)
    }

    /// The same, where each process computes the rows and columns of its own images: the gradient is
    /// at these, `[n, 2, D]`.
    fn contrast_own(
        &self,
        groups: Vec<Tensor<3>>,
        pieces: &[Range<usize>],
        gather: &dyn Fn(Tensor<3>) -> Tensor<3>,
    ) -> (Tensor<1>, Tensor<3>) {
        let (count, group) = (groups.len(), groups[0].dims()[0]);
        let mut shares = vec![];
        for (number, embeddings) in groups.into_iter().enumerate() {
            let images = number * group..(number + 1) * group;
            let within = |piece: &Range<usize>| {
                let (start, end) = (piece.start.max(images.start), piece.end.min(images.end));
                (start < end).then(|| start - images.start..end - images.start)
            };
            let own: Vec<Range<usize>> = pieces.iter().filter_map(within).collect();
            if !own.is_empty() {
                let [view_1, view_2] = views(embeddings);
                let share = ContrastiveShare::new(self.ocl.similarity(), view_1, view_2);
                shares.push((images, share, own));
            }
        }
        let terms = shares.iter().flat_map(|(_, share, own)| {
            own.iter().map(|images| share.terms(images.clone())) // [n, 3]
        });
        let terms = gather(Tensor::cat(terms.collect(), 0).unsqueeze_dim(1)); // [N, 1, 3]
        let terms: Tensor<2> = terms.squeeze_dim(1);
        let gradients = shares.iter().flat_map(|(group, share, own)| {
            let terms = terms.clone().slice([group.clone(), 0..3]); // [G, 3]
            own.iter().map(move |images| share.gradient(images.clone(), &terms)) // [n, 2, D]
        });
        let gradient = Tensor::cat(gradients.collect(), 0).div_scalar(count as f64);
        // Groups are of one size: the mean over all images is the mean of the groups.
        (ContrastiveShare::loss(terms), gradient)
    }

    /// Embeddings of a batch, `[N, 2, D]`, by groups that are contrasted.
    fn groups(&self, embeddings: Tensor<3>) -> Vec<Tensor<3>> {
        let n = embeddings.dims()[0];
        let group = self.ocl.contrasted(n);
        if group == n {
            return vec![embeddings];
        }
        embeddings.split(group, 0)
    }

    pub(super) fn over(self, change: impl FnOnce(Vit) -> Vit) -> Self {
        Self { encoder: change(self.encoder), ..self }
    }
}

/// The mean of the groups' values.
fn mean(mut groups: Vec<Tensor<1>>) -> Tensor<1> {
    match groups.len() {
        1 => groups.remove(0),
        count => Tensor::stack::<2>(groups, 0).sum_dim(0).squeeze_dim(0).div_scalar(count as f64),
    }
}

/// `[N, 2, D]` to two times `[N, D]`.
fn views(embeddings: Tensor<3>) -> [Tensor<2>; 2] {
    let [n, _, d] = embeddings.dims();
    [0, 1].map(|i| embeddings.clone().slice([0..n, i..i + 1]).reshape([n, d])) // [N, D]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_kept_as_the_authors_do() {
        for (patches, mask_ratio, expected) in [
            (196, 0.9, 18),
            (196, 0.75, 48),
            (256, 0.9, 24),
            (64, 0.5, 32),
            (64, 0.75, 16),
            (49, 0.0, 48),
            (49, 1.0, 0),
            (49, 2.0, 0),
            (49, f64::NAN, 0),
            (4, -1.0, 4),
        ] {
            let ocl = Ocl { mask_ratio, kappa: 1.0 / 64.0, temperature: 0.07, group: None };
            assert_eq!(ocl.kept(patches), expected, "{patches} at {mask_ratio}");
        }
    }
}
