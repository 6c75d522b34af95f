//! k-NN accuracy of an untrained encoder on the embedded images.
//!
//! `cargo run --release -p ocl-eval --example knn`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::error::Error;
use std::sync::Arc;

use burn::tensor::Device;
use ocl_data::{EvalView, Geometry, Normalisation, Source, SourceKind, Split};
use ocl_eval::{ExtractConfig, Extractor, KnnConfig, Progress, extract, knn};
use ocl_model::{Pooling, Vit, VitConfig};
use ocl_train::World;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::default();
    let shape = VitConfig { image_px: 32, patch_px: 8, ..VitConfig::named("nano")? };
    let encoder = Vit::new(&shape, 0, &device)?;
    let normalisation = Normalisation { mean: [0.286; 3], std: [0.353; 3] };
    let geometry = Geometry { image_px: 32, patch_px: 8 };
    let config = ExtractConfig {
        view: EvalView { geometry, normalisation, resize_ratio: 1.0 },
        batch: 64,
        workers: 1,
        max_bad_share: 0.0,
    };
    let mut progress = Progress::stderr();
    let mut features = |split| -> Result<_, Box<dyn Error>> {
        let source = Arc::new(Source::open("embedded", SourceKind::Auto, split)?);
        let class_tokens = [Extractor::Encoder(&encoder, Pooling::Cls)];
        Ok(extract(
            &World::One,
            &class_tokens,
            &source,
            split,
            None,
            &config,
            &device,
            &mut progress,
        )?
        .remove(0))
    };
    let (bank, queries) = (features(Split::Train)?, features(Split::Test)?);
    let config = KnnConfig { k: vec![20], temperature: 0.07 };
    let measured = knn(&bank, &queries, 10, &config, &device, &mut progress)?;
    progress.clear();
    println!("untrained encoder: k-NN top-1 {:.1} %", 100.0 * measured.scores[0].mean);
    Ok(())
}
