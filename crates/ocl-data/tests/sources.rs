//! Data sets told apart by what lies at the path.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ocl_data::{Source, SourceError, SourceKind, Split};

fn open(path: &Path, split: Split) -> Result<Source, SourceError> {
    Source::open(path.to_str().unwrap(), SourceKind::Auto, split)
}

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    for dim in dims {
        bytes.extend(dim.to_be_bytes());
    }
    bytes.extend(values);
    bytes
}

#[test]
fn a_flat_folder_has_no_labels() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.JPG", "a.jpeg", "c.Png", "notes.txt", ".hidden.jpg", "d.webp"] {
        put(dir.path(), name, b"x");
    }
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!(source.len(), 4);
    assert!(source.labels().is_none() && source.class_names().is_empty());
    assert!(source.name_of(0).ends_with("a.jpeg"));
    assert!(source.describe().ends_with(", 4 train images, no labels"), "{}", source.describe());
    let error = open(dir.path(), Split::Test).unwrap_err().to_string();
    assert!(error.contains("`val` or `test`"), "{error}");
}

#[test]
fn class_folders_with_and_without_parts() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train/dog/1.jpg", "train/cat/deep/er/2.JPEG", "train/cat/1.png", "val/dog/9.bmp"]
    {
        put(dir.path(), name, b"x");
    }
    let train = open(dir.path(), Split::Train).unwrap();
    assert_eq!(train.class_names(), ["cat", "dog"]);
    assert_eq!(train.labels(), Some(&[0, 0, 1][..]));
    // `cat` has no test image, and `dog` keeps its number.
    let test = open(dir.path(), Split::Test).unwrap();
    assert_eq!(test.class_names(), ["cat", "dog"]);
    assert_eq!(test.labels(), Some(&[1][..]));
    assert!(test.describe().ends_with(", 1 test images, 2 classes"), "{}", test.describe());
    let inner = open(&dir.path().join("train"), Split::Train).unwrap();
    assert_eq!(inner.labels(), train.labels());
}

#[test]
fn loose_images_beside_class_folders_take_the_labels_away() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["2020/1.jpg", "2021/2.jpg", "3.jpg"] {
        put(dir.path(), name, b"x");
    }
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!((source.len(), source.labels()), (3, None));
    assert!(source.describe().contains("1 of them beside the class folders"));
}

#[test]
fn wrong_paths_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(&dir.path().join("nowhere"), Split::Train).unwrap_err();
    assert!(matches!(error, SourceError::Missing(_)));
    assert!(error.to_string().contains("nowhere: no such file or folder"));
    let error = open(dir.path(), Split::Train).unwrap_err().to_string();
    assert!(error.contains("no image in it or below it"), "{error}");
    put(dir.path(), "file.jpg", b"x");
    let error = open(&dir.path().join("file.jpg"), Split::Train).unwrap_err().to_string();
    assert!(error.contains("is a file; give the folder"), "{error}");
    for (kind, word) in [
        (SourceKind::Idx, "train-images-idx3-ubyte"),
        (SourceKind::Cifar10, "data_batch_1.bin"),
        (SourceKind::Cifar100, "train.bin"),
    ] {
        let error = Source::open(dir.path().to_str().unwrap(), kind, Split::Train).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    put(dir.path(), "part/test/a/1.jpg", b"x");
    let error = open(&dir.path().join("part"), Split::Train).unwrap_err().to_string();
    assert!(error.contains("no `train` folder"), "{error}");
}

#[test]
fn idx_packed_and_plain() {
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<u8> = (0..2 * 3 * 4).collect();
    put(dir.path(), "train-images-idx3-ubyte.gz", &gz(&idx(&[2, 3, 4], &images)));
    put(dir.path(), "train-labels-idx1-ubyte", &idx(&[2], &[1, 4]));
    put(dir.path(), "t10k-images.idx3-ubyte", &idx(&[1, 3, 4], &images[..12]));
    let train = open(dir.path(), Split::Train).unwrap();
    assert_eq!(train.labels(), Some(&[1, 4][..]));
    assert_eq!(train.class_names(), ["0", "1", "2", "3", "4"]);
    assert_eq!(train.name_of(1), "train-images-idx3-ubyte.gz[1]");
    let test = open(dir.path(), Split::Test).unwrap();
    assert_eq!((test.len(), test.labels()), (1, None));
}

#[test]
fn damaged_idx_files() {
    let images: Vec<u8> = (0..24).collect();
    let good = idx(&[2, 3, 4], &images);
    let cases: [(&[u8], &str); 6] = [
        (b"hello", "does not begin like an IDX file"),
        (&[0, 0, 8, 3, 0, 0], "ends within its header"),
        (&good[..30], "promises [2, 3, 4]"),
        (&gz(&good)[..20], "no whole gzip file"),
        (&idx(&[0, 3, 4], &[]), "holds 0 images"),
        (&idx(&[u32::MAX, u32::MAX, u32::MAX], &[]), "promises"),
    ];
    for (bytes, word) in cases {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "train-images-idx3-ubyte", bytes);
        let error = open(dir.path(), Split::Train).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("train-images"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "train-images-idx3-ubyte", &good);
    put(dir.path(), "train-labels-idx1-ubyte", &idx(&[3], &[0, 1, 2]));
    let error = open(dir.path(), Split::Train).unwrap_err().to_string();
    assert!(error.contains("there are 2 images"), "{error}");
}

#[test]
fn cifar_binaries() {
    let dir = tempfile::tempdir().unwrap();
    for batch in 1..=5u8 {
        let mut bytes = vec![batch; 3073];
        bytes.extend([[9; 1].as_slice(), &[7; 3072]].concat());
        put(dir.path(), &format!("cifar-10-batches-bin/data_batch_{batch}.bin"), &bytes);
    }
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!(source.labels().unwrap()[..4], [1, 9, 2, 9]);
    assert_eq!(source.name_of(9), "data_batch_5.bin[1]");
    assert_eq!(source.describe(), "CIFAR-10, 10 train images, 10 classes");
    let error = open(dir.path(), Split::Test).unwrap_err().to_string();
    assert!(error.contains("test_batch.bin"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "test.bin", &[[3, 42].as_slice(), &[7; 3072]].concat());
    put(dir.path(), "train.bin", &[[3, 142].as_slice(), &[7; 3072]].concat());
    let source = open(dir.path(), Split::Test).unwrap();
    assert_eq!(source.labels(), Some(&[42][..]));
    assert_eq!(source.class_names().len(), 100);
    let error = open(dir.path(), Split::Train).unwrap_err().to_string();
    assert!(error.contains("has label 142"), "{error}");
}

#[cfg(feature = "embedded")]
#[test]
fn the_embedded_set_is_balanced() {
    for (split, each) in [(Split::Train, 800), (Split::Test, 200)] {
        let source = Source::open("embedded", SourceKind::Auto, split).unwrap();
        let mut counts = [0; 10];
        for &label in source.labels().unwrap() {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, [each; 10]);
        assert_eq!(source.class_names()[9], "Ankle boot");
    }
    let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
    assert_eq!(source.describe(), "embedded Fashion-MNIST, 8,000 train images, 10 classes");
    assert_eq!(source.name_of(17), "embedded-train-images[17]");
}
