//! ZIP archives of image folders, as people and web sites pack them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use ocl_data::{Loader, LoaderConfig, Source, SourceError, SourceKind, Split, SplitNames};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

mod support;

/// Packs members, every other one compressed.
fn pack(path: &Path, members: &[(&str, &[u8])]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ZipWriter::new(File::create(path).unwrap());
    for (number, (name, content)) in members.iter().enumerate() {
        let method = [CompressionMethod::Stored, CompressionMethod::Deflated][number % 2];
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap();
}

fn of_names(path: &Path, names: &[&str]) {
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"x"[..])).collect();
    pack(path, &members);
}

fn open(path: &Path, split: Split) -> Result<Source, SourceError> {
    Source::open(path.to_str().unwrap(), SourceKind::Auto, split)
}

/// Images and classes of both parts.
fn counts(path: &Path) -> [(usize, usize); 2] {
    [Split::Train, Split::Test].map(|split| {
        let source = open(path, split).unwrap();
        (source.len(), source.class_names().len())
    })
}

#[test]
fn an_archive_is_laid_out_as_its_folder_was() {
    for names in [
        ["train/cat/1.jpg", "val/cat/1.jpg", "train/dog/2.jpg", "val/cat/2.jpg", "train/cat/3.jpg"],
        [
            "a/Train/cat/1.jpg",
            "a/Val/cat/1.jpg",
            "a/Train/dog/2.jpg",
            "a/Val/cat/2.jpg",
            "a/Train/cat/3.jpg",
        ],
        [
            "I/D/c/train/x/1.jpg",
            "I/D/c/val/x/1.jpg",
            "I/D/c/train/y/2.jpg",
            "I/D/c/val/x/2.jpg",
            "I/D/c/train/y/3.jpg",
        ],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.zip");
        of_names(&path, &names);
        assert_eq!(counts(&path), [(3, 2), (2, 2)], "{names:?}");
        assert_eq!(counts(dir.path()), [(3, 2), (2, 2)], "the folder of {names:?}");
    }
}

#[test]
fn an_undivided_archive_is_for_training() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pets.zip");
    of_names(&path, &["pets/cat/1.jpg", "pets/dog/1.JPEG", "pets/dog/2.png"]);
    let source = open(&path, Split::Train).unwrap();
    assert_eq!(source.class_names(), ["cat", "dog"]);
    assert_eq!(source.labels().unwrap(), [0, 1, 1]);
    assert!(source.name_of(0).ends_with("pets.zip/pets/cat/1.jpg"), "{}", source.name_of(0));
    let told = open(&path, Split::Test).unwrap_err().to_string();
    assert!(told.contains("--test-split"), "{told}");
    // A flat archive has no labels.
    of_names(&path, &["1.jpg", "2.jpg"]);
    assert!(open(&path, Split::Train).unwrap().labels().is_none());
}

#[test]
fn several_archives_are_parts_or_pieces() {
    let dir = tempfile::tempdir().unwrap();
    of_names(&dir.path().join("train2017.zip"), &["train2017/1.jpg", "train2017/2.jpg"]);
    of_names(&dir.path().join("val2017.zip"), &["val2017/1.jpg"]);
    assert_eq!(counts(dir.path()), [(2, 0), (1, 0)]);

    let dir = tempfile::tempdir().unwrap();
    of_names(&dir.path().join("train/a.zip"), &["cat/1.jpg"]);
    of_names(&dir.path().join("train/b.zip"), &["dog/1.jpg"]);
    of_names(&dir.path().join("val/a.zip"), &["dog/1.jpg", "cat/1.jpg"]);
    assert_eq!(counts(dir.path()), [(2, 2), (2, 2)]);

    let dir = tempfile::tempdir().unwrap();
    of_names(&dir.path().join("part1.zip"), &["set/cat/1.jpg", "set/dog/1.jpg"]);
    of_names(&dir.path().join("part2.zip"), &["set/cat/2.jpg", "set/dog/2.jpg"]);
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!((source.len(), source.class_names().len()), (4, 2));
}

#[test]
fn what_is_no_image_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.zip");
    let names =
        ["a/1.jpg", "__MACOSX/a/._1.jpg", "a/.hidden.jpg", "a/1.xml", "../../b/2.jpg", "/b/3.jpg"];
    of_names(&path, &names);
    let source = open(&path, Split::Train).unwrap();
    assert_eq!((source.len(), source.class_names()), (3, &["a".to_owned(), "b".to_owned()][..]));
    let passed = source.passed_over().unwrap();
    for told in [".xml", "hidden entries passed over: a/.hidden.jpg", "system folders and files"] {
        assert!(passed.contains(told), "{passed}");
    }
}

#[test]
fn unclear_and_named_parts_are_as_in_folders() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.zip");
    of_names(&path, &["train/x/1.jpg", "plane/1.jpg", "boat/1.jpg"]);
    let told = open(&path, Split::Train).unwrap_err().to_string();
    assert!(told.contains("--train-split train"), "{told}");
    let names = SplitNames { train: Some(".".into()), test: None };
    let all = Source::open_named(path.to_str().unwrap(), SourceKind::Auto, Split::Train, &names);
    assert_eq!(all.unwrap().class_names(), ["boat", "plane", "train"]);
    let names = SplitNames { train: None, test: Some("boat".into()) };
    let rest = Source::open_named(path.to_str().unwrap(), SourceKind::Auto, Split::Train, &names);
    assert_eq!(rest.unwrap().len(), 1);
    of_names(&path, &["x/train/1.jpg", "x/val/1.jpg", "y/1.jpg"]);
    let told = open(&path, Split::Train).unwrap_err().to_string();
    assert!(told.contains("x.zip/x"), "{told}");
}

#[test]
fn batches_are_those_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, zipped) = (dir.path().join("plain"), dir.path().join("zipped.zip"));
    fs::create_dir(&plain).unwrap();
    let source = support::folder(&plain, 24, &[3]);
    let mut members = Vec::new();
    // In another order than that of the names.
    for number in (0..24).rev() {
        let name = format!("{number:04}.png");
        members.push((name.clone(), fs::read(plain.join(&name)).unwrap()));
    }
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    pack(&zipped, &members);
    let zipped = Arc::new(open(&zipped, Split::Train).unwrap());
    for workers in [1, 3] {
        let config = LoaderConfig { batch: 6, workers, max_bad_share: 0.5, ..Default::default() };
        let start = |source: &Arc<Source>| {
            Loader::start(source.clone(), support::train(4), config.clone()).unwrap()
        };
        for (one, other) in start(&source).zip(start(&zipped)).take(8) {
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_eq!((one.patches, one.samples), (other.patches, other.samples));
        }
    }
}

/// A damaged archive is refused, or its images are what was packed or errors.
#[test]
fn mutated_archives_give_what_was_packed_or_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.zip");
    let contents: Vec<Vec<u8>> = (0..5u8).map(|at| (0..200).map(|i| i * at).collect()).collect();
    let names = ["a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg", "c/4.jpg"];
    let members: Vec<(&str, &[u8])> =
        names.iter().zip(&contents).map(|(name, bytes)| (*name, &bytes[..])).collect();
    pack(&path, &members);
    let mut whole = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut whole).unwrap();
    let rounds = std::env::var("OCL_MUTATIONS").map_or(2_000, |count| count.parse().unwrap());
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random(),
                1 => bytes[at] ^= 1 << random.random_range(0..8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        fs::write(&path, &bytes).unwrap();
        let Ok(source) = open(&path, Split::Train) else { continue };
        assert!(source.len() <= 5);
        for index in 0..source.len() {
            // No content is an image: reading alone is looked at.
            let told = source.image(index).unwrap_err().to_string();
            assert!(!told.is_empty());
        }
    }
}
