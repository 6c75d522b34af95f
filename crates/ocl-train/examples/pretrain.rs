//! Pre-training in thirty lines: a source, a loader, a trainer, a schedule.
//!
//! `cargo run --release -p ocl-train --example pretrain`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::sync::Arc;

use ocl_data::{Loader, LoaderConfig, Source, SourceKind, Split};
use ocl_train::{Backend, Plan, Recipe, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Backend::DEFAULT.device()?;
    let overrides = ["train.epochs=1", "optim.warmup_epochs=0.2"].map(str::to_owned);
    let recipe = Recipe::load("embedded", &overrides)?;
    let source = Arc::new(Source::open(&recipe.data.path, SourceKind::Auto, Split::Train)?);
    let plan = Plan::resolve("embedded", &recipe, &source)?;

    let mut trainer = Trainer::new(&plan.model, &plan.method, plan.adamw, plan.seed, &device)?;
    let config = LoaderConfig { batch: plan.batch, seed: plan.seed, ..LoaderConfig::default() };
    for (step, batch) in Loader::start(source, plan.view(), config)?.enumerate() {
        let rates = plan.rates(step as u64);
        let loss;
        (trainer, loss) = trainer.step(batch?, rates);
        if step % 10 == 0 {
            println!("step {step}, loss {:.3}", loss.into_scalar::<f32>());
        }
    }
    ocl_model::save_weights(trainer.encoder(), "encoder.safetensors".as_ref(), &[])?;
    Ok(())
}
