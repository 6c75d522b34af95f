//! Pre-training methods: one file each, one closed enum, one match. None imports another.

mod ocl;

pub use ocl::Ocl;

use burn::tensor::Tensor;
use ocl_data::{Batch, Keep};
use ocl_model::Vit;
use serde::{Deserialize, Serialize};

/// A method with its constants, as a recipe writes it: `[method] name = "ocl"` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// Occluded image contrastive learning (arXiv 2411.09858).
    Ocl(Ocl),
}

impl Method {
    /// The loss of one batch, with a graph behind it when the encoder is on an autodiff device.
    ///
    /// # Shapes
    /// Result `[1]`.
    pub fn loss(&self, vit: &Vit, batch: Batch) -> Tensor<1> {
        match self {
            Self::Ocl(ocl) => ocl.loss(vit, batch),
        }
    }

    /// Which patches of an image the method sees.
    pub fn keep(&self) -> Keep {
        match self {
            Self::Ocl(ocl) => ocl.keep(),
        }
    }

    /// Sequences the encoder runs for an image, and the tokens of each, class token included.
    pub fn sequences(&self, patches: usize) -> (usize, usize) {
        match self {
            Self::Ocl(ocl) => ocl.sequences(patches),
        }
    }

    /// What an encoder that learnt nothing scores: printed beside the loss.
    pub fn chance_loss(&self, batch: usize) -> f64 {
        match self {
            Self::Ocl(_) => ocl_loss::chance_loss(batch),
        }
    }

    /// What is wrong with the constants, as `(key, problem)`.
    pub(crate) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        match self {
            Self::Ocl(ocl) => ocl.problem(patches),
        }
    }
}
