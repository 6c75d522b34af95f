//! One seed's training, from the start or a checkpoint to its result.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use ocl_data::{Split, SupervisedBatch, SupervisedConfig, SupervisedLoader};
use ocl_model::{OpenOptions, Vit, classifier_bytes, open_weights};
use ocl_train::{AdamW, LayerDecay, WarmupCosine};

use super::checkpoint::{self, Checkpoint};
use super::classifier::Classifier;
use super::journal::Log;
use super::measure::{SeedResult, measure};
use super::plan::FinetunePlan;
use crate::error::EvalError;
use crate::features::{Labelled, check_pooling, geometry};
use crate::files::replace;
use crate::progress::Progress;

/// A training under way.
struct Run<'a> {
    plan: &'a FinetunePlan,
    folder: &'a Path,
    seed: u64,
    classifier: Classifier,
    optimizer: AdamW,
    step: u64,
}

/// Trains one seed to its end; `None` when it was stopped.
#[allow(clippy::too_many_arguments, reason = "each is a part of the run that its caller holds")]
pub(super) fn train(
    plan: &FinetunePlan,
    data: &Labelled,
    folder: &Path,
    seed: u64,
    workers: usize,
    device: &Device,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<Option<SeedResult>, EvalError> {
    let started = Instant::now();
    fs::create_dir_all(folder).map_err(|source| EvalError::File {
        doing: "create",
        path: folder.to_owned(),
        source,
    })?;
    let config = loader_config(plan, data, seed, workers)?;
    let per_epoch = config.steps_per_epoch();
    let last = per_epoch * plan.recipe.train.epochs;
    let every =
        (plan.recipe.train.checkpoint_every_epochs * per_epoch as f64).round().max(1.0) as u64;
    let mut run = Run::begin(plan, folder, seed, data.classes(), device)?;
    let schedule = WarmupCosine {
        lr: plan.peak_lr(),
        min_lr: plan.recipe.optim.min_lr.min(plan.peak_lr()),
        warmup_epochs: plan.recipe.optim.warmup_epochs,
        epochs: plan.recipe.train.epochs as f64,
    };
    let mut log = Log::open(folder, run.step)?;
    let unreadable = |source| EvalError::Loader { split: Split::Train, source };
    let source = Arc::clone(data.split(Split::Train));
    let mut batches =
        SupervisedLoader::start(source, config, run.step..last).map_err(unreadable)?;
    let (mut losses, mut first_loss_step) = (vec![], run.step);
    let mut train_loss = f64::NAN;
    progress.begin();
    while run.step < last && !stop.load(Ordering::Relaxed) {
        let Some(batch) = batches.next() else { break };
        let epoch = run.step as f64 / per_epoch as f64;
        let (images, lr) = (plan.recipe.train.batch, schedule.at(epoch));
        let loss;
        (run, loss) = run.step(batch.map_err(unreadable)?, lr);
        losses.push(loss);
        let done = run.step;
        let ends = done % per_epoch == 0 || done % every == 0 || done == last;
        // Losses are read late: a GPU stalls at each reading.
        if ends || losses.len() >= 50 || stop.load(Ordering::Relaxed) {
            train_loss = read(&mut losses, first_loss_step, lr)?;
            log.write(done, done as f64 / per_epoch as f64, train_loss, lr)?;
            first_loss_step = done;
        }
        if done % every == 0 && done != last {
            run.save()?;
        }
        progress.images(
            &format!("fine-tuning, seed {seed}"),
            done as usize * images,
            last as usize * images,
        );
    }
    if run.step < last {
        run.save()?;
        return Ok(None);
    }
    let measured = run.on_plain_device(data.classes(), device)?;
    let (accuracy, confusion) = measure(&measured, plan, data, workers, device, progress)?;
    run.save_classifier(data)?;
    let secs = started.elapsed().as_secs_f64();
    let result = SeedResult { accuracy, train_loss, secs, confusion };
    result.save(folder)?;
    // Twice the weights and of no more use.
    let _ = fs::remove_file(checkpoint::path(folder));
    Ok(Some(result))
}

/// Whether the data fit the plan: said before anything is written.
pub(super) fn check(plan: &FinetunePlan, data: &Labelled) -> Result<(), EvalError> {
    loader_config(plan, data, 0, 1).map(drop)
}

fn loader_config(
    plan: &FinetunePlan,
    data: &Labelled,
    seed: u64,
    workers: usize,
) -> Result<SupervisedConfig, EvalError> {
    let images = data.split(Split::Train).len() as u32;
    let samples =
        data.sample(Split::Train, plan.max_train).unwrap_or_else(|| (0..images).collect());
    let batch = plan.recipe.train.batch;
    if samples.len() < batch {
        let reason = format!("{batch} is more than the {} training images", samples.len());
        return Err(EvalError::Setting { setting: "train.batch", reason });
    }
    Ok(SupervisedConfig {
        geometry: geometry(&plan.model),
        normalisation: plan.normalisation(),
        augment: plan.recipe.augment.clone(),
        mix: plan.recipe.mix.clone(),
        classes: data.classes(),
        samples,
        batch,
        workers,
        seed,
        max_bad_share: plan.max_bad_share,
    })
}

/// The encoder that training starts from.
fn initial_encoder(plan: &FinetunePlan, seed: u64, device: &Device) -> Result<Vit, EvalError> {
    match &plan.from {
        Some(from) => {
            let options = OpenOptions {
                heads: Some(plan.model.heads),
                image_px: Some(plan.model.image_px),
                prefix: plan.from_prefix.clone(),
            };
            Ok(open_weights(from, &options, device)?.vit)
        }
        None => Ok(Vit::new(&plan.model, seed, device)?),
    }
}

/// Mean of the losses since the last reading.
fn read(losses: &mut Vec<Tensor<1>>, first_step: u64, lr: f64) -> Result<f64, EvalError> {
    let count = losses.len() as f64;
    let values = Tensor::cat(std::mem::take(losses), 0);
    let values: Vec<f32> = values.try_into_vec_as().map_err(EvalError::Device)?;
    match values.iter().position(|loss| !loss.is_finite()) {
        Some(at) => Err(EvalError::FinetuneDiverged { step: first_step + at as u64 + 1, lr }),
        None => Ok(values.iter().map(|v| f64::from(*v)).sum::<f64>() / count),
    }
}

impl<'a> Run<'a> {
    fn begin(
        plan: &'a FinetunePlan,
        folder: &'a Path,
        seed: u64,
        classes: usize,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let learning = device.clone().autodiff();
        let kept = Checkpoint::load(folder)?;
        let vit = initial_encoder(plan, seed, &learning)?;
        let pool = plan.recipe.model.pool;
        check_pooling(&vit, pool)?;
        let drop_path = plan.recipe.model.drop_path;
        let mut classifier = Classifier::new(vit, pool, classes, drop_path, seed, &learning);
        let (mut optimizer, mut step) = (AdamW::new(plan.recipe.adamw()), 0);
        if let Some(kept) = kept {
            classifier = classifier.with_state(kept.weights)?;
            optimizer = AdamW::with_state(plan.recipe.adamw(), kept.optimizer, device);
            step = kept.step;
        }
        let decay = plan.recipe.optim.layer_decay;
        let layers = LayerDecay { decay, depth: plan.model.depth };
        Ok(Self {
            plan,
            folder,
            seed,
            classifier,
            optimizer: optimizer.with_layer_decay(layers),
            step,
        })
    }

    /// Forward, backward, update; gives the batch's loss before the update, `[1]`.
    fn step(self, batch: SupervisedBatch, lr: f64) -> (Self, Tensor<1>) {
        let Self { classifier, mut optimizer, step, .. } = self;
        let model = &self.plan.model;
        let device = classifier.vit.device();
        let (n, l) = (batch.images, model.patches());
        let patches = TensorData::new(batch.patches, [n, l, model.patch_len()]);
        let patches = Tensor::<3>::from_data(patches, &device);
        let places: Vec<i32> = (0..n).flat_map(|_| 0..l as i32).collect();
        let places = Tensor::<2, Int>::from_data(TensorData::new(places, [n, l]), &device);
        let tokens = classifier.vit.tokens(patches, places); // [N, L, D]
        let classes = batch.targets.len() / n;
        let targets = TensorData::new(batch.targets, [n, classes]);
        let targets = Tensor::<2>::from_data(targets, &device);
        let logits = classifier.logits(tokens, Some((self.seed, step))); // [N, C]
        let loss = (log_softmax(logits, 1) * targets).sum() / -(n as f64);
        let gradients = loss.backward();
        let classifier = optimizer.step(classifier, gradients, lr);
        (Self { classifier, optimizer, step: step + 1, ..self }, loss.inner())
    }

    fn save(&self) -> Result<(), EvalError> {
        let (weights, optimizer) = (self.classifier.state(), self.optimizer.state());
        Checkpoint { step: self.step, weights, optimizer }.save(self.folder)
    }

    /// The classifier without autodiff.
    fn on_plain_device(&self, classes: usize, device: &Device) -> Result<Classifier, EvalError> {
        let vit = initial_encoder(self.plan, self.seed, device)?;
        let pooling = self.plan.recipe.model.pool;
        let classifier = Classifier::new(vit, pooling, classes, 0.0, 0, device);
        Ok(classifier.with_state(self.classifier.state())?)
    }

    /// Writes `finetuned.safetensors`, which says all that its use needs.
    fn save_classifier(&self, data: &Labelled) -> Result<(), EvalError> {
        let (vit, head) = self.classifier.encoder_and_head();
        let (pooling, preprocessing) = (self.plan.recipe.model.pool, self.plan.preprocessing());
        let names = data.split(Split::Train).class_names();
        let bytes = classifier_bytes(&vit, &head, pooling, &preprocessing, names);
        replace(&self.folder.join("finetuned.safetensors"), &bytes)
    }
}
