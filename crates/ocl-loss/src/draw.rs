//! What the tests of this crate share.

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Embeddings `[N, D]`, each value from -0.5 to 0.5.
pub(crate) fn draw(seed: u64, n: usize, d: usize, device: &Device) -> Tensor<2> {
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..n * d).map(|_| stream.random::<f32>() - 0.5).collect();
    Tensor::from_data(TensorData::new(values, [n, d]), device)
}

/// Norm of the difference over the norm.
pub(crate) fn error(a: &Tensor<2>, b: &Tensor<2>) -> f32 {
    let norm = |t: Tensor<2>| t.square().sum().sqrt().into_scalar::<f32>();
    norm(a.clone() - b.clone()) / norm(b.clone())
}
