//! What a run trains: a method's networks, and the two things that a step asks of them.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::Module;
use burn::tensor::Tensor;
use ocl_data::Batch;
use ocl_model::{NamedMapper, NamedVisitor, Precision, Vit, map_named, visit_named};

use super::{IJepaLearner, MaeLearner, MocoV3Learner, OclLearner, PendingFigures};
use crate::optim::{NamedGradients, Rates};

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
    /// Gradient of the loss at the rows of this process's images, `[n, V, D]`.
    pub gradient: Tensor<3>,
    /// Gradients of parameters that the objective itself goes through: heads that see the whole
    /// batch. Empty for methods that have none.
    pub of_heads: NamedGradients,
    /// What tells how the run is doing, besides the loss.
    pub figures: PendingFigures,
    /// What effective rank and uniformity are told from, `[N, V, D]`: a row or more for each image.
    pub watched: Tensor<3>,
}

/// The images of a batch that a process answers for, and how it hears of the others'.
pub(crate) struct Own<'a> {
    /// In pieces that do not depend on how many processes there are.
    pub(crate) pieces: Vec<Range<usize>>,
    /// Puts the rows that all processes have, `[n, V, D]` each, into one, `[N, V, D]`.
    pub(crate) gather: &'a dyn Fn(Tensor<3>) -> Tensor<3>,
}

impl Own<'_> {
    /// All of them.
    pub(crate) fn images(&self) -> Range<usize> {
        let first = self.pieces.first().map_or(0, |piece| piece.start);
        first..self.pieces.last().map_or(first, |piece| piece.end)
    }

    /// Their rows of the batch's.
    pub(crate) fn of(&self, batch: Tensor<3>) -> Tensor<3> {
        let [_, rows, width] = batch.dims();
        batch.slice([self.images(), 0..rows, 0..width])
    }
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

    /// The loss of the whole batch and its gradient at the own images, from what [`Learner::embed`]
    /// gave for all images, without a graph. Equal to what [`Learner::loss`] and its backward pass
    /// give.
    pub(crate) fn objective(&mut self, embedded: Embedded, own: &Own<'_>) -> Objective {
        match self {
            Self::Ocl(learner) => learner.objective(embedded.rows, own),
            Self::Mae(learner) => learner.objective(embedded),
            Self::IJepa(learner) => learner.objective(embedded),
            Self::MocoV3(learner) => learner.objective(embedded, own),
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
