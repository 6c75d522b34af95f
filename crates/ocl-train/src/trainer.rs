//! One training step: a batch in, a loss out, the encoder moved.
//!
//! A batch may be larger than what memory holds at once. Its images are then encoded without a graph, the
//! loss gives its gradient at the embeddings, and the encoder's gradients follow from encoding again with a
//! graph, a few images at a time (GradCache, arXiv 2101.06983). Every image is contrasted with all others.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ocl_data::Batch;
use ocl_model::{ConfigError, Precision, Vit};

use crate::adamw::{AdamW, AdamWConfig};
use crate::ema::WeightAverage;
use crate::gradients::NamedGradients;
use crate::methods::{Method, Objective};

/// How a batch is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Images that are encoded together, and whose gradients are one term of the batch's sum. The sum is
    /// taken over grains, last to first, whatever the chunk: so the chunk changes no bit of the result.
    pub grain: usize,
    /// Images whose intermediate values are in memory at once, at least a grain. The last chunk's are kept
    /// from the first encoding; only the images before it are encoded twice.
    pub chunk: usize,
}

impl Split {
    /// The whole batch at once.
    pub const WHOLE: Self = Self { grain: usize::MAX, chunk: usize::MAX };
}

/// What came of a step. Reading a tensor waits for the device: read late.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// Loss of the batch before the update, `[1]`.
    pub loss: Tensor<1>,
    /// Norm of all gradients together before clipping, `[1]`.
    pub gradient_norm: Tensor<1>,
    /// Alignment, mean positive and mean negative cosine (see [`ocl_loss::agreement`]), `[3]`.
    pub agreement: Tensor<1>,
    /// Class tokens of the two views before the update, `[N, 2, D]`.
    pub embeddings: Tensor<3>,
}

/// Encoder, method and optimiser of a run.
#[derive(Debug)]
pub struct Trainer {
    vit: Vit,
    method: Method,
    optimizer: AdamW,
    split: Split,
    average: Option<WeightAverage>,
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

    /// Continues with a given encoder (on an autodiff device) and optimiser. Batches are taken whole.
    pub fn with(vit: Vit, method: &Method, optimizer: AdamW) -> Self {
        Self { vit, method: method.clone(), optimizer, split: Split::WHOLE, average: None }
    }

    /// The same trainer, which takes batches apart.
    ///
    /// # Panics
    /// If a grain has no image.
    #[must_use]
    pub fn with_split(self, split: Split) -> Self {
        assert!(split.grain > 0, "a grain needs at least one image");
        Self { split, ..self }
    }

    /// The same trainer with its matrix products in another precision; parameters, gradients and moments stay
    /// f32.
    ///
    /// # Panics
    /// If the device has no such numbers.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { vit: self.vit.with_precision(precision), ..self }
    }

    /// The same trainer, which keeps an average of the weights.
    #[must_use]
    pub fn with_average(self, average: WeightAverage) -> Self {
        Self { average: Some(average), ..self }
    }

    /// Forward, backward, update; the loss before the update, `[1]`.
    ///
    /// The trainer is taken and given back, so that parameters have one owner and are updated in place.
    pub fn step(self, batch: Batch, lr: f64) -> (Self, Tensor<1>) {
        let (trainer, output) = self.step_watched(batch, lr);
        (trainer, output.loss)
    }

    /// [`Trainer::step`] with what tells how the run is doing.
    pub fn step_watched(self, batch: Batch, lr: f64) -> (Self, StepOutput) {
        let (objective, gradients, embeddings) = self.gradients(batch);
        let Self { vit, method, mut optimizer, split, mut average } = self;
        let (vit, gradient_norm) = optimizer.step_named(vit, gradients, lr);
        if let Some(average) = &mut average {
            average.update(&vit);
        }
        let Objective { loss, agreement, .. } = objective;
        let output = StepOutput { loss, gradient_norm, agreement, embeddings };
        (Self { vit, method, optimizer, split, average }, output)
    }

    /// The loss of a batch, the encoder's gradients, and the embeddings `[N, 2, D]`; nothing is moved.
    pub fn gradients(&self, batch: Batch) -> (Objective, NamedGradients, Tensor<3>) {
        let Self { vit, method, split, .. } = self;
        let grains = Grains::of(batch, split.grain);
        let count = grains.len();
        let whole = split.chunk >= grains.batch.images;
        let kept = if whole { count } else { (split.chunk / split.grain).max(1) };

        // The last chunk's graphs are kept; of the images before it only the embeddings are. They are made
        // on the same device: one without autodiff has other kernels, and other roundings.
        let without_graph = (kept < count).then(|| vit.clone().no_grad());
        let mut graphs = vec![];
        let embeddings = (0..count).map(|i| match &without_graph {
            Some(vit) if i + kept < count => method.embed(vit, grains.get(i)).inner(),
            _ => {
                let embeddings = method.embed(vit, grains.get(i));
                graphs.push(embeddings.clone());
                embeddings.inner()
            }
        });
        let embeddings = Tensor::cat(embeddings.collect(), 0); // [N, 2, D]
        drop(without_graph);

        let objective = method.objective(embeddings.clone());
        let [_, views, width] = embeddings.dims();
        let mut sum: Option<NamedGradients> = None;
        for i in (0..count).rev() {
            let encoded = graphs.pop().unwrap_or_else(|| method.embed(vit, grains.get(i)));
            let slope = objective.gradient.clone().slice([grains.images(i), 0..views, 0..width]);
            let gradients = (encoded * Tensor::from_inner(slope)).sum().backward();
            let gradients = NamedGradients::take(vit, gradients);
            sum = Some(match sum {
                Some(sum) => sum.plus(gradients),
                None => gradients,
            });
        }
        (objective, sum.unwrap_or_default(), embeddings)
    }

    /// The encoder.
    pub fn vit(&self) -> &Vit {
        &self.vit
    }

    /// The average of the weights, if one is kept.
    pub fn average(&self) -> Option<&WeightAverage> {
        self.average.as_ref()
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }
}

/// A batch on the host, in grains.
struct Grains {
    batch: Batch,
    size: usize,
}

impl Grains {
    fn of(batch: Batch, size: usize) -> Self {
        Self { size: size.min(batch.images).max(1), batch }
    }

    fn len(&self) -> usize {
        self.batch.images.div_ceil(self.size)
    }

    fn images(&self, i: usize) -> std::ops::Range<usize> {
        i * self.size..((i + 1) * self.size).min(self.batch.images)
    }

    /// The patches and positions of grain `i`; labels and sample numbers stay behind.
    fn get(&self, i: usize) -> Batch {
        let Batch { epoch, index, kept, patch_len, .. } = self.batch;
        let images = self.images(i);
        let values = |len: usize| images.start * len..images.end * len;
        Batch {
            epoch,
            index,
            patches: self.batch.patches[values(kept * patch_len)].to_vec(),
            positions: self.batch.positions[values(kept)].to_vec(),
            images: images.len(),
            kept,
            patch_len,
            ..Batch::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::methods::Ocl;
    use ocl_model::VitConfig;

    const IMAGES: usize = 24;
    const METHOD: Method =
        Method::Ocl(Ocl { mask_ratio: 0.5, kappa: 1.0 / 64.0, temperature: 0.07 });

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
    fn gradients_of_any_split_are_those_of_the_whole_batch() {
        let trainer = trainer();
        let loss = METHOD.loss(trainer.vit(), batch());
        let expected = host(NamedGradients::take(trainer.vit(), loss.backward()));
        let loss: f32 = loss.into_scalar();
        let whole = norm(expected.values().flatten().copied());
        let mut trainer = trainer;
        // Every divisor, and some numbers that are none.
        for grain in [1, 2, 3, 4, 5, 6, 7, 8, 12, 17, 24, 100] {
            let mut by_chunk: Option<BTreeMap<String, Vec<f32>>> = None;
            for chunk in [grain, 2 * grain, 3 * grain + 1, IMAGES, usize::MAX] {
                trainer = trainer.with_split(Split { grain, chunk });
                let (objective, gradients, _) = trainer.gradients(batch());
                let found: f32 = objective.loss.into_scalar();
                assert!((found - loss).abs() < 1e-5 * loss, "{grain}, {chunk}: {found} {loss}");
                let gradients = host(gradients);
                assert_eq!(gradients.len(), expected.len());
                for (name, gradient) in &gradients {
                    let expected = &expected[name];
                    let error = norm(gradient.iter().zip(expected).map(|(a, b)| a - b));
                    // Rounding is all that the bias of the keys has: measured against the whole.
                    let scale = norm(expected.iter().copied()).max(1e-3 * whole);
                    assert!(error < 1e-5 * scale, "{grain}, {chunk}: {name} {}", error / scale);
                }
                // On the CPU the chunk changes nothing at all.
                if cfg!(feature = "flex") {
                    let first = by_chunk.get_or_insert_with(|| gradients.clone());
                    assert!(&gradients == first, "grains of {grain}, chunks of {chunk}");
                }
            }
        }
    }

    #[test]
    fn clipping_shortens_all_gradients_by_one_factor() {
        let take = |optimizer: AdamW| {
            let vit = trainer().vit().clone();
            let trainer = Trainer::with(vit, &METHOD, optimizer);
            let (_, gradients, _) = trainer.gradients(batch());
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
