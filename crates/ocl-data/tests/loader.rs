//! Batches: the same for any number of workers and any resume point, with bad files among the good.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use ocl_data::{
    Batch, EvalView, Geometry, Keep, Loader, LoaderConfig, LoaderError, Normalisation, Order,
    RgbImage, Source, SourceKind, Split, TrainCrop, TrainView, View, patchify,
};

use support::{GEOMETRY, folder, train};

fn eval() -> View {
    let (geometry, normalisation) = (GEOMETRY, Normalisation::IMAGENET);
    View::Eval(EvalView { geometry, normalisation, resize_ratio: 1.0 })
}

fn run(source: &Arc<Source>, view: View, config: LoaderConfig) -> Vec<Batch> {
    Loader::start(Arc::clone(source), view, config).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_order_depends_on_the_seed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 103, &[3, 4, 50]);
    let config = LoaderConfig { batch: 20, seed: 5, epochs: 0..2, ..LoaderConfig::default() };
    let base = run(&source, train(8), config.clone());
    assert_eq!(base.len(), 10);
    for workers in [2, 5] {
        let other = run(&source, train(8), LoaderConfig { workers, ..config.clone() });
        assert!(base == other, "{workers} workers");
    }
    let other = run(&source, train(8), LoaderConfig { seed: 6, ..config });
    assert_ne!(base[0].samples, other[0].samples);
}

#[test]
fn a_resumed_run_goes_on_with_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 60, &[7]);
    let config = LoaderConfig { batch: 16, workers: 2, epochs: 1..4, ..LoaderConfig::default() };
    let base = run(&source, train(8), config.clone());
    assert_eq!(base.len(), 9);
    // Three batches an epoch; one past an epoch's last is the next epoch's first.
    for done in 0..9u64 {
        let resumed = LoaderConfig {
            epochs: 1 + done / 3..4,
            first_batch: done % 3,
            workers: 1,
            ..config.clone()
        };
        assert!(run(&source, train(8), resumed) == base[done as usize..], "after {done}");
    }
    let resumed = LoaderConfig { first_batch: 3, ..config };
    assert!(run(&source, train(8), resumed) == base[3..]);
}

#[test]
fn shapes_and_contents_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        fs::create_dir(dir.path().join(class)).unwrap();
        for number in 0..8 {
            let name = format!("{class}/{number}.png");
            image::RgbImage::new(9, 9).save(dir.path().join(name)).unwrap();
        }
    }
    let path = dir.path().to_str().unwrap();
    let source = Arc::new(Source::open(path, SourceKind::Auto, Split::Train).unwrap());
    let config = LoaderConfig { batch: 8, ..LoaderConfig::default() };
    let batch = run(&source, train(4), config).remove(0);
    let kept = 4;
    assert_eq!((batch.images, batch.kept, batch.patch_len), (8, kept, 8 * 8 * 3));
    assert_eq!(batch.patches.len(), 8 * kept * 192);
    for positions in batch.positions.chunks_exact(kept) {
        let distinct: HashSet<_> = positions.iter().collect();
        assert!(distinct.len() == kept && positions.iter().all(|&p| p < 16));
    }
    assert_eq!((batch.samples.len(), batch.labels.len()), (8, 8));
    for (sample, label) in batch.samples.iter().zip(&batch.labels) {
        assert_eq!(u64::from(*label), sample / 8);
    }
    let black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225];
    for pixel in batch.patches.chunks_exact(3) {
        assert!(pixel.iter().zip(black).all(|(got, expected)| (got - expected).abs() < 1e-6));
    }
}

/// The kept patches are those of the whole crop, at the places that the positions say, mirrored or
/// not.
#[test]
fn kept_patches_are_those_of_the_whole_crop() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 40, &[]);
    for (flip, kept) in [(0.0, 2), (1.0, 2), (0.5, 4), (0.5, 12), (0.5, 16)] {
        let View::Train(view) = train(kept) else { unreachable!() };
        let kept = View::Train(TrainView { crop: TrainCrop { flip, ..view.crop }, ..view });
        let all = View::Train(TrainView {
            crop: TrainCrop { flip, ..view.crop },
            keep: Keep::All,
            ..view
        });
        let config = LoaderConfig { batch: 40, seed: 3, ..LoaderConfig::default() };
        let kept = run(&source, kept, config.clone()).remove(0);
        let all = run(&source, all, config).remove(0);
        assert_eq!(kept.samples, all.samples);
        let len = kept.patch_len;
        for (at, &position) in kept.positions.iter().enumerate() {
            let image = at / kept.kept;
            let from = (image * 16 + position as usize) * len;
            assert_eq!(kept.patches[at * len..][..len], all.patches[from..][..len]);
        }
    }
}

/// A mirrored crop is the crop with its rows read from the right.
#[test]
fn a_flip_mirrors_the_crop() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 10, &[]);
    let View::Train(view) = train(8) else { unreachable!() };
    let crops = |flip| {
        let config = LoaderConfig { batch: 10, ..LoaderConfig::default() };
        let view = TrainView { crop: TrainCrop { flip, ..view.crop }, keep: Keep::All, ..view };
        run(&source, View::Train(view), config).remove(0).patches
    };
    let (plain, mirrored) = (crops(0.0), crops(1.0));
    // [N, 4 x 4 patches, 8 rows, 8 columns, 3]: the place of a pixel of the crop.
    let place = |image: usize, y: usize, x: usize| {
        (((image * 16 + y / 8 * 4 + x / 8) * 8 + y % 8) * 8 + x % 8) * 3
    };
    for at in 0..10 * 32 * 32 {
        let (image, y, x) = (at / 1024, at / 32 % 32, at % 32);
        let (from, to) = (place(image, y, x), place(image, y, 31 - x));
        assert_eq!(plain[from..from + 3], mirrored[to..to + 3], "image {image}, ({x}, {y})");
    }
}

/// What a folder of one's own may hold: what cannot be read is named, odd shapes are used.
#[test]
fn a_folder_of_odd_files() {
    use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
    let dir = tempfile::tempdir().unwrap();
    let jpeg = compress(&[90; 64 * 64 * 3], 64, 64, PixelFormat::Rgb, 90, Subsampling::S420);
    let jpeg = jpeg.unwrap();
    for number in 0..9 {
        fs::write(dir.path().join(format!("good{number}.jpg")), &jpeg).unwrap();
    }
    fs::write(dir.path().join("text.jpg"), "a text file").unwrap();
    fs::write(dir.path().join("empty.jpg"), "").unwrap();
    fs::write(dir.path().join("cut.JPG"), &jpeg[..jpeg.len() - 40]).unwrap();
    image::RgbImage::new(1, 1).save(dir.path().join("dot.png")).unwrap();
    image::RgbImage::new(20_000, 30).save(dir.path().join("wide.png")).unwrap();
    let path = dir.path().to_str().unwrap();
    let source = Arc::new(Source::open(path, SourceKind::Auto, Split::Train).unwrap());
    assert_eq!(source.len(), 14);
    let file = dir.path().join("quarantine.jsonl");
    let config = LoaderConfig {
        batch: 7,
        epochs: 0..3,
        max_bad_share: 0.3,
        quarantine: Some(file.clone()),
        ..LoaderConfig::default()
    };
    let mut loader = Loader::start(source, train(8), config).unwrap();
    assert!(loader.by_ref().all(|batch| batch.unwrap().images == 7));
    assert_eq!(loader.skipped(), 3);
    let text = fs::read_to_string(file).unwrap();
    for name in ["text.jpg", "empty.jpg", "cut.JPG"] {
        assert!(text.contains(name), "{text}");
    }
}

/// An image of the crop's own size goes through evaluation unchanged.
#[test]
fn evaluation_of_an_exact_fit_and_of_a_wide_image() {
    let dir = tempfile::tempdir().unwrap();
    let exact = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8, y as u8, 9]));
    exact.save(dir.path().join("a.png")).unwrap();
    // The middle third of the wide one is the exact one.
    let wide = image::RgbImage::from_fn(96, 32, |x, y| image::Rgb([(x % 32) as u8, y as u8, 9]));
    wide.save(dir.path().join("b.png")).unwrap();
    let path = dir.path().to_str().unwrap();
    let source = Arc::new(Source::open(path, SourceKind::Folder, Split::Train).unwrap());
    let config = LoaderConfig { order: Order::Sequential, ..LoaderConfig::default() };
    let batch = run(&source, eval(), config).remove(0);
    let image = RgbImage::new(32, 32, exact.into_raw());
    let plain = patchify(&image, GEOMETRY, &Normalisation::IMAGENET);
    assert_eq!(batch.patches, [plain.clone(), plain].concat());
    assert_eq!(batch.positions[..16], (0..16).collect::<Vec<u32>>());
}

#[test]
fn bad_images_are_replaced_and_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let bad = [3, 4, 50, 51, 52, 99];
    let source = folder(dir.path(), 100, &bad);
    let file = dir.path().join("quarantine.jsonl");
    let config = LoaderConfig {
        batch: 10,
        workers: 3,
        epochs: 0..3,
        max_bad_share: 0.1,
        quarantine: Some(file.clone()),
        ..LoaderConfig::default()
    };
    for _ in 0..2 {
        // The second run appends to the file of the first and names nothing again.
        let mut loader = Loader::start(Arc::clone(&source), train(8), config.clone()).unwrap();
        let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
        assert_eq!(loader.skipped(), 6);
        for batch in &batches {
            assert_eq!(batch.images, 10);
            assert!(batch.samples.iter().all(|&sample| !bad.contains(&(sample as u32))));
            let distinct: HashSet<_> = batch.samples.iter().collect();
            assert_eq!(distinct.len(), 10, "a substitute comes from another batch");
        }
        let text = fs::read_to_string(&file).unwrap();
        let mut named: Vec<u64> = text
            .lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(entry["reason"].as_str().unwrap().contains("not an image"));
                assert!(entry["name"].as_str().unwrap().ends_with(".png"));
                entry["sample"].as_u64().unwrap()
            })
            .collect();
        named.sort_unstable();
        assert_eq!(named, bad.map(u64::from));
    }
}

#[test]
fn evaluation_leaves_bad_images_out() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 25, &[0, 11, 12]);
    let config = LoaderConfig {
        batch: 10,
        workers: 2,
        order: Order::Sequential,
        max_bad_share: 0.5,
        ..LoaderConfig::default()
    };
    let batches = run(&source, eval(), config.clone());
    let samples: Vec<u64> = batches.iter().flat_map(|batch| batch.samples.clone()).collect();
    let expected: Vec<u64> = (0..25).filter(|sample| ![0, 11, 12].contains(sample)).collect();
    assert_eq!(samples, expected);
    assert_eq!(batches.iter().map(|batch| batch.images).collect::<Vec<_>>(), [9, 8, 5]);
    let subset = Some(vec![24, 1, 0, 2]);
    let batches = run(&source, eval(), LoaderConfig { subset, ..config });
    assert_eq!(batches[0].samples, [24, 1, 2]);
}

/// Where images are missing those behind them move up, across the chunks of several workers too.
#[test]
fn the_images_left_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let bad = [0, 1, 17, 18, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 99];
    let source = folder(dir.path(), 100, &bad);
    let config = LoaderConfig {
        batch: 70,
        workers: 2,
        order: Order::Sequential,
        max_bad_share: 0.5,
        ..LoaderConfig::default()
    };
    let good = (0..100).filter(|sample| !bad.contains(sample)).collect();
    let whole = LoaderConfig { batch: 100, subset: Some(good), ..config.clone() };
    let whole = run(&source, eval(), whole).remove(0);
    let batches = run(&source, eval(), config);
    let joined: Vec<f32> = batches.iter().flat_map(|batch| batch.patches.clone()).collect();
    assert!(joined == whole.patches);
    let joined: Vec<u32> = batches.iter().flat_map(|batch| batch.positions.clone()).collect();
    assert_eq!(joined, whole.positions);
}

/// Memory given back is used again and shows nothing of what it held.
#[test]
fn batches_given_back_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 50, &[7, 30, 31]);
    for (order, view) in [(Order::Shuffled, train(8)), (Order::Sequential, eval())] {
        let config = LoaderConfig {
            batch: 18,
            workers: 2,
            order,
            epochs: 0..5,
            max_bad_share: 0.5,
            ..LoaderConfig::default()
        };
        let base = run(&source, view, config.clone());
        let mut loader = Loader::start(Arc::clone(&source), view, config).unwrap();
        // Another loader's batch will do as well.
        loader.give_back(Batch { labels: vec![9], patches: vec![7.0; 9], ..Batch::default() });
        let mut memory = HashSet::new();
        for expected in &base {
            let batch = loader.next().unwrap().unwrap();
            assert!(batch == *expected);
            memory.insert(batch.patches.as_ptr());
            loader.give_back(batch);
        }
        assert!(loader.next().is_none());
        assert!(memory.len() < base.len(), "{} of {}", memory.len(), base.len());
    }
}

#[test]
fn too_many_bad_images_stop_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let bad: Vec<u32> = (0..100).filter(|number| number % 4 == 0).collect();
    let source = folder(dir.path(), 100, &bad);
    let file = dir.path().join("quarantine.jsonl");
    let config = LoaderConfig {
        batch: 10,
        workers: 2,
        epochs: 0..9,
        max_bad_share: 0.1,
        quarantine: Some(file.clone()),
        ..LoaderConfig::default()
    };
    let mut loader = Loader::start(source, train(8), config).unwrap();
    let error = loader.find_map(Result::err).expect("a quarter is too much");
    let text = error.to_string();
    assert!(matches!(error, LoaderError::TooManyBad { allowed: 0.1, .. }), "{text}");
    assert!(text.contains("quarantine.jsonl") && text.contains("10.0 %"), "{text}");
    assert!(loader.next().is_none(), "an error is the last item");
}

#[test]
fn a_folder_of_nothing_but_bad_images_stops_at_once() {
    for (count, order) in [(3, Order::Shuffled), (3000, Order::Shuffled), (50, Order::Sequential)] {
        let dir = tempfile::tempdir().unwrap();
        let bad: Vec<u32> = (0..count).collect();
        let source = folder(dir.path(), count, &bad);
        let config = LoaderConfig {
            batch: 3,
            order,
            max_bad_share: 1.0,
            epochs: 0..u64::MAX,
            ..LoaderConfig::default()
        };
        let mut loader = Loader::start(source, train(8), config).unwrap();
        let error = loader.next().unwrap().unwrap_err();
        assert!(matches!(error, LoaderError::TooManyBad { .. }), "{error}");
    }
}

#[test]
fn files_that_vanish_are_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 30, &[]);
    fs::remove_file(dir.path().join("0007.png")).unwrap();
    let config = LoaderConfig { batch: 10, epochs: 0..1, ..LoaderConfig::default() };
    let mut loader = Loader::start(source, train(8), config).unwrap();
    assert!(loader.by_ref().all(|batch| batch.unwrap().images == 10));
    assert_eq!(loader.skipped(), 1);
}

#[test]
fn dropping_a_loader_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 64, &[]);
    for taken in [0, 1, 3] {
        let config =
            LoaderConfig { batch: 32, workers: 4, epochs: 0..9, ..LoaderConfig::default() };
        let mut loader = Loader::start(Arc::clone(&source), train(8), config).unwrap();
        for _ in 0..taken {
            loader.next().unwrap().unwrap();
        }
        // With everything ahead made and nobody taking it, no worker may be stuck.
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(loader);
        assert_eq!(Arc::strong_count(&source), 1, "the workers have let go of the source");
    }
}

#[test]
fn settings_that_cannot_work() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 10, &[]);
    let good = LoaderConfig { batch: 4, ..LoaderConfig::default() };
    let View::Train(view) = train(8) else { unreachable!() };
    let views = [
        (TrainView { keep: Keep::Random { kept: 17 }, ..view }, "kept"),
        (TrainView { geometry: Geometry { image_px: 30, patch_px: 8 }, ..view }, "24 or 32"),
        (TrainView { crop: TrainCrop { scale: (0.0, 1.0), ..view.crop }, ..view }, "scale"),
        (TrainView { crop: TrainCrop { flip: 1.5, ..view.crop }, ..view }, "flip"),
    ];
    for (view, word) in views {
        let started = Loader::start(Arc::clone(&source), View::Train(view), good.clone());
        let text = started.err().unwrap().to_string();
        assert!(text.contains(word), "{text}");
    }
    let configs = [
        (LoaderConfig { batch: 11, ..good.clone() }, "batch"),
        (LoaderConfig { workers: 0, ..good.clone() }, "workers"),
        (LoaderConfig { share: Some(2..5), ..good.clone() }, "share"),
        (LoaderConfig { share: Some(2..2), ..good.clone() }, "share"),
        (LoaderConfig { subset: Some(vec![10]), ..good.clone() }, "subset"),
        (LoaderConfig { quarantine: Some(dir.path().join("no/such/folder")), ..good }, "no/such"),
    ];
    for (config, word) in configs {
        let started = Loader::start(Arc::clone(&source), train(8), config);
        let text = started.err().unwrap().to_string();
        assert!(text.contains(word), "{text}");
    }
}

/// Each patch of 49 is kept equally often, in each of the two views.
#[test]
fn kept_patches_are_uniform() {
    let dir = tempfile::tempdir().unwrap();
    image::RgbImage::new(28, 28).save(dir.path().join("a.png")).unwrap();
    let path = dir.path().to_str().unwrap();
    let source = Arc::new(Source::open(path, SourceKind::Auto, Split::Train).unwrap());
    let View::Train(view) = train(24) else { unreachable!() };
    let view = TrainView { geometry: Geometry { image_px: 7, patch_px: 1 }, ..view };
    let epochs = 0..4000;
    let config = LoaderConfig { batch: 1, epochs, ..LoaderConfig::default() };
    let mut counts = [[0u32; 49]; 2];
    for batch in Loader::start(source, View::Train(view), config).unwrap() {
        for (place, &position) in batch.unwrap().positions.iter().enumerate() {
            counts[place / 12][position as usize] += 1;
        }
    }
    // 12 of 49 in 4000 epochs: mean 980, deviation 27; five of them.
    assert!(counts.iter().flatten().all(|&count| count.abs_diff(980) < 136), "{counts:?}");
}

#[test]
fn a_few_bad_images_are_allowed_whatever_the_share() {
    for (count, bad, stops) in [(40, 1, false), (40, 10, false), (40, 11, true), (6, 4, true)] {
        let dir = tempfile::tempdir().unwrap();
        let source = folder(dir.path(), count, &(0..bad).collect::<Vec<_>>());
        let order = Order::Sequential;
        let config =
            LoaderConfig { batch: 50, order, max_bad_share: 0.01, ..LoaderConfig::default() };
        let made: Result<Vec<Batch>, _> = Loader::start(source, eval(), config).unwrap().collect();
        assert_eq!(made.is_err(), stops, "{bad} of {count}");
    }
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 25, &(0..25).collect::<Vec<_>>());
    let config = LoaderConfig { batch: 20, ..LoaderConfig::default() };
    let mut loader = Loader::start(source, train(8), config).unwrap();
    let told = loader.find_map(Result::err).unwrap().to_string();
    assert!(told.contains("images can be read") && !told.contains("more than"), "{told}");
}
