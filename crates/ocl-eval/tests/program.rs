//! The program on run folders as pre-training leaves them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::backend;

/// A run folder with a very small encoder on the data at `path`.
fn run_on(path: &str, kind: &str) -> tempfile::TempDir {
    let more = [format!("data.path={path:?}"), format!("data.kind={kind}"), "train.batch=2".into()];
    support::run_folder(1, path, kind, &more)
}

fn embedded_run() -> tempfile::TempDir {
    run_on("embedded", "embedded")
}

fn files(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"BM").unwrap();
    }
    folder
}

fn eval(command: &str, run: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocl"))
        .args([command, "--backend", &backend(), "--run"])
        .arg(run)
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Graphics drivers have things of their own to say.
    assert!(backend() != "flex" || output.stderr.is_empty(), "progress is for terminals only");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Protocols there are.
const PROTOCOLS: usize = 8;

const FEW: [&str; 4] = ["--max-train", "600", "--max-test", "200"];

#[test]
fn a_report_has_six_figures_and_says_what_next() {
    let run = embedded_run();
    let text = stdout(&eval("report", run.path(), &FEW));
    for part in ["trained encoder", "untrained encoder", "raw pixels", "points", "tensorboard"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("used: 600") && text.contains("used: 200"), "{text}");
    let long = text.lines().filter(|line| !line.contains("cargo") && !line.contains('/'));
    assert!(long.clone().all(|line| line.chars().count() <= 80), "{text}");
    let lines = std::fs::read_to_string(run.path().join("results.jsonl")).unwrap();
    let records: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 6);
    for record in &records {
        let top1 = record["scores"][0]["mean"].as_f64().unwrap();
        assert!((0.2..1.0).contains(&top1), "chance is 0.1: {record}");
        assert_eq!(record["data"]["digests"][0].as_str().unwrap().len(), 16);
        let trained = record["subject"] == "trained encoder";
        assert_eq!(record["weights"]["sha256"].is_string(), trained, "{record}");
    }
}

#[test]
fn single_measurements_say_all_in_json() {
    let run = embedded_run();
    let args = |more: &[&'static str]| [&FEW, more].concat();
    let linear: Value = serde_json::from_str(&stdout(&eval(
        "linear",
        run.path(),
        &args(&["--json", "--seeds", "2", "--pool", "mean", "--untrained"]),
    )))
    .unwrap();
    assert_eq!(linear["subject"], "untrained encoder");
    assert_eq!((&linear["pool"], &linear["seeds"][1]), (&"mean".into(), &1.into()));
    assert_eq!(linear["data"]["train_images"], 600);
    let knn = eval("knn", run.path(), &args(&["--json", "--k", "5,1", "--raw-pixels"]));
    let knn: Value = serde_json::from_str(&stdout(&knn)).unwrap();
    // Grey images: one of three equal channels of 28 by 28 pixels.
    assert_eq!((&knn["constants"]["k"][0], &knn["width"]), (&5.into(), &784.into()));
    assert_eq!(knn["scores"][2]["name"], "k=1 top-1");
}

#[test]
fn crops_that_the_encoder_never_saw_are_noted() {
    let run = embedded_run();
    let mut args = FEW.to_vec();
    args.extend(["--protocol", "mae", "--seeds", "1", "--set", "linear-mae.epochs=1"]);
    args.extend(["--set", "linear-mae.warmup_epochs=0"]);
    let output = eval("linear", run.path(), &args);
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    let advice = "--set 'linear-mae.crop_scale=[1.0, 1.0]'";
    assert!(text.starts_with("note: linear-mae crops to 8 %") && text.contains(advice), "{text}");
}

#[test]
fn every_protocol_runs_from_one_pass() {
    let run = embedded_run();
    let short = [
        "linear.epochs=3",
        "linear-mae.epochs=2",
        "linear-mae.warmup_epochs=1",
        "linear-mae.crop_scale=[1.0,1.0]",
        "robustness.blur_px=[4]",
    ];
    let mut args = FEW.to_vec();
    short.iter().for_each(|pair| args.extend(["--set", pair]));
    args.extend(["--seeds", "2", "--protocols", "all,linear-mae"]);
    let text = stdout(&eval("suite", run.path(), &args));
    for part in [
        "linear:",
        "linear-mae:",
        "10-shot top-1",
        "1 % of labels",
        "recall@5",
        "mAP",
        "NMI",
        "occluded 50 %",
        "not shown 50 %",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let lines = std::fs::read_to_string(run.path().join("results.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), PROTOCOLS);
    // The same without the run folder, from the file alone; without its run, the normalisation is
    // ImageNet's, so that figures differ.
    let weights = run.path().join("encoder.safetensors");
    let output = Command::new(env!("CARGO_BIN_EXE_ocl"))
        .args(["suite", "--backend", &backend(), "--data", "embedded", "--protocols", "centroid"])
        .args(FEW)
        .arg("--weights")
        .arg(weights)
        .output()
        .unwrap();
    assert!(stdout(&output).contains("nearest class mean"));
    let text = stderr(&eval("suite", run.path(), &["--protocols", "k-nn"]));
    assert!(text.contains("no protocol is called `k-nn`; there are linear,"), "{text}");
}

#[test]
fn data_without_labels_is_said_plainly() {
    let data = files(&["a.bmp", "b.bmp", "c.bmp"]);
    let run = run_on(data.path().to_str().unwrap(), "folder");
    let text = stdout(&eval("report", run.path(), &[]));
    assert!(text.contains("was not measured") && text.contains("no labels"), "{text}");
    assert!(text.contains("ocl eval "), "{text}");
    for protocol in ["linear", "knn"] {
        let text = stderr(&eval(protocol, run.path(), &[]));
        assert!(text.contains("no labels") && text.contains("val/CLASS"), "{text}");
    }
    assert!(!run.path().join("results.jsonl").exists());
}

#[test]
fn labels_without_a_test_split_are_said_plainly() {
    let data = files(&["train/a/1.bmp", "train/a/2.bmp", "train/b/1.bmp"]);
    let run = run_on(data.path().to_str().unwrap(), "folder");
    assert!(stdout(&eval("report", run.path(), &[])).contains("was not measured"));
    let text = stderr(&eval("linear", run.path(), &[]));
    assert!(text.contains("cannot open the test split") && text.contains("val"), "{text}");
}

#[test]
fn what_is_missing_is_named() {
    let nothing = tempfile::tempdir().unwrap();
    assert!(stderr(&eval("report", nothing.path(), &[])).contains("plan.toml"));
    let run = embedded_run();
    std::fs::remove_file(run.path().join("encoder.safetensors")).unwrap();
    let checkpoint = run.path().join("checkpoints/step-00000007/weights.safetensors");
    std::fs::create_dir_all(checkpoint.parent().unwrap()).unwrap();
    std::fs::write(&checkpoint, b"").unwrap();
    let text = stderr(&eval("report", run.path(), &[]));
    assert!(text.contains("--resume") && text.contains("step-00000007"), "{text}");
    let text = stderr(&eval("knn", run.path(), &["--raw-pixels", "--max-test", "1"]));
    assert!(text.contains("max-test: at least 2"), "{text}");
}
