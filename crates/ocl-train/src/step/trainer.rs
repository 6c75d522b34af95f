//! One training step: a batch in, a loss out, the parameters moved.

use burn::tensor::{Device, Tensor};
use ocl_data::Batch;
use ocl_model::{ConfigError, Precision, Vit, VitConfig};

use super::{MicroBatches, grad_cache};
use crate::methods::{Learner, Method, Objective, PendingFigures};
use crate::optim::{AdamW, AdamWConfig, NamedGradients, Rates, WeightAverage};
use crate::world::World;

/// What came of a step. Reading a tensor waits for the device: read late.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// Loss of the batch before the update, `[1]`.
    pub loss: Tensor<1>,
    /// Norm of all gradients together before clipping, `[1]`.
    pub gradient_norm: Tensor<1>,
    /// What the method tells besides its loss.
    pub figures: PendingFigures,
    /// What the batch was seen as before the update, `[N, V, D]`: for OCL the class tokens of both
    /// views.
    pub watched: Tensor<3>,
}

impl StepOutput {
    /// Tag of the loss among [`StepOutput::into_figures`].
    pub const LOSS: &'static str = "train/loss";

    /// Loss, gradient norm and the method's figures, in one small tensor; the rest is let go.
    pub fn into_figures(self) -> PendingFigures {
        let mut first = PendingFigures::default();
        first.add(&[Self::LOSS], self.loss);
        first.add(&["train/gradient_norm"], self.gradient_norm);
        self.figures.after(first).joined()
    }
}

/// A method's networks and their optimiser.
#[derive(Debug)]
pub struct Trainer {
    learner: Learner,
    optimizer: AdamW,
    micro: MicroBatches,
    average: Option<WeightAverage<Vit>>,
    world: World,
}

impl Trainer {
    /// A fresh trainer, parameters drawn from `seed`.
    ///
    /// # Errors
    /// When no encoder of this shape can exist.
    pub fn new(
        model: &VitConfig,
        method: &Method,
        adamw: AdamWConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let learner = method.learner(model, seed, &device.clone().autodiff())?;
        Ok(Self::with(learner, AdamW::new(adamw)))
    }

    /// Continues with given networks (on an autodiff device) and optimiser. Batches are taken
    /// whole.
    pub fn with(learner: Learner, optimizer: AdamW) -> Self {
        Self { learner, optimizer, micro: MicroBatches::WHOLE, average: None, world: World::One }
    }

    /// The same trainer, which takes batches apart.
    ///
    /// # Panics
    /// If a micro-batch has no image, or the parts are no power of two.
    #[must_use]
    pub fn with_micro_batches(self, micro: MicroBatches) -> Self {
        assert!(micro.size > 0, "a micro-batch needs at least one image");
        assert!(micro.parts.is_power_of_two(), "{} parts are no binary tree", micro.parts);
        Self { micro, ..self }
    }

    /// The same trainer as one of several processes: each takes its
    /// [share](MicroBatches::share) of a batch, and all make the same step.
    ///
    /// # Panics
    /// If there are more processes than parts of a batch.
    #[must_use]
    pub fn with_world(self, world: World) -> Self {
        let (parts, processes) = (self.micro.parts, world.size());
        assert!(processes <= parts, "{processes} processes, and {parts} parts of a batch");
        Self { world, ..self }
    }

    /// The same trainer with its matrix products in another precision; parameters, gradients and
    /// moments stay f32.
    ///
    /// # Panics
    /// If the device has no such numbers.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { learner: self.learner.with_precision(precision), ..self }
    }

    /// The same trainer, which keeps an average of the encoder's weights.
    #[must_use]
    pub fn with_average(self, average: WeightAverage<Vit>) -> Self {
        Self { average: Some(average), ..self }
    }

    /// Forward, backward, update; the loss before the update, `[1]`. A learning rate alone serves
    /// as rates for methods that ask for no more.
    ///
    /// The trainer is taken and given back, so that parameters have one owner and are updated in
    /// place.
    pub fn step(self, batch: Batch, rates: impl Into<Rates>) -> (Self, Tensor<1>) {
        let (trainer, output) = self.step_watched(batch, rates);
        (trainer, output.loss)
    }

    /// [`Trainer::step`] with what tells how the run is doing.
    pub fn step_watched(self, batch: Batch, rates: impl Into<Rates>) -> (Self, StepOutput) {
        let rates = rates.into();
        let Self { learner, mut optimizer, micro, mut average, world } = self;
        let mut learner = learner.before_step(&rates);
        let (objective, gradients) = grad_cache::gradients(&mut learner, micro, batch, &world);
        if let Some(weight_decay) = rates.weight_decay {
            optimizer.set_weight_decay(weight_decay);
        }
        let (learner, gradient_norm) =
            optimizer.step_by(gradients, rates.lr, |update| learner.map(update));
        let learner = learner.after_step(&rates);
        if let Some(average) = &mut average {
            average.update(learner.encoder());
        }
        let Objective { loss, figures, watched, .. } = objective;
        let output = StepOutput { loss, gradient_norm, figures, watched };
        (Self { learner, optimizer, micro, average, world }, output)
    }

    /// The objective of a batch and the gradients of all parameters; nothing is moved.
    pub fn gradients(&self, batch: Batch) -> (Objective, NamedGradients) {
        grad_cache::gradients(&mut self.learner.clone(), self.micro, batch, &self.world)
    }

    /// What is trained.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The encoder.
    pub fn encoder(&self) -> &Vit {
        self.learner.encoder()
    }

    /// The average of the encoder's weights, if one is kept.
    pub fn average(&self) -> Option<&WeightAverage<Vit>> {
        self.average.as_ref()
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::methods::Ocl;

    const IMAGES: usize = 24;
    const METHOD: Method =
        Method::Ocl(Ocl { mask_ratio: 0.5, kappa: 1.0 / 64.0, temperature: 0.07, group: None });

    fn config() -> VitConfig {
        VitConfig { image_px: 16, patch_px: 4, width: 16, depth: 2, heads: 2, mlp_ratio: 4 }
    }

    fn trainer() -> Trainer {
        let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
        Trainer::new(&config(), &METHOD, adamw, 5, &Device::default()).unwrap()
    }

    fn batch() -> Batch {
        let (kept, patch_len) = (8, config().patch_len());
        let pixels = (0..IMAGES * kept * patch_len).map(|i| (i as f32 * 0.618).sin());
        Batch {
            patches: pixels.collect(),
            positions: (0..IMAGES * kept).map(|i| (i * 7 % 16) as u32).collect(),
            images: IMAGES,
            kept,
            patch_len,
            ..Batch::default()
        }
    }

    fn host(gradients: NamedGradients) -> BTreeMap<String, Vec<f32>> {
        let host = |g: Tensor<1>| g.into_data().try_to_vec().unwrap();
        gradients.into_iter().map(|(name, gradient)| (name, host(gradient))).collect()
    }

    fn norm(values: impl Iterator<Item = f32>) -> f64 {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn gradients_of_any_micro_batches_are_those_of_the_whole_batch() {
        let trainer = trainer();
        let loss = trainer.learner().loss(batch());
        let visit = |take: &mut _| trainer.learner().visit(take);
        let expected = host(NamedGradients::of(loss.backward(), visit));
        let loss: f32 = loss.into_scalar();
        let whole = norm(expected.values().flatten().copied());
        let mut trainer = trainer;
        // Every divisor, and some numbers that are none.
        for size in [1, 2, 3, 4, 5, 6, 7, 8, 12, 17, 24, 100] {
            let mut by_chunk: Option<BTreeMap<String, Vec<f32>>> = None;
            for chunk in [size, 2 * size, 3 * size + 1, IMAGES, usize::MAX] {
                trainer = trainer.with_micro_batches(MicroBatches { size, chunk, parts: 1 });
                let (objective, gradients) = trainer.gradients(batch());
                let found: f32 = objective.loss.into_scalar();
                assert!((found - loss).abs() < 1e-5 * loss, "{size}, {chunk}: {found} {loss}");
                let gradients = host(gradients);
                assert_eq!(gradients.len(), expected.len());
                for (name, gradient) in &gradients {
                    let expected = &expected[name];
                    let error = norm(gradient.iter().zip(expected).map(|(a, b)| a - b));
                    // Rounding is all that the bias of the keys has: measured against the whole.
                    let scale = norm(expected.iter().copied()).max(1e-3 * whole);
                    assert!(error < 1e-5 * scale, "{size}, {chunk}: {name} {}", error / scale);
                }
                // On the CPU the chunk changes nothing at all.
                if cfg!(feature = "flex") {
                    let first = by_chunk.get_or_insert_with(|| gradients.clone());
                    assert!(&gradients == first, "micro-batches of {size}, chunks of {chunk}");
                }
            }
        }
    }

    #[test]
    fn clipping_shortens_all_gradients_by_one_factor() {
        let take = |optimizer: AdamW| {
            let trainer = Trainer::with(trainer().learner().clone(), optimizer);
            let (_, gradients) = trainer.gradients(batch());
            let norm: f32 = gradients.norm().into_scalar();
            let (trainer, output) = trainer.step_watched(batch(), 1e-3);
            let told: f32 = output.gradient_norm.into_scalar();
            assert!((told / norm - 1.0).abs() < 1e-5, "{told} {norm}");
            let moments = trainer.optimizer().state().moments;
            (norm, moments.into_values().flat_map(|(first, _)| first).collect::<Vec<f32>>())
        };
        let config = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
        let (norm, free) = take(AdamW::new(config));
        let (_, clipped) = take(AdamW::new(config).with_clip_norm(f64::from(norm) / 4.0));
        let (_, untouched) = take(AdamW::new(config).with_clip_norm(f64::from(norm) * 4.0));
        assert!(free == untouched);
        for (clipped, free) in clipped.iter().zip(&free) {
            assert!((4.0 * clipped - free).abs() <= 1e-4 * free.abs(), "{clipped} {free}");
        }
    }
}
