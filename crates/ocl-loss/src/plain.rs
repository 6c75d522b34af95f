//! The loss by its definition: symmetric InfoNCE over all pairs of the two views of a batch, with a
//! graph behind it. What trains is [`contrastive_gradient`](crate::contrastive_gradient).

use burn::tensor::Tensor;

use crate::similarity::TspSimilarity;

/// The loss of a batch: similarities of all pairs, then symmetric InfoNCE over them.
///
/// # Shapes
/// `view_1`, `view_2`: `[N, D]`, row `i` of both being image `i`. Result `[1]`.
///
/// # Panics
/// If the shapes differ.
pub fn contrastive_loss(
    similarity: &TspSimilarity,
    view_1: Tensor<2>,
    view_2: Tensor<2>,
) -> Tensor<1> {
    assert_eq!(view_1.dims(), view_2.dims(), "the two views of a batch need one shape");
    symmetric_info_nce(similarity.logits(view_1, view_2))
}

/// `(CE over rows + CE over columns) / 2` with the diagonal as target (OCL, section 3.3). The
/// second direction is the transpose of the first: one matrix serves both.
///
/// # Shapes
/// `logits` `[N, N]`; result `[1]`.
///
/// # Panics
/// If the matrix is not square.
fn symmetric_info_nce(logits: Tensor<2>) -> Tensor<1> {
    let [rows, columns] = logits.dims();
    assert_eq!(rows, columns, "the target is the diagonal: expected a square matrix");
    let device = logits.device();
    let positives = logits.clone().mul(Tensor::eye(rows, &device)).sum(); // [1]
    let normalisers = log_sum_exp(logits.clone(), 1) + log_sum_exp(logits, 0); // [1]
    normalisers.mul_scalar(0.5).sub(positives).div_scalar(rows as f64)
}

/// Sum over the other dimension of `ln(sum(exp(x)))` along `dim`, shifted by the maximum so that no
/// temperature overflows.
fn log_sum_exp(x: Tensor<2>, dim: usize) -> Tensor<1> {
    let top = x.clone().detach().max_dim(dim);
    (x.sub(top.clone()).exp().sum_dim(dim).log() + top).sum()
}

/// The loss of an encoder that cannot tell images apart: `ln N`.
pub fn chance_loss(batch: usize) -> f64 {
    (batch as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::draw;
    use burn::tensor::{Device, TensorData};

    const SIMILARITY: TspSimilarity = TspSimilarity { kappa: 1.0 / 64.0, temperature: 0.07 };

    fn loss(a: &Tensor<2>, b: &Tensor<2>) -> f32 {
        contrastive_loss(&SIMILARITY, a.clone(), b.clone()).into_scalar()
    }

    #[test]
    fn it_equals_the_definition_in_f64() {
        let device = Device::default();
        let (n, d) = (7, 5);
        let (a, b) = (draw(1, n, d, &device), draw(2, n, d, &device));
        let host = |t: &Tensor<2>| -> Vec<Vec<f64>> {
            let flat = t.to_data().try_to_vec::<f32>().unwrap();
            let unit = |row: &[f32]| {
                let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                row.iter().map(|&v| f64::from(v) / norm).collect()
            };
            flat.chunks(d).map(unit).collect()
        };
        let (u, v) = (host(&a), host(&b));
        let logit =
            |i: usize, j: usize| SIMILARITY.at(u[i].iter().zip(&v[j]).map(|(x, y)| x * y).sum());
        let mut expected = 0.0;
        for i in 0..n {
            let row: f64 = (0..n).map(|j| logit(i, j).exp()).sum();
            let column: f64 = (0..n).map(|j| logit(j, i).exp()).sum();
            expected += 0.5 * (row.ln() + column.ln()) - logit(i, i);
        }
        assert!((f64::from(loss(&a, &b)) - expected / n as f64).abs() < 1e-5);
    }

    #[test]
    fn views_can_be_swapped_and_images_reordered() {
        let device = Device::default();
        let (a, b) = (draw(3, 9, 6, &device), draw(4, 9, 6, &device));
        assert!((loss(&a, &b) - loss(&b, &a)).abs() < 1e-5);
        let order = Tensor::<1, burn::tensor::Int>::from_data([4, 8, 0, 2, 6, 1, 3, 5, 7], &device);
        let (c, d) = (a.clone().select(0, order.clone()), b.clone().select(0, order));
        assert!((loss(&a, &b) - loss(&c, &d)).abs() < 1e-5);
    }

    #[test]
    fn equal_embeddings_are_at_chance_and_a_low_temperature_does_not_overflow() {
        let device = Device::default();
        let same = Tensor::<2>::ones([16, 4], &device);
        assert!((f64::from(loss(&same, &same)) - chance_loss(16)).abs() < 1e-5);
        let cold = TspSimilarity { kappa: 0.0, temperature: 1e-3 };
        let (a, b) = (draw(5, 8, 4, &device), draw(6, 8, 4, &device));
        assert!(contrastive_loss(&cold, a, b).into_scalar::<f32>().is_finite());
    }

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let device = Device::default().autodiff();
        let plain = device.clone().without_autodiff();
        let (n, d) = (5, 3);
        let base = draw(7, n, d, &plain).into_data().try_to_vec::<f32>().unwrap();
        let b = draw(8, n, d, &plain);
        let warm = TspSimilarity { kappa: 4.0, temperature: 0.5 };
        let at = |values: &[f32]| -> f64 {
            let a = Tensor::from_data(TensorData::new(values.to_vec(), [n, d]), &plain);
            f64::from(contrastive_loss(&warm, a, b.clone()).into_scalar::<f32>())
        };
        let a =
            Tensor::<2>::from_data(TensorData::new(base.clone(), [n, d]), &device).require_grad();
        let tracked = Tensor::from_data(b.to_data(), &device);
        let grads = contrastive_loss(&warm, a.clone(), tracked).backward();
        let grad = a.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap();
        for i in 0..n * d {
            let step = 1e-2;
            let (mut up, mut down) = (base.clone(), base.clone());
            up[i] += step;
            down[i] -= step;
            let slope = (at(&up) - at(&down)) / f64::from(2.0 * step);
            assert!((slope - f64::from(grad[i])).abs() < 2e-3, "{i}: {slope} against {}", grad[i]);
        }
    }
}
