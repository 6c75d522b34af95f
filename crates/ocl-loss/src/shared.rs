//! The loss of a batch that several processes share: each computes the rows and the columns of its
//! own images.
//!
//! An image's gradient needs the normalisers of all others. So it comes in two halves with an
//! exchange between them: [`ContrastiveShare::terms`] of the own images, then, when those of all
//! images are known, [`ContrastiveShare::gradient`]. Both views are treated alike: a column of the
//! similarities is a row of their transpose. That is half as much again as
//! [`contrastive_gradient`](crate::contrastive_gradient) computes, divided by the processes.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::contrastive::{TILE, log_sum_exp, slope_of_pairs, through_unit};
use crate::similarity::{TspSimilarity, product, unit};

/// The embeddings of a whole batch, of which a process computes some images' share of the loss.
#[derive(Clone, Debug)]
pub struct ContrastiveShare {
    similarity: TspSimilarity,
    /// Embeddings of both views at length 1, `[N, D]` each.
    unit: [Tensor<2>; 2],
    /// The lengths that they had, `[N, 1]` each.
    length: [Tensor<2>; 2],
}

impl ContrastiveShare {
    /// # Shapes
    /// `view_1`, `view_2`: `[N, D]`, row `i` of both being image `i`, on a device without autodiff.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn new(similarity: TspSimilarity, view_1: Tensor<2>, view_2: Tensor<2>) -> Self {
        assert_eq!(view_1.dims(), view_2.dims(), "the two views of a batch need one shape");
        let ((u, length_1), (v, length_2)) = (unit(view_1), unit(view_2));
        Self { similarity, unit: [u, v], length: [length_1, length_2] }
    }

    /// What some images add to the loss: `ln sum exp` of the similarities of their first views with
    /// all second views, the same with the views exchanged, and the similarity of their own two.
    ///
    /// # Shapes
    /// Result `[n, 3]`, `n` being the images of the range.
    pub fn terms(&self, images: Range<usize>) -> Tensor<2> {
        let [by_row, by_column] = [0, 1].map(|view| {
            let tiles = self
                .tiles(&images)
                .map(|tile| log_sum_exp(self.similarity.from_cosine(self.cosines(view, &tile))));
            Tensor::cat(tiles.collect(), 0) // [n, 1]
        });
        let positive = self.similarity.from_cosine(self.positives(&images));
        Tensor::cat(vec![by_row, by_column, positive], 1)
    }

    /// The loss of a batch, from the terms of all its images.
    ///
    /// # Shapes
    /// `terms` `[N, 3]`; result `[1]`.
    pub fn loss(terms: Tensor<2>) -> Tensor<1> {
        let [n, _] = terms.dims();
        let sum = |column: usize| terms.clone().slice([0..n, column..column + 1]).sum();
        let pushed = (sum(0) + sum(1)).mul_scalar(0.5);
        (pushed - sum(2)).div_scalar(n as f64)
    }

    /// Gradient of the loss at both views of some images, from the terms of all images.
    ///
    /// # Shapes
    /// `terms` `[N, 3]`; result `[n, 2, D]`.
    pub fn gradient(&self, images: Range<usize>, terms: &Tensor<2>) -> Tensor<3> {
        let [n, d] = self.unit[0].dims();
        // Each embedding towards its partner.
        let towards = self.similarity.slope(self.positives(&images)).div_scalar(-(n as f64)); // [n, 1]
        let views = [0, 1].map(|view| {
            let others = &self.unit[1 - view];
            let of_others = normaliser(terms, 1 - view, &(0..n)).transpose(); // [1, N]
            let tiles = self.tiles(&images).map(|tile| {
                let (cosine, own) = (self.cosines(view, &tile), normaliser(terms, view, &tile));
                let slope = slope_of_pairs(&self.similarity, cosine, own, of_others.clone());
                product(slope, others.clone()) // [T, D]
            });
            let own = |x: &Tensor<2>, width: usize| x.clone().slice([images.clone(), 0..width]);
            let slope = Tensor::cat(tiles.collect(), 0) + own(others, d) * towards.clone();
            through_unit(slope, own(&self.unit[view], d), own(&self.length[view], 1))
        });
        Tensor::stack(views.to_vec(), 1)
    }

    /// Ranges of a few images, so that a tile of similarities fits memory.
    fn tiles(&self, images: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (images, rows) = (images.clone(), (TILE / self.unit[0].dims()[0].max(1)).max(1));
        images.clone().step_by(rows).map(move |first| first..(first + rows).min(images.end))
    }

    /// Cosines of some images' embeddings of a view with all embeddings of the other, `[T, N]`.
    fn cosines(&self, view: usize, tile: &Range<usize>) -> Tensor<2> {
        let d = self.unit[view].dims()[1];
        let own = self.unit[view].clone().slice([tile.clone(), 0..d]);
        product(own, self.unit[1 - view].clone().transpose())
    }

    /// Cosines of some images' two embeddings, `[n, 1]`.
    fn positives(&self, images: &Range<usize>) -> Tensor<2> {
        let d = self.unit[0].dims()[1];
        let [u, v] = [0, 1].map(|view| self.unit[view].clone().slice([images.clone(), 0..d]));
        (u * v).sum_dim(1)
    }
}

/// `ln sum exp` of some images' similarities from one view, `[n, 1]`.
fn normaliser(terms: &Tensor<2>, view: usize, images: &Range<usize>) -> Tensor<2> {
    terms.clone().slice([images.clone(), view..view + 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contrastive_gradient;
    use crate::draw::{draw, error};
    use burn::tensor::Device;

    #[test]
    fn shares_of_a_batch_are_the_whole() {
        let device = Device::default();
        let (n, d) = (24, 7);
        let (a, b) = (draw(1, n, d, &device), draw(2, n, d, &device));
        for (kappa, temperature) in [(1.0 / 64.0, 0.07), (3.0, 0.5), (0.0, 1e-3)] {
            let similarity = TspSimilarity { kappa, temperature };
            let whole = contrastive_gradient(&similarity, a.clone(), b.clone());
            let share = ContrastiveShare::new(similarity, a.clone(), b.clone());
            for cuts in [vec![0, 24], vec![0, 8, 16, 24], vec![0, 1, 7, 20, 24]] {
                let pieces = || cuts.windows(2).map(|cut| cut[0]..cut[1]);
                let terms = Tensor::cat(pieces().map(|images| share.terms(images)).collect(), 0);
                let gradients = pieces().map(|images| share.gradient(images, &terms));
                let gradient = Tensor::cat(gradients.collect(), 0); // [N, 2, D]
                let (loss, expected): (f32, f32) =
                    (ContrastiveShare::loss(terms).into_scalar(), whole.loss.clone().into_scalar());
                assert!((loss - expected).abs() <= 1e-5 * expected.abs(), "{loss} {expected}");
                for (view, expected) in [&whole.view_1, &whole.view_2].into_iter().enumerate() {
                    let found =
                        gradient.clone().slice([0..n, view..view + 1, 0..d]).reshape([n, d]);
                    let error = error(&found, expected);
                    assert!(error < 1e-5, "{cuts:?}, {similarity:?}: {error}");
                }
            }
        }
    }
}
