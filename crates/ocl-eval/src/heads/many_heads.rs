//! Many linear heads on the same features, trained in the same steps.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use ocl_data::{Draws, Purpose};
use ocl_train::WarmupCosine;

use super::metrics::Tally;
use crate::error::EvalError;
use crate::features::Features;
use crate::progress::Progress;
use crate::text::counted;

/// How heads are trained: by SGD with Nesterov momentum and rates that fall to zero by half a
/// cosine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Training {
    pub(crate) epochs: usize,
    /// Features a step.
    pub(crate) batch: usize,
    pub(crate) momentum: f64,
}

/// `H` linear heads as one.
#[derive(Debug)]
pub(crate) struct Heads {
    /// `[F, H*C]`.
    weight: Tensor<2>,
    /// `[1, H*C]`.
    bias: Tensor<2>,
    weight_velocity: Tensor<2>,
    bias_velocity: Tensor<2>,
    /// `[1, H*C]`: each column's rate at the peak, and its decay.
    lr: Tensor<2>,
    decay: Tensor<2>,
    classes: usize,
    heads: usize,
    least_lr: f64,
    device: Device,
}

impl Heads {
    /// Heads at zero, where each class is as likely; a convex problem needs no random start.
    pub(crate) fn new(
        features: usize,
        classes: usize,
        grid: &[(f64, f64)],
        device: &Device,
    ) -> Self {
        let columns = grid.len() * classes;
        let spread = |value: fn(&(f64, f64)) -> f64| {
            let values: Vec<f32> =
                grid.iter().flat_map(|pair| vec![value(pair) as f32; classes]).collect();
            Tensor::<2>::from_data(TensorData::new(values, [1, columns]), device)
        };
        Self {
            weight: Tensor::zeros([features, columns], device),
            bias: Tensor::zeros([1, columns], device),
            weight_velocity: Tensor::zeros([features, columns], device),
            bias_velocity: Tensor::zeros([1, columns], device),
            lr: spread(|pair| pair.0),
            decay: spread(|pair| pair.1),
            classes,
            heads: grid.len(),
            least_lr: grid.iter().map(|pair| pair.0).fold(f64::INFINITY, f64::min),
            device: device.clone(),
        }
    }

    /// `[N, F]` to `[N, H*C]`.
    fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }

    pub(crate) fn train(
        &mut self,
        features: &Features,
        rows: &[u32],
        training: &Training,
        seed: u64,
        progress: &mut Progress,
    ) -> Result<(), EvalError> {
        let &Training { epochs, batch, momentum } = training;
        let steps = rows.len() / batch;
        let shape =
            WarmupCosine { lr: 1.0, min_lr: 0.0, warmup_epochs: 0.0, epochs: epochs as f64 };
        let mut order = rows.to_vec();
        for epoch in 0..epochs {
            let count = order.len();
            Draws::new(seed, epoch as u64, 0, Purpose::ProbeOrder).shuffle_front(&mut order, count);
            for (step, rows) in order.chunks_exact(batch).enumerate() {
                let (x, y) = features.gather(rows, &self.device);
                let share = shape.at(epoch as f64 + step as f64 / steps as f64);
                self.step(x, y, share, momentum);
            }
            progress.line(|| {
                let heads = counted(self.heads, "head", "heads");
                format!("linear probe: {heads}, epoch {} / {epochs}", epoch + 1)
            });
        }
        let finite = host(self.weight.clone())?.iter().any(|value| value.is_finite());
        if finite {
            Ok(())
        } else {
            Err(EvalError::Diverged { epoch: epochs - 1, lr: self.least_lr })
        }
    }

    /// One step of every head: with `p` the softmax, `G = (p - onehot) / N`; `g = x^T G + decay W`;
    /// `v = momentum v + g`; `W = W - lr (g + momentum v)`.
    fn step(&mut self, x: Tensor<2>, labels: Tensor<1, Int>, share: f64, momentum: f64) {
        let n = x.dims()[0];
        let logits = self.logits(x.clone()).reshape([n, self.heads, self.classes]); // [N, H, C]
        // e^-60 is zero beside one, and smaller numbers become subnormal, which CPUs are slow at.
        let p = log_softmax(logits, 2).clamp_min(-60.0).exp();
        let range = Tensor::<1, Int>::arange(0..self.classes as i64, &self.device);
        let wanted = labels.reshape([n, 1, 1]).expand([n, 1, self.classes]);
        let target = range.reshape([1, 1, self.classes]).expand([n, 1, self.classes]).equal(wanted);
        let gradient = (p - target.float()) / n as f64; // [N, H, C]
        let gradient = gradient.reshape([n, self.heads * self.classes]); // [N, H*C]
        let rate = self.lr.clone() * share;
        let g = x.transpose().matmul(gradient.clone()) + self.weight.clone() * self.decay.clone();
        self.weight_velocity = self.weight_velocity.clone() * momentum + g.clone();
        self.weight =
            self.weight.clone() - (g + self.weight_velocity.clone() * momentum) * rate.clone();
        let g = gradient.sum_dim(0); // [1, H*C]
        self.bias_velocity = self.bias_velocity.clone() * momentum + g.clone();
        self.bias = self.bias.clone() - (g + self.bias_velocity.clone() * momentum) * rate;
    }

    /// `[N, H*C]` of all features.
    pub(crate) fn all_logits(&self, features: &Features) -> Result<Vec<f32>, EvalError> {
        let mut logits = Vec::with_capacity(features.len() * self.heads * self.classes);
        for start in (0..features.len()).step_by(4096) {
            let block = features.block(start..features.len().min(start + 4096), &self.device);
            logits.extend(host(self.logits(block))?);
        }
        Ok(logits)
    }

    /// Hits of each head.
    pub(crate) fn tallies(
        &self,
        features: &Features,
        rows: &[u32],
    ) -> Result<Vec<Tally>, EvalError> {
        let mut tallies = vec![Tally::default(); self.heads];
        for rows in rows.chunks(4096) {
            let (x, _) = features.gather(rows, &self.device);
            let logits = host(self.logits(x))?;
            for (row, scores) in rows.iter().zip(logits.chunks_exact(self.heads * self.classes)) {
                let label = &features.labels()[*row as usize..][..1];
                for (tally, scores) in tallies.iter_mut().zip(scores.chunks_exact(self.classes)) {
                    tally.add_scores(scores, label);
                }
            }
        }
        Ok(tallies)
    }
}

fn host(tensor: Tensor<2>) -> Result<Vec<f32>, EvalError> {
    tensor.try_into_vec_as::<f32>().map_err(EvalError::Device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_do_not_see_each_other() {
        let values = (0..96 * 4).map(|i| ((i * 37 % 101) as f32 * 0.7).sin()).collect();
        let features = Features::new(values, 4, (0..96).map(|i| i % 3).collect());
        let rows: Vec<u32> = (0..96).collect();
        let weights = |grid: &[(f64, f64)]| {
            let mut heads = Heads::new(4, 3, grid, &Device::default());
            let training = Training { epochs: 20, batch: 16, momentum: 0.9 };
            heads.train(&features, &rows, &training, 0, &mut Progress::silent()).unwrap();
            host(heads.weight).unwrap()
        };
        let (pair, alone) = (weights(&[(0.5, 0.0), (0.02, 1e-3)]), weights(&[(0.02, 1e-3)]));
        let second = pair.chunks_exact(6).flat_map(|row| &row[3..]);
        assert!(second.zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5), "{pair:?} {alone:?}");
        let first = pair.chunks_exact(6).flat_map(|row| &row[..3]);
        assert!(first.zip(&alone).any(|(a, b)| (a - b).abs() > 1e-2), "{pair:?} {alone:?}");
    }
}
