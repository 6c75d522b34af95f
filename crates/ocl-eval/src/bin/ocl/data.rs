//! The commands `pack` and `bench-data`, which need no encoder.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use ocl_data::{
    Augment, EvalView, Filter, Geometry, Keep, Loader, LoaderConfig, Normalisation, PackOptions,
    Source, SourceError, SourceKind, Split, TrainCrop, TrainView, View, first_shard, pack,
};
use serde_json::{Map, Value, json};

use crate::print;

/// Options of `bench-data`.
#[derive(Args, Debug)]
pub(crate) struct BenchDataArgs {
    /// A data set: a folder, ZIP or tar archives, Parquet, a CSV of paths, IDX or CIFAR files
    path: String,
    /// Share of the patches left out; 0 makes all of them
    #[arg(long, default_value_t = 0.9)]
    mask_ratio: f64,
    /// Centre crops of all patches, as evaluation uses them
    #[arg(long)]
    eval: bool,
    /// Threads
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Images in a batch [default: 64, or all there are]
    #[arg(long)]
    batch: Option<usize>,
    /// Side of the crop in pixels
    #[arg(long, default_value_t = 224)]
    image_px: u32,
    /// Side of a patch in pixels
    #[arg(long, default_value_t = 16)]
    patch_px: u32,
    /// How long to measure
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Measure over so many images instead
    #[arg(long)]
    images: Option<u64>,
    /// One JSON object: images_per_sec, stages (microseconds an image), ...
    #[arg(long)]
    json: bool,
}

/// Options of `pack`.
#[derive(Args, Debug)]
pub(crate) struct PackArgs {
    /// The data set
    #[arg(value_name = "SOURCE")]
    from: String,
    /// Folder of the shards
    #[arg(value_name = "OUT")]
    to: PathBuf,
    /// Shrink images to this short side first, in pixels
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(1..))]
    short_side: Option<u32>,
    /// Quality of the JPEGs that are then written
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// A restart marker every N blocks of 16 x 16 pixels, for faster skipping; 0: none
    #[arg(long, value_name = "N", default_value_t = 1)]
    restart: u16,
    /// Pixels in place of JPEGs: large, and nothing to decode
    #[arg(long)]
    raw: bool,
    /// Megabytes of a shard
    #[arg(long, value_name = "MB", default_value_t = 256)]
    shard_mb: u64,
}

/// Measures a loader.
pub(crate) fn run_bench(args: &BenchDataArgs) -> Result<()> {
    let &BenchDataArgs { mask_ratio, eval, workers, images, secs, .. } = args;
    let geometry = Geometry { image_px: args.image_px, patch_px: args.patch_px };
    if !(0.0..1.0).contains(&mask_ratio) {
        bail!("--mask-ratio {mask_ratio} is not in 0..1");
    }
    let source = Arc::new(Source::open(&args.path, SourceKind::Auto, Split::Train)?);
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
    let batch = args.batch.unwrap_or(64).min(source.len());
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
    if args.json {
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
        print(&format!("{result}\n"));
        return Ok(());
    }
    let mut text = String::new();
    let _ = writeln!(text, "{}", source.describe());
    let _ = writeln!(
        text,
        "{rate:.0} images/s with {workers} worker(s), {} patches of each",
        view.kept()
    );
    let _ = writeln!(text, "\nstage          us an image");
    for (name, us) in &stages {
        let _ = writeln!(text, "{name:<12} {us:>13.1}");
    }
    let sum: f64 = stages.iter().map(|(_, us)| us).sum();
    let _ = writeln!(text, "{:<12} {sum:>13.1}", "all");
    let _ = writeln!(text, "\nwaiting for data: {:.0} % of the time", 100.0 * waited_share);
    if loader.skipped() > 0 {
        let _ = writeln!(text, "{} images cannot be read", loader.skipped());
    }
    print(&text);
    Ok(())
}

/// Writes shards of every part of a data set.
pub(crate) fn run_pack(args: &PackArgs) -> Result<()> {
    let options = PackOptions {
        short_side_px: args.short_side,
        quality: args.quality,
        restart_units: args.restart,
        raw: args.raw,
        shard_bytes: args.shard_mb << 20,
    };
    if let Some(there) = first_shard(&args.to)? {
        let (to, there) = (args.to.display(), there.display());
        bail!("{to} holds shards ({there}); give an empty folder or remove them");
    }
    for split in [Split::Train, Split::Test] {
        let source = match Source::open(&args.from, SourceKind::Auto, split) {
            Ok(source) => source,
            // Many sets have no test part.
            Err(SourceError::NotFound { .. }) if split == Split::Test => continue,
            Err(error) => return Err(error.into()),
        };
        ocl_train::print_line!("{}", source.describe());
        if let Some(passed) = source.passed_over() {
            ocl_train::say!("{passed}");
        }
        let packed = pack(&source, split, &args.to, &options, |done| {
            if done > 0 && done.is_multiple_of(10_000) {
                ocl_train::print_line!("  {done} of {}", source.len());
            }
        })?;
        let (count, images, mb) = (packed.shards.len(), packed.images, packed.bytes >> 20);
        ocl_train::print_line!(
            "{images} images, {mb} MiB, {count} shards in {}",
            args.to.display()
        );
        for (name, reason) in &packed.skipped {
            ocl_train::say!("left out: {name}: {reason}");
        }
    }
    Ok(())
}
