//! Pre-training methods: one file each, one closed enum, one match. None imports another.

mod ocl;

pub use ocl::Ocl;

use burn::tensor::Tensor;
use ocl_data::{Batch, Keep};
use ocl_model::Vit;
use serde::{Deserialize, Serialize};

/// The loss of a batch, told from its embeddings, and where it wants them.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The loss, `[1]`.
    pub loss: Tensor<1>,
    /// Gradient of the loss at the embeddings, `[N, 2, D]`.
    pub gradient: Tensor<3>,
    /// Alignment, mean positive and mean negative cosine, `[3]`.
    pub agreement: Tensor<1>,
}

/// A method with its constants, as a recipe writes it: `[method] name = "ocl"` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// Occluded image contrastive learning (arXiv 2411.09858).
    Ocl(Ocl),
}

impl Method {
    /// The loss of one batch, as the method defines it, with a graph behind it when the encoder is on an autodiff device.
    ///
    /// # Shapes
    /// Result `[1]`.
    pub fn loss(&self, vit: &Vit, batch: Batch) -> Tensor<1> {
        match self {
            Self::Ocl(ocl) => ocl.loss(vit, batch),
        }
    }

    /// Embeddings of a batch's images, or of some of them; with a graph when the encoder is on an autodiff
    /// device.
    ///
    /// # Shapes
    /// Result `[N, 2, D]`.
    pub fn embed(&self, vit: &Vit, batch: Batch) -> Tensor<3> {
        match self {
            Self::Ocl(_) => Ocl::embed(vit, batch),
        }
    }

    /// The loss of the whole batch and its gradient, from embeddings without a graph. Equal to what
    /// [`Method::loss`] and its backward pass give.
    ///
    /// # Shapes
    /// `embeddings` `[N, 2, D]`.
    pub fn objective(&self, embeddings: Tensor<3>) -> Objective {
        match self {
            Self::Ocl(ocl) => ocl.objective(embeddings),
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
