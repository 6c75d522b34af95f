//! A plan in a few lines for a person.

use std::fmt::Write as _;

use burn::tensor::Device;
use ocl_data::{Source, SourceError, Split};
use ocl_model::Precision;

use super::progress::duration;
use crate::config::{Estimate, Plan};
use crate::device::Backend;

/// What will be trained on what, and what it costs; a line each.
pub fn summary(
    plan: &Plan,
    source: &Source,
    estimate: &Estimate,
    backend: Backend,
    device: &Device,
) -> String {
    let model = &plan.model;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:10}{value}");
    };
    line("recipe", plan.recipe.clone());
    line("data", source.describe());
    line("", format!("first {}", first_names(source)));
    line("", test_part(plan));
    if let Some(passed) = source.passed_over() {
        line("", passed);
    }
    line(
        "encoder",
        format!(
            "ViT {} wide, {} deep, {}, patch {} on {} px: {:.1} M parameters",
            model.width,
            model.depth,
            counted(model.heads as u64, "head"),
            model.patch_px,
            model.image_px,
            estimate.parameters as f64 / 1e6
        ),
    );
    if let Some(init) = &plan.init {
        let decoder = if init.decoder { " and its decoder" } else { "" };
        line("begins", format!("from the encoder{decoder} in {}", init.path.display()));
    }
    line("method", plan.method.describe(model.patches()));
    line(
        "training",
        format!(
            "{} of {}, batch {}{}, lr {:.2e} after {} epochs of warm-up{}, seed {}",
            counted(plan.epochs, "epoch"),
            counted(plan.steps_per_epoch, "step"),
            plan.batch,
            chunks(plan),
            plan.schedule.lr,
            plan.schedule.warmup_epochs,
            plan.warmup_written.map_or_else(String::new, |written| format!(
                " (fewer than the recipe's {written}, as the run is shorter)"
            )),
            plan.seed
        ),
    );
    line("precision", precision(plan.precision, plan.precision.on(device), backend));
    line(
        "cost",
        format!(
            "{:.2} GFLOP an image, about {} at peak, on {backend}",
            2.0 * estimate.macs_per_image as f64 / 1e9,
            bytes(estimate.peak_bytes)
        ),
    );
    if let Some(fits) = plan.largest_fitting(backend, plan.micro_batch) {
        line(
            "memory",
            match fits >= plan.batch {
                true => "the whole batch fits at once".to_owned(),
                false => format!("chunks of {fits} images fit; the whole batch does not"),
            },
        );
    }
    if let Some(step_secs) = estimate.step_secs {
        let images = plan.batch as f64 / step_secs;
        let whole = duration(step_secs * plan.steps as f64);
        line("time", format!("{whole} at {images:.0} img/s, from timed steps; data not counted"));
    }
    if let Some(chance) = plan.method.chance_loss(plan.batch) {
        let text = format!("a loss of {chance:.3} is what an encoder that learnt nothing scores");
        line("chance", text);
    }
    text
}

/// The first samples by name.
fn first_names(source: &Source) -> String {
    let names: Vec<String> = (0..source.len().min(3)).map(|index| source.name_of(index)).collect();
    names.join(", ")
}

/// What a run's figures will be measured on.
fn test_part(plan: &Plan) -> String {
    match plan.data.open(Split::Test) {
        Ok(test) => {
            let passed =
                test.passed_over().map_or_else(String::new, |passed| format!("; {passed}"));
            format!("measured on {}{passed}", test.describe())
        }
        Err(SourceError::NotFound { .. }) => "no test part, so nothing will be measured".to_owned(),
        Err(error) => format!("no test part that can be used: {error}"),
    }
}

/// What products are computed in, and why it is not what was asked for.
fn precision(asked: Precision, used: Precision, backend: Backend) -> String {
    match used {
        Precision::Bf16 => {
            "products in bf16; parameters, norms, softmax and loss in f32".to_owned()
        }
        Precision::F32 if asked == used && backend == Backend::Cuda => {
            "f32 (by cuBLASLt to the last bit); --precision bf16 or tf32 is several times as fast here"
                .to_owned()
        }
        Precision::F32 if asked == used => "f32".to_owned(),
        Precision::Tf32 => "products in f32 with factors rounded to TF32".to_owned(),
        Precision::F32 => {
            format!("f32: on {backend} nothing is gained by {asked}, or it is not there")
        }
    }
}

/// `` when a batch is taken whole, ` in chunks of 64` otherwise.
fn chunks(plan: &Plan) -> String {
    if plan.chunk >= plan.batch { String::new() } else { format!(" in chunks of {}", plan.chunk) }
}

/// `1 head`, `3 heads`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `1.4 GiB`, `310 MiB`.
fn bytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}
