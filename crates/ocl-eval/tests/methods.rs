//! Every pre-training method through the whole program: a short run, then all that is done with its
//! encoder.
//!
//! On the CPU alone: other backends compute the same, which is tested below this.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::Value;

const METHODS: [&str; 4] = ["ocl", "mae", "i-jepa", "moco-v3"];
/// A small encoder.
const SMALL: [&str; 6] =
    ["--set", "model.width=32", "--set", "model.heads=2", "--set", "model.depth=2"];
/// Test images of the embedded data.
const TEST_IMAGES: usize = 2000;

fn ocl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocl")).args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = ocl(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(args: &[&str]) -> String {
    let output = ocl(args);
    assert!(!output.status.success(), "{args:?} was taken");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn record(args: &[&str]) -> Value {
    serde_json::from_str(stdout(args).lines().next().unwrap()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Tensors of a file by name, as bytes.
fn tensors(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()
}

/// Rows of an `.npy` file of f32.
fn rows(file: &Path) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(file).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values = bytes[10 + header..].chunks_exact(4);
    let values: Vec<f32> = values.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values.len() % TEST_IMAGES, 0, "{}", file.display());
    values.chunks_exact(values.len() / TEST_IMAGES).map(<[f32]>::to_vec).collect()
}

#[test]
fn what_each_method_leaves_is_measured_embedded_exported_and_fine_tuned() {
    let folder = tempfile::tempdir().unwrap();
    for method in METHODS {
        let run = folder.path().join(method);
        let args = ["pretrain", "--method", method, "--epochs", "1", "--no-eval", "--name", method];
        stdout(&[&args[..], &SMALL, &["--out", text(folder.path())]].concat());
        left(&run, method);
        let pool = if method == "i-jepa" { "mean" } else { "cls" };
        measured(&run, pool);
        exported(&run, pool);
        tuned(&run);
    }
}

/// The encoder that a run leaves is the one that the method says, as the last checkpoint has it.
fn left(run: &Path, method: &str) {
    assert!(image::open(run.join("views.png")).is_ok(), "what the method sees");
    let encoder = tensors(&run.join("encoder.safetensors"));
    let all = tensors(&run.join("checkpoints/step-00000031/weights.safetensors"));
    for (name, values) in &encoder {
        assert!(all[name] == *values, "{method}: {name}");
    }
    // I-JEPA leaves the averaged encoder and MoCo v3 the trained one, and the other stands beside
    // it.
    let other = match method {
        "i-jepa" => Some("encoder."),
        "moco-v3" => Some("momentum_encoder."),
        _ => None,
    };
    let matrix = "blocks.0.attn.qkv.weight";
    if let Some(other) = other {
        assert!(all[&format!("{other}{matrix}")] != encoder[matrix], "{method}");
    }
    assert_eq!(encoder.contains_key("cls_token"), method != "i-jepa");
    let decoders = all.keys().filter(|name| !encoder.contains_key(*name)).count();
    assert_eq!(decoders > 0, method != "ocl", "{method}");
}

fn measured(run: &Path, pool: &str) {
    let few = ["--max-train", "600", "--max-test", "200"];
    let report = stdout(&[&["report", "--run", text(run)], &few[..]].concat());
    assert!(report.contains("trained encoder") && report.contains("raw pixels"), "{report}");
    let results = std::fs::read_to_string(run.join("results.jsonl")).unwrap();
    let results: Vec<Value> =
        results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 6);
    for record in results.iter().filter(|record| record["subject"] != "raw pixels") {
        assert_eq!(record["pool"], pool, "{record}");
        let top1 = record["scores"][0]["mean"].as_f64().unwrap();
        assert!((0.2..1.0).contains(&top1), "chance is 0.1: {record}");
    }
    let knn = record(&[&["eval-knn", "--run", text(run), "--json"], &few[..]].concat());
    assert_eq!((&knn["pool"], &knn["width"]), (&pool.into(), &32.into()));
}

/// Features are those of the pooling, whether the run is asked or the folder for other programs.
fn exported(run: &Path, pool: &str) {
    let folder = run.join("exported");
    let said = stdout(&["export", "--run", text(run), "--out", text(&folder)]);
    assert!(
        said.contains(if pool == "mean" { "mean of the patch" } else { "class token" }),
        "{said}"
    );
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let pooled = if pool == "mean" { "avg" } else { "token" };
    assert_eq!(config["model_args"]["global_pool"], pooled, "{config}");
    let class_token = config["model_args"].get("class_token").is_none_or(|token| token == true);
    assert_eq!(class_token, pool == "cls", "{config}");

    let embedded = |from: &[&str], name: &str| {
        let file = run.join(name);
        let args = ["embed", "embedded", "--test", "--out", text(&file)];
        stdout(&[&args[..], from].concat());
        rows(&file)
    };
    let own = embedded(&["--run", text(run)], "own.npy");
    let said = embedded(&["--run", text(run), "--what", pool], "said.npy");
    assert!(own == said && own[0].len() == 32);
    assert!(own.windows(2).all(|pair| pair[0] != pair[1]), "images have the same features");
    let folders = embedded(&["--weights", text(&folder)], "folder.npy");
    for (own, other) in own.iter().flatten().zip(folders.iter().flatten()) {
        assert!((own - other).abs() < 1e-4, "{own} {other}");
    }
}

fn tuned(run: &Path) {
    let settings = ["train.epochs=1", "train.batch=32", "optim.warmup_epochs=0"];
    let mut args = vec!["finetune", "--run", text(run), "--json"];
    args.extend(["--max-train", "256", "--max-test", "100"]);
    settings.iter().for_each(|pair| args.extend(["--set", pair]));
    let record = record(&args);
    let top1 = record["scores"][0]["mean"].as_f64().unwrap();
    assert!((0.05..1.0).contains(&top1), "chance is 0.1: {record}");
    assert!(run.join("finetune-small/seed-0/finetuned.safetensors").exists());
}

#[test]
fn a_plan_by_each_method_is_told_with_its_cost() {
    for method in METHODS {
        // The least batches that there are, an image in memory at a time.
        for batch in ["256", "2"] {
            let args = ["pretrain", "--dry-run", "--method", method, "--batch", batch];
            let told = stdout(&[&args[..], &["--chunk", "1"], &SMALL].concat());
            for part in [&format!("name = \"{method}\""), "GFLOP an image", "img/s"] {
                assert!(told.contains(part), "{method}: {told}");
            }
        }
    }
}

#[test]
fn a_run_goes_on_by_its_own_method_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path());
    let run = folder.path().join("mine");
    let args = ["pretrain", "--method", "mae", "--epochs", "1", "--no-eval", "--name", "mine"];
    stdout(&[&args[..], &["--out", out, "--batch", "4000"], &SMALL].concat());
    let resume = ["pretrain", "--no-eval", "--resume", text(&run), "--method"];
    let error = refused(&[&resume[..], &["i-jepa"]].concat());
    assert!(error.contains("is a run of mae") && error.contains("--init"), "{error}");
    stdout(&[&resume[..], &["mae"]].concat());
}

#[test]
fn a_run_goes_on_with_what_may_change_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("mine");
    let args = ["pretrain", "--epochs", "1", "--no-eval", "--name", "mine", "--batch", "2000"];
    stdout(&[&args[..], &["--out", text(folder.path())], &SMALL].concat());
    let resume = ["pretrain", "--no-eval", "--resume", text(&run)];
    let error = refused(&[&resume[..], &["--set", "batch.size=100"]].concat());
    assert!(error.contains("batch.size: cannot change in a run that has begun"), "{error}");
    let plan = || std::fs::read_to_string(run.join("plan.toml")).unwrap();
    let before = plan();
    let changed = ["--epochs", "3", "--set", "optim.base_lr=1e-5"];
    stdout(&[&resume[..], &changed].concat());
    let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    let rate = |line: &str| -> f64 {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["lr"].as_f64().unwrap()
    };
    let rates: Vec<f64> = log.lines().map(rate).collect();
    assert_eq!(rates.len(), 12, "three epochs of four steps");
    assert!(rates[4..].iter().all(|rate| *rate < 1e-4) && rates[2] > 1e-4, "{rates:?}");
    assert!(!before.contains("changes") && plan().contains("after_step = 4"), "{}", plan());
    // What was changed stays so.
    stdout(&[&resume[..], &["--epochs", "4"]].concat());
    assert_eq!(std::fs::read_to_string(run.join("log.jsonl")).unwrap().lines().count(), 16);
    assert!(plan().contains("key = \"optim.base_lr\"") && plan().contains("after_step = 12"));
}

#[test]
fn a_pre_training_goes_on_with_the_decoder_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path());
    let train = |name: &str, more: &[&str]| {
        let args = ["pretrain", "--method", "mae", "--no-eval", "--out", out, "--name", name];
        stdout(&[&args[..], more].concat());
        folder.path().join(name)
    };
    let losses = |run: &Path| -> Vec<f64> {
        let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
        let loss = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["loss"].as_f64().unwrap()
        };
        log.lines().map(loss).collect()
    };
    let decoder = ["--set", "method.decoder_width=64", "--set", "method.decoder_heads=2"];
    let small = [&SMALL[..], &["--batch", "256"], &decoder].concat();
    let first =
        train("first", &[&small[..], &["--epochs", "1", "--set", "optim.base_lr=3e-3"]].concat());
    let checkpoints = std::fs::read_dir(first.join("checkpoints")).unwrap();
    let checkpoint = checkpoints.map(|entry| entry.unwrap().path()).max().unwrap();
    let weights = checkpoint.join("weights.safetensors");
    let begin = ["--init", text(&weights), "--epochs", "1", "--batch", "4000"];
    let own = losses(&train("own", &begin))[0];
    let fresh = [&begin[..], &["--set", "method.decoder_depth=1"]].concat();
    let fresh = losses(&train("fresh", &fresh))[0];
    let [begun, ended] = [losses(&first)[0], *losses(&first).last().unwrap()];
    assert!(ended < begun - 0.3 && (own - ended).abs() < 0.1, "{begun} {ended} {own}");
    assert!(fresh > own + 0.2, "a decoder drawn anew knows nothing: {fresh} {own}");
    let plan = std::fs::read_to_string(folder.path().join("own/plan.toml")).unwrap();
    assert!(plan.contains("decoder = true") && plan.contains("decoder_width = 64"), "{plan}");
}

/// Where so much is broken that no image is left to stand in for others: one in forty can be read.
#[test]
fn a_batch_of_which_too_little_can_be_read_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..400 {
        let path = folder.path().join(format!("{i}.png"));
        match i % 40 {
            0 => image::save_buffer(path, &[40; 28 * 28], 28, 28, image::ColorType::L8).unwrap(),
            _ => std::fs::write(path, b"no picture").unwrap(),
        }
    }
    let data = text(folder.path());
    for method in ["ocl", "moco-v3"] {
        let mut args = vec!["pretrain", "--data", data, "--recipe", "embedded", "--method", method];
        args.extend(["--batch", "2", "--no-eval", "--name", method, "--out", data]);
        // By this seed the first batch has one that can be read.
        args.extend(["--set", "data.max_bad_share=1.0", "--seed", "9"]);
        args.extend(SMALL);
        let error = refused(&args);
        assert!(error.contains("1 of the batch's 2 images could be read"), "{error}");
        assert!(error.contains(&format!("{method} needs at least 2")), "{error}");
        assert!(error.contains("quarantine.jsonl"), "{error}");
    }
}
