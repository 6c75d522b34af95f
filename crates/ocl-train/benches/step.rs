//! Images per second of one training step: forward, backward, AdamW, on made-up patches.
//!
//! `cargo bench -p ocl-train --bench step -- [SIZE BATCH MASK_RATIO [BACKEND]]`; the same shapes as the
//! usual PyTorch step on 224 px images. Without arguments a small encoder, so that it ends in seconds.

use std::time::Instant;

use ocl_data::{Batch, kept_patches};
use ocl_model::VitConfig;
use ocl_train::{AdamWConfig, Backend, Method, Ocl, Trainer, keep_freed_memory};

const WARMUP: usize = 3;
const STEPS: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    keep_freed_memory();
    // Cargo passes `--bench` along.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let word =
        |i: usize, default: &str| words.get(i).cloned().unwrap_or_else(|| default.to_owned());
    let config = VitConfig::named(&word(0, "tiny"))?;
    let (batch, mask_ratio): (usize, f64) = (word(1, "32").parse()?, word(2, "0.9").parse()?);
    let backend: Backend = word(3, "flex").parse()?;

    let method = Method::Ocl(Ocl { mask_ratio, kappa: 1.0 / 64.0, temperature: 0.07 });
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
    let mut trainer = Trainer::new(&config, &method, adamw, 0, &backend.device()?)?;
    let kept = kept_patches(config.patches(), mask_ratio);
    let mut secs = vec![];
    let mut last = 0.0;
    for step in 0..WARMUP + STEPS {
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
    let (name, rate) = (word(0, "tiny"), batch as f64 / median);
    println!(
        "ocl {name} batch {batch} mask {mask_ratio} {backend} f32: median step {median:.4} s, \
         {rate:.1} img/s, loss {last:.4}"
    );
    Ok(())
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
