//! Data and weights as people bring them: too few, grey, of another size, with an empty class.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use burn::tensor::Device;
use ocl_model::{Vit, VitConfig, save_weights};
use serde_json::Value;
use support::backend;

fn run_folder() -> tempfile::TempDir {
    support::run_folder(1, "embedded", "embedded", &[])
}

/// Grey PNGs, a stripe's height telling the class; a folder without files stays empty.
fn data(files: &[(&str, usize)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, (class, count)) in files.iter().enumerate() {
        let path = folder.path().join(class);
        std::fs::create_dir_all(&path).unwrap();
        for i in 0..*count {
            let level = |y: usize| if y / 6 == number % 3 { 200 + i as u8 } else { 20 };
            let pixels: Vec<u8> = (0..20 * 20).map(|p| level(p / 20)).collect();
            let file = path.join(format!("{i}.png"));
            image::save_buffer(file, &pixels, 20, 20, image::ColorType::L8).unwrap();
        }
    }
    folder
}

fn eval(args: &[&str]) -> Output {
    let backend = backend();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocl"));
    command.args([args[0], "--backend", &backend]).args(&args[1..]).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_empty_class_few_and_grey_images_are_measured_all_the_same() {
    let run = run_folder();
    let data = data(&[
        ("train/a", 4),
        ("train/b", 5),
        ("train/empty", 0),
        ("val/a", 2),
        ("val/b", 1),
        ("val/empty", 0),
    ]);
    let output = eval(&["suite", "--run", text(run.path()), "--data", text(data.path()), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 7);
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["data"]["classes"], 3);
        for score in record["scores"].as_array().unwrap() {
            let mean = score["mean"].as_f64().unwrap_or(f64::NAN);
            assert!((-1.0..=1.0).contains(&mean), "{record}");
        }
    }
}

#[test]
fn one_image_is_too_few() {
    let run = run_folder();
    let one = data(&[("train/a", 1), ("val/a", 1)]);
    let error = refused(&eval(&["knn", "--run", text(run.path()), "--data", text(one.path())]));
    assert!(error.contains("at least 2 images of 2 classes"), "{error}");
}

#[test]
fn weights_of_another_size_are_shown_images_of_their_own() {
    let run = run_folder();
    let config =
        VitConfig { image_px: 32, patch_px: 8, width: 12, depth: 1, heads: 3, mlp_ratio: 4 };
    let other = run.path().join("other.safetensors");
    save_weights(&Vit::new(&config, 1, &Device::default()).unwrap(), &other, &[]).unwrap();
    let few = ["--max-train", "200", "--max-test", "100", "--json"];
    let args = ["knn", "--run", text(run.path()), "--weights", text(&other)];
    let output = eval(&[&args[..], &few].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["width"], 12);
}

#[test]
fn shifted_data_name_their_classes_in_a_file() {
    let run = run_folder();
    let folder = data(&[
        ("train/a", 6),
        ("train/b", 6),
        ("val/a", 2),
        ("val/b", 2),
        ("far/hound", 0),
        ("far/cat", 3),
        ("c/blur/1/a", 2),
        ("c/blur/2/a", 2),
    ]);
    let sets = folder.path().join("sets.toml");
    let mapping = "[[set]]\nname = \"far\"\npath = \"far\"\namong_own = true\n[set.classes]\ncat = \"b\"\n\
                   hound = \"a\"\n[[set]]\nname = \"C\"\npath = \"c\"\ncorruptions = true\n\
                   [set.reference_errors]\nblur = 0.5\n";
    std::fs::write(&sets, mapping).unwrap();
    let run_args = ["suite", "--run", text(run.path()), "--data", text(folder.path())];
    let more = ["--protocols", "shifted", "--sets", text(&sets), "--json"];
    let output = eval(&[&run_args[..], &more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> =
        record["scores"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["far top-1", "C blur error", "C mean error", "C mCE"]);
    let error = refused(&eval(&[&run_args[..], &["--protocols", "shifted"]].concat()));
    assert!(error.contains("--sets FILE"), "{error}");
}

#[test]
fn features_of_unlabelled_images_and_their_neighbours() {
    let run = run_folder();
    let flat = data(&[("x", 7)]);
    let out = run.path().join("f.npy");
    let images = flat.path().join("x");
    let encoder = ["--run", text(run.path())];
    let args = ["embed", text(&images), "--out", text(&out), "--what", "mean"];
    let output = eval(&[&args[..], &encoder].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let grid = run.path().join("grid.png");
    let query = images.join("3.png");
    let args =
        ["neighbours", text(&images), "--features", text(&out), "--pool", "mean", "--k", "3"];
    let more = ["--query", text(&query), "--query", "2", "--grid", text(&grid)];
    let output = eval(&[&args[..], &more, &encoder].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    // A file finds itself; a number of the folder does not.
    assert!(printed.lines().nth(1).unwrap().trim_start().starts_with("1.0000"), "{printed}");
    assert!(grid.exists() && printed.lines().count() == 9, "{printed}");
}
