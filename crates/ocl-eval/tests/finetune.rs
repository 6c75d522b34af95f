//! Fine-tuning as a program: begun, stopped, gone on with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::backend;

fn run_folder() -> tempfile::TempDir {
    support::run_folder(2, "embedded", "embedded", &[])
}

fn finetune(args: &[&str]) -> Output {
    let backend = backend();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocl-eval"));
    command.args(["finetune", "--backend", &backend, "--json"]).args(args).output().unwrap()
}

fn begin(run: &Path, out: &Path, more: &[&str]) -> Output {
    let (run, out) = (run.to_str().unwrap(), out.to_str().unwrap());
    // Everything on: mixing, RandAugment, erasing, branches left out.
    let common = [
        "--run",
        run,
        "--out",
        out,
        "--recipe",
        "vit-b",
        "--max-train",
        "256",
        "--max-test",
        "200",
        "--set",
        "train.batch=32",
        "--set",
        "train.epochs=3",
        "--set",
        "optim.warmup_epochs=1",
        "--set",
        "optim.base_lr=0.01",
    ];
    finetune(&[&common[..], more].concat())
}

fn record(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn two_seeds_are_trained_and_recorded() {
    let run = run_folder();
    let out = run.path().join("ft");
    let record = record(&begin(run.path(), &out, &["--seeds", "2"]));
    assert_eq!(record["scores"][0]["values"].as_array().unwrap().len(), 2);
    assert_eq!(record["subject"], "fine-tuned encoder");
    assert_eq!(record["constants"]["settings"]["train"]["batch"], 32);
    assert!(
        out.join("seed-1/finetuned.safetensors").exists() && out.join("results.jsonl").exists()
    );
    let log = std::fs::read_to_string(out.join("seed-0/log.jsonl")).unwrap();
    let losses: Vec<f64> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 3);
    assert!((losses[0] - 10f64.ln()).abs() < 0.2, "the head begins at chance: {losses:?}");
    let again = begin(run.path(), &out, &[]);
    let text = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && text.contains("--resume"), "{text}");
}

#[cfg(all(unix, feature = "flex"))]
#[test]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let run = run_folder();
    let (whole, parts) = (run.path().join("whole"), run.path().join("parts"));
    let slow = ["--set", "train.epochs=40", "--set", "train.checkpoint_every_epochs=0.5"];
    record(&begin(run.path(), &whole, &slow));
    let args = [run.path().to_str().unwrap(), parts.to_str().unwrap()];
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocl-eval"))
        .args(["finetune", "--backend", "flex", "--run", args[0], "--out", args[1]])
        .args(["--recipe", "vit-b", "--max-train", "256", "--max-test", "200"])
        .args(["--set", "train.batch=32", "--set", "optim.warmup_epochs=1"])
        .args(["--set", "optim.base_lr=0.01"])
        .args(slow)
        .spawn()
        .unwrap();
    // Once it has saved something, so that it goes on from the middle.
    let saved = parts.join("seed-0/checkpoint.safetensors");
    for _ in 0..3000 {
        if saved.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let id = child.id().to_string();
    Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "interrupted in the middle");
    record(&finetune(&["--resume", args[1]]));
    let read = |folder: &Path| std::fs::read(folder.join("seed-0/finetuned.safetensors")).unwrap();
    assert_eq!(read(&whole), read(&parts));
}
