//! What a run is made of, from its plan: the one place where plain data becomes networks, optimiser
//! and loader.

use std::path::Path;

use burn::tensor::Device;
use ocl_data::{LoaderConfig, Order};
use ocl_model::{OpenOptions, OpenedWeights, Vit};

use super::error::TrainError;
use crate::config::{InitPlan, Plan};
use crate::methods::Learner;
use crate::optim::{AdamW, AdamWState, WeightAverage};
use crate::step::Trainer;
use crate::world::World;

/// A trainer that has done nothing yet: parameters drawn from the seed, the encoder's from the
/// plan's file where it names one.
///
/// # Errors
/// When no encoder of this shape can exist, or the file does not serve.
pub(super) fn fresh_trainer(plan: &Plan, device: &Device) -> Result<Trainer, TrainError> {
    let autodiff = device.clone().autodiff();
    let learner = match &plan.init {
        None => plan.method.learner(&plan.model, plan.seed, &autodiff)?,
        Some(init) => initial(plan, init, &autodiff)?,
    };
    Ok(trainer(plan, learner, AdamWState::default(), None, device))
}

/// What a run begins with that goes on from a file.
fn initial(plan: &Plan, init: &InitPlan, device: &Device) -> Result<Learner, TrainError> {
    let wrong = |reason: String| TrainError::Init { path: init.path.clone(), reason };
    let bytes = std::fs::read(&init.path).map_err(|error| wrong(error.to_string()))?;
    if crc32fast::hash(&bytes) != init.crc32 {
        return Err(wrong("it is not the file that the run was planned with".to_owned()));
    }
    drop(bytes);
    let options = OpenOptions {
        heads: Some(plan.model.heads),
        image_px: Some(plan.model.image_px),
        prefix: init.prefix.clone(),
    };
    let OpenedWeights { vit: encoder, beside, .. } =
        ocl_model::open_weights(&init.path, &options, device)?;
    if *encoder.config() != plan.model {
        return Err(wrong(format!("it holds {:?}, not {:?}", encoder.config(), plan.model)));
    }
    if plan.method.needs_cls_token() && !encoder.has_cls_token() {
        let method = plan.method.name();
        return Err(wrong(format!("{method} needs a class token, which this encoder has not")));
    }
    match plan.method.learner_over(encoder, plan.seed) {
        Learner::Mae(learner) if init.decoder => Ok(Learner::Mae(learner.with_decoder(beside)?)),
        learner => Ok(learner),
    }
}

/// A trainer that goes on with networks and moments; the average begins at the encoder's weights
/// unless one is given.
pub(super) fn trainer(
    plan: &Plan,
    learner: Learner,
    moments: AdamWState,
    average: Option<Vit>,
    device: &Device,
) -> Trainer {
    let learner = learner.with_precision(plan.precision.on(device));
    let optimizer = AdamW::with_state(plan.adamw, moments, device);
    let optimizer = match plan.clip_norm {
        Some(norm) => optimizer.with_clip_norm(norm),
        None => optimizer,
    };
    let optimizer = match plan.method.decays_all() {
        true => optimizer.with_decay_of_all(),
        false => optimizer,
    };
    let average = plan.ema_decay.map(|decay| match average {
        Some(average) => WeightAverage::with(average, decay),
        None => WeightAverage::new(learner.encoder(), decay),
    });
    let trainer = Trainer::with(learner, optimizer).with_micro_batches(plan.micro_batches());
    match average {
        Some(average) => trainer.with_average(average),
        None => trainer,
    }
}

/// The loader of a run that has done `step` steps, for this process's share of its batches; what
/// cannot be read is listed in `run` by the root.
pub(super) fn loader_config(
    plan: &Plan,
    run: Option<&Path>,
    step: u64,
    world: &World,
) -> LoaderConfig {
    let (rank, processes) = (world.rank(), world.size());
    let share = plan.micro_batches().share(plan.batch, rank, processes);
    LoaderConfig {
        batch: plan.batch,
        workers: plan.data.workers,
        seed: plan.seed,
        order: Order::Shuffled,
        epochs: step / plan.steps_per_epoch..plan.epochs,
        first_batch: step % plan.steps_per_epoch,
        max_bad_share: plan.data.max_bad_share,
        quarantine: run.filter(|_| world.is_root()).map(|run| run.join("quarantine.jsonl")),
        subset: None,
        share: (processes > 1).then_some(share),
    }
}
