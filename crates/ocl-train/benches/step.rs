//! Images per second of one training step: forward, backward, AdamW, on synthetic patches.
//!
//! `cargo xtask bench-step --model small --batch 64 --mask-ratio 0.9 [--json]`; the same shapes as
//! the usual PyTorch step on 224 px images; `--method mae` and the others with their authors'
//! constants for ImageNet. Without arguments a small encoder, so that it ends in
//! seconds. Lists, as in `--model base,large --batch 512,1800`, are timed in every combination by
//! one process, whose kernels are compiled once.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::Tensor;
use clap::Parser;
use ocl_data::{Batch, Geometry, Normalisation, TrainCrop, TrainView, View};
use ocl_loss::agreement;
use ocl_model::{Precision, VitConfig};
use ocl_train::{
    AdamWConfig, Backend, MicroBatches, Readback, Reading, Recipe, StepOutput, Trainer,
    keep_freed_memory, spectrum, synthetic_batch,
};

/// Times one training step on synthetic patches: the median of some steps after a warm-up.
#[derive(Parser)]
#[command(name = "bench-step", bin_name = "cargo xtask bench-step", disable_version_flag = true)]
struct Arguments {
    /// What is learnt by: ocl, mae, i-jepa or moco-v3
    #[arg(long, default_value = "ocl", value_delimiter = ',')]
    method: Vec<String>,
    /// Encoder: tiny, small, base, large, huge, micro or nano
    #[arg(long, default_value = "tiny", value_delimiter = ',')]
    model: Vec<String>,
    /// Images a step
    #[arg(long, default_value = "32", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Images in memory at once; the others are encoded twice [default: all, in one piece]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// Share of the patches that are masked, by the methods that have one [default: 0.9, and 0.75
    /// of mae]
    #[arg(long, value_delimiter = ',')]
    mask_ratio: Vec<f64>,
    /// Change a value of the method or the encoder, e.g. method.decoder_depth=4 or model.heads=12
    /// (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Steps that are timed
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before these
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Where the step runs: the backend that was compiled in
    #[arg(long, default_value = "flex")]
    backend: Backend,
    /// What products are computed in: f32, or tf32 and bf16 where the backend has it
    #[arg(long, default_value = "f32", value_delimiter = ',')]
    precision: Vec<Precision>,
    /// Also what watching the run costs, as a share of the step (k-NN is not counted: it needs
    /// data)
    #[arg(long)]
    monitors: bool,
    /// One line of JSON: images_per_sec, step_secs, peak_bytes, ...
    #[arg(long)]
    json: bool,
    /// Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    keep_freed_memory();
    match measure_all(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    for method in &arguments.method {
        for model in &arguments.model {
            for &batch in &arguments.batch {
                for mask_ratio in mask_ratios(method, arguments) {
                    for &precision in &arguments.precision {
                        let case = Case { method, model, batch, mask_ratio, precision };
                        measure(&case, arguments)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The mask ratios that a method is timed at: one without any has none.
fn mask_ratios(method: &str, arguments: &Arguments) -> Vec<Option<f64>> {
    let own = match method {
        "ocl" => 0.9,
        "mae" => 0.75,
        _ => return vec![None],
    };
    match &arguments.mask_ratio[..] {
        [] => vec![Some(own)],
        asked => asked.iter().copied().map(Some).collect(),
    }
}

/// One combination.
struct Case<'a> {
    method: &'a str,
    model: &'a str,
    batch: usize,
    mask_ratio: Option<f64>,
    precision: Precision,
}

fn measure(case: &Case<'_>, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Case { method: name, model, batch, mask_ratio, precision } = *case;
    let backend = arguments.backend;
    let mut config = VitConfig::named(model)?;
    let mut overrides = vec![format!("method.name={name}")];
    overrides.extend(mask_ratio.map(|ratio| format!("method.mask_ratio={ratio}")));
    overrides.extend_from_slice(&arguments.overrides);
    let recipe = Recipe::load("imagenet-vit-b", &overrides)?;
    config.heads = recipe.model.heads.unwrap_or(config.heads);
    let method = recipe.method;
    let optim = recipe.optim;
    let adamw = AdamWConfig {
        beta1: optim.beta1,
        beta2: optim.beta2,
        eps: optim.eps,
        weight_decay: optim.weight_decay,
    };
    if let Some((key, problem)) = method.problem(config.patches()) {
        return Err(format!("method.{key}: {problem}").into());
    }
    if batch < method.least_images() {
        return Err(format!("{name} needs at least {} images", method.least_images()).into());
    }
    let view = View::Train(TrainView {
        geometry: Geometry {
            image_px: u32::try_from(config.image_px)?,
            patch_px: u32::try_from(config.patch_px)?,
        },
        normalisation: Normalisation { mean: recipe.data.mean, std: recipe.data.std },
        crop: TrainCrop {
            scale: recipe.data.crop_scale.into(),
            ratio: recipe.data.crop_ratio.into(),
            flip: recipe.data.flip,
            filter: method.filter(),
        },
        augment: method.augment(),
        keep: method.keep(config.patches()),
    });
    let device = backend.device()?;
    if precision.on(&device) != precision {
        return Err(format!("{backend} does not compute in {precision} here").into());
    }
    let micro = arguments.chunk.map_or(MicroBatches::WHOLE, |chunk| {
        MicroBatches::of(batch, method.rows_per_image(&config), chunk as usize)
    });
    let mut trainer = Trainer::new(&config, &method, adamw, 0, &device)?
        .with_precision(precision)
        .with_micro_batches(micro);

    let steps = arguments.warmup + arguments.steps;
    let some = [0, 1].map(|seed| synthetic_batch(&view, batch, seed));
    let batches: Vec<Batch> = (0..steps).map(|step| some[step as usize % 2].clone()).collect();
    let mut secs = vec![];
    let readback = Readback::of(&device);
    let mut before: Option<Reading> = None;
    let mut start = Instant::now();
    for (step, batch) in batches.into_iter().enumerate() {
        let output;
        (trainer, output) = trainer.step_watched(batch, 1e-4);
        // As in training: a loss is waited for when the next step is under way, so that a GPU never
        // waits for the host.
        if let Some(before) = before.replace(readback.ask(output.into_figures())) {
            before.wait();
        }
        if step >= arguments.warmup as usize {
            secs.push(start.elapsed().as_secs_f64());
        }
        start = Instant::now();
    }
    let mut figures = before.ok_or("no step was taken")?.wait();
    let last = figures.take(StepOutput::LOSS).ok_or("a step tells its loss")?;
    let step_secs = median(secs);
    let peak = peak_bytes();
    let shares = arguments.monitors.then(|| {
        let batch = synthetic_batch(&view, batch, 0);
        watching_secs(&trainer, batch).map(|secs| secs / step_secs)
    });
    let rate = batch as f64 / step_secs;
    if arguments.json {
        let line = serde_json::json!({
            "method": name,
            "model": model,
            "batch": batch,
            "chunk": micro.chunk.min(batch),
            "mask_ratio": mask_ratio,
            "backend": backend.to_string(),
            "precision": precision.to_string(),
            "images_per_sec": rate,
            "step_secs": step_secs,
            "peak_bytes": peak,
            "monitor_share": shares.map(|[watching, _]| watching),
            "norm_share": shares.map(|[_, norm]| norm),
        });
        println!("{line}");
        return Ok(());
    }
    let chunks = match micro.chunk < batch {
        true => format!(" in chunks of {}", micro.chunk),
        false => String::new(),
    };
    let mask = mask_ratio.map_or_else(String::new, |ratio| format!(" mask {ratio}"));
    let peak = peak.map_or_else(String::new, |bytes| format!(", peak {} MiB", bytes >> 20));
    println!(
        "{name} {model} batch {batch}{chunks}{mask} {backend} {precision}: median step \
         {step_secs:.4} s, {rate:.1} img/s, loss {last:.4}{peak}"
    );
    if let Some([watching, norm]) = shares.map(|shares| shares.map(|share| 100.0 * share)) {
        println!("watching takes {watching:.2} % of the step");
        println!("the gradient's norm, when clipping asks for a pass of its own, {norm:.2} %");
    }
    Ok(())
}

/// Seconds a step that watching takes: agreement at every step where there are two views, effective rank and uniformity of
/// 256 embeddings at every hundredth; and those of the gradient's norm by itself. Without clipping
/// AdamW takes the norm along in its own pass, where the values are in the cache.
fn watching_secs(trainer: &Trainer, batch: Batch) -> [f64; 2] {
    let (objective, gradients) = trainer.gradients(batch);
    let embeddings = objective.watched;
    let [n, views, d] = embeddings.dims();
    let view = |i: usize| -> Tensor<2> {
        embeddings.clone().slice([0..n, i..i + 1, 0..d]).reshape([n, d]) // [N, D]
    };
    let every_step = match views {
        2 => timed(|| {
            agreement(view(0), view(1)).into_data();
        }),
        _ => 0.0,
    };
    let norm = timed(|| {
        gradients.norm().into_data();
    });
    let some = n.min(256);
    let rows = view(0).slice([0..some, 0..d]).into_data().try_into_vec::<f32>();
    let rows = rows.expect("embeddings are f32");
    let spectra = timed(|| _ = std::hint::black_box(spectrum(&rows, d)));
    [every_step + spectra / 100.0, norm]
}

/// The median of some runs, in seconds.
fn timed(mut work: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    median((0..9).map(run).collect())
}

fn median(mut secs: Vec<f64>) -> f64 {
    secs.sort_by(f64::total_cmp);
    secs[secs.len() / 2]
}

/// The most memory this process has held, where the system says so.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
