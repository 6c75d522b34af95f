//! Images per second of one training step: forward, backward, AdamW, on synthetic patches.
//!
//! `cargo xtask bench-step --model small --batch 64 --mask-ratio 0.9 [--json]`; the same shapes as
//! the usual PyTorch step on 224 px images. Without arguments a small encoder, so that it ends in
//! seconds. Lists, as in `--model base,large --batch 512,1800`, are timed in every combination by
//! one process, whose kernels are compiled once.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::Tensor;
use clap::Parser;
use ocl_data::Batch;
use ocl_loss::agreement;
use ocl_model::{Precision, VitConfig};
use ocl_train::{
    AdamWConfig, Backend, Method, MicroBatches, Ocl, Readback, Reading, StepOutput, Trainer,
    keep_freed_memory, spectrum,
};

/// Times one training step on synthetic patches: the median of some steps after a warm-up.
#[derive(Parser)]
#[command(name = "cargo xtask bench-step", disable_version_flag = true)]
struct Arguments {
    /// Encoder: tiny, small, base, large, huge, micro or nano
    #[arg(long, default_value = "tiny", value_delimiter = ',')]
    model: Vec<String>,
    /// Images a step
    #[arg(long, default_value = "32", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Images in memory at once; the others are encoded twice [default: all, in one piece]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: Option<u32>,
    /// Share of the patches that are masked
    #[arg(long, default_value = "0.9", value_delimiter = ',')]
    mask_ratio: Vec<f64>,
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
    for model in &arguments.model {
        for &batch in &arguments.batch {
            for &mask_ratio in &arguments.mask_ratio {
                for &precision in &arguments.precision {
                    measure(&Case { model, batch, mask_ratio, precision }, arguments)?;
                }
            }
        }
    }
    Ok(())
}

/// One combination.
struct Case<'a> {
    model: &'a str,
    batch: usize,
    mask_ratio: f64,
    precision: Precision,
}

fn measure(case: &Case<'_>, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Case { model, batch, mask_ratio, precision } = *case;
    let backend = arguments.backend;
    let config = VitConfig::named(model)?;
    let ocl = Ocl { mask_ratio, kappa: 1.0 / 64.0, temperature: 0.07 };
    let method = Method::Ocl(ocl);
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
    let kept = ocl.kept(config.patches());
    if kept == 0 || batch < 2 {
        return Err("two images and two kept patches are the least there is to contrast".into());
    }
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
    let some = [0, 1].map(|seed| synthetic(&config, batch, kept, seed));
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
        let batch = synthetic(&config, batch, kept, 0);
        watching_secs(&trainer, batch).map(|secs| secs / step_secs)
    });
    let rate = batch as f64 / step_secs;
    if arguments.json {
        let line = serde_json::json!({
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
    let peak = peak.map_or_else(String::new, |bytes| format!(", peak {} MiB", bytes >> 20));
    println!(
        "ocl {model} batch {batch}{chunks} mask {mask_ratio} {backend} {precision}: median step \
         {step_secs:.4} s, {rate:.1} img/s, loss {last:.4}{peak}"
    );
    if let Some([watching, norm]) = shares.map(|shares| shares.map(|share| 100.0 * share)) {
        println!("watching takes {watching:.2} % of the step");
        println!("the gradient's norm, when clipping asks for a pass of its own, {norm:.2} %");
    }
    Ok(())
}

/// Seconds a step that watching takes: agreement at every step, effective rank and uniformity of
/// 256 embeddings at every hundredth; and those of the gradient's norm by itself. Without clipping
/// AdamW takes the norm along in its own pass, where the values are in the cache.
fn watching_secs(trainer: &Trainer, batch: Batch) -> [f64; 2] {
    let (objective, gradients) = trainer.gradients(batch);
    let embeddings = objective.watched;
    let [n, _, d] = embeddings.dims();
    let view = |i: usize| -> Tensor<2> {
        embeddings.clone().slice([0..n, i..i + 1, 0..d]).reshape([n, d]) // [N, D]
    };
    let every_step = timed(|| {
        agreement(view(0), view(1)).into_data();
    });
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

fn synthetic(config: &VitConfig, images: usize, kept: usize, seed: usize) -> Batch {
    let values = images * kept * config.patch_len();
    let pixel = |i: usize| ((i * 7919 + seed * 104_729) as f32 * 0.618_034).fract() * 2.0 - 1.0;
    Batch {
        index: seed as u64,
        samples: (0..images as u64).collect(),
        patches: (0..values).map(pixel).collect(),
        positions: (0..images * kept).map(|i| ((i * 31) % config.patches()) as u32).collect(),
        images,
        kept,
        patch_len: config.patch_len(),
        ..Batch::default()
    }
}
