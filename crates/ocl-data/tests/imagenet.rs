//! ImageNet as it is downloaded: a tar of tars, flat validation images, the development kit.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ocl_data::{Source, SourceError, SourceKind, Split};

#[path = "support/archive.rs"]
mod archive;

use archive::{packed, tar};

/// What explains the numbers of `n01`, `n02` and `n03`: 2, 3 and 1, as MATLAB stores it.
const META: &[u8] = include_bytes!("imagenet/meta.mat");
const KIT: &str = "ILSVRC2012_validation_ground_truth.txt";

/// Three classes, of which the validation images are `n03`, `n01`, `n02` and `n02`.
fn downloads(dir: &Path) {
    let inner: Vec<(String, Vec<u8>)> = ["n02", "n01", "n03"]
        .iter()
        .zip([2, 1, 3])
        .map(|(class, count)| {
            let image = |i: i32| (format!("{class}_{i}.JPEG"), &b"xyz"[..]);
            let images: Vec<(String, &[u8])> = (0..count).map(image).collect();
            (format!("{class}.tar"), packed(&images))
        })
        .collect();
    let members: Vec<(String, &[u8])> =
        inner.iter().map(|(name, bytes)| (name.clone(), &bytes[..])).collect();
    tar(&dir.join("ILSVRC2012_img_train.tar"), &members);
    // Not in the order of their names.
    let image = |i: i32| (format!("ILSVRC2012_val_0000000{i}.JPEG"), &b"x"[..]);
    tar(&dir.join("ILSVRC2012_img_val.tar"), &[2, 1, 4, 3].map(image));
}

fn open(dir: &Path, split: Split) -> Result<Source, SourceError> {
    Source::open(dir.to_str().unwrap(), SourceKind::Auto, split)
}

/// The classes of the validation images, in the order of the archive.
fn measured(dir: &Path) -> Result<Vec<String>, String> {
    let source = open(dir, Split::Test).map_err(|error| error.to_string())?;
    assert_eq!(source.class_names(), ["n01", "n02", "n03"]);
    let name = |&label: &u32| source.class_names()[label as usize].clone();
    Ok(source.labels().unwrap().iter().map(name).collect())
}

#[test]
fn a_tar_of_tars_has_a_class_in_each() {
    let dir = tempfile::tempdir().unwrap();
    downloads(dir.path());
    for path in [dir.path().to_owned(), dir.path().join("ILSVRC2012_img_train.tar")] {
        let train = open(&path, Split::Train).unwrap();
        assert_eq!(train.class_names(), ["n01", "n02", "n03"]);
        assert_eq!(train.labels().unwrap(), [1, 1, 0, 2, 2, 2]);
        let name = train.name_of(2);
        assert!(name.ends_with("ILSVRC2012_img_train.tar/n01.tar/n01_0.JPEG"), "{name}");
        // The bytes are those of the image: no image, but read.
        let told = train.image(5).unwrap_err().to_string();
        assert!(told.contains("not an image"), "{told}");
    }
    let test = open(dir.path(), Split::Test).unwrap();
    assert_eq!((test.len(), test.labels()), (4, None));
}

#[test]
fn validation_classes_stand_beside() {
    for (name, text) in [
        ("imagenet_2012_validation_synset_labels.txt", "n03\nn01\nn02\nn02\n"),
        (
            "val.txt",
            "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n\
             ILSVRC2012_val_00000003.JPEG 1\nILSVRC2012_val_00000004.JPEG 1\n",
        ),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000003,n02 85 1 499 272 n02 1 2 3 4\n\
             ILSVRC2012_val_00000001,n03 1 2 3 4\nILSVRC2012_val_00000002,n01 1 2 3 4\n\
             ILSVRC2012_val_00000004,n02 1 2 3 4\n",
        ),
        // Without what explains them, the numbers count the names from 1.
        (KIT, "3\n1\n2\n2\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        downloads(dir.path());
        fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(measured(dir.path()).unwrap(), ["n01", "n03", "n02", "n02"], "{name}");
        let told = open(dir.path(), Split::Test).unwrap().passed_over().unwrap();
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn the_development_kit_explains_its_numbers() {
    let truth = b"1\n2\n3\n3\n";
    let dir = tempfile::tempdir().unwrap();
    downloads(dir.path());
    let unpacked = dir.path().join("ILSVRC2012_devkit_t12/data");
    fs::create_dir_all(&unpacked).unwrap();
    fs::write(unpacked.join("meta.mat"), META).unwrap();
    fs::write(dir.path().join(KIT), truth).unwrap();
    assert_eq!(measured(dir.path()).unwrap(), ["n01", "n03", "n02", "n02"]);

    let dir = tempfile::tempdir().unwrap();
    downloads(dir.path());
    let kit = dir.path().join("ILSVRC2012_devkit_t12.tar.gz");
    let member = |name: &str| format!("ILSVRC2012_devkit_t12/data/{name}");
    let members = packed(&[(member("meta.mat"), META), (member(KIT), truth)]);
    let mut writer = GzEncoder::new(fs::File::create(&kit).unwrap(), Compression::default());
    writer.write_all(&members).unwrap();
    writer.finish().unwrap();
    assert_eq!(measured(dir.path()).unwrap(), ["n01", "n03", "n02", "n02"]);

    // A kit of other images is refused.
    fs::write(dir.path().join(KIT), "1\n2\n").unwrap();
    fs::remove_file(kit).unwrap();
    let told = measured(dir.path()).unwrap_err();
    assert!(told.contains("2 lines for 4 images") && told.contains(KIT), "{told}");
}

/// A damaged kit is an error or other classes, and never a panic.
#[test]
fn mutated_kits_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    downloads(dir.path());
    fs::write(dir.path().join(KIT), "1\n2\n3\n3\n").unwrap();
    let meta = dir.path().join("meta.mat");
    for at in 0..META.len() {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut bytes = META.to_vec();
            bytes[at] = value;
            fs::write(&meta, &bytes).unwrap();
            let _ = open(dir.path(), Split::Test);
        }
        fs::write(&meta, &META[..at]).unwrap();
        let _ = open(dir.path(), Split::Test);
    }
}
