//! Fine-tuning as a program: started, stopped, resumed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use ocl_data::{SourceKind, Split};
use ocl_eval::{PredictOptions, Predicted, Progress, open_encoder, predict};
use ocl_model::OpenOptions;
use ocl_train::Backend;
use serde_json::Value;
use support::backend;

fn run_folder() -> tempfile::TempDir {
    support::run_folder(2, "embedded", "embedded", &[])
}

fn ocl_eval(args: &[&str]) -> Output {
    let backend = backend();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocl"));
    command.args([args[0], "--backend", &backend]).args(&args[1..]).output().unwrap()
}

fn finetune(args: &[&str]) -> Output {
    ocl_eval(&[&["finetune", "--json"], args].concat())
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

#[test]
fn a_fine_tuned_file_goes_everywhere() {
    let run = run_folder();
    let out = run.path().join("fine tuned");
    record(&begin(run.path(), &out, &[]));
    let weights = out.join("seed-0/finetuned.safetensors");
    let file = weights.to_str().unwrap();
    // Evaluation takes its pooling and its preparation from the file.
    let few = ["--max-train", "100", "--max-test", "50", "--json"];
    let knn = ["knn", "--weights", file, "--data", "embedded"];
    let measured = record(&ocl_eval(&[&knn[..], &few].concat()));
    assert_eq!(measured["pool"], "mean");
    // Import writes the classes' names for timm.
    let folder = run.path().join("folder");
    let imported = ocl_eval(&["import", file, "--out", folder.to_str().unwrap()]);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["label_names"].as_array().unwrap().len(), 10);
    let (mean, plan) = (config["pretrained_cfg"]["mean"][0].as_f64().unwrap(), plan_mean(&out));
    assert!((mean - plan).abs() < 1e-6, "{mean} {plan}");
    // Export gives the same folder.
    let exported = run.path().join("exported");
    let args = ["export", "--weights", out.to_str().unwrap(), "--out"];
    let output = ocl_eval(&[&args[..], &[exported.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["config.json", "model.safetensors"] {
        let [a, b] = [&folder, &exported].map(|at| std::fs::read(at.join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    // The folder of the fine-tuning, the file and the exported folder classify alike.
    let device = backend().parse::<Backend>().unwrap().device().unwrap();
    let options =
        PredictOptions { top: 10, kind: SourceKind::Auto, split: Some(Split::Test), batch: 64 };
    let asked = ["embedded".to_owned(), weights.display().to_string()];
    let mut all = vec![];
    for path in [&out, &weights, &folder] {
        let encoder = open_encoder(path, &OpenOptions::default(), &device).unwrap();
        let (mut found, mut progress) = (Vec::<Predicted>::new(), Progress::silent());
        let unreadable = predict(&encoder, &asked, &options, &device, &mut progress, |one| {
            found.push(one.clone());
            Ok(())
        });
        // Weights are no image.
        assert_eq!(unreadable.unwrap(), 1);
        all.push(found);
    }
    let last = all[0].last().unwrap();
    assert!(last.error.is_some() && last.answers.is_empty(), "{last:?}");
    for answers in all[0].iter().rev().skip(1).map(|one| &one.answers) {
        assert!(answers.is_sorted_by(|a, b| a.probability >= b.probability), "{answers:?}");
        let sum: f32 = answers.iter().map(|answer| answer.probability).sum();
        assert!(answers.len() == 10 && (sum - 1.0).abs() < 1e-4, "{answers:?}");
        assert_eq!(answers[0].name, config["label_names"][answers[0].class]);
    }
    assert!(all[0] == all[1] && all[0] == all[2], "one classifier");
    // An encoder without a head cannot classify, and the error says what to do.
    let encoder = open_encoder(run.path(), &OpenOptions::default(), &device).unwrap();
    let refused = predict(&encoder, &asked, &options, &device, &mut Progress::silent(), |_| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("ocl finetune"));
}

#[test]
fn images_are_classified_from_the_command_line() {
    let run = run_folder();
    let out = run.path().join("ft");
    record(&begin(run.path(), &out, &[]));
    let images = run.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for level in [40u8, 200] {
        let file = images.join(format!("{level}, grey.png"));
        image::save_buffer(file, &[level; 400], 20, 20, image::ColorType::L8).unwrap();
    }
    std::fs::write(images.join("x.png"), b"no image").unwrap();
    let args = ["predict", images.to_str().unwrap(), "--weights", out.to_str().unwrap()];
    let output = ocl_eval(&[&args[..], &["--top", "2", "--format", "csv"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (6, "image,rank,class,label,probability,error"));
    assert!(lines[1].contains("200, grey.png\",1,") && lines[5].contains("x.png,,,,,"), "{text}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("1 could not be read"));
}

/// The first channel's mean, by the plan of a fine-tuning.
fn plan_mean(folder: &Path) -> f64 {
    let text = std::fs::read_to_string(folder.join("finetune.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("mean = [")).unwrap();
    line["mean = [".len()..].split([',', ']']).next().unwrap().trim().parse().unwrap()
}

#[test]
fn what_was_written_and_what_to_do_next_are_said() {
    let run = run_folder();
    let out = run.path().join("ft");
    let mut args = vec!["finetune", "--run", run.path().to_str().unwrap(), "--out"];
    args.extend([out.to_str().unwrap(), "--max-train", "64", "--max-test", "100"]);
    args.extend(["--set", "train.batch=32", "--set", "train.epochs=1"]);
    let output = ocl_eval(&[&args[..], &["--set", "optim.warmup_epochs=0"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "Accuracy of each class",
        "What they were taken for",
        "finetuned.safetensors",
        "ocl predict",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_failed_beginning_leaves_nothing_to_stumble_over() {
    let run = run_folder();
    let out = run.path().join("ft");
    let output = begin(run.path(), &out, &["--set", "train.batch=100000"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("more than the 256"), "{text}");
    assert!(!out.join("finetune.toml").exists());
    record(&begin(run.path(), &out, &[]));
}

#[cfg(all(unix, feature = "flex"))]
#[test]
fn an_interrupted_run_resumes_bit_for_bit() {
    let run = run_folder();
    let (whole, parts) = (run.path().join("whole"), run.path().join("parts"));
    let slow = ["--set", "train.epochs=40", "--set", "train.checkpoint_every_epochs=0.5"];
    record(&begin(run.path(), &whole, &slow));
    let args = [run.path().to_str().unwrap(), parts.to_str().unwrap()];
    let mut child = Command::new(env!("CARGO_BIN_EXE_ocl"))
        .args(["finetune", "--backend", "flex", "--run", args[0], "--out", args[1]])
        .args(["--recipe", "vit-b", "--max-train", "256", "--max-test", "200"])
        .args(["--set", "train.batch=32", "--set", "optim.warmup_epochs=1"])
        .args(["--set", "optim.base_lr=0.01"])
        .args(slow)
        .spawn()
        .unwrap();
    // Once it has saved something, so that it resumes in the middle.
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
