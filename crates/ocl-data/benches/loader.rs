//! Images per second from files to batches, and where the time goes.
//!
//! cargo bench -p ocl-data                      (a few JPEGs that it makes itself)
//! cargo bench -p ocl-data -- FOLDER [WORKERS]  (or the folder in OCL_BENCH_FOLDER)
//!
//! 224 px crops of patch 16 at mask ratio 0.9, the setting of the paper.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use ocl_data::{
    Augment, Crop, Draws, EvalView, Filter, Geometry, ImageHeader, Keep, Loader, LoaderConfig,
    Normalisation, Order, Purpose, Resampler, RgbImage, Source, SourceKind, Split, TrainCrop,
    TrainView, View, Window, decode, patchify, sample_crop,
};

const GEOMETRY: Geometry = Geometry { image_px: 224, patch_px: 16 };
const SCALE: (f64, f64) = (0.2, 1.0);
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// How long each figure is measured, unless OCL_BENCH_SECS says otherwise.
const SECS: f64 = 0.8;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo passes `--bench`.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let made = tempfile::tempdir()?;
    let folder = match args.next().or_else(|| std::env::var("OCL_BENCH_FOLDER").ok()) {
        Some(folder) => folder,
        None => make_photos(made.path())?,
    };
    let workers: usize = args.next().map_or(Ok(1), |text| text.parse())?;
    let source = Arc::new(Source::open(&folder, SourceKind::Auto, Split::Train)?);
    println!("{}, {workers} worker(s)\n", source.describe());

    stages(&source)?;
    println!("\nloader, file to batch                     img/s");
    let train = |keep| {
        let (geometry, normalisation) = (GEOMETRY, Normalisation::IMAGENET);
        View::Train(TrainView {
            geometry,
            normalisation,
            crop: TrainCrop { scale: SCALE, ratio: RATIO, flip: 0.5, filter: Filter::Bicubic },
            augment: Augment::None,
            keep,
        })
    };
    let View::Train(all) = train(Keep::All) else { unreachable!("it is a training view") };
    let crop = TrainCrop { scale: (0.08, 1.0), filter: Filter::Bilinear, ..all.crop };
    let moco = View::Train(TrainView { crop, augment: Augment::MocoV3, ..all });
    let eval = EvalView {
        geometry: GEOMETRY,
        normalisation: Normalisation::IMAGENET,
        resize_ratio: 256.0 / 224.0,
    };
    let views = [
        ("train, mask ratio 0.9", train(Keep::Random { kept: 18 })),
        ("train, mask ratio 0.75", train(Keep::Random { kept: 48 })),
        ("train, all patches", train(Keep::All)),
        ("train, MoCo v3's two crops", moco),
        ("evaluation", View::Eval(eval)),
    ];
    for (name, view) in views {
        println!("{name:<36} {:>10.0}", rate(&source, view, workers, 16)?);
    }
    #[cfg(feature = "embedded")]
    {
        let source = Arc::new(Source::open("embedded", SourceKind::Auto, Split::Train)?);
        let small = TrainView {
            geometry: Geometry { image_px: 32, patch_px: 4 },
            normalisation: Normalisation::IMAGENET,
            crop: TrainCrop { scale: (0.3, 1.0), ratio: RATIO, flip: 0.5, filter: Filter::Bicubic },
            augment: Augment::None,
            keep: Keep::Random { kept: 16 },
        };
        let crop = TrainCrop { scale: (1.0, 1.0), ratio: (1.0, 1.0), ..small.crop };
        let whole = TrainView { crop, ..small };
        let half = TrainView { keep: Keep::Random { kept: 32 }, ..whole };
        let views = [
            ("embedded, crops, mask ratio 0.75", small),
            ("embedded, whole, mask ratio 0.5", half),
        ];
        for (name, view) in views {
            println!("{name:<36} {:>10.0}", rate(&source, View::Train(view), workers, 256)?);
        }
    }
    Ok(())
}

/// Images per second of a loader.
fn rate(
    source: &Arc<Source>,
    view: View,
    workers: usize,
    batch: usize,
) -> Result<f64, Box<dyn Error>> {
    let config = LoaderConfig {
        batch: batch.min(source.len()),
        workers,
        order: Order::Shuffled,
        epochs: 0..u64::MAX,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::start(Arc::clone(source), view, config)?;
    for _ in 0..4 {
        next(&mut loader)?;
    }
    let (started, mut images) = (Instant::now(), 0);
    while started.elapsed() < budget() {
        images += next(&mut loader)?;
    }
    Ok(images as f64 / started.elapsed().as_secs_f64())
}

fn next(loader: &mut Loader) -> Result<usize, Box<dyn Error>> {
    Ok(loader.next().ok_or("the epochs have ended")??.images)
}

/// Microseconds an image of each stage, on one thread.
fn stages(source: &Source) -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = (0..source.len()).map(|index| source.name_of(index)).collect();
    let files: Vec<Vec<u8>> = names.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    println!("stage, one thread                  us/image   img/s");
    let read = measure(|i| std::fs::read(&names[i % names.len()]).map(|_| ()))?;
    print_stage("read the file", read);
    let full = measure(|i| decode(&files[i % files.len()]).map(|_| ()))?;
    print_stage("decode, all rows", full);

    // The same draws for the two stages that need them: a crop and 18 patches for each image.
    let mut resampler = Resampler::new();
    let mut plans = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let header = ImageHeader::read(file)?;
        let mut draws = Draws::new(0, 0, index as u64, Purpose::Test);
        let crop = sample_crop(header.width_px, header.height_px, SCALE, RATIO, &mut draws);
        let window =
            Window { source: crop, width_px: 224, height_px: 224, filter: Filter::Bicubic };
        let mut patches: Vec<u32> = (0..196).collect();
        draws.shuffle_front(&mut patches, 18);
        let end = (patches[..18].iter().max().copied().unwrap_or(0) / 14 + 1) * 16;
        let rows = resampler.source_rows(&window, end - 1..end).end;
        plans.push((header, window, patches, rows));
    }
    let (mut bytes, mut image) = (Vec::new(), RgbImage::default());
    let top = measure(|i| {
        let (header, _, _, rows) = &plans[i % plans.len()];
        bytes.clone_from(&files[i % files.len()]);
        header.decode(&mut bytes, *rows, &mut image)
    })?;
    print_stage("decode, rows of 18 patches", top);

    let images: Vec<RgbImage> =
        files.iter().take(20).map(|file| decode(file)).collect::<Result<_, _>>()?;
    let mut patch = vec![0; 16 * 16 * 3];
    let sparse = measure(|i| {
        let (_, window, patches, _) = &plans[i % images.len()];
        for &p in &patches[..18] {
            let (x_px, y_px) = (p % 14 * 16, p / 14 * 16);
            let part = Crop { x_px, y_px, width_px: 16, height_px: 16 };
            resampler.part(&images[i % images.len()], window, &part, &mut patch);
        }
        Ok::<_, std::io::Error>(())
    })?;
    print_stage("resize, 18 patches of 196", sparse);
    let mut view = RgbImage::new(224, 224, vec![0; 224 * 224 * 3]);
    let dense = measure(|i| {
        let whole = Crop { x_px: 0, y_px: 0, width_px: 224, height_px: 224 };
        let window = &plans[i % images.len()].1;
        resampler.part(&images[i % images.len()], window, &whole, &mut view.pixels);
        Ok::<_, std::io::Error>(())
    })?;
    print_stage("resize, all patches", dense);
    let mut yardstick = Yardstick::new();
    let dense = measure(|i| {
        yardstick.resize(&images[i % images.len()], &plans[i % images.len()].1.source)
    })?;
    print_stage("the same by fast_image_resize", dense);
    let normalise = measure(|_| {
        std::hint::black_box(patchify(&view, GEOMETRY, &Normalisation::IMAGENET));
        Ok::<_, std::io::Error>(())
    })?;
    print_stage("normalise, all patches", normalise);
    Ok(())
}

/// The usual crate for the job, to compare with; its rounding is not Pillow's.
struct Yardstick {
    resizer: fast_image_resize::Resizer,
    view: fast_image_resize::images::Image<'static>,
}

impl Yardstick {
    fn new() -> Self {
        let pixels = fast_image_resize::PixelType::U8x3;
        let view = fast_image_resize::images::Image::new(224, 224, pixels);
        Self { resizer: fast_image_resize::Resizer::new(), view }
    }

    fn resize(&mut self, image: &RgbImage, crop: &Crop) -> Result<(), Box<dyn Error>> {
        use fast_image_resize::{
            FilterType, PixelType, ResizeAlg, ResizeOptions, images::ImageRef,
        };
        let (width, height) = (image.width_px, image.height_px);
        let source = ImageRef::new(width, height, &image.pixels, PixelType::U8x3)?;
        let [x, y, w, h] = [crop.x_px, crop.y_px, crop.width_px, crop.height_px].map(f64::from);
        let options = ResizeOptions::new()
            .crop(x, y, w, h)
            .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        Ok(self.resizer.resize(&source, &mut self.view, &options)?)
    }
}

fn print_stage(name: &str, per_image: Duration) {
    let micros = per_image.as_secs_f64() * 1e6;
    println!("{name:<33} {micros:>9.1} {:>8.0}", 1e6 / micros);
}

/// Mean time of one call.
fn measure<E: Into<Box<dyn Error>>>(
    mut call: impl FnMut(usize) -> Result<(), E>,
) -> Result<Duration, Box<dyn Error>> {
    for i in 0..5 {
        call(i).map_err(Into::into)?;
    }
    let (started, mut calls) = (Instant::now(), 0);
    while started.elapsed() < budget() {
        for _ in 0..10 {
            call(calls).map_err(Into::into)?;
            calls += 1;
        }
    }
    Ok(started.elapsed() / calls as u32)
}

fn budget() -> Duration {
    let secs = std::env::var("OCL_BENCH_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(secs.unwrap_or(SECS))
}

/// Twenty 500 x 375 JPEGs of about a photo's detail: smooth shapes, edges and noise.
fn make_photos(folder: &Path) -> Result<String, Box<dyn Error>> {
    let (width, height) = (500, 375);
    for number in 0..20 {
        let mut draws = Draws::new(7, 0, number, Purpose::Test);
        let waves: Vec<[f64; 4]> =
            (0..12).map(|_| [(); 4].map(|()| draws.between(-1.0, 1.0))).collect();
        let mut pixels = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                let (fx, fy) = (x as f64 / 40.0, y as f64 / 40.0);
                let shape: f64 = waves
                    .iter()
                    .map(|[a, b, c, d]| (d * 3.0) * ((a * fx + b * fy) * 3.0 + c * 6.0).sin())
                    .sum();
                let edge = if shape > 1.5 { 40.0 } else { 0.0 };
                for channel in 0..3 {
                    let tint = 1.0 + channel as f64 * 0.15;
                    let level = 110.0 + shape * 9.0 * tint + edge + draws.between(-16.0, 16.0);
                    pixels.push(level.clamp(0.0, 255.0) as u8);
                }
            }
        }
        let jpeg = compress(&pixels, width, height, PixelFormat::Rgb, 90, Subsampling::S420)?;
        std::fs::write(folder.join(format!("{number:02}.jpg")), jpeg)?;
    }
    Ok(folder.display().to_string())
}
