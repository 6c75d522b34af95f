//! One seed's training, from the start or a checkpoint to its result.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use ocl_data::{Findings, Split, SupervisedBatch, SupervisedConfig, SupervisedLoader, in_words};
use ocl_model::{OpenOptions, Vit, classifier_bytes, map_named, open_weights, visit_named};
use ocl_train::{AdamW, LayerDecay, NamedGradients, WarmupCosine, World, parts_of, sum_of_parts};

use super::checkpoint::{self, Checkpoint};
use super::classifier::{Classifier, Step};
use super::journal::Log;
use super::measure::{SeedResult, measure};
use super::plan::FinetunePlan;
use crate::error::EvalError;
use crate::features::{Labelled, agreed, check_pooling, geometry};
use crate::files::replace;
use crate::progress::Progress;

/// A training under way, in one of the processes that share it.
struct Run<'a> {
    world: &'a World,
    plan: &'a FinetunePlan,
    folder: &'a Path,
    seed: u64,
    classifier: Classifier,
    optimizer: AdamW,
    step: u64,
}

/// Where a fine-tuning runs.
pub(super) struct Place<'a> {
    pub(super) world: &'a World,
    pub(super) workers: usize,
    pub(super) device: &'a Device,
    pub(super) stop: &'a AtomicBool,
}

/// Trains one seed to its end; `None` when it was stopped. All processes get the result.
pub(super) fn train(
    plan: &FinetunePlan,
    data: &Labelled,
    folder: &Path,
    seed: u64,
    place: &Place<'_>,
    progress: &mut Progress,
) -> Result<Option<SeedResult>, EvalError> {
    let &Place { world, workers, device, stop } = place;
    let started = Instant::now();
    let create = || {
        fs::create_dir_all(folder).map_err(|source| EvalError::File {
            doing: "create",
            path: folder.to_owned(),
            source,
        })
    };
    world.on_root(create, in_words)?;
    let config = loader_config(plan, data, seed, workers, world)?;
    let per_epoch = config.steps_per_epoch();
    let last = per_epoch * plan.recipe.train.epochs;
    let every =
        (plan.recipe.train.checkpoint_every_epochs * per_epoch as f64).round().max(1.0) as u64;
    let run = Run::begin(world, plan, folder, seed, data.classes(), device);
    let mut run = world.together(run, in_words)?;
    let schedule = WarmupCosine {
        lr: plan.peak_lr(),
        min_lr: plan.recipe.optim.min_lr.min(plan.peak_lr()),
        warmup_epochs: plan.recipe.optim.warmup_epochs,
        epochs: plan.recipe.train.epochs as f64,
    };
    let mut log = world.on_root(|| Log::open(folder, run.step), in_words)?;
    let unreadable = |source| EvalError::Loader { split: Split::Train, source };
    let source = Arc::clone(data.split(Split::Train));
    let batches = SupervisedLoader::start(source, config, run.step..last).map_err(unreadable);
    let mut batches = world.together(batches, in_words)?;
    let mut losses = Losses::new(run.step);
    let mut train_loss = f64::NAN;
    progress.begin();
    while run.step < last {
        let stopped = stop.load(Ordering::Relaxed);
        let batch = if stopped { None } else { batches.next() };
        let (batch, findings) = (batch.transpose().map_err(unreadable), batches.take_findings());
        let note = |findings: &Findings| batches.note(findings).map_err(unreadable);
        let (batch, stops) = agreed(world, batch, stopped, findings, note)?;
        let stops = stops.contains(&true);
        if let (false, Some(batch)) = (stops, batch) {
            let (images, lr) =
                (plan.recipe.train.batch, schedule.at(run.step as f64 / per_epoch as f64));
            let loss;
            (run, loss) = run.step(batch, lr);
            losses.push(loss, lr);
            progress.images(
                &format!("fine-tuning, seed {seed}"),
                run.step as usize * images,
                last as usize * images,
            );
        }
        let done = run.step;
        let ends = done % per_epoch == 0 || done % every == 0 || done == last;
        // Losses are read late: a GPU stalls at each reading.
        if (ends || losses.len() >= 50 || stops)
            && let Some((loss, lr)) = losses.read(world, done)?
        {
            train_loss = loss;
            let epoch = done as f64 / per_epoch as f64;
            let write = || log.as_mut().map_or(Ok(()), |log| log.write(done, epoch, loss, lr));
            world.on_root(write, in_words)?;
        }
        if stops {
            world.on_root(|| run.save(), in_words)?;
            return Ok(None);
        }
        if done % every == 0 && done != last {
            world.on_root(|| run.save(), in_words)?;
        }
    }
    let measured = world.together(run.on_plain_device(data.classes(), device), in_words)?;
    let (accuracy, confusion) = measure(world, &measured, plan, data, workers, device, progress)?;
    let save = || {
        run.save_classifier(data)?;
        let secs = started.elapsed().as_secs_f64();
        let result = SeedResult { accuracy, train_loss, secs, confusion };
        result.save(folder)?;
        // Twice the weights and of no more use.
        let _ = fs::remove_file(checkpoint::path(folder));
        Ok(result)
    };
    Ok(world.told(world.on_root(save, in_words::<EvalError>)?))
}

/// Whether the data fit the plan: said before anything is written.
pub(super) fn check(plan: &FinetunePlan, data: &Labelled, world: &World) -> Result<(), EvalError> {
    let parts = plan.recipe.train.parts;
    if world.size() > parts {
        let reason = format!(
            "{parts}: each of {} ranks needs a part of the batch; start at most {parts} (a new \
             fine-tuning may set more)",
            world.size()
        );
        return Err(EvalError::Setting { setting: "train.parts", reason });
    }
    loader_config(plan, data, 0, 1, world).map(drop)
}

fn loader_config(
    plan: &FinetunePlan,
    data: &Labelled,
    seed: u64,
    workers: usize,
    world: &World,
) -> Result<SupervisedConfig, EvalError> {
    let images = data.split(Split::Train).len() as u32;
    let samples =
        data.sample(Split::Train, plan.max_train).unwrap_or_else(|| (0..images).collect());
    let batch = plan.recipe.train.batch;
    if samples.len() < batch {
        let reason = format!("{batch} is more than the {} training images", samples.len());
        return Err(EvalError::Setting { setting: "train.batch", reason });
    }
    let own = parts_of(world, plan.recipe.train.parts);
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
        pairs: Some(first_pair(plan, own.start)..first_pair(plan, own.end)),
    })
}

/// The first pair of images of a part of the batch.
fn first_pair(plan: &FinetunePlan, part: usize) -> usize {
    plan.recipe.train.batch.div_ceil(2) * part / plan.recipe.train.parts
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

/// Losses of steps that have not been read yet.
struct Losses {
    /// The step before the first of them.
    begin: u64,
    /// Of each step those of the own parts, in order.
    steps: Vec<Vec<Tensor<1>>>,
    /// The last step's rate.
    lr: f64,
}

impl Losses {
    fn new(begin: u64) -> Self {
        Self { begin, steps: vec![], lr: f64::NAN }
    }

    fn push(&mut self, parts: Vec<Tensor<1>>, lr: f64) {
        self.steps.push(parts);
        self.lr = lr;
    }

    fn len(&self) -> usize {
        self.steps.len()
    }

    /// Mean over the steps since the last reading and the rate of the last; none if there was none.
    fn read(&mut self, world: &World, done: u64) -> Result<Option<(f64, f64)>, EvalError> {
        let (begin, steps) =
            (std::mem::replace(&mut self.begin, done), std::mem::take(&mut self.steps));
        let Some(own) = steps.first().map(Vec::len) else { return Ok(None) };
        let values = Tensor::cat(steps.concat(), 0).try_into_vec_as().map_err(EvalError::Device);
        let values: Vec<f32> = world.together(values, in_words)?;
        let of_all =
            world.exchange(values.chunks_exact(own).map(<[f32]>::to_vec).collect::<Vec<_>>());
        let (mut sum, count) = (0.0, steps.len());
        for step in 0..count {
            let parts = of_all.iter().flat_map(|process| process[step].iter().copied());
            let loss = parts.reduce(|a, b| a + b).expect("a batch has a part");
            if !loss.is_finite() {
                // All processes find the same.
                world.leave();
                return Err(EvalError::FinetuneDiverged {
                    step: begin + step as u64 + 1,
                    lr: self.lr,
                });
            }
            sum += f64::from(loss);
        }
        Ok(Some((sum / count as f64, self.lr)))
    }
}

/// What some images add to the loss of their batch, `[1]`.
fn loss_of(
    classifier: &Classifier,
    plan: &FinetunePlan,
    (seed, step): (u64, u64),
    images: SupervisedBatch,
) -> Tensor<1> {
    let (model, batch) = (&plan.model, plan.recipe.train.batch);
    let device = classifier.vit.device();
    let SupervisedBatch { patches, targets, places } = images;
    let (n, l) = (places.len(), model.patches());
    let patches = TensorData::new(patches, [n, l, model.patch_len()]);
    let patches = Tensor::<3>::from_data(patches, &device);
    let positions: Vec<i32> = (0..n).flat_map(|_| 0..l as i32).collect();
    let positions = Tensor::<2, Int>::from_data(TensorData::new(positions, [n, l]), &device);
    let tokens = classifier.vit.tokens(patches, positions); // [N, L, D]
    let classes = targets.len() / n;
    let targets = Tensor::<2>::from_data(TensorData::new(targets, [n, classes]), &device);
    let step = Step { seed, step, batch, places: &places };
    let logits = classifier.logits(tokens, Some(step)); // [N, C]
    (log_softmax(logits, 1) * targets).sum() / -(batch as f64)
}

impl<'a> Run<'a> {
    fn begin(
        world: &'a World,
        plan: &'a FinetunePlan,
        folder: &'a Path,
        seed: u64,
        classes: usize,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let learning = device.clone().autodiff();
        let kept = world.on_root(|| Checkpoint::bytes(folder), in_words)?.unwrap_or_default();
        let kept = Checkpoint::of(&world.from_root(kept), folder)?;
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
            world,
            plan,
            folder,
            seed,
            classifier,
            optimizer: optimizer.with_layer_decay(layers),
            step,
        })
    }

    /// Forward, backward, update; gives what the own parts add to the batch's loss before the
    /// update, `[1]` each.
    fn step(self, mut batch: SupervisedBatch, lr: f64) -> (Self, Vec<Tensor<1>>) {
        let Self { world, plan, seed, classifier, mut optimizer, step, .. } = self;
        let parts = plan.recipe.train.parts;
        let first = first_pair(plan, parts_of(world, parts).start);
        let mut losses = vec![];
        let gradients = sum_of_parts(world, parts, |part| {
            let pairs = first_pair(plan, part) - first..first_pair(plan, part + 1) - first;
            let images = match parts {
                1 => std::mem::take(&mut batch),
                _ => batch.of_pairs(pairs),
            };
            let loss = loss_of(&classifier, plan, (seed, step), images);
            losses.push(loss.clone().inner());
            NamedGradients::of(loss.backward(), |take| visit_named(&classifier, "", take))
        });
        losses.reverse();
        let (classifier, _) =
            optimizer.step_by(gradients, lr, |update| map_named(classifier, "", update));
        (Self { classifier, optimizer, step: step + 1, ..self }, losses)
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
