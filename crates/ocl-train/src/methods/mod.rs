//! Pre-training methods: a file each, two closed enums, none imports another.
//!
//! A [`Method`] is plain data: the constants that a recipe writes. [`Method::learner`] makes of it
//! the [`Learner`] that a run trains: the encoder, whatever networks the method puts beside it, and
//! how their loss comes about. A step asks a learner two things: [`Learner::embed`], for some
//! images at a time, and [`Learner::objective`], once for the whole batch. Before and after it come
//! [`Learner::before_step`] and [`Learner::after_step`], where averaged networks follow.

mod figures;
mod ijepa;
mod learner;
mod mae;
mod moco_v3;
mod ocl;

use std::path::Path;

use burn::tensor::Device;
use ocl_data::{Augment, Filter, Keep};
use ocl_model::{BlockShape, ConfigError, Vit, VitConfig, WeightsError};
use serde::{Deserialize, Serialize};

use crate::optim::{Clock, Rates, WarmupCosine, WeightAverage};

pub use figures::{Figures, PendingFigures};
pub use ijepa::{IJepa, IJepaLearner, IJepaPredictor};
pub(crate) use learner::Own;
pub use learner::{Embedded, Learner, Objective};
pub use mae::{Mae, MaeDecoder, MaeLearner};
pub use moco_v3::{MocoHead, MocoV3, MocoV3Learner, Statistics};
pub use ocl::{Ocl, OclLearner};

/// A method with its constants, as a recipe writes it: `[method] name = "ocl"` and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// Occlusion-based contrastive learning (arXiv 2411.09858).
    Ocl(Ocl),
    /// Masked autoencoders (arXiv 2111.06377).
    Mae(Mae),
    /// A joint-embedding predictive architecture (arXiv 2301.08243).
    IJepa(IJepa),
    /// Momentum contrast for Vision Transformers (arXiv 2104.02057).
    MocoV3(MocoV3),
}

/// Sequences of an image that go through a transformer together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// The shape of its blocks.
    pub shape: BlockShape,
    /// How many blocks.
    pub depth: usize,
    /// Sequences of an image.
    pub sequences: usize,
    /// Tokens of each, class token included.
    pub tokens: usize,
    /// Whether gradients flow back through it, so that values are kept for them.
    pub graph: bool,
    /// Whether the last block makes the class token alone.
    pub class_only: bool,
}

impl Pass {
    /// Multiply-adds for an image, forward and backward; a backward pass is two forward ones.
    fn macs(&self) -> u64 {
        let times = if self.graph { 3 } else { 1 };
        times * (self.sequences * self.depth) as u64 * self.shape.macs(self.tokens)
    }
}

impl Method {
    /// The methods' names, as recipes write them.
    pub const NAMES: [&str; 4] = ["ocl", "mae", "i-jepa", "moco-v3"];

    /// The name, as recipes write it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ocl(_) => Self::NAMES[0],
            Self::Mae(_) => Self::NAMES[1],
            Self::IJepa(_) => Self::NAMES[2],
            Self::MocoV3(_) => Self::NAMES[3],
        }
    }

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
        let encoder = Vit::new(model, seed, device)?;
        Ok(match self {
            Self::Ocl(ocl) => Learner::Ocl(ocl.learner(encoder)),
            Self::Mae(mae) => Learner::Mae(mae.fresh(encoder, seed)),
            Self::IJepa(ijepa) => Learner::IJepa(ijepa.fresh(encoder, seed)),
            Self::MocoV3(moco) => Learner::MocoV3(moco.fresh(encoder, seed)),
        })
    }

    /// The networks around an encoder that has learnt something already; all others are drawn from
    /// `seed`.
    pub fn learner_over(&self, encoder: Vit, seed: u64) -> Learner {
        match self {
            Self::Ocl(ocl) => Learner::Ocl(ocl.learner(encoder)),
            Self::Mae(mae) => Learner::Mae(mae.learner(encoder, seed)),
            Self::IJepa(ijepa) => {
                let encoder = encoder.without_cls_token();
                let target = WeightAverage::new(&encoder, 1.0);
                Learner::IJepa(ijepa.learner(encoder, target, seed))
            }
            Self::MocoV3(moco) => Learner::MocoV3(moco.learner(encoder, seed)),
        }
    }

    /// Whether the method needs an encoder with a class token.
    pub fn needs_cls_token(&self) -> bool {
        match self {
            Self::Ocl(_) | Self::Mae(_) | Self::MocoV3(_) => true,
            Self::IJepa(_) => false,
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
        let (encoder, mut others) = ocl_model::weights_with_others_from(bytes, path, device)?;
        let learner = match self {
            Self::Ocl(ocl) => Learner::Ocl(ocl.learner(encoder)),
            Self::Mae(mae) => Learner::Mae(mae.learner(encoder, 0).with_others(&mut others)?),
            Self::IJepa(ijepa) => {
                let target = WeightAverage::new(&encoder, 1.0);
                Learner::IJepa(ijepa.learner(encoder, target, 0).with_others(&mut others)?)
            }
            Self::MocoV3(moco) => {
                Learner::MocoV3(moco.learner(encoder, 0).with_others(&mut others)?)
            }
        };
        if others.is_empty() {
            return Ok(learner);
        }
        let unexpected = others.into_keys().collect();
        Err(WeightsError::Mismatch { missing: vec![], unexpected, shapes: vec![] })
    }

    /// Which patches of an image the method sees.
    pub fn keep(&self, patches: usize) -> Keep {
        match self {
            Self::Ocl(ocl) => ocl.keep(patches),
            Self::Mae(mae) => mae.keep(patches),
            Self::IJepa(ijepa) => ijepa.keep(),
            Self::MocoV3(moco) => moco.keep(),
        }
    }

    /// What resizing a crop weighs pixels with.
    pub fn filter(&self) -> Filter {
        match self {
            Self::Ocl(_) | Self::Mae(_) => Filter::Bicubic,
            Self::IJepa(_) | Self::MocoV3(_) => Filter::Bilinear,
        }
    }

    /// What is done to the colours of a crop.
    pub fn augment(&self) -> Augment {
        match self {
            Self::Ocl(_) | Self::Mae(_) | Self::IJepa(_) => Augment::None,
            Self::MocoV3(_) => Augment::MocoV3,
        }
    }

    /// What of transformers an image goes through in a step.
    pub fn passes(&self, model: &VitConfig) -> Vec<Pass> {
        match self {
            Self::Ocl(ocl) => ocl.passes(model),
            Self::Mae(mae) => mae.passes(model),
            Self::IJepa(ijepa) => ijepa.passes(model),
            Self::MocoV3(moco) => moco.passes(model),
        }
    }

    /// Tokens of an image that gradients flow through, of all sequences together.
    pub fn rows_per_image(&self, model: &VitConfig) -> usize {
        let passes = self.passes(model);
        passes.iter().filter(|pass| pass.graph).map(|pass| pass.sequences * pass.tokens).sum()
    }

    /// Multiply-adds of forward and backward passes for an image.
    pub fn macs_per_image(&self, model: &VitConfig) -> u64 {
        match self {
            Self::Ocl(ocl) => ocl.macs_per_image(model),
            Self::Mae(mae) => mae.macs_per_image(model),
            Self::IJepa(ijepa) => ijepa.macs_per_image(model),
            Self::MocoV3(moco) => moco.macs_per_image(model),
        }
    }

    /// Values that the objective has in memory at once, for a batch of so many images.
    pub(crate) fn objective_values(&self, model: &VitConfig, batch: usize) -> usize {
        match self {
            Self::Ocl(ocl) => ocl.objective_values(model, batch),
            // A loss for each image, and what the run is watched by.
            Self::Mae(_) | Self::IJepa(_) => 8 * batch * model.width,
            Self::MocoV3(moco) => moco.objective_values(model, batch),
        }
    }

    /// Parameters that follow others as an average, and have neither gradients nor moments.
    pub(crate) fn averaged_parameters(&self, model: &VitConfig) -> usize {
        match self {
            Self::Ocl(_) | Self::Mae(_) => 0,
            Self::IJepa(_) => model.parameters(),
            Self::MocoV3(moco) => model.parameters() + moco.head_weights(model),
        }
    }

    /// Whether the loss is a mean over images that know nothing of each other.
    pub fn is_separable(&self) -> bool {
        match self {
            Self::Ocl(_) | Self::MocoV3(_) => false,
            Self::Mae(_) | Self::IJepa(_) => true,
        }
    }

    /// Trainable parameters.
    pub fn parameters(&self, model: &VitConfig) -> usize {
        match self {
            Self::Ocl(_) => model.parameters(),
            Self::Mae(mae) => mae.parameters(model),
            Self::IJepa(ijepa) => ijepa.parameters(model),
            Self::MocoV3(moco) => moco.parameters(model),
        }
    }

    /// The numbers of a step, from the recipe's schedule of the learning rate and its weight decay.
    pub fn rates(&self, schedule: &WarmupCosine, weight_decay: f64, clock: Clock) -> Rates {
        match self {
            Self::Ocl(_) | Self::Mae(_) => schedule.at(clock.epoch()).into(),
            Self::IJepa(ijepa) => ijepa.rates(schedule, weight_decay, clock),
            Self::MocoV3(moco) => moco.rates(schedule, clock),
        }
    }

    /// Whether biases, norms and tokens decay as matrices do.
    pub fn decays_all(&self) -> bool {
        match self {
            Self::Ocl(_) | Self::Mae(_) | Self::IJepa(_) => false,
            Self::MocoV3(_) => true,
        }
    }

    /// The loss of networks that learnt nothing, where it can be told: printed beside the loss.
    pub fn chance_loss(&self, batch: usize) -> Option<f64> {
        match self {
            Self::Ocl(ocl) => Some(ocl_loss::chance_loss(ocl.contrasted(batch))),
            // Normalised pixels have a variance of 1 in each patch.
            Self::Mae(mae) => mae.norm_pix.then_some(1.0),
            Self::IJepa(_) => None,
            // Two directions, each `2 tau ln N`.
            Self::MocoV3(moco) => Some(4.0 * moco.temperature * (batch as f64).ln()),
        }
    }

    /// The method and its constants in a line.
    pub fn describe(&self, patches: usize) -> String {
        match self {
            Self::Ocl(ocl) => ocl.describe(patches),
            Self::Mae(mae) => mae.describe(patches),
            Self::IJepa(ijepa) => ijepa.describe(patches),
            Self::MocoV3(moco) => moco.describe(),
        }
    }

    /// The fewest images that a batch may have: what is contrasted needs another to differ from,
    /// and so does batch norm.
    pub fn least_images(&self) -> usize {
        match self {
            Self::Ocl(_) | Self::MocoV3(_) => 2,
            Self::Mae(_) | Self::IJepa(_) => 1,
        }
    }

    /// What is wrong with the constants, as `(key, problem)`.
    pub fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        match self {
            Self::Ocl(ocl) => ocl.problem(patches),
            Self::Mae(mae) => mae.problem(patches),
            Self::IJepa(ijepa) => ijepa.problem(patches),
            Self::MocoV3(moco) => moco.problem(),
        }
    }

    /// What is wrong with a batch of so many images, as `(key, problem)`.
    pub fn batch_problem(&self, batch: usize) -> Option<(&'static str, String)> {
        match self {
            Self::Ocl(ocl) => ocl.batch_problem(batch),
            Self::Mae(_) | Self::IJepa(_) | Self::MocoV3(_) => None,
        }
    }
}

/// What is wrong with a mask ratio, whatever the number of patches.
fn share_masked(mask_ratio: f64) -> Option<String> {
    let fine = (0.0..1.0).contains(&mask_ratio);
    (!fine).then(|| {
        format!(
            "{mask_ratio} is not a share of at least 0 and below 1: that of the patches that are not \
             seen"
        )
    })
}
