//! MoCo v3 (arXiv 2104.02057): two augmented crops of an image; what the encoder makes of the one
//! is to be told, among all images of the batch, by what an averaged encoder makes of the other.
//!
//! Beside the encoder stand a projector and a predictor with batch norm, and averages of encoder
//! and projector. Batch norm sees one crop of the whole batch: the encoders run in micro-batches,
//! the heads on all their features at once.

mod heads;

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};
use ocl_data::{Batch, Keep};
use ocl_model::{
    Draw, HostTensor, Init, Precision, Vit, VitConfig, WeightsError, apply_module_state,
    module_state, redraw, row_first_table, visit_named,
};
use serde::{Deserialize, Serialize};

use super::figures::feature_spread;
use super::{Embedded, Objective, Own, Pass, PendingFigures};
use crate::device::batch_tensors;
use crate::optim::{Clock, NamedGradients, Rates, WarmupCosine, WeightAverage, half_cosine};
pub use heads::{MocoHead, Statistics};

/// Least length of a vector that is scaled to length 1, PyTorch's.
const SHORTEST: f64 = 1e-12;
/// Streams of draws apart from one another's.
const ENCODER_STREAM: u64 = u64::from_le_bytes(*b"moco-enc");
const HEAD_STREAM: u64 = u64::from_le_bytes(*b"moco-prj");
const PREDICTOR_STREAM: u64 = u64::from_le_bytes(*b"moco-prd");

/// Constants of MoCo v3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MocoV3 {
    /// Temperature of the contrast.
    pub temperature: f64,
    /// What averaged networks keep of themselves in a step at the beginning; 1 at the end.
    pub momentum: f64,
    /// Hidden width of projector and predictor.
    pub hidden_width: usize,
    /// Width of what is contrasted.
    pub output_width: usize,
}

/// An encoder that learns by MoCo v3, with its heads and averages.
#[derive(Clone, Debug)]
pub struct MocoV3Learner {
    /// The constants.
    pub moco: MocoV3,
    /// What learns, and what is left of a run.
    pub encoder: Vit,
    /// The projector.
    pub head: MocoHead,
    /// Tells the other crop's projection from this one's.
    pub predictor: MocoHead,
    /// The averaged encoder.
    pub momentum_encoder: WeightAverage<Vit>,
    /// The averaged projector; the statistics of its batch norms are its own.
    pub momentum_head: WeightAverage<MocoHead>,
}

impl MocoV3 {
    /// The method with networks that have learnt nothing.
    ///
    /// Xavier uniform as [`Vit::new`] has it, but queries, keys and values drawn as three matrices,
    /// a class token of deviation 1e-6, row-first positions, and a patch projection that stays
    /// random.
    pub(super) fn fresh(self, encoder: Vit, seed: u64) -> MocoV3Learner {
        let device = encoder.device();
        let (width, grid) = (encoder.config().width, encoder.config().grid());
        let mut init = Init::new(seed ^ ENCODER_STREAM, &device);
        let rule = |name: &str, _: &[usize]| match name {
            "cls_token" => Some(Draw::Normal(1e-6)),
            _ if name.ends_with("attn.qkv.weight") => {
                Some(Draw::Uniform((6.0 / (2 * width) as f64).sqrt()))
            }
            _ => None,
        };
        let encoder = redraw(encoder, &mut init, rule).with_positions(row_first_table(width, grid));
        self.learner(encoder, seed)
    }

    /// The method with an encoder, whose patch projection is frozen, heads drawn from `seed`, and
    /// averages equal to what they average.
    pub fn learner(self, encoder: Vit, seed: u64) -> MocoV3Learner {
        let device = encoder.device();
        let encoder = encoder.with_frozen_patches();
        let (hidden, out) = (self.hidden_width, self.output_width);
        let draw = |stream: u64, widths: &[usize]| {
            MocoHead::new(widths, &mut Init::new(seed ^ stream, &device))
        };
        let head = draw(HEAD_STREAM, &[encoder.config().width, hidden, hidden, out]);
        let predictor = draw(PREDICTOR_STREAM, &[out, hidden, out]);
        let momentum_encoder = WeightAverage::new(&encoder, 1.0);
        let momentum_head = WeightAverage::new(&head, 1.0);
        MocoV3Learner { moco: self, encoder, head, predictor, momentum_encoder, momentum_head }
    }

    pub(super) fn keep(&self) -> Keep {
        Keep::All
    }

    pub(super) fn passes(&self, model: &VitConfig) -> Vec<Pass> {
        [true, false]
            .map(|graph| Pass {
                shape: model.block(),
                depth: model.depth,
                sequences: 2,
                tokens: 1 + model.patches(),
                graph,
                class_only: true,
            })
            .to_vec()
    }

    /// Two crops, each through the encoder and back, through its average, and through the heads.
    pub(super) fn macs_per_image(&self, model: &VitConfig) -> u64 {
        let projection = (model.patches() * model.patch_len() * model.width) as u64;
        // The patch projection is frozen: nothing flows back through it.
        let encoders = 4 * model.cls_macs(1 + model.patches()) - 2 * projection;
        let (head, predictor) = (self.head_weights(model), self.predictor_weights());
        2 * (encoders + (4 * head + 3 * predictor) as u64)
    }

    /// Features with their gradients, what the heads keep for their backward pass (five values of
    /// each that a layer gives), and similarities with what leads to the loss.
    pub(super) fn objective_values(&self, model: &VitConfig, batch: usize) -> usize {
        let layers = 3 * self.hidden_width + 2 * self.output_width;
        16 * batch * model.width + 2 * 5 * batch * layers + 8 * batch * batch
    }

    /// Weights of the projector's layers.
    pub(super) fn head_weights(&self, model: &VitConfig) -> usize {
        let (hidden, out) = (self.hidden_width, self.output_width);
        (model.width + hidden + out) * hidden
    }

    fn predictor_weights(&self) -> usize {
        2 * self.hidden_width * self.output_width
    }

    pub(super) fn parameters(&self, model: &VitConfig) -> usize {
        let frozen = model.patch_len() * model.width + model.width;
        // Two norms of the projector and one of the predictor have a scale and a shift.
        let norms = 3 * 2 * self.hidden_width;
        model.parameters() - frozen + self.head_weights(model) + self.predictor_weights() + norms
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "MoCo v3: two augmented crops, temperature {}; projector and predictor {} wide, {} told \
             apart; averaged encoder, momentum {} to 1; patch projection frozen",
            self.temperature, self.hidden_width, self.output_width, self.momentum
        )
    }

    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Some(("temperature", format!("{} is not above 0", self.temperature)));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Some(("momentum", format!("{} is not a share, 0 to 1", self.momentum)));
        }
        let widths = [("hidden_width", self.hidden_width), ("output_width", self.output_width)];
        widths
            .into_iter()
            .find(|(_, width)| *width == 0)
            .map(|(key, _)| (key, "is at least 1".into()))
    }

    /// Momentum rises to 1 along half a cosine at the fractional epoch.
    pub(super) fn rates(&self, schedule: &WarmupCosine, clock: Clock) -> Rates {
        let done = clock.epoch() / clock.epochs();
        let rates = Rates::from(schedule.at(clock.epoch()));
        Rates { momentum: Some(half_cosine(self.momentum, 1.0, done)), ..rates }
    }
}

impl MocoV3Learner {
    /// The loss by its definition, all in one graph; statistics of batch norms stay as they are.
    pub(super) fn loss(&self, batch: Batch) -> Tensor<1> {
        let Embedded { rows, beside } = self.embed(batch);
        let keys = self.keys(beside.expect("the averaged encoder's features")).0;
        let [(q1, _), (q2, _)] = [0, 1].map(|crop| {
            let (projected, _) = self.head.forward(crop_of(&rows, crop));
            self.predictor.forward(projected)
        });
        let [k1, k2] = keys.map(Tensor::from_inner);
        self.contrast(q1, k2) + self.contrast(q2, k1)
    }

    /// Class tokens of both crops `[N, 2, D]`, and beside them those of the averaged encoder.
    pub(super) fn embed(&self, batch: Batch) -> Embedded {
        let beside = features(self.momentum_encoder.weights(), batch.clone());
        Embedded { rows: features(&self.encoder, batch), beside: Some(beside) }
    }

    pub(super) fn embed_again(&self, batch: Batch) -> Tensor<3> {
        features(&self.encoder, batch)
    }

    /// Contrast of the whole batch, from features without a graph. The heads' batch norms take in
    /// its statistics.
    pub(super) fn objective(&mut self, embedded: Embedded, own: &Own<'_>) -> Objective {
        let Embedded { rows, beside } = embedded;
        let ([k1, k2], statistics) = self.keys(beside.expect("the averaged encoder's features"));
        self.momentum_head = self
            .momentum_head
            .clone()
            .map(|head| statistics.into_iter().fold(head, MocoHead::taking));

        let leaf = Tensor::from_inner(rows.clone()).require_grad(); // [N, 2, D]
        let mut queries = vec![];
        for crop in [0, 1] {
            let (projected, of_head) = self.head.forward(crop_of(&leaf, crop));
            let (query, of_predictor) = self.predictor.forward(projected);
            self.head = self.head.clone().taking(of_head);
            self.predictor = self.predictor.clone().taking(of_predictor);
            queries.push(query);
        }
        let [q1, q2] = queries.try_into().expect("a query for each crop");
        let loss = self.contrast(q1, Tensor::from_inner(k2.clone()))
            + self.contrast(q2, Tensor::from_inner(k1.clone()));
        let mut gradients = loss.backward();
        let gradient = leaf.grad_remove(&mut gradients).expect("the loss depends on the features");
        let gradient = own.of(gradient);
        let of_heads = NamedGradients::of(gradients, |take| {
            visit_named(&self.head, "head.", take);
            visit_named(&self.predictor, "predictor.", take);
        });
        let mut figures = PendingFigures::default();
        // Of unit vectors that are spread evenly each channel deviates by 1 / sqrt(channels). Batch
        // norm keeps keys apart even where the features that they are made of hardly are, so that
        // the spread of features is told beside it.
        let spread = |keys: Tensor<2>| {
            let keys = unit(keys);
            let apart = keys.clone() - keys.mean_dim(0);
            apart.square().mean_dim(0).sqrt().mean()
        };
        figures.add(&["targets/spread"], (spread(k1) + spread(k2)).mul_scalar(0.5));
        figures.add(&["features/feature_spread"], feature_spread(rows.clone()));
        Objective { loss: loss.inner(), gradient, of_heads, figures, watched: rows }
    }

    /// Keys of both crops, `[N, E]` each, and the statistics that the averaged projector saw.
    fn keys(&self, features: Tensor<3>) -> ([Tensor<2>; 2], [Statistics; 2]) {
        let head = self.momentum_head.weights();
        let [(k1, s1), (k2, s2)] = [0, 1].map(|crop| head.forward(crop_of(&features, crop)));
        ([k1, k2], [s1, s2])
    }

    /// `2 tau CE(q k^T / tau)` over rows, the diagonal being the target.
    fn contrast(&self, queries: Tensor<2>, keys: Tensor<2>) -> Tensor<1> {
        let n = queries.dims()[0];
        let tau = self.moco.temperature;
        let logits = unit(queries).matmul(unit(keys).transpose()).div_scalar(tau); // [N, N]
        let told = activation::log_softmax(logits, 1);
        let device = told.device();
        (told * Tensor::eye(n, &device)).sum().mul_scalar(-2.0 * tau / n as f64)
    }

    /// The averages take in the weights that this step begins with.
    pub(super) fn follow(mut self, rates: &Rates) -> Self {
        let momentum = rates.momentum.unwrap_or(self.moco.momentum);
        self.momentum_encoder.follow(&self.encoder, momentum);
        self.momentum_head.follow(&self.head, momentum);
        self
    }

    /// What a checkpoint holds beside the encoder.
    pub(super) fn others(&self) -> BTreeMap<String, HostTensor> {
        let mut others = module_state(self.momentum_encoder.weights(), "momentum_encoder.");
        for (prefix, head) in self.heads() {
            others.extend(module_state(head, prefix));
            others.extend(head.statistics(prefix));
        }
        others
    }

    fn heads(&self) -> [(&'static str, &MocoHead); 3] {
        [
            ("head.", &self.head),
            ("predictor.", &self.predictor),
            ("momentum_head.", self.momentum_head.weights()),
        ]
    }

    pub(super) fn with_others(
        mut self,
        others: &mut BTreeMap<String, HostTensor>,
    ) -> Result<Self, WeightsError> {
        let average = self.momentum_encoder.weights().clone();
        let average = apply_module_state(average, "momentum_encoder.", others)?;
        self.momentum_encoder = WeightAverage::with(average, 1.0);
        let load = |head: MocoHead, prefix: &str, others: &mut BTreeMap<_, _>| {
            apply_module_state(head, prefix, others)?.with_statistics(prefix, others)
        };
        self.head = load(self.head, "head.", others)?;
        self.predictor = load(self.predictor, "predictor.", others)?;
        let average = self.momentum_head.weights().clone();
        let average = load(average, "momentum_head.", others)?;
        self.momentum_head = WeightAverage::with(average, 1.0);
        Ok(self)
    }

    pub(super) fn no_grad(mut self) -> Self {
        self.encoder = self.encoder.no_grad();
        self.head = self.head.no_grad();
        self.predictor = self.predictor.no_grad();
        self
    }

    pub(super) fn with_precision(mut self, precision: Precision) -> Self {
        self.encoder = self.encoder.with_precision(precision);
        self.momentum_encoder = self.momentum_encoder.map(|vit| vit.with_precision(precision));
        self
    }
}

/// Class tokens of both crops of each image, `[N, 2, D]`.
fn features(encoder: &Vit, batch: Batch) -> Tensor<3> {
    let Batch { images: n, crops, kept: l, patch_len, patches, positions, .. } = batch;
    assert_eq!(crops, 2, "MoCo v3 contrasts two crops of an image");
    let device: Device = encoder.device();
    let (patches, positions) = batch_tensors(patches, &positions, [2 * n, l, patch_len], &device);
    let class = encoder.encode_cls(encoder.tokens(patches, positions)); // [2N, D]
    let d = class.dims()[1];
    class.reshape([n, 2, d]) // [N, 2, D]
}

/// `[N, 2, D]` to one crop's `[N, D]`.
fn crop_of(features: &Tensor<3>, crop: usize) -> Tensor<2> {
    let [n, _, d] = features.dims();
    features.clone().narrow(1, crop, 1).reshape([n, d])
}

/// Rows scaled to length 1. A row of zeros stays one, and its gradient a number: batch norm makes
/// such rows of images that are all the same.
fn unit(x: Tensor<2>) -> Tensor<2> {
    // Bounded below the root, whose slope at 0 is infinite.
    let square = x.clone().square().sum_dim(1).clamp_min(SHORTEST * SHORTEST);
    let length = square.sqrt(); // [N, 1]
    x / length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_zeros_has_a_gradient() {
        let device = burn::tensor::Device::default().autodiff();
        let x = Tensor::<2>::from_data([[0.0, 0.0], [3.0, 4.0]], &device).require_grad();
        let y = unit(x.clone());
        let gradients = y.clone().square().sum().backward();
        let slope = x.grad(&gradients).expect("x is a leaf").into_data();
        assert!(slope.iter::<f32>().all(|value| value.abs() < 1e-6), "{slope}");
        let y: Vec<f32> = y.into_data().iter().collect();
        assert_eq!(y, [0.0, 0.0, 0.6, 0.8]);
    }
}
