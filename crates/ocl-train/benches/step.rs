//! Images per second of one training step: forward, backward, AdamW, on made-up patches.
//!
//! `cargo xtask bench-step --model small --batch 64 --mask-ratio 0.9 [--json]`; the same shapes as the usual
//! PyTorch step on 224 px images. Without arguments a small encoder, so that it ends in seconds.

use std::time::Instant;

use clap::Parser;
use ocl_data::{Batch, kept_patches};
use ocl_model::VitConfig;
use ocl_train::{AdamWConfig, Backend, Method, Ocl, Trainer, keep_freed_memory};

/// Times one training step on made-up patches: the median of some steps after a warm-up.
#[derive(Parser)]
#[command(name = "cargo xtask bench-step", disable_version_flag = true)]
struct Arguments {
    /// Encoder: tiny, small, base, large, huge, micro or nano
    #[arg(long, default_value = "tiny")]
    model: String,
    /// Images a step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Share of the patches that are masked
    #[arg(long, default_value_t = 0.9)]
    mask_ratio: f64,
    /// Steps that are timed, after three that are not
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Where the step runs: the backend that was compiled in
    #[arg(long, default_value = "flex")]
    backend: Backend,
    /// One line of JSON: images_per_sec, step_secs, peak_bytes
    #[arg(long)]
    json: bool,
    /// Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const WARMUP: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    keep_freed_memory();
    let Arguments { model, batch, mask_ratio, steps, backend, json, .. } = Arguments::parse();
    let config = VitConfig::named(&model)?;
    let method = Method::Ocl(Ocl { mask_ratio, kappa: 1.0 / 64.0, temperature: 0.07 });
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
    let mut trainer = Trainer::new(&config, &method, adamw, 0, &backend.device()?)?;
    let kept = kept_patches(config.patches(), mask_ratio);
    if kept == 0 || batch < 2 {
        return Err("two images and two kept patches are the least there is to contrast".into());
    }
    let mut secs = vec![];
    let mut last = 0.0;
    for step in 0..WARMUP + steps as usize {
        let batch = made_up(&config, batch, kept, step);
        let start = Instant::now();
        let loss;
        (trainer, loss) = trainer.step(batch, 1e-4);
        last = loss.into_scalar::<f32>();
        if step >= WARMUP {
            secs.push(start.elapsed().as_secs_f64());
        }
    }
    secs.sort_by(f64::total_cmp);
    let median = secs[secs.len() / 2];
    let rate = batch as f64 / median;
    let peak = peak_bytes();
    if json {
        let line = serde_json::json!({
            "model": model,
            "batch": batch,
            "mask_ratio": mask_ratio,
            "backend": backend.to_string(),
            "images_per_sec": rate,
            "step_secs": median,
            "peak_bytes": peak,
        });
        println!("{line}");
        return Ok(());
    }
    let peak = peak.map_or_else(String::new, |bytes| format!(", peak {} MiB", bytes >> 20));
    println!(
        "ocl {model} batch {batch} mask {mask_ratio} {backend} f32: median step {median:.4} s, \
         {rate:.1} img/s, loss {last:.4}{peak}"
    );
    Ok(())
}

/// The most memory this process has held, where the system says so.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

fn made_up(config: &VitConfig, images: usize, kept: usize, seed: usize) -> Batch {
    let values = images * kept * config.patch_len();
    let pixel = |i: usize| ((i * 7919 + seed * 104_729) as f32 * 0.618_034).fract() * 2.0 - 1.0;
    Batch {
        epoch: 0,
        index: seed as u64,
        samples: (0..images as u64).collect(),
        labels: vec![],
        patches: (0..values).map(pixel).collect(),
        positions: (0..images * kept).map(|i| ((i * 31) % config.patches()) as u32).collect(),
        images,
        kept,
        patch_len: config.patch_len(),
    }
}
