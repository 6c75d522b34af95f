//! A step on the CPU gives the same bits on any number of threads: a run goes on exactly on another
//! machine of the kind, or beside other work.

#![cfg(all(feature = "flex", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a test may")]

use burn::tensor::{Device, Tensor};
use ocl_data::Batch;
use ocl_model::{Vit, VitConfig, state_of};
use ocl_train::{AdamW, AdamWConfig, Learner, MicroBatches, Ocl, Trainer};

const KEPT: usize = 8;

fn config() -> VitConfig {
    VitConfig { image_px: 64, patch_px: 8, width: 64, depth: 2, heads: 4, mlp_ratio: 4 }
}

fn batch(images: usize) -> Batch {
    let patch_len = config().patch_len();
    Batch {
        patches: (0..images * KEPT * patch_len).map(|i| (i as f32 * 0.618).sin()).collect(),
        positions: (0..images * KEPT).map(|i| (i * 7 % 64) as u32).collect(),
        images,
        kept: KEPT,
        patch_len,
        ..Batch::default()
    }
}

/// The bits of all that two steps leave: losses and what is shown beside them, weights, moments.
fn bits(images: usize, micro: MicroBatches) -> Vec<(String, Vec<u32>)> {
    let ocl = Ocl { mask_ratio: 0.875, kappa: 1.0 / 64.0, temperature: 0.07, group: None };
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
    let vit = Vit::new(&config(), 3, &Device::flex().autodiff()).unwrap();
    let optimizer = AdamW::new(adamw).with_clip_norm(0.1);
    let learner = Learner::Ocl(ocl.learner(vit));
    let mut trainer = Trainer::with(learner, optimizer).with_micro_batches(micro);
    let mut all = vec![];
    let to_bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let host = |t: Tensor<1>| to_bits(t.into_data().try_into_vec().unwrap());
    for _ in 0..2 {
        let output;
        (trainer, output) = trainer.step_watched(batch(images), 1e-3);
        all.push(("loss".to_owned(), host(output.loss)));
        all.push(("gradient norm".to_owned(), host(output.gradient_norm)));
        let figures = output.figures.read();
        let figures: Vec<f32> = figures.iter().map(|(_, value)| value as f32).collect();
        assert_eq!(figures.len(), 3);
        all.push(("agreement".to_owned(), to_bits(figures)));
    }
    for (name, tensor) in state_of(trainer.encoder()) {
        all.push((name, to_bits(tensor.values)));
    }
    for (name, (first, second)) in trainer.optimizer().state().moments {
        all.push((format!("moments of {name}"), to_bits([first, second].concat())));
    }
    all
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // The library's products, which serve other processors, may group sums by the rows of a chunk.
    if !std::is_x86_feature_detected!("avx512f") {
        return;
    }
    // Even and uneven groups and chunks; several chunks a thread; several micro-batches.
    let whole = [24, 47, 300].map(|images| (images, MicroBatches::WHOLE));
    for (images, micro) in
        whole.into_iter().chain([(47, MicroBatches { size: 9, chunk: 18, parts: 1 })])
    {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bits(images, micro))
        };
        let one = on(1);
        for threads in [2, 3, 7] {
            for ((name, expected), (_, found)) in one.iter().zip(on(threads)) {
                assert!(*expected == found, "{name} of {images} images on {threads} threads");
            }
        }
    }
}
