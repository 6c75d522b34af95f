//! The T-distributed spherical similarity.

use burn::tensor::{Device, FloatDType, Tensor};

/// T-distributed spherical similarity (OCL, section 3.3), divided by the temperature:
/// `s = (1 + c) / 2 / (1 + (1 - c) kappa) / temperature`, `c` the cosine.
///
/// `kappa` sharpens it: at 0 it is the cosine moved to `0..1`; the larger, the steeper near `c =
/// 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TspSimilarity {
    /// Concentration, at least 0. The authors use 1/64.
    pub kappa: f64,
    /// Temperature, above 0. The authors use 0.07.
    pub temperature: f64,
}

impl TspSimilarity {
    /// Similarities of all pairs, computed in f32.
    ///
    /// # Shapes
    /// `view_1` `[N, D]` and `view_2` `[M, D]` to logits `[N, M]`; row `i`, column `j` compares
    /// embedding `i` of view 1 with embedding `j` of view 2. A zero embedding gives NaN.
    ///
    /// # Panics
    /// If the widths differ.
    pub fn logits(&self, view_1: Tensor<2>, view_2: Tensor<2>) -> Tensor<2> {
        assert_eq!(view_1.dims()[1], view_2.dims()[1], "both views need embeddings of one width");
        let cosine = product(unit(view_1).0, unit(view_2).0.transpose()); // [N, M]
        self.from_cosine(cosine)
    }

    /// The similarity at given cosines, shape kept.
    pub fn from_cosine<const D: usize>(&self, cosine: Tensor<D>) -> Tensor<D> {
        // 1 + (1 - c) kappa as one multiply and one add: (1 + kappa) - kappa c.
        let spread = cosine.clone().mul_scalar(-self.kappa).add_scalar(1.0 + self.kappa);
        cosine.add_scalar(1.0).div(spread).mul_scalar(0.5 / self.temperature)
    }

    /// The derivative of [`TspSimilarity::from_cosine`] by the cosine, shape kept:
    /// `(1 + 2 kappa) / (2 temperature (1 + kappa - kappa c)^2)`.
    pub(crate) fn slope(&self, cosine: Tensor<2>) -> Tensor<2> {
        let spread = cosine.mul_scalar(-self.kappa).add_scalar(1.0 + self.kappa);
        spread.square().recip().mul_scalar((1.0 + 2.0 * self.kappa) * 0.5 / self.temperature)
    }

    /// The logit at one cosine: the scalar form of [`TspSimilarity::from_cosine`].
    pub fn at(&self, cosine: f64) -> f64 {
        0.5 * (1.0 + cosine) / (1.0 + (1.0 - cosine) * self.kappa) / self.temperature
    }
}

/// Rows of length 1 with the lengths they had, `[N, D]` and `[N, 1]`, in f32 whatever the type of
/// the embeddings.
pub(crate) fn unit(rows: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let rows = rows.cast(FloatDType::F32);
    let length = rows.clone().square().sum_dim(1).sqrt(); // [N, 1]
    (rows.div(length.clone()), length)
}

/// `a b` as near to f32 as the device allows.
///
/// On CUDA burn rounds the factors to TF32's 11 bits, which a low temperature makes visible in the
/// loss. There each factor is taken apart into its bf16 and a rest, and the product is the sum of
/// four: off by some 2^-20, not 2^-11.
///
/// # Shapes
/// `[N, D]` and `[D, M]` to `[N, M]`.
pub(crate) fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    if !rounds_factors(&a.device()) {
        return a.matmul(b);
    }
    let parts = |x: Tensor<2>| {
        let high = x.clone().detach().cast(FloatDType::BF16).cast(FloatDType::F32);
        (high.clone(), x - high)
    };
    let ((a, a_rest), (b, b_rest)) = (parts(a), parts(b));
    let small = a.clone().matmul(b_rest.clone()) + a_rest.clone().matmul(b.clone());
    a.matmul(b) + (small + a_rest.matmul(b_rest))
}

/// Whether a device's f32 products round their factors.
#[cfg(feature = "cuda")]
fn rounds_factors(device: &Device) -> bool {
    use burn::backend::DispatchDevice;
    let device = device.clone().without_autodiff();
    matches!(device.as_dispatch(), DispatchDevice::Cube(device) if device.client().name() == "cuda")
}

/// Of other backends none does.
#[cfg(not(feature = "cuda"))]
fn rounds_factors(_: &Device) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_angles_have_known_similarities() {
        let device = Device::default();
        let a = Tensor::<2>::from_floats([[2.0, 0.0]], &device);
        let b = Tensor::<2>::from_floats([[5.0, 0.0], [0.0, 0.1], [-3.0, 0.0]], &device);
        let similarity = TspSimilarity { kappa: 0.5, temperature: 0.1 };
        let logits = similarity.logits(a, b).into_data().try_to_vec::<f32>().unwrap();
        // c = 1: 1 / 1; c = 0: 0.5 / 1.5; c = -1: 0 / 2; each over the temperature.
        for (logit, expected) in logits.iter().zip([10.0, 10.0 / 3.0, 0.0]) {
            assert!((logit - expected).abs() < 1e-5, "{logit} against {expected}");
        }
        for (logit, cosine) in logits.iter().zip([1.0, 0.0, -1.0]) {
            assert!((f64::from(*logit) - similarity.at(cosine)).abs() < 1e-5);
        }
    }
}
