//! Pre-training methods: a file each, two closed enums, none imports another.
//!
//! A [`Method`] is plain data: the constants that a recipe writes. [`Method::learner`] makes of it
//! the [`Learner`] that a run trains: the encoder, whatever networks the method puts beside it, and
//! how their loss comes about. A step asks a learner two things: [`Learner::embed`], for some images
//! at a time, and [`Learner::objective`], once for the whole batch.

mod figures;
mod ocl;

use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor};
use ocl_data::{Batch, Keep};
use ocl_model::{ConfigError, Precision, Vit, VitConfig, WeightsError};
use serde::{Deserialize, Serialize};

use crate::optim::NamedGradients;

pub use figures::{Figures, PendingFigures};
pub use ocl::{Ocl, OclLearner};

/// A method with its constants, as a recipe writes it: `[method] name = "ocl"` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// Occlusion-based contrastive learning (arXiv 2411.09858).
    Ocl(Ocl),
}

/// The loss of a batch, told from its embeddings, and where it wants them.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The loss, `[1]`.
    pub loss: Tensor<1>,
    /// Gradient of the loss at the embeddings, of their shape.
    pub gradient: Tensor<3>,
    /// Gradients of parameters that the objective itself goes through: heads that see the whole
    /// batch. Empty for methods that have none.
    pub of_heads: NamedGradients,
    /// What tells how the run is doing, besides the loss.
    pub figures: PendingFigures,
}

/// What a run trains: a method's networks with its constants.
#[derive(Clone, Debug)]
pub enum Learner {
    /// An encoder and nothing else.
    Ocl(OclLearner),
}

impl Method {
    /// The networks that the method trains, parameters drawn from `seed`.
    ///
    /// # Errors
    /// When no encoder of this shape can exist.
    pub fn learner(
        &self,
        model: &VitConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Learner, ConfigError> {
        match self {
            Self::Ocl(ocl) => Ok(Learner::Ocl(ocl.learner(Vit::new(model, seed, device)?))),
        }
    }

    /// The networks in what [`Learner::weights`] gave; `path` is what errors name.
    ///
    /// # Errors
    /// When the bytes are damaged, or of other networks.
    pub(crate) fn learner_from(
        &self,
        bytes: &[u8],
        path: &Path,
        device: &Device,
    ) -> Result<Learner, WeightsError> {
        match self {
            Self::Ocl(ocl) => {
                Ok(Learner::Ocl(ocl.learner(ocl_model::weights_from(bytes, path, device)?)))
            }
        }
    }

    /// Which patches of an image the method sees.
    pub fn keep(&self, patches: usize) -> Keep {
        match self {
            Self::Ocl(ocl) => ocl.keep(patches),
        }
    }

    /// Sequences the encoder runs for an image, and the tokens of each, class token included.
    pub fn sequences(&self, patches: usize) -> (usize, usize) {
        match self {
            Self::Ocl(ocl) => ocl.sequences(patches),
        }
    }

    /// Multiply-adds of forward and backward passes for an image.
    pub fn macs_per_image(&self, model: &VitConfig) -> u64 {
        match self {
            Self::Ocl(ocl) => ocl.macs_per_image(model),
        }
    }

    /// Trainable parameters.
    pub fn parameters(&self, model: &VitConfig) -> usize {
        match self {
            Self::Ocl(_) => model.parameters(),
        }
    }

    /// What an encoder that learnt nothing scores: printed beside the loss.
    pub fn chance_loss(&self, batch: usize) -> f64 {
        match self {
            Self::Ocl(_) => ocl_loss::chance_loss(batch),
        }
    }

    /// The method and its constants in a line.
    pub fn describe(&self, patches: usize) -> String {
        match self {
            Self::Ocl(ocl) => ocl.describe(patches),
        }
    }

    /// What is wrong with the constants, as `(key, problem)`.
    pub(crate) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        match self {
            Self::Ocl(ocl) => ocl.problem(patches),
        }
    }
}

impl Learner {
    /// The encoder that is measured, and that a run leaves.
    pub fn encoder(&self) -> &Vit {
        match self {
            Self::Ocl(learner) => &learner.encoder,
        }
    }

    /// The loss of one batch, as the method defines it, with a graph behind it when the networks are
    /// on an autodiff device.
    ///
    /// # Shapes
    /// Result `[1]`.
    pub fn loss(&self, batch: Batch) -> Tensor<1> {
        match self {
            Self::Ocl(learner) => learner.loss(batch),
        }
    }

    /// What the loss is told from, for some images of a batch, `V` rows an image; with a graph when
    /// the networks are on an autodiff device.
    ///
    /// # Shapes
    /// Result `[N, V, D]`.
    pub fn embed(&self, batch: Batch) -> Tensor<3> {
        match self {
            Self::Ocl(learner) => learner.embed(batch),
        }
    }

    /// The loss of the whole batch and its gradient, from embeddings without a graph. Equal to what
    /// [`Learner::loss`] and its backward pass give.
    ///
    /// # Shapes
    /// `embeddings` `[N, V, D]`.
    pub fn objective(&self, embeddings: Tensor<3>) -> Objective {
        match self {
            Self::Ocl(learner) => learner.objective(embeddings),
        }
    }

    /// All networks as the bytes of a safetensors file, the encoder's parameters under timm's names,
    /// with `about` in its metadata.
    pub(crate) fn weights(&self, about: &[(&str, String)]) -> Vec<u8> {
        match self {
            Self::Ocl(learner) => ocl_model::state_bytes(&learner.encoder, about),
        }
    }

    /// Shows every parameter to a visitor, under the names that [`Learner::weights`] uses.
    pub fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Ocl(learner) => learner.encoder.visit(visitor),
        }
    }

    /// The same learner with every parameter changed.
    #[must_use]
    pub fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Ocl(learner) => Self::Ocl(learner.over(|encoder| encoder.map(mapper))),
        }
    }

    /// The same learner, whose passes leave no graph.
    #[must_use]
    pub fn no_grad(self) -> Self {
        match self {
            Self::Ocl(learner) => Self::Ocl(learner.over(Vit::no_grad)),
        }
    }

    /// The same learner with its matrix products in another precision. Parameters stay f32.
    ///
    /// # Panics
    /// If the device has no such numbers.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        match self {
            Self::Ocl(learner) => {
                Self::Ocl(learner.over(|encoder| encoder.with_precision(precision)))
            }
        }
    }
}
