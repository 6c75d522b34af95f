//! How much the two views agree: what tells a collapsed encoder from one that learns.

use burn::tensor::Tensor;

use crate::similarity::unit;

/// How far an encoder is from collapse, from the embeddings of a batch; nothing is read from the
/// device.
///
/// Alignment is the mean of `|u_i - v_i|^2` (arXiv 2005.10242), then the mean cosine of positive
/// and that of negative pairs, `u` and `v` being the embeddings of the two views at length 1. The
/// negatives are all pairs but the diagonal, summed in closed form.
///
/// # Shapes
/// `view_1`, `view_2`: `[N, D]`; result `[3]`.
///
/// # Panics
/// If the shapes differ or N is below 2.
pub fn agreement(view_1: Tensor<2>, view_2: Tensor<2>) -> Tensor<1> {
    assert_eq!(view_1.dims(), view_2.dims(), "the two views of a batch need one shape");
    let n = view_1.dims()[0];
    assert!(n >= 2, "negatives need at least 2 images, got {n}");
    let ((u, _), (v, _)) = (unit(view_1), unit(view_2));
    let positive = (u.clone() * v.clone()).sum(); // [1]
    let all = (u.sum_dim(0) * v.sum_dim(0)).sum(); // [1]
    let negative = (all - positive.clone()).div_scalar((n * (n - 1)) as f64);
    let positive = positive.div_scalar(n as f64);
    let alignment = positive.clone().mul_scalar(-2.0).add_scalar(2.0);
    Tensor::cat(vec![alignment, positive, negative], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::draw;
    use burn::tensor::{Device, Int};

    #[test]
    fn agreement_is_that_of_the_pairs() {
        let device = Device::default();
        let (n, d) = (6, 4);
        let (a, b) = (draw(3, n, d, &device), draw(4, n, d, &device));
        let cosines = unit(a.clone()).0.matmul(unit(b.clone()).0.transpose());
        let cosines = cosines.into_data().try_to_vec::<f32>().unwrap();
        let (mut positive, mut negative) = (0.0, 0.0);
        for (i, cosine) in cosines.iter().enumerate() {
            *(if i / n == i % n { &mut positive } else { &mut negative }) += cosine;
        }
        let (positive, negative) = (positive / n as f32, negative / (n * (n - 1)) as f32);
        let expected = [2.0 - 2.0 * positive, positive, negative];
        let found = agreement(a.clone(), b.clone()).into_data().try_to_vec::<f32>().unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        let order = Tensor::<1, Int>::from_data([3, 0, 5, 1, 4, 2], &device);
        let again = agreement(a.select(0, order.clone()), b.select(0, order));
        let again = again.into_data().try_to_vec::<f32>().unwrap();
        assert!(found.iter().zip(again).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
