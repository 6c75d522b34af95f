//! What trains: the loss of a batch and its gradient at the embeddings, without the matrix of all
//! pairs.
//!
//! The similarities pass by in tiles of a few rows, twice: once for the normalisers of rows and
//! columns, once for the gradient, which has a closed form. No graph is kept, so that memory is
//! that of a tile.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::similarity::{TspSimilarity, product, unit};

/// Most similarities of a tile; about six temporaries of that many f32 are alive at once.
pub const TILE: usize = 1 << 23;

/// The loss of a batch and where its embeddings should go.
#[derive(Clone, Debug)]
pub struct ContrastiveGradient {
    /// The loss, `[1]`.
    pub loss: Tensor<1>,
    /// Gradient of the loss at the embeddings of view 1, `[N, D]`.
    pub view_1: Tensor<2>,
    /// Gradient of the loss at the embeddings of view 2, `[N, D]`.
    pub view_2: Tensor<2>,
}

/// What [`contrastive_loss`](crate::contrastive_loss) gives and its gradient, in tiles of rows.
///
/// With `p = softmax over rows` and `q = softmax over columns` of the logits `s(c)`, `c` the
/// cosine, `d loss / d c_ij = ((p_ij + q_ij) / 2 - [i = j]) s'(c_ij) / N`.
///
/// # Shapes
/// `view_1`, `view_2`: `[N, D]`, row `i` of both being image `i`, on a device without autodiff.
///
/// # Panics
/// If the shapes differ.
pub fn contrastive_gradient(
    similarity: &TspSimilarity,
    view_1: Tensor<2>,
    view_2: Tensor<2>,
) -> ContrastiveGradient {
    let n = view_1.dims()[0].max(1);
    in_tiles(similarity, view_1, view_2, (TILE / n).clamp(1, n))
}

fn in_tiles(
    similarity: &TspSimilarity,
    view_1: Tensor<2>,
    view_2: Tensor<2>,
    tile_rows: usize,
) -> ContrastiveGradient {
    assert_eq!(view_1.dims(), view_2.dims(), "the two views of a batch need one shape");
    let [n, d] = view_1.dims();
    let (u, length_1) = unit(view_1);
    let (v, length_2) = unit(view_2);
    let tiles = || (0..n).step_by(tile_rows).map(|first| first..(first + tile_rows).min(n));
    let rows = |x: &Tensor<2>, tile: &Range<usize>| x.clone().slice([tile.clone(), 0..d]); // [T, D]
    let cosines = |tile: &Range<usize>| product(rows(&u, tile), v.clone().transpose()); // [T, N]

    let mut normalisers = Normalisers::default();
    let mut only = None;
    for tile in tiles() {
        let cosine = cosines(&tile);
        normalisers.add(similarity.from_cosine(cosine.clone()));
        only = (tile.len() == n).then_some(cosine);
    }
    let (by_row, by_column) = normalisers.finish(); // [N, 1], [1, N]

    let positive = (u.clone() * v.clone()).sum_dim(1); // [N, 1], cosines
    let pulled = similarity.from_cosine(positive.clone()).sum();
    let pushed = (by_row.clone().sum() + by_column.clone().sum()).mul_scalar(0.5);
    let loss = (pushed - pulled).div_scalar(n as f64);

    // The diagonal's share: each embedding towards its partner.
    let towards = similarity.slope(positive).div_scalar(-(n as f64)); // [N, 1]
    let mut slopes_1 = vec![];
    let mut slope_2 = u.clone() * towards.clone(); // [N, D]
    for tile in tiles() {
        let cosine = only.take().unwrap_or_else(|| cosines(&tile)); // [T, N]
        let of_tile = by_row.clone().slice([tile.clone(), 0..1]); // [T, 1]
        let slope = slope_of_pairs(similarity, cosine, of_tile, by_column.clone()); // [T, N]
        slope_2 = slope_2 + product(slope.clone().transpose(), rows(&u, &tile));
        slopes_1.push(product(slope, v.clone())); // [T, D]
    }
    let slope_1 = Tensor::cat(slopes_1, 0) + v.clone() * towards;
    ContrastiveGradient {
        loss,
        view_1: through_unit(slope_1, u, length_1),
        view_2: through_unit(slope_2, v, length_2),
    }
}

/// What the pairs of some rows give the gradient at their cosines, the diagonal's own share left out:
/// `(p + q) s'(c) / 2 N`.
///
/// # Shapes
/// `cosine` `[T, N]`, normalisers `by_row` `[T, 1]` and `by_column` `[1, N]`; result `[T, N]`.
pub(crate) fn slope_of_pairs(
    similarity: &TspSimilarity,
    cosine: Tensor<2>,
    by_row: Tensor<2>,
    by_column: Tensor<2>,
) -> Tensor<2> {
    let n = cosine.dims()[1] as f64;
    let logits = similarity.from_cosine(cosine.clone());
    let p = (logits.clone() - by_row).exp();
    let q = (logits - by_column).exp();
    (p + q).mul_scalar(0.5 / n) * similarity.slope(cosine)
}

/// `ln sum exp` of each row, `[T, N]` to `[T, 1]`, shifted by its maximum.
pub(crate) fn log_sum_exp(logits: Tensor<2>) -> Tensor<2> {
    let top = logits.clone().max_dim(1); // [T, 1]
    (logits - top.clone()).exp().sum_dim(1).log() + top
}

/// The gradient before rows were scaled to length 1, from that after: `(g - u (u . g)) / length`.
pub(crate) fn through_unit(gradient: Tensor<2>, unit: Tensor<2>, length: Tensor<2>) -> Tensor<2> {
    let along = (gradient.clone() * unit.clone()).sum_dim(1); // [N, 1]
    (gradient - unit * along).div(length)
}

/// `ln sum exp` of the rows and columns of a matrix that passes by in tiles of rows, shifted by
/// maxima so that no temperature overflows.
#[derive(Default)]
struct Normalisers {
    rows: Vec<Tensor<2>>,
    /// Of the columns so far: their maxima, and their sums relative to these; `[1, N]` each.
    columns: Option<(Tensor<2>, Tensor<2>)>,
}

impl Normalisers {
    fn add(&mut self, logits: Tensor<2>) {
        self.rows.push(log_sum_exp(logits.clone()));
        let top = logits.clone().max_dim(0); // [1, N]
        let sum = |top: Tensor<2>| (logits.clone() - top).exp().sum_dim(0);
        self.columns = Some(match self.columns.take() {
            None => (top.clone(), sum(top)),
            Some((old, sums)) => {
                let top = old.clone().max_pair(top);
                (top.clone(), sums * (old - top.clone()).exp() + sum(top))
            }
        });
    }

    fn finish(self) -> (Tensor<2>, Tensor<2>) {
        let (top, sums) = self.columns.expect("a batch has a first image");
        (Tensor::cat(self.rows, 0), sums.log() + top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contrastive_loss;
    use crate::draw::{draw, error};
    use burn::tensor::Device;

    #[test]
    fn tiles_of_any_height_equal_the_whole_matrix_and_autodiff() {
        let plain = Device::default();
        let device = plain.clone().autodiff();
        let (n, d) = (24, 7);
        let (a, b) = (draw(1, n, d, &plain), draw(2, n, d, &plain));
        for (kappa, temperature) in [(1.0 / 64.0, 0.07), (3.0, 0.5), (0.0, 1e-3)] {
            let similarity = TspSimilarity { kappa, temperature };
            let leaf = |x: &Tensor<2>| Tensor::from_data(x.to_data(), &device).require_grad();
            let (x, y): (Tensor<2>, Tensor<2>) = (leaf(&a), leaf(&b));
            let loss = contrastive_loss(&similarity, x.clone(), y.clone());
            let gradients = loss.backward();
            let (x, y) = (x.grad(&gradients).unwrap(), y.grad(&gradients).unwrap());
            let expected: f32 = loss.into_scalar();
            for tile_rows in [1, 2, 3, 5, 8, 12, 17, 24] {
                let found = in_tiles(&similarity, a.clone(), b.clone(), tile_rows);
                let loss: f32 = found.loss.into_scalar();
                assert!((loss - expected).abs() <= 1e-5 * expected.abs(), "{loss} {expected}");
                for (found, expected) in [(&found.view_1, &x), (&found.view_2, &y)] {
                    let error = error(found, expected);
                    assert!(error < 1e-5, "tiles of {tile_rows}, {similarity:?}: {error}");
                }
            }
        }
    }
}
