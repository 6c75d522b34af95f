//! How fast a folder or shards become batches, and where the time goes.

mod args;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use args::Args;
use ocl_data::{
    Augment, EvalView, Filter, Geometry, Keep, Loader, LoaderConfig, Normalisation, Source,
    SourceKind, Split, TrainCrop, TrainView, View,
};
use serde_json::{Map, Value, json};

const HELP: &str = "bench-data PATH: images per second of the loader, and the time of each stage

  --mask-ratio R   the share of patches left out (0.9); 0 makes all of them
  --eval           centre crops of all patches, as evaluation uses them
  --workers N      threads (1)
  --batch N        images in a batch (64, or all there are)
  --image-px N     side of the crop (224)
  --patch-px N     side of a patch (16)
  --secs N         how long to measure (3)
  --images N       measure over so many images instead
  --json           one JSON object: images_per_sec, stages (microseconds an image), ...";

fn main() -> ExitCode {
    args::program(HELP, run)
}

fn run(mut args: Args) -> Result<(), Box<dyn Error>> {
    let mask_ratio = args.value("--mask-ratio")?.unwrap_or(0.9);
    let (eval, as_json) = (args.flag("--eval"), args.flag("--json"));
    let workers = args.value("--workers")?.unwrap_or(1);
    let batch: usize = args.value("--batch")?.unwrap_or(64);
    let geometry = Geometry {
        image_px: args.value("--image-px")?.unwrap_or(224),
        patch_px: args.value("--patch-px")?.unwrap_or(16),
    };
    let secs: f64 = args.value("--secs")?.unwrap_or(3.0);
    let images: Option<u64> = args.value("--images")?;
    let [path] = args.words(["the PATH of a data set"])?;

    let source = Arc::new(Source::open(&path, SourceKind::Auto, Split::Train)?);
    let normalisation = Normalisation::IMAGENET;
    let view = if eval {
        View::Eval(EvalView { geometry, normalisation, resize_ratio: 256.0 / 224.0 })
    } else {
        // As OCL keeps them: rounded down to an even number.
        let kept = (geometry.patches() as f64 * (1.0 - mask_ratio)) as usize / 2 * 2;
        let keep = if mask_ratio > 0.0 { Keep::Random { kept } } else { Keep::All };
        let (scale, ratio) = ((0.2, 1.0), (3.0 / 4.0, 4.0 / 3.0));
        let crop = TrainCrop { scale, ratio, flip: 0.5, filter: Filter::Bicubic };
        View::Train(TrainView { geometry, normalisation, crop, augment: Augment::None, keep })
    };
    let batch = batch.min(source.len());
    let config = LoaderConfig { batch, workers, epochs: 0..u64::MAX, ..LoaderConfig::default() };
    let mut loader = Loader::start(Arc::clone(&source), view, config)?;
    // Caches fill, threads start.
    for _ in 0..4 {
        if let Some(batch) = loader.next().transpose()? {
            loader.give_back(batch);
        }
    }
    let (before, waited) = (loader.stage_times(), loader.wait_time());
    let (started, mut made) = (Instant::now(), 0u64);
    while images.map_or(started.elapsed().as_secs_f64() < secs, |images| made < images) {
        if let Some(batch) = loader.next().transpose()? {
            made += batch.images as u64;
            loader.give_back(batch);
        }
    }
    let elapsed = started.elapsed();
    let (after, waited) = (loader.stage_times(), loader.wait_time() - waited);

    let counted = (after.images - before.images).max(1) as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / counted;
    let pairs = after.stages().into_iter().zip(before.stages());
    let stages: Vec<(&str, f64)> =
        pairs.map(|((name, after), (_, before))| (name, micros(after - before))).collect();
    let rate = made as f64 / elapsed.as_secs_f64();
    let waited_share = waited.as_secs_f64() / elapsed.as_secs_f64();
    if as_json {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        let stages: Map<String, Value> =
            stages.iter().map(|(name, us)| (format!("{name}_us"), json!(rounded(*us)))).collect();
        let result = json!({
            "images_per_sec": rounded(rate),
            "stages": stages,
            "images": made,
            "workers": workers,
            "mask_ratio": if eval { 0.0 } else { mask_ratio },
            "kept_patches": view.kept(),
            "skipped": loader.skipped(),
            "data": source.describe(),
        });
        println!("{result}");
        return Ok(());
    }
    println!("{}", source.describe());
    println!("{rate:.0} images/s with {workers} worker(s), {} patches of each", view.kept());
    println!("\nstage          us an image");
    for (name, us) in &stages {
        println!("{name:<12} {us:>13.1}");
    }
    let sum: f64 = stages.iter().map(|(_, us)| us).sum();
    println!("{:<12} {sum:>13.1}", "all");
    println!("\nwaiting for data: {:.0} % of the time", 100.0 * waited_share);
    if loader.skipped() > 0 {
        println!("{} images cannot be read", loader.skipped());
    }
    Ok(())
}
