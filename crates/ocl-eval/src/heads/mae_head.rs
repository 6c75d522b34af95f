//! MAE's linear probe head: batch normalisation without scale and shift, then a linear layer.
//!
//! One layer has a short closed-form gradient, so the head needs no autodiff and runs on the plain
//! device beside the frozen encoder's features.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::lars::Lars;

/// Constants of the head's batch normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the batch in the running statistics.
    pub momentum: f64,
}

impl Default for BatchNorm {
    /// MAE's: eps 1e-6, momentum 0.1.
    fn default() -> Self {
        Self { eps: 1e-6, momentum: 0.1 }
    }
}

/// `logits = batch_norm(x) W + b` with the state of its training.
#[derive(Clone, Debug)]
pub struct Head {
    /// `[F, C]`.
    pub weight: Tensor<2>,
    /// `[C]`.
    pub bias: Tensor<1>,
    /// `[F]`: running mean of the features.
    pub running_mean: Tensor<1>,
    /// `[F]`: running variance (unbiased, as PyTorch keeps it).
    pub running_var: Tensor<1>,
    weight_velocity: Tensor<2>,
    bias_velocity: Tensor<1>,
    norm: BatchNorm,
}

impl Head {
    /// A head for `features` inputs and `classes` outputs: weights `Normal(0, 0.01)` that follow
    /// from `seed` alone, bias zero.
    pub fn new(
        features: usize,
        classes: usize,
        norm: BatchNorm,
        seed: u64,
        device: &Device,
    ) -> Self {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..features * classes).map(|_| {
            // Box-Muller; 1 - u lies in (0, 1], so that the logarithm is finite.
            let (u, v) = (1.0 - stream.random::<f64>(), stream.random::<f64>());
            (0.01 * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        });
        let weight = TensorData::new(values.collect::<Vec<_>>(), [features, classes]);
        Self::from_parameters(
            Tensor::from_data(weight, device),
            Tensor::zeros([classes], device),
            norm,
        )
    }

    /// A head with given parameters `[F, C]` and `[C]`, and untouched running statistics.
    pub fn from_parameters(weight: Tensor<2>, bias: Tensor<1>, norm: BatchNorm) -> Self {
        let ([features, _], device) = (weight.dims(), weight.device());
        Self {
            running_mean: Tensor::zeros([features], &device),
            running_var: Tensor::ones([features], &device),
            weight_velocity: weight.zeros_like(),
            bias_velocity: bias.zeros_like(),
            weight,
            bias,
            norm,
        }
    }

    /// Logits with the running statistics.
    ///
    /// # Shapes
    /// `[N, F]` to `[N, C]`.
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        let deviation = (self.running_var.clone() + self.norm.eps).sqrt();
        let x = (features - self.running_mean.clone().unsqueeze()) / deviation.unsqueeze();
        x.matmul(self.weight.clone()) + self.bias.clone().unsqueeze() // [N, C]
    }

    /// One step on one batch; returns the batch's mean cross entropy before the step, `[1]`.
    ///
    /// With `x` the normalised features and `p` the softmax, the gradient of the mean cross entropy
    /// is `G = (p - onehot) / N` for the logits, `x^T G` for the weight and the column sums of `G`
    /// for the bias. The normalisation has no parameter and nothing lies before it.
    ///
    /// # Shapes
    /// `features` `[N, F]`, `labels` `[N]` in `0..C`.
    ///
    /// # Panics
    /// With fewer than two samples: a batch of one has no variance.
    pub fn train_step(
        &mut self,
        features: Tensor<2>,
        labels: Tensor<1, Int>,
        lr: f64,
        lars: &Lars,
    ) -> Tensor<1> {
        let [n, _] = features.dims();
        assert!(n > 1, "batch normalisation needs at least 2 samples a batch, got {n}");
        let mean = features.clone().mean_dim(0); // [1, F]
        let centred = features - mean.clone();
        let var = centred.clone().square().mean_dim(0); // [1, F]
        let x = centred / (var.clone() + self.norm.eps).sqrt();
        self.track(mean.squeeze_dim(0), var.squeeze_dim(0), n);

        let logits = x.clone().matmul(self.weight.clone()) + self.bias.clone().unsqueeze(); // [N, C]
        let log_p = log_softmax(logits, 1);
        let target = one_hot(labels, log_p.dims()); // [N, C]
        let loss = (log_p.clone() * target.clone()).sum() / -(n as f64);
        // e^-60 is zero beside one, and smaller numbers become subnormal, which CPUs are slow at.
        let p = log_p.clamp_min(-60.0).exp();
        let gradient = (p - target) / n as f64; // [N, C]

        let (weight, weight_velocity) = lars.step(
            self.weight.clone(),
            x.transpose().matmul(gradient.clone()), // [F, C]
            self.weight_velocity.clone(),
            lr,
        );
        let (bias, bias_velocity) = lars.step(
            self.bias.clone(),
            gradient.sum_dim(0).squeeze_dim(0), // [C]
            self.bias_velocity.clone(),
            lr,
        );
        (self.weight, self.weight_velocity) = (weight, weight_velocity);
        (self.bias, self.bias_velocity) = (bias, bias_velocity);
        loss
    }

    /// Moves the running statistics towards the batch's; the variance unbiased, as PyTorch does.
    fn track(&mut self, mean: Tensor<1>, var: Tensor<1>, n: usize) {
        let share = self.norm.momentum;
        let unbiased = var * (n as f64 / (n as f64 - 1.0));
        self.running_mean = self.running_mean.clone() * (1.0 - share) + mean * share;
        self.running_var = self.running_var.clone() * (1.0 - share) + unbiased * share;
    }
}

/// `[N]` labels to `[N, C]` zeros and ones, made where the labels lie.
fn one_hot(labels: Tensor<1, Int>, [n, classes]: [usize; 2]) -> Tensor<2> {
    let range = Tensor::<1, Int>::arange(0..classes as i64, &labels.device());
    let wanted = labels.unsqueeze_dim::<2>(1).expand([n, classes]);
    range.unsqueeze::<2>().expand([n, classes]).equal(wanted).float()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let values: Vec<f32> = (0..6 * 3).map(|i| (i as f32 * 1.7).sin()).collect();
        let x = Tensor::from_data(TensorData::new(values, [6, 3]), device);
        (x, Tensor::from_data([0, 1, 3, 2, 1, 0], device))
    }

    fn loss(head: &Head, device: &Device) -> f64 {
        let (x, y) = batch(device);
        head.clone().train_step(x, y, 0.0, &Lars::default()).into_scalar::<f32>().into()
    }

    #[test]
    fn the_gradient_is_the_finite_difference() {
        let device = Device::default();
        let head = Head::new(3, 4, BatchNorm::default(), 1, &device);
        // Vectors are not scaled, so a bias step of rate 1 without momentum is the gradient itself.
        let mut moved = head.clone();
        let (x, y) = batch(&device);
        moved.train_step(x, y, 1.0, &Lars::default());
        let gradient: Vec<f32> = (head.bias.clone() - moved.bias).into_data().try_to_vec().unwrap();
        for (class, expected) in gradient.into_iter().enumerate() {
            let mut nudge = vec![0.0f32; 4];
            nudge[class] = 1e-2;
            let nudge = Tensor::<1>::from_data(TensorData::new(nudge, [4]), &device);
            let at = |bias: Tensor<1>| loss(&Head { bias, ..head.clone() }, &device);
            let slope = at(head.bias.clone() + nudge.clone()) - at(head.bias.clone() - nudge);
            assert!((slope / 2e-2 - f64::from(expected)).abs() < 1e-3, "{slope} {expected}");
        }
    }

    #[test]
    fn an_untrained_head_is_at_chance() {
        let device = Device::default();
        let head = Head::new(3, 4, BatchNorm::default(), 1, &device);
        assert!((loss(&head, &device) - 4f64.ln()).abs() < 0.05);
    }

    #[test]
    #[should_panic(expected = "at least 2 samples")]
    fn one_sample_has_no_variance() {
        let device = Device::default();
        let mut head = Head::new(1, 2, BatchNorm::default(), 1, &device);
        let x = Tensor::<2>::zeros([1, 1], &device);
        head.train_step(x, Tensor::from_data([0], &device), 1.0, &Lars::default());
    }
}
