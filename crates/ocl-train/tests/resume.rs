//! Whole runs of a tiny encoder: the same whatever the workers, wherever interrupted; nothing bad
//! is lost.
//!
//! On the CPU alone: a GPU's sums need not come out the same twice, and an emulated one takes
//! minutes.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use ocl_data::{Source, SourceKind, Split};
use ocl_train::{
    Backend, Chunk, Event, InitPlan, Outcome, Plan, Recipe, Start, StepRecord, TrainError, Until,
    pretrain, replay,
};

/// 2 epochs of 20 steps.
fn plan(workers: usize, extra: &[&str]) -> (Plan, Arc<Source>) {
    let mut pairs = vec![
        "data.crop_scale=[0.5,1.0]",
        "data.image_px=16",
        "model.patch_px=4",
        "model.width=16",
        "model.depth=2",
        "model.heads=2",
        "batch.size=400",
        "train.epochs=2",
        "train.seed=3",
        "optim.warmup_epochs=0.2",
        "optim.base_lr=1e-3",
        "train.checkpoint_every_epochs=0.35",
        "train.keep_checkpoints=3",
    ];
    if !extra.iter().any(|pair| pair.starts_with("method.name")) {
        pairs.push("method.mask_ratio=0.5");
    }
    pairs.extend(extra);
    let mut pairs: Vec<String> = pairs.into_iter().map(str::to_owned).collect();
    pairs.push(format!("data.workers={workers}"));
    let recipe = Recipe::load("embedded", &pairs).unwrap();
    let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
    (Plan::resolve("embedded", &recipe, &source).unwrap(), Arc::new(source))
}

/// Runs until the end, or until `stop_after` steps are known to be done.
fn run(
    (plan, source): (Plan, Arc<Source>),
    folder: &Path,
    start: Start,
    stop_after: Option<u64>,
) -> Result<Outcome, TrainError> {
    let stop = AtomicBool::new(false);
    pretrain(&plan, source, folder, start, &Device::default(), Until::end_or(&stop), |event| {
        if let Event::Step(record) = event
            && Some(record.step) == stop_after
        {
            stop.store(true, Ordering::Relaxed);
        }
    })
}

/// Step and the bits of the loss, from the log.
fn losses(folder: &Path) -> Vec<(u64, u64)> {
    let log = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<StepRecord>(line).unwrap());
    records.map(|record| (record.step, record.loss.to_bits())).collect()
}

fn encoder(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("encoder.safetensors")).unwrap()
}

#[test]
fn interrupted_and_resumed_is_the_unbroken_run_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let outcome = run(plan(1, &[]), &whole, Start::Fresh, None).unwrap();
    assert!(outcome.finished);
    assert_eq!((outcome.step, losses(&whole).len()), (40, 40));

    // In the middle of the first epoch, then of the second, with another number of workers.
    let outcome = run(plan(1, &[]), &broken, Start::Fresh, Some(8)).unwrap();
    assert!(!outcome.finished);
    let outcome = run(plan(2, &[]), &broken, Start::Resume, Some(26)).unwrap();
    assert!(!outcome.finished);
    run(plan(2, &[]), &broken, Start::Resume, None).unwrap();
    assert_eq!(losses(&broken), losses(&whole));
    assert_eq!(encoder(&broken), encoder(&whole));
}

/// Decoders, predictors, averages and running statistics are part of a checkpoint; blocks are cut
/// by the whole batch, and batch norm sees it, whatever the micro-batches.
#[test]
fn every_method_goes_on_bit_for_bit() {
    for method in ["mae", "i-jepa", "moco-v3"] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
        let name = format!("method.name={method}");
        let of = |workers: usize, chunk: &str| {
            let chunk = format!("batch.chunk={chunk}");
            // 64 images in micro-batches of 24, the last of which has 16.
            let small = ["batch.size=64", "batch.micro_batch=24", "train.epochs=1"];
            let (mut plan, source) = plan(workers, &[&small[..], &[&name, &chunk]].concat());
            plan.steps = 12;
            plan.checkpoint_every_steps = 5;
            (plan, source)
        };
        let outcome = run(of(1, "auto"), &whole, Start::Fresh, None).unwrap();
        assert_eq!((outcome.finished, losses(&whole).len()), (true, 12), "{method}");
        assert!(losses(&whole).windows(2).all(|pair| pair[0].1 != pair[1].1), "{method}");
        run(of(2, "24"), &broken, Start::Fresh, Some(3)).unwrap();
        run(of(1, "48"), &broken, Start::Resume, Some(8)).unwrap();
        run(of(2, "auto"), &broken, Start::Resume, None).unwrap();
        assert_eq!(losses(&broken), losses(&whole), "{method}");
        assert_eq!(encoder(&broken), encoder(&whole), "{method}");
    }
}

/// Any method begins from the encoder that another has left, and from no other file.
#[test]
fn a_run_begins_from_an_encoder_that_exists() {
    let folder = tempfile::tempdir().unwrap();
    let short = |name: &str, init: Option<InitPlan>| {
        let (mut plan, source) = plan(1, &[&format!("method.name={name}"), "batch.size=64"]);
        (plan.steps, plan.init) = (2, init);
        (plan, source)
    };
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    run(short("mae", None), &first, Start::Fresh, None).unwrap();
    let path = first.join("encoder.safetensors");
    let init =
        InitPlan { crc32: crc32fast::hash(&encoder(&first)), path, prefix: None, decoder: false };
    for method in ["ocl", "mae", "i-jepa", "moco-v3"] {
        let run_folder = second.join(method);
        let begun = short(method, Some(init.clone()));
        run(begun, &run_folder, Start::Fresh, None).unwrap();
        run(short(method, None), &second.join(format!("{method}-fresh")), Start::Fresh, None)
            .unwrap();
        let fresh = losses(&second.join(format!("{method}-fresh")));
        assert_ne!(losses(&run_folder)[0], fresh[0], "{method}");
    }
    let other = InitPlan { crc32: init.crc32 ^ 1, ..init };
    let error = run(short("ocl", Some(other)), &second.join("other"), Start::Fresh, None);
    assert!(error.unwrap_err().to_string().contains("not the file"));
}

#[test]
fn another_chunk_size_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, chunked) = (folder.path().join("whole"), folder.path().join("chunked"));
    // 400 images in micro-batches of 96, the last of which has 16.
    let of_96 = |chunk: &str| {
        plan(1, &["batch.micro_batch=96", "train.epochs=1", &format!("batch.chunk={chunk}")])
    };
    run(of_96("auto"), &whole, Start::Fresh, None).unwrap();
    run(of_96("96"), &chunked, Start::Fresh, Some(6)).unwrap();
    let mut resumed = of_96("auto");
    resumed.0.set_chunk(Chunk::Images(300), Backend::Flex);
    assert_eq!(resumed.0.chunk, 288);
    run(resumed, &chunked, Start::Resume, Some(13)).unwrap();
    run(of_96("1"), &chunked, Start::Resume, None).unwrap();
    assert_eq!(losses(&chunked), losses(&whole));
    assert_eq!(encoder(&chunked), encoder(&whole));
}

#[test]
fn a_run_that_died_after_a_checkpoint_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, died) = (folder.path().join("whole"), folder.path().join("died"));
    run(plan(1, &[]), &whole, Start::Fresh, None).unwrap();
    run(plan(1, &[]), &died, Start::Fresh, Some(20)).unwrap();
    // The newest checkpoint is lost as a power cut may lose it; those of steps 14 and 7 remain.
    let newest = last_checkpoint(&died);
    std::fs::write(newest.join("optimizer.safetensors"), b"torn").unwrap();
    run(plan(1, &[]), &died, Start::Resume, None).unwrap();
    assert_eq!(losses(&died), losses(&whole));
}

fn last_checkpoint(run: &Path) -> std::path::PathBuf {
    let folders = std::fs::read_dir(run.join("checkpoints")).unwrap();
    folders.map(|entry| entry.unwrap().path()).max().unwrap()
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    run(plan(1, &["train.keep_checkpoints=2"]), folder.path(), Start::Fresh, None).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 2);
}

#[test]
fn an_occupied_folder_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    run(plan(1, &[]), folder.path(), Start::Fresh, Some(2)).unwrap();
    let before = losses(folder.path());
    let error = run(plan(1, &[]), folder.path(), Start::Fresh, None).unwrap_err();
    assert!(matches!(error, TrainError::Occupied(_)), "{error}");
    assert!(error.to_string().contains("--resume"), "{error}");
    assert_eq!(losses(folder.path()), before);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let wild = plan(1, &["optim.base_lr=1e30", "train.checkpoint_every_epochs=100"]);
    let error = run(wild, folder.path(), Start::Fresh, None).unwrap_err();
    let TrainError::NonFinite { step, samples, .. } = &error else { panic!("{error}") };
    assert!(*step >= 2);
    assert_eq!(samples.len(), 400);
    assert!(error.to_string().contains("lr"), "{error}");
    // Run again from what was kept, it is the same step.
    let TrainError::NonFinite { capture, step, .. } = &error else { panic!("{error}") };
    let (again, source) = plan(1, &[]);
    let captured = Plan::load(capture).unwrap();
    assert_ne!(captured, again);
    let mut steps = vec![];
    let found =
        replay(capture, &captured, source, &Device::default(), |step, _| steps.push(step)).unwrap();
    assert!(found.same, "{found:?}");
    assert_eq!((found.capture.step, steps.len() as u64), (*step, step - 1));
    assert!(found.gradient_norms.iter().any(|(_, norm)| !norm.is_finite()));
    // Nothing of the broken state was saved.
    assert!(!folder.path().join("encoder.safetensors").exists());
    assert!(!folder.path().join("checkpoints").exists());
}

#[test]
fn a_run_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = ["monitor.every_steps=10", "monitor.knn_every_epochs=0.5"];
    run(plan(1, &pairs), folder.path(), Start::Fresh, None).unwrap();
    let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let records: Vec<StepRecord> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &records {
        let of = |name: &str| record.figures.get(name).unwrap();
        assert!(of("gradient_norm") > 0.0);
        assert!((of("alignment") - (2.0 - 2.0 * of("positive"))).abs() < 1e-4);
        assert!(of("positive") > of("negative"), "{record:?}");
        for sometimes in ["rank", "knn_top1"] {
            assert_eq!(record.figures.get(sometimes).is_some(), record.step % 10 == 0);
        }
    }
    let last = records.last().unwrap();
    let of = |name: &str| last.figures.get(name).unwrap();
    assert!((1.0..=16.0).contains(&of("rank")), "{last:?}");
    assert!(of("uniformity") < 0.0);
    assert!(of("knn_top1") > 0.3, "ten classes are guessed with 0.1: {last:?}");
}

#[test]
fn learning_lowers_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    run(plan(1, &[]), folder.path(), Start::Fresh, None).unwrap();
    let losses: Vec<f64> =
        losses(folder.path()).iter().map(|(_, bits)| f64::from_bits(*bits)).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!(mean(&losses[30..]) < mean(&losses[..5]) - 0.1, "{losses:?}");
}
