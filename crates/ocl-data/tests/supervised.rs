//! Batches with labels: a function of the seed and the step alone.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::sync::Arc;

use ocl_data::{
    Geometry, LoaderError, Mix, Normalisation, Source, SourceKind, Split, SupervisedAugment,
    SupervisedBatch, SupervisedConfig, SupervisedLoader,
};

fn config(samples: u32) -> SupervisedConfig {
    SupervisedConfig {
        geometry: Geometry { image_px: 16, patch_px: 8 },
        normalisation: Normalisation::IMAGENET,
        augment: SupervisedAugment {
            crop_scale: [0.2, 1.0],
            crop_ratio: [0.75, 4.0 / 3.0],
            flip: 0.5,
            randaugment_operations: 2,
            randaugment_magnitude: 9.0,
            randaugment_deviation: 0.5,
            randaugment_probability: 0.5,
            erase: 0.25,
        },
        mix: Mix {
            mixup: 0.8,
            cutmix: 1.0,
            probability: 1.0,
            cutmix_share: 0.5,
            label_smoothing: 0.1,
        },
        classes: 10,
        samples: (0..samples).collect(),
        batch: 10,
        workers: 1,
        seed: 3,
        max_bad_share: 0.5,
        pairs: None,
    }
}

/// Class folders of PNGs, of which the first few are damaged.
fn folder(dir: &std::path::Path, images: u32, damaged: u32) -> Arc<Source> {
    for number in 0..images {
        let path = dir.join(format!("c{}/{number:02}.png", number % 3));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let shade = |x: u32, y: u32| image::Rgb([(x * 9 + number) as u8, (y * 7) as u8, 40]);
        image::RgbImage::from_fn(20, 24, shade).save(&path).unwrap();
        if number < damaged {
            fs::write(&path, b"\x89PNG\r\n\x1a\n").unwrap();
        }
    }
    Arc::new(Source::open(dir.to_str().unwrap(), SourceKind::Auto, Split::Train).unwrap())
}

fn batches(
    source: &Arc<Source>,
    config: &SupervisedConfig,
    steps: std::ops::Range<u64>,
) -> Vec<SupervisedBatch> {
    let loader = SupervisedLoader::start(Arc::clone(source), config.clone(), steps).unwrap();
    loader.map(Result::unwrap).collect()
}

#[test]
fn workers_and_where_one_begins_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 35, 4);
    let one = config(35);
    assert_eq!(one.steps_per_epoch(), 3);
    let all = batches(&source, &one, 0..7);
    assert_eq!(all.len(), 7);
    for batch in &all {
        assert_eq!((batch.places.len(), batch.patches.len()), (10, 10 * 16 * 16 * 3));
        let sums: Vec<f32> = batch.targets.chunks_exact(10).map(|row| row.iter().sum()).collect();
        assert_eq!(sums.len(), 10);
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{sums:?}");
    }
    assert_ne!(all[0].patches, all[3].patches, "every epoch has another order");
    for workers in [3, 16] {
        let many = SupervisedConfig { workers, ..one.clone() };
        assert!(batches(&source, &many, 0..7) == all, "{workers} workers");
    }
    assert!(batches(&source, &one, 4..7) == all[4..]);
}

#[test]
fn processes_that_make_some_pairs_make_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 35, 4);
    for batch in [10, 9] {
        let whole = SupervisedConfig { batch, ..config(35) };
        let expected = batches(&source, &whole, 0..4);
        for cuts in [vec![0, 5], vec![0, 2, 5], vec![0, 1, 3, 4, 5]] {
            for (step, expected) in expected.iter().enumerate() {
                let len = 16 * 16 * 3;
                for cut in cuts.windows(2) {
                    let pairs = cut[0]..cut[1];
                    let config = SupervisedConfig { pairs: Some(pairs.clone()), ..whole.clone() };
                    let step = step as u64;
                    let made = batches(&source, &config, step..step + 1).remove(0);
                    assert_eq!(made, expected.of_pairs(pairs), "{batch}, {cut:?}");
                    for (patches, place) in made.patches.chunks_exact(len).zip(&made.places) {
                        assert_eq!(patches, &expected.patches[place * len..][..len]);
                    }
                }
            }
        }
    }
}

#[test]
fn too_many_unreadable_images_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 30, 20);
    let mut loader = SupervisedLoader::start(source, config(30), 0..100).unwrap();
    let error = loader.find_map(Result::err).expect("it goes on with 20 of 30 images unreadable");
    assert!(matches!(error, LoaderError::TooManyBad { bad: 16.., allowed: 0.5, .. }), "{error}");
    assert!(loader.next().is_none(), "an error is the last item");
}

#[test]
fn settings_that_cannot_work() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 12, 0);
    let good = config(12);
    let geometry = Geometry { image_px: 16, patch_px: 5 };
    for (bad, named) in [
        (SupervisedConfig { geometry, ..good.clone() }, "geometry"),
        (SupervisedConfig { workers: 0, ..good.clone() }, "workers"),
        (SupervisedConfig { batch: 0, ..good.clone() }, "batch"),
        (SupervisedConfig { batch: 13, ..good.clone() }, "batch"),
        (SupervisedConfig { samples: (1..13).collect(), ..good.clone() }, "samples"),
        (SupervisedConfig { classes: 2, ..good.clone() }, "classes"),
    ] {
        match SupervisedLoader::start(Arc::clone(&source), bad, 0..1) {
            Err(LoaderError::Setting { setting, .. }) => assert_eq!(setting, named),
            other => panic!("{named}: {other:?}"),
        }
    }
    let flat = tempfile::tempdir().unwrap();
    image::RgbImage::new(4, 4).save(flat.path().join("a.png")).unwrap();
    let unlabelled = Source::open(flat.path().to_str().unwrap(), SourceKind::Auto, Split::Train);
    let one = SupervisedConfig { samples: vec![0], batch: 1, ..good };
    let error = SupervisedLoader::start(Arc::new(unlabelled.unwrap()), one, 0..1).unwrap_err();
    assert!(error.to_string().contains("no labels"), "{error}");
}
