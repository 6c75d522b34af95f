//! Seconds of the two protocols on random features of Fashion-MNIST's size.
//!
//! `cargo bench -p ocl-eval --bench knn`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::time::Instant;

use burn::tensor::Device;
use ocl_eval::{EvalRecipe, Features, Progress, knn, linear_cached};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

const CLASSES: u32 = 10;

fn random(rows: usize, width: usize, seed: u64) -> Features {
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let values = (0..rows * width).map(|_| stream.random::<f32>() - 0.5).collect();
    let labels = (0..rows).map(|_| stream.random_range(0..CLASSES)).collect();
    Features::new(values, width, labels)
}

fn main() -> Result<(), ocl_eval::EvalError> {
    ocl_train::keep_freed_memory();
    let device = Device::default();
    let mut progress = Progress::silent();
    let (bank, queries) = (random(60_000, 192, 1), random(10_000, 192, 2));
    let recipe = EvalRecipe::load(None, &[])?;
    for _ in 0..3 {
        let started = Instant::now();
        knn(&bank, &queries, CLASSES as usize, &recipe.knn, &device, &mut progress)?;
        let secs = started.elapsed().as_secs_f64();
        println!("k-NN, 10,000 queries in 60,000 x 192: {secs:.2} s");
    }
    let started = Instant::now();
    linear_cached(&bank, &queries, CLASSES as usize, &recipe.linear, &[0], &device, &mut progress)?;
    println!("cached linear probe of 60,000 x 192: {:.2} s", started.elapsed().as_secs_f64());
    Ok(())
}
