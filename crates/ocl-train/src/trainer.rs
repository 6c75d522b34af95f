//! One training step: a batch in, a loss out, the encoder moved.

use burn::tensor::{Device, Tensor};
use ocl_data::Batch;
use ocl_model::{ConfigError, Vit};

use crate::adamw::{AdamW, AdamWConfig};
use crate::methods::Method;

/// Encoder, method and optimiser of a run.
#[derive(Debug)]
pub struct Trainer {
    vit: Vit,
    method: Method,
    optimizer: AdamW,
}

impl Trainer {
    /// A fresh trainer, parameters drawn from `seed`.
    ///
    /// # Errors
    /// When no encoder of this shape can exist.
    pub fn new(
        model: &ocl_model::VitConfig,
        method: &Method,
        adamw: AdamWConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let vit = Vit::new(model, seed, &device.clone().autodiff())?;
        Ok(Self::with(vit, method, AdamW::new(adamw)))
    }

    /// Continues with a given encoder (on an autodiff device) and optimiser.
    pub fn with(vit: Vit, method: &Method, optimizer: AdamW) -> Self {
        Self { vit, method: method.clone(), optimizer }
    }

    /// Forward, backward, update. The loss of the batch before the update is returned as a tensor `[1]`:
    /// reading it waits for the device, so that the caller may start the next step first.
    ///
    /// The trainer is taken and given back, so that parameters have one owner and are updated in place.
    pub fn step(self, batch: Batch, lr: f64) -> (Self, Tensor<1>) {
        let Self { vit, method, mut optimizer } = self;
        let loss = method.loss(&vit, batch);
        let gradients = loss.backward();
        let vit = optimizer.step(vit, gradients, lr);
        (Self { vit, method, optimizer }, loss.inner())
    }

    /// The encoder.
    pub fn vit(&self) -> &Vit {
        &self.vit
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }
}
