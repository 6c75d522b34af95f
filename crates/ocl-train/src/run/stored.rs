//! A trainer's state as bytes: on its way to the disk, or to another process.

use std::path::Path;

use burn::tensor::Device;
use ocl_model::{state_bytes, weights_from};

use super::checkpoint::{AVERAGE, CheckpointError, OPTIMIZER, WEIGHTS};
use super::{moments, setup};
use crate::config::Plan;
use crate::step::Trainer;
use crate::world::words::{pack, unpack};

/// What a checkpoint holds of a trainer, as bytes.
#[derive(Debug)]
pub(super) struct Stored {
    /// Steps done.
    pub(super) step: u64,
    /// All networks, `weights.safetensors`.
    pub(super) weights: Vec<u8>,
    /// Moments, `optimizer.safetensors`.
    pub(super) optimizer: Vec<u8>,
    /// The average of the weights, if there is one.
    pub(super) average: Option<Vec<u8>>,
}

impl Stored {
    /// The state after `step` steps.
    pub(super) fn of(step: u64, trainer: &Trainer) -> Self {
        let about = [("step", step.to_string())];
        let average = trainer.average().map(|average| state_bytes(average.weights(), &about));
        Self {
            step,
            weights: trainer.learner().weights(&about),
            optimizer: moments::to_bytes(&trainer.optimizer().state()),
            average,
        }
    }

    /// Bits of weights and moments in a number.
    pub(super) fn digest(&self) -> u32 {
        let mut digest = crc32fast::Hasher::new();
        for bytes in [&self.weights, &self.optimizer].into_iter().chain(&self.average) {
            digest.update(bytes);
        }
        digest.finalize()
    }

    /// In one piece, for another process.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let Self { step, weights, optimizer, average } = self;
        let parts = [step.to_le_bytes().to_vec(), weights, optimizer];
        pack(parts.into_iter().chain(average))
    }

    /// What [`Stored::into_bytes`] gave.
    ///
    /// # Panics
    /// If it is something else.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut parts = unpack(bytes).into_iter();
        let mut part = |name: &str| parts.next().unwrap_or_else(|| panic!("no {name}"));
        let step = part("steps").try_into().expect("8 bytes of steps");
        let (weights, optimizer) = (part("weights"), part("optimizer"));
        Self { step: u64::from_le_bytes(step), weights, optimizer, average: parts.next() }
    }

    /// The trainer; `folder` is what errors name.
    ///
    /// # Errors
    /// [`CheckpointError`] saying which part does not serve.
    pub(super) fn trainer(
        &self,
        folder: &Path,
        plan: &Plan,
        device: &Device,
    ) -> Result<Trainer, CheckpointError> {
        let autodiff = device.clone().autodiff();
        let path = folder.join(WEIGHTS);
        let learner = plan.method.learner_from(&self.weights, &path, &autodiff)?;
        let moments = moments::from_bytes(&self.optimizer)
            .map_err(|reason| CheckpointError::Damaged { path: folder.join(OPTIMIZER), reason })?;
        let plain = device.clone().without_autodiff();
        let average = self.average.as_ref();
        let average = average.map(|bytes| weights_from(bytes, &folder.join(AVERAGE), &plain));
        Ok(setup::trainer(plan, learner, moments, average.transpose()?, device))
    }
}
