//! Streams batches of kept patches from a folder of images, or from the embedded set.
//!
//! cargo run --release -p ocl-data --example stream_folder -- [FOLDER]

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use ocl_data::{
    Augment, Filter, Geometry, Keep, Loader, LoaderConfig, Normalisation, Source, SourceKind,
    Split, TrainCrop, TrainView, View,
};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or("embedded".into());
    let source = Arc::new(Source::open(&path, SourceKind::Auto, Split::Train)?);
    println!("{}", source.describe());

    let view = View::Train(TrainView {
        geometry: Geometry { image_px: 224, patch_px: 16 },
        normalisation: Normalisation::IMAGENET,
        crop: TrainCrop {
            scale: (0.2, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
            flip: 0.5,
            filter: Filter::Bicubic,
        },
        augment: Augment::None,
        keep: Keep::Random { kept: 18 },
    });
    let config =
        LoaderConfig { batch: source.len().min(64), workers: 2, seed: 1, ..Default::default() };
    let mut loader = Loader::start(source, view, config)?;
    let (started, mut images) = (Instant::now(), 0);
    for batch in loader.by_ref().take(20) {
        let batch = batch?;
        images += batch.images;
        println!(
            "epoch {} batch {}: patches [{}, {}, {}], first sample {} at {:?}",
            batch.epoch,
            batch.index,
            batch.images,
            batch.kept,
            batch.patch_len,
            batch.samples[0],
            &batch.positions[..batch.kept.min(6)],
        );
    }
    let rate = images as f64 / started.elapsed().as_secs_f64();
    println!("{images} images, {rate:.0} a second, {} skipped", loader.skipped());
    Ok(())
}
