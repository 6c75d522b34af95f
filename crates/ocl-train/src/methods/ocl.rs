//! Occlusion-based contrastive learning: kept patches, two views, one encoder, one loss.

use burn::tensor::{Int, Tensor};
use ocl_data::{Batch, Keep};
use ocl_loss::{TspSimilarity, agreement, contrastive_gradient, contrastive_loss};
use ocl_model::{Vit, VitConfig};
use serde::{Deserialize, Serialize};

use super::{Objective, Pass, PendingFigures, share_masked};
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

    /// Embeddings with their gradients, and a tile of similarities.
    pub(super) fn objective_values(model: &VitConfig, batch: usize) -> usize {
        16 * batch * model.width + 6 * (batch * batch).min(ocl_loss::TILE)
    }

    pub(super) fn macs_per_image(&self, model: &VitConfig) -> u64 {
        3 * 2 * model.cls_macs(1 + self.kept(model.patches()) / 2)
    }

    pub(super) fn describe(&self, patches: usize) -> String {
        format!(
            "OCL: 2 views of {} of {patches} patches (mask ratio {}), kappa {:.6}, temperature {}",
            self.kept(patches) / 2,
            self.mask_ratio,
            self.kappa,
            self.temperature
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
        None
    }
}

impl OclLearner {
    /// The loss by its definition; what trains is [`OclLearner::objective`].
    pub(super) fn loss(&self, batch: Batch) -> Tensor<1> {
        let [view_1, view_2] = views(self.embed(batch));
        contrastive_loss(&self.ocl.similarity(), view_1, view_2)
    }

    /// Class tokens of both views of each image, `[N, 2, D]`.
    pub(super) fn embed(&self, batch: Batch) -> Tensor<3> {
        let Batch { images, kept, patch_len, patches, positions, .. } = batch;
        let device = self.encoder.device();
        let (patches, positions): (Tensor<3>, Tensor<2, Int>) =
            batch_tensors(patches, &positions, [images, kept, patch_len], &device);
        self.encoder.views(patches, positions) // [N, 2, D]
    }

    pub(super) fn objective(&self, embeddings: Tensor<3>) -> Objective {
        let [view_1, view_2] = views(embeddings.clone());
        let agreement = agreement(view_1.clone(), view_2.clone());
        let found = contrastive_gradient(&self.ocl.similarity(), view_1, view_2);
        let gradient = Tensor::stack(vec![found.view_1, found.view_2], 1); // [N, 2, D]
        let mut figures = PendingFigures::default();
        figures.add(&["views/alignment", "views/positive", "views/negative"], agreement);
        let of_heads = NamedGradients::default();
        Objective { loss: found.loss, gradient, of_heads, figures, watched: embeddings }
    }

    pub(super) fn over(self, change: impl FnOnce(Vit) -> Vit) -> Self {
        Self { encoder: change(self.encoder), ..self }
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
            let ocl = Ocl { mask_ratio, kappa: 1.0 / 64.0, temperature: 0.07 };
            assert_eq!(ocl.kept(patches), expected, "{patches} at {mask_ratio}");
        }
    }
}
