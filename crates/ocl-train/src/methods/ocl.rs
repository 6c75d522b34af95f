//! Occluded image contrastive learning: kept patches, two views, one encoder, one loss.

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::{Batch, Keep, kept_patches};
use ocl_loss::{TspSimilarity, agreement, contrastive_gradient, contrastive_loss};
use ocl_model::Vit;
use serde::{Deserialize, Serialize};

use super::Objective;
use crate::backend::is_gpu;

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

impl Ocl {
    pub(crate) fn keep(&self) -> Keep {
        Keep::Random { mask_ratio: self.mask_ratio }
    }

    pub(crate) fn sequences(&self, patches: usize) -> (usize, usize) {
        (2, 1 + kept_patches(patches, self.mask_ratio) / 2)
    }

    pub(crate) fn loss(&self, vit: &Vit, batch: Batch) -> Tensor<1> {
        let [view_1, view_2] = views(Self::embed(vit, batch));
        contrastive_loss(&self.similarity(), view_1, view_2)
    }

    pub(crate) fn embed(vit: &Vit, batch: Batch) -> Tensor<3> {
        let (patches, positions) = to_device(vit, batch);
        vit.views(patches, positions) // [N, 2, D]
    }

    pub(crate) fn objective(&self, embeddings: Tensor<3>) -> Objective {
        let [view_1, view_2] = views(embeddings);
        let agreement = agreement(view_1.clone(), view_2.clone());
        let found = contrastive_gradient(&self.similarity(), view_1, view_2);
        let gradient = Tensor::stack(vec![found.view_1, found.view_2], 1); // [N, 2, D]
        Objective { loss: found.loss, gradient, agreement }
    }

    fn similarity(&self) -> TspSimilarity {
        TspSimilarity { kappa: self.kappa, temperature: self.temperature }
    }

    pub(crate) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        if !(0.0..1.0).contains(&self.mask_ratio) {
            return Some(("mask_ratio", format!("{} is not in 0..1", self.mask_ratio)));
        }
        if kept_patches(patches, self.mask_ratio) < 2 {
            let reason = format!(
                "{} of {patches} patches leaves fewer than the 2 that two views need",
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

/// `[N, 2, D]` to two times `[N, D]`.
fn views(embeddings: Tensor<3>) -> [Tensor<2>; 2] {
    let [n, _, d] = embeddings.dims();
    [0, 1].map(|i| embeddings.clone().slice([0..n, i..i + 1]).reshape([n, d])) // [N, D]
}

/// Sends a batch to the encoder's device: patches `[N, K, P*P*3]` and positions `[N, K]`.
fn to_device(vit: &Vit, batch: Batch) -> (Tensor<3>, Tensor<2, Int>) {
    let device = vit.device();
    let (n, k) = (batch.images, batch.kept);
    let positions: Vec<i32> = batch.positions.into_iter().map(|p| p as i32).collect();
    let positions = TensorData::new(positions, [n, k]);
    let piece = if is_gpu(&device) { PIECE } else { usize::MAX };
    let patches = in_pieces(batch.patches, [n, k, batch.patch_len], piece, &device);
    (patches, Tensor::from_data(positions, &device))
}

/// Values that go to a GPU at once. Of 100 MiB and more burn's runtime makes no copy in pinned memory: the transfer
/// then waits for all that the device was given before, and the device for the transfer.
const PIECE: usize = 16 << 20;

/// A tensor `[N, K, P]` that travels in pieces of at most `piece` values, or of one image.
fn in_pieces(values: Vec<f32>, [n, k, p]: [usize; 3], piece: usize, device: &Device) -> Tensor<3> {
    if values.len() <= piece {
        return Tensor::from_data(TensorData::new(values, [n, k, p]), device);
    }
    let image = k * p;
    let pieces = values.chunks((piece / image).max(1) * image);
    let pieces = pieces.map(|values| {
        let shape = [values.len() / image, k, p];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    });
    Tensor::cat(pieces.collect(), 0) // [N, K, P]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let device = Device::default();
        let values: Vec<f32> = (0..7 * 2 * 3).map(|i| i as f32).collect();
        for piece in [1, 6, 13, 18, 41, 42, 1000] {
            let found = in_pieces(values.clone(), [7, 2, 3], piece, &device);
            assert_eq!(found.dims(), [7, 2, 3]);
            assert_eq!(found.into_data().try_into_vec::<f32>().unwrap(), values, "{piece}");
        }
    }
}
