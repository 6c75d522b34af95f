//! LARS (You, Gitman and Ginsburg, arXiv 1708.03888) in the form MAE's linear probe uses.

use burn::tensor::Tensor;

/// Constants of LARS.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lars {
    /// Momentum of the velocity.
    pub momentum: f64,
    /// Length of a step relative to the length of the parameter.
    pub trust_coefficient: f64,
    /// L2 decay added to the gradient of matrices; vectors have none.
    pub weight_decay: f64,
}

impl Default for Lars {
    /// MAE's linear probe (arXiv 2111.06377, table 10): momentum 0.9, trust 1e-3, no decay.
    fn default() -> Self {
        Self { momentum: 0.9, trust_coefficient: 1e-3, weight_decay: 0.0 }
    }
}

impl Lars {
    /// One step: `v = momentum v + q g`, `w = w - lr v`, with `g` decayed and
    /// `q = trust |w| / |g|` for matrices, `g` as it is and `q = 1` for vectors.
    ///
    /// If `w` or `g` is zero, `q = 1`: a parameter that starts at zero would never leave it.
    ///
    /// # Shapes
    /// All of one shape; the result is the new `(w, v)`.
    pub fn step<const D: usize>(
        &self,
        w: Tensor<D>,
        g: Tensor<D>,
        v: Tensor<D>,
        lr: f64,
    ) -> (Tensor<D>, Tensor<D>) {
        let scaled = if D > 1 {
            let g = if self.weight_decay == 0.0 { g } else { g + w.clone() * self.weight_decay };
            let q = self.trust(w.clone(), g.clone());
            g * q.reshape([1; D])
        } else {
            g
        };
        let v = v * self.momentum + scaled;
        (w - v.clone() * lr, v)
    }

    /// `q` as a tensor `[1]`: reading it here would stall a GPU at every step.
    fn trust<const D: usize>(&self, w: Tensor<D>, g: Tensor<D>) -> Tensor<1> {
        let norm = |x: Tensor<D>| x.square().sum().sqrt();
        let (w, g) = (norm(w), norm(g));
        let either_zero = (w.clone() * g.clone()).equal_scalar(0.0);
        (w * self.trust_coefficient / g).mask_fill(either_zero, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_matrix_moves_by_a_share_of_its_length() {
        let device = Device::default();
        let lars = Lars::default();
        let w = Tensor::<2>::from_data([[3.0, 4.0]], &device);
        let g = Tensor::<2>::from_data([[0.0, 100.0]], &device);
        let (moved, v) = lars.step(w.clone(), g, w.zeros_like(), 10.0);
        let host = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().unwrap();
        // |w| is 5, so the velocity is 5e-3 long whatever the gradient's length.
        let (v, moved) = (host(v), host(moved));
        assert!(v[0] == 0.0 && (v[1] - 5e-3).abs() < 1e-8, "{v:?}");
        assert!(moved[0] == 3.0 && (moved[1] - 3.95).abs() < 1e-6, "{moved:?}");
    }

    #[test]
    fn zeros_are_not_scaled_and_vectors_never() {
        let device = Device::default();
        let lars = Lars { weight_decay: 0.5, ..Lars::default() };
        let zero = Tensor::<2>::zeros([1, 2], &device);
        let g = Tensor::<2>::from_data([[1.0, -2.0]], &device);
        let (w, _) = lars.step(zero.clone(), g, zero, 1.0);
        assert_eq!(w.into_data().try_to_vec::<f32>().unwrap(), [-1.0, 2.0]);
        let b = Tensor::<1>::from_data([8.0], &device);
        let (b, _) = lars.step(b.clone(), b.ones_like(), b.zeros_like(), 1.0);
        assert_eq!(b.into_data().try_to_vec::<f32>().unwrap(), [7.0]);
    }
}
