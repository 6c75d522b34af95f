//! Tar shards as other programs pack them: names of parts, keys, classes, what is left out.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;

use ocl_data::{PackOptions, Source, SourceKind, Split, SplitNames, pack};

#[path = "support/archive.rs"]
mod archive;

use archive::tar;

/// An archive of samples, each an image and a class.
fn shard(path: &Path, count: usize, image: &str, class: &str, said: impl Fn(usize) -> String) {
    let said: Vec<String> = (0..count).map(said).collect();
    let mut members: Vec<(String, &[u8])> = Vec::new();
    for (number, said) in said.iter().enumerate() {
        members.push((format!("{number:06}{image}"), b"x"));
        members.push((format!("{number:06}{class}"), said.as_bytes()));
    }
    tar(path, &members);
}

fn open(root: &Path, split: Split) -> Result<Source, String> {
    Source::open(root.to_str().unwrap(), SourceKind::Auto, split).map_err(|e| e.to_string())
}

fn named(root: &Path, split: Split, names: &SplitNames) -> usize {
    Source::open_named(root.to_str().unwrap(), SourceKind::Auto, split, names).unwrap().len()
}

fn counts(root: &Path) -> [usize; 2] {
    [Split::Train, Split::Test].map(|split| open(root, split).unwrap().len())
}

#[test]
fn parts_are_words_anywhere_in_the_names() {
    for (train, test) in [
        ("cc3m_train_0000.tar", "cc3m_val_0000.tar"),
        ("Train-0.tar", "Test-0.tar"),
        ("x.training.0.tar", "x.validation.0.tar"),
        ("train00.tar", "dev00.tar"),
        ("train-00000-of-00005.tar", "eval-00000-of-00001.tar"),
        ("test-set-train-0.tar", "test-set-val-0.tar"),
        ("train/000.tar", "Valid/000.tar"),
        // Only the part to measure on is named.
        ("food-0.tar", "food-val-0.tar"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        shard(&dir.path().join(train), 8, ".jpg", ".cls", |i| (i % 2).to_string());
        shard(&dir.path().join(test), 4, ".jpg", ".cls", |i| (i % 2).to_string());
        fs::create_dir_all(dir.path().join(".cache/huggingface")).unwrap();
        fs::create_dir_all(dir.path().join("@eaDir")).unwrap();
        fs::write(dir.path().join("@eaDir/0.jpg"), b"x").unwrap();
        fs::write(dir.path().join("._x.tar"), b"x").unwrap();
        assert_eq!(counts(dir.path()), [8, 4], "{train} {test}");
        if !train.contains('/') {
            assert_eq!(counts(&dir.path().join("*.tar")), [8, 4], "a pattern: {train} {test}");
        }
    }
}

#[test]
fn unclear_names_are_asked_back_and_can_be_settled() {
    let dir = tempfile::tempdir().unwrap();
    for (name, count) in [("a_train_eval_0.tar", 8), ("a_train_0.tar", 4), ("extra_0.tar", 2)] {
        shard(&dir.path().join(name), count, ".jpg", ".cls", |_| "0".into());
    }
    let told = open(dir.path(), Split::Test).map(|source| source.len());
    // `train` is in two of three names only.
    let told = told.unwrap_err();
    assert!(told.contains("a_train_eval_0.tar") && told.contains("--train-split"), "{told}");
    let names = SplitNames { train: Some("a_train".into()), test: Some("train_eval".into()) };
    assert_eq!(named(dir.path(), Split::Train, &names), 4);
    assert_eq!(named(dir.path(), Split::Test, &names), 8);
    let rest = SplitNames { train: None, test: Some("eval".into()) };
    assert_eq!(named(dir.path(), Split::Train, &rest), 6);
    let none = SplitNames { train: Some("nope".into()), test: None };
    let path = dir.path().to_str().unwrap();
    let told = Source::open_named(path, SourceKind::Auto, Split::Train, &none).unwrap_err();
    assert!(told.to_string().contains("`nope` is no word"), "{told}");
}

#[test]
fn archives_that_are_passed_over_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train-0.tar", "val-0.tar", "test-0.tar", "more-0.tar"] {
        shard(&dir.path().join(name), 2, ".jpg", ".cls", |_| "0".into());
    }
    assert_eq!(counts(dir.path()), [2, 2]);
    let train = open(dir.path(), Split::Train).unwrap().passed_over().unwrap();
    assert_eq!(train, "archives whose names say no part passed over: more-0.tar");
    let test = open(dir.path(), Split::Test).unwrap().passed_over().unwrap();
    assert_eq!(test, "test archives beside validation archives passed over: test-0.tar");
}

#[test]
fn members_with_two_extensions_are_samples() {
    let dir = tempfile::tempdir().unwrap();
    let said = |i: usize| (i % 2).to_string();
    shard(&dir.path().join("train-0.tar"), 8, ".input.jpg", ".target.cls", said);
    shard(&dir.path().join("val-0.tar"), 4, ".jpg", ".cls", said);
    assert_eq!(counts(dir.path()), [8, 4]);
    let train = open(dir.path(), Split::Train).unwrap();
    assert_eq!(train.labels().unwrap()[..3], [0, 1, 0]);
    assert_eq!(train.passed_over(), None);
}

#[test]
fn classes_in_words_have_the_same_numbers_in_both_parts() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["dog", "cat", "elk"];
    shard(&dir.path().join("train-0.tar"), 6, ".jpg", ".cls", |i| format!("{}\n", words[i % 3]));
    shard(&dir.path().join("val-0.tar"), 2, ".jpg", ".cls", |i| words[2 * i].into());
    let (train, test) = (open(dir.path(), Split::Train), open(dir.path(), Split::Test));
    let (train, test) = (train.unwrap(), test.unwrap());
    assert_eq!(train.class_names(), ["cat", "dog", "elk"]);
    assert_eq!(train.labels().unwrap()[..3], [1, 0, 2]);
    assert_eq!(test.class_names(), train.class_names());
    assert_eq!(test.labels().unwrap(), [1, 2]);
}

#[test]
fn classes_that_cannot_be_numbered_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train-0.tar");
    shard(&path, 3, ".jpg", ".cls", |i| ["0", "cat", "1"][i].into());
    let told = open(dir.path(), Split::Train).unwrap_err();
    assert!(told.contains("000001.jpg is of class cat"), "{told}");
    shard(&path, 3, ".jpg", ".cls", |i| ["0", "-1", "1"][i].into());
    let told = open(dir.path(), Split::Train).unwrap_err();
    assert!(told.contains("000001.jpg is of class -1"), "{told}");
    shard(&path, 3, ".jpg", ".cls", |i| ["0", "", "1"][i].into());
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!(source.labels(), None);
    let told = source.passed_over().unwrap();
    assert!(told.contains("1 samples have no class") && told.contains("000001.jpg"), "{told}");
}

#[test]
fn samples_that_are_left_out_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let x: &[u8] = b"x";
    let names =
        ["._0.jpg", "0.jpg", "._0.cls", "0.cls", "1.txt", "1.cls", "v_0.5_1.jpg", "v_0.5_2.jpg"];
    let members: Vec<_> =
        names.map(|name| (name.to_owned(), if name.ends_with("cls") { b"1" } else { x })).into();
    tar(&dir.path().join("train-0.tar"), &members);
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!(source.len(), 2);
    let told = source.passed_over().unwrap();
    for part in [
        "2 hidden members of archives passed over",
        "samples without an image passed over",
        "further images of a sample passed over",
        "v_0.5_2.jpg",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn packing_never_mixes() {
    let dir = tempfile::tempdir().unwrap();
    let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([9, 99, 199]));
    fs::create_dir(dir.path().join("images")).unwrap();
    for number in 0..4 {
        picture.save(dir.path().join(format!("images/{number}.png"))).unwrap();
    }
    let source = open(&dir.path().join("images"), Split::Train).unwrap();
    let (out, options) = (dir.path().join("out"), PackOptions::default());
    pack(&source, Split::Train, &out, &options, |_| {}).unwrap();
    let before = fs::read(out.join("train-000000.tar")).unwrap();
    let told = pack(&source, Split::Train, &out, &options, |_| {}).unwrap_err().to_string();
    assert!(told.contains("holds shards") && told.contains("empty folder"), "{told}");
    assert_eq!(fs::read(out.join("train-000000.tar")).unwrap(), before);
    // The other part of the same set goes beside it.
    pack(&source, Split::Test, &out, &options, |_| {}).unwrap();
}
