//! Pre-training methods: a file each, two closed enums, none imports another.
//!
//! A [`Method`] is plain data: the constants that a recipe writes. [`Method::learner`] makes of it
//! the [`Learner`] that a run trains: the encoder, whatever networks the method puts beside it, and
//! how their loss comes about. A step asks a learner two things: [`Learner::embed`], for some
//! images at a time, and [`Learner::objective`], once for the whole batch. Before and after it come
//! [`Learner::before_step`] and [`Learner::after_step`], where averaged networks follow.

mod figures;
mod ijepa;
mod mae;
mod moco_v3;
mod ocl;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ocl_data::{Augment, Batch, Filter, Keep};
use ocl_model::{
    BlockShape, ConfigError, NamedMapper, NamedVisitor, Precision, Vit, VitConfig, WeightsError,
    map_named, visit_named,
};
use serde::{Deserialize, Serialize};

use crate::optim::{Clock, NamedGradients, Rates, WarmupCosine, WeightAverage};

pub use figures::{Figures, PendingFigures};
pub use ijepa::{IJepa, IJepaLearner, IJepaPredictor};
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
}

impl Pass {
    /// Multiply-adds for an image, forward and backward; a backward pass is two forward ones.
    fn macs(&self) -> u64 {
        let times = if self.graph { 3 } else { 1 };
        times * (self.sequences * self.depth) as u64 * self.shape.macs(self.tokens)
    }
}

/// What a learner makes of some images.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// What the loss is told from, `[N, V, D]`, with a graph when the networks are on an autodiff
    /// device. For a [separable](Learner::is_separable) loss it is the loss of each image, `[N, 1,
    /// 1]`.
    pub rows: Tensor<3>,
    /// What the objective needs besides, `[N, W, E]`, without a graph: features of an averaged
    /// network, or what the run is watched by.
    pub beside: Option<Tensor<3>>,
}

/// The loss of a batch, told from its embeddings, and where it wants them.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The loss, `[1]`.
    pub loss: Tensor<1>,
    /// Gradient of the loss at the rows, of their shape.
    pub gradient: Tensor<3>,
    /// Gradients of parameters that the objective itself goes through: heads that see the whole
    /// batch. Empty for methods that have none.
    pub of_heads: NamedGradients,
    /// What tells how the run is doing, besides the loss.
    pub figures: PendingFigures,
    /// What effective rank and uniformity are told from, `[N, V, D]`: a row or more for each image.
    pub watched: Tensor<3>,
}

/// What a run trains: a method's networks with its constants.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a run has one")]
pub enum Learner {
    /// An encoder and nothing else.
    Ocl(OclLearner),
    /// An encoder and a decoder.
    Mae(MaeLearner),
    /// An encoder, a predictor and the encoder's average.
    IJepa(IJepaLearner),
    /// An encoder, two heads and averages of encoder and head.
    MocoV3(MocoV3Learner),
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

    /// The keys of its constants, as recipes write them.
    pub(crate) fn keys(&self) -> Vec<String> {
        let table = toml::Table::try_from(self).expect("a method is plain data");
        table.into_iter().map(|(key, _)| key).collect()
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
            Self::IJepa(_) | Self::MocoV3(_) => self.passes(model).iter().map(Pass::macs).sum(),
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
            Self::Ocl(_) => Some(ocl_loss::chance_loss(batch)),
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

    /// What is wrong with the constants, as `(key, problem)`.
    pub(crate) fn problem(&self, patches: usize) -> Option<(&'static str, String)> {
        match self {
            Self::Ocl(ocl) => ocl.problem(patches),
            Self::Mae(mae) => mae.problem(patches),
            Self::IJepa(ijepa) => ijepa.problem(patches),
            Self::MocoV3(moco) => moco.problem(),
        }
    }
}

impl Learner {
    /// The encoder that is measured, and that a run leaves.
    pub fn encoder(&self) -> &Vit {
        match self {
            Self::Ocl(learner) => &learner.encoder,
            Self::Mae(learner) => &learner.encoder,
            Self::IJepa(learner) => learner.target.weights(),
            Self::MocoV3(learner) => &learner.encoder,
        }
    }

    /// The loss of one batch, as the method defines it, with a graph behind it when the networks
    /// are on an autodiff device.
    ///
    /// # Shapes
    /// Result `[1]`.
    pub fn loss(&self, batch: Batch) -> Tensor<1> {
        match self {
            Self::Ocl(learner) => learner.loss(batch),
            Self::Mae(learner) => learner.loss(batch),
            Self::IJepa(learner) => learner.loss(batch),
            Self::MocoV3(learner) => learner.loss(batch),
        }
    }

    /// Whether the loss is a mean over images that know nothing of each other. Then a batch is
    /// embedded once, in whatever parts, and the rows are the images' losses.
    pub fn is_separable(&self) -> bool {
        match self {
            Self::Ocl(_) | Self::MocoV3(_) => false,
            Self::Mae(_) | Self::IJepa(_) => true,
        }
    }

    /// What the loss is told from, for some images of a batch, `V` rows an image.
    pub fn embed(&self, batch: Batch) -> Embedded {
        match self {
            Self::Ocl(learner) => Embedded { rows: learner.embed(batch), beside: None },
            Self::Mae(learner) => learner.embed(batch),
            Self::IJepa(learner) => learner.embed(batch),
            Self::MocoV3(learner) => learner.embed(batch),
        }
    }

    /// The rows of [`Learner::embed`] alone, for images that were embedded before.
    ///
    /// # Shapes
    /// Result `[N, V, D]`.
    pub fn embed_again(&self, batch: Batch) -> Tensor<3> {
        match self {
            Self::Ocl(learner) => learner.embed(batch),
            Self::Mae(learner) => learner.embed(batch).rows,
            Self::IJepa(learner) => learner.embed(batch).rows,
            Self::MocoV3(learner) => learner.embed_again(batch),
        }
    }

    /// The loss of the whole batch and its gradient, from what [`Learner::embed`] gave for all
    /// images, without a graph. Equal to what [`Learner::loss`] and its backward pass give.
    pub fn objective(&mut self, embedded: Embedded) -> Objective {
        match self {
            Self::Ocl(learner) => learner.objective(embedded.rows),
            Self::Mae(learner) => learner.objective(embedded),
            Self::IJepa(learner) => learner.objective(embedded),
            Self::MocoV3(learner) => learner.objective(embedded),
        }
    }

    /// What happens before a batch is embedded: MoCo v3's averaged networks follow the trained
    /// ones.
    #[must_use]
    pub fn before_step(self, rates: &Rates) -> Self {
        match self {
            Self::Ocl(_) | Self::Mae(_) | Self::IJepa(_) => self,
            Self::MocoV3(learner) => Self::MocoV3(learner.follow(rates)),
        }
    }

    /// What happens when the parameters have moved: I-JEPA's averaged network follows them.
    #[must_use]
    pub fn after_step(self, rates: &Rates) -> Self {
        match self {
            Self::Ocl(_) | Self::Mae(_) | Self::MocoV3(_) => self,
            Self::IJepa(learner) => Self::IJepa(learner.follow(rates)),
        }
    }

    /// All networks as the bytes of a safetensors file, the encoder's parameters under timm's
    /// names, with `about` in its metadata.
    pub(crate) fn weights(&self, about: &[(&str, String)]) -> Vec<u8> {
        let others = match self {
            Self::Ocl(_) => BTreeMap::new(),
            Self::Mae(learner) => learner.others(),
            Self::IJepa(learner) => learner.others(),
            Self::MocoV3(learner) => learner.others(),
        };
        ocl_model::state_bytes_with(self.encoder(), others, about)
    }

    /// Shows every parameter that learns to a visitor, under the names that checkpoints use.
    pub fn visit(&self, visitor: &mut impl NamedVisitor) {
        match self {
            Self::Ocl(learner) => visit_named(&learner.encoder, "", visitor),
            Self::Mae(learner) => {
                visit_named(&learner.encoder, "", visitor);
                visit_named(&learner.decoder, "", visitor);
            }
            Self::IJepa(learner) => {
                visit_named(&learner.encoder, "encoder.", visitor);
                visit_named(&learner.predictor, "predictor.", visitor);
            }
            Self::MocoV3(learner) => {
                visit_named(&learner.encoder, "", visitor);
                visit_named(&learner.head, "head.", visitor);
                visit_named(&learner.predictor, "predictor.", visitor);
            }
        }
    }

    /// The same learner with every parameter changed.
    #[must_use]
    pub fn map(self, mapper: &mut impl NamedMapper) -> Self {
        match self {
            Self::Ocl(learner) => Self::Ocl(learner.over(|encoder| map_named(encoder, "", mapper))),
            Self::Mae(learner) => Self::Mae(MaeLearner {
                encoder: map_named(learner.encoder, "", mapper),
                decoder: map_named(learner.decoder, "", mapper),
                ..learner
            }),
            Self::IJepa(learner) => Self::IJepa(IJepaLearner {
                encoder: map_named(learner.encoder, "encoder.", mapper),
                predictor: map_named(learner.predictor, "predictor.", mapper),
                ..learner
            }),
            Self::MocoV3(learner) => Self::MocoV3(MocoV3Learner {
                encoder: map_named(learner.encoder, "", mapper),
                head: map_named(learner.head, "head.", mapper),
                predictor: map_named(learner.predictor, "predictor.", mapper),
                ..learner
            }),
        }
    }

    /// The same learner, whose passes leave no graph.
    #[must_use]
    pub fn no_grad(self) -> Self {
        match self {
            Self::Ocl(learner) => Self::Ocl(learner.over(Vit::no_grad)),
            Self::Mae(learner) => Self::Mae(MaeLearner {
                encoder: learner.encoder.no_grad(),
                decoder: learner.decoder.no_grad(),
                ..learner
            }),
            Self::IJepa(learner) => Self::IJepa(IJepaLearner {
                encoder: learner.encoder.no_grad(),
                predictor: learner.predictor.no_grad(),
                ..learner
            }),
            Self::MocoV3(learner) => Self::MocoV3(learner.no_grad()),
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
            Self::Mae(learner) => Self::Mae(learner.with_precision(precision)),
            Self::IJepa(learner) => Self::IJepa(learner.with_precision(precision)),
            Self::MocoV3(learner) => Self::MocoV3(learner.with_precision(precision)),
        }
    }
}
