//! Folders of images as people have them: names of parts, what systems leave behind, links.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;

use ocl_data::{Source, SourceError, SourceKind, Split, SplitNames};

fn put(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
}

fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), names);
    dir
}

fn open(root: &Path, split: Split) -> Result<Source, SourceError> {
    Source::open(root.to_str().unwrap(), SourceKind::Auto, split)
}

fn named(
    root: &Path,
    split: Split,
    train: Option<&str>,
    test: Option<&str>,
) -> Result<Source, String> {
    let names = SplitNames { train: train.map(str::to_owned), test: test.map(str::to_owned) };
    Source::open_named(root.to_str().unwrap(), SourceKind::Auto, split, &names)
        .map_err(|error| error.to_string())
}

/// Images and classes of both parts.
fn counts(root: &Path) -> [(usize, usize); 2] {
    [Split::Train, Split::Test].map(|split| {
        let source = open(root, split).unwrap();
        (source.len(), source.class_names().len())
    })
}

fn error(root: &Path, split: Split) -> String {
    open(root, split).unwrap_err().to_string()
}

#[test]
fn parts_by_any_name_and_case() {
    for (train, test) in [
        ("Train", "Val"),
        ("training", "testing"),
        ("TRAINING", "validation"),
        ("train", "Valid"),
        ("train", "dev"),
        ("train", "eval"),
        ("train2017", "val2017"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
    ] {
        let dir = folder(&[
            &format!("{train}/a/1.jpg"),
            &format!("{train}/b/2.jpg"),
            &format!("{test}/b/3.jpg"),
            "annotations/all.json",
        ]);
        assert_eq!(counts(dir.path()), [(2, 2), (1, 2)], "{train} {test}");
    }
}

#[test]
fn validation_goes_before_test() {
    let dir =
        folder(&["train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "test/3.jpg", "test/4.jpg"]);
    let test = open(dir.path(), Split::Test).unwrap();
    assert_eq!(test.len(), 1);
    assert_eq!(test.passed_over().unwrap(), "folders beside the part passed over: test");
    assert_eq!(named(dir.path(), Split::Test, None, Some("test")).unwrap().len(), 2);
}

#[test]
fn a_class_may_be_called_train() {
    let dir = folder(&["train/1.jpg", "bus/2.jpg", "boat/3.jpg"]);
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!(source.class_names(), ["boat", "bus", "train"]);
    assert!(error(dir.path(), Split::Test).contains("no test part"));
    let longer = folder(&["bullet_train/1.jpg", "bus/2.jpg"]);
    assert_eq!(open(longer.path(), Split::Train).unwrap().len(), 2);
}

#[test]
fn what_can_be_read_in_two_ways_is_asked_back() {
    for files in [
        // A part of classes beside folders that may be parts of other names.
        &["train/a/1.jpg", "train/b/2.jpg", "holdout/a/3.jpg"][..],
        // Classes, or images that are kept back.
        &["cat/1.jpg", "dog/2.jpg", "test/3.jpg"],
        &["cat/1.jpg", "test/2.jpg", "train/3.jpg"],
    ] {
        let dir = folder(files);
        let told = error(dir.path(), Split::Train);
        assert!(told.contains("or a class beside") && told.contains("--train-split ."), "{told}");
        assert_eq!(named(dir.path(), Split::Train, Some("."), None).unwrap().len(), 3);
    }
    let dir = folder(&["Train/a/1.jpg", "training/a/2.jpg", "val/a/3.jpg"]);
    let told = error(dir.path(), Split::Train);
    assert!(told.contains("`Train` and `training` may each be"), "{told}");
    assert_eq!(named(dir.path(), Split::Train, Some("training"), None).unwrap().len(), 1);
    assert_eq!(open(dir.path(), Split::Test).unwrap().len(), 1);
}

#[test]
fn parts_can_be_named() {
    let dir = folder(&["a/1.jpg", "b/2.jpg", "held/a/3.jpg", "held/b/4.jpg"]);
    let train = named(dir.path(), Split::Train, None, Some("held")).unwrap();
    assert_eq!((train.len(), train.class_names().len()), (2, 2));
    assert_eq!(named(dir.path(), Split::Test, None, Some("held")).unwrap().len(), 2);
    let told = named(dir.path(), Split::Train, Some("nope"), None).unwrap_err();
    assert!(told.contains("no folder `nope`") && told.contains("`a`, `b`, `held`"), "{told}");
}

#[test]
fn parts_further_down_are_not_mixed() {
    let dir = folder(&["data/train/a/1.jpg", "data/val/a/2.jpg"]);
    let told = error(dir.path(), Split::Train);
    assert!(told.contains("`data` in it holds a training part"), "{told}");
    assert_eq!(counts(&dir.path().join("data")), [(1, 1), (1, 1)]);
    assert_eq!(named(dir.path(), Split::Train, Some("."), None).unwrap().len(), 2);
}

#[test]
fn what_systems_leave_behind_is_no_class() {
    let mut files = vec!["cat/Thumbs.db".to_owned(), "cat/desktop.ini".into(), "x.DS_Store".into()];
    for system in ["@eaDir", "lost+found", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"]
    {
        files.push(format!("{system}/0.jpg"));
        files.push(format!("train/{system}/0.jpg"));
        files.push(format!("train/a/{system}/0.jpg"));
    }
    files.push("train/.ipynb_checkpoints/0.jpg".into());
    files.extend(["train/a/1.jpg", "train/b/2.jpg", "val/a/1.jpg"].map(str::to_owned));
    let dir = folder(&[]);
    fs::create_dir(dir.path().join("train-less")).unwrap();
    put(dir.path(), &files.iter().map(String::as_str).collect::<Vec<_>>());
    fs::remove_dir_all(dir.path().join("cat")).unwrap();
    assert_eq!(counts(dir.path()), [(2, 2), (1, 2)]);
    let told = open(dir.path(), Split::Train).unwrap().passed_over().unwrap();
    assert!(told.contains("11 system folders and files passed over: "), "{told}");
}

#[test]
fn files_of_other_kinds_are_counted() {
    let dir = folder(&["0.jpg", "1.psd", "2.avif", "3.ppm", "4", ".hidden.jpg"]);
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!(source.len(), 1);
    assert_eq!(
        source.passed_over().unwrap(),
        "4 files of other kinds passed over: .avif, .ppm, .psd, none; hidden entries passed over: \
         .hidden.jpg"
    );
    let none = folder(&["a/1.psd", "a/2.psd"]);
    let told = error(none.path(), Split::Train);
    assert!(told.contains("no image in it") && told.contains(".psd (2)"), "{told}");
}

#[cfg(unix)]
#[test]
fn each_real_folder_is_visited_once() {
    use std::os::unix::fs::symlink;

    let dir = folder(&["x/1.jpg", "y/1.jpg"]);
    // Two links in each to the other: followed as paths they have no end.
    for (from, to) in [("x", "y"), ("y", "x")] {
        for link in ["more", "again"] {
            symlink(Path::new("..").join(to), dir.path().join(from).join(link)).unwrap();
        }
    }
    symlink(dir.path(), dir.path().join("x/back")).unwrap();
    symlink("nowhere.jpg", dir.path().join("x/dangling.jpg")).unwrap();
    // Sorted before what it leads to, and yet the real name counts.
    symlink(dir.path().join("x"), dir.path().join("alias")).unwrap();
    let source = open(dir.path(), Split::Train).unwrap();
    assert_eq!((source.len(), source.class_names()), (2, &["x".to_owned(), "y".to_owned()][..]));
    let told = source.passed_over().unwrap();
    assert!(told.contains("6 links to folders that were visited already"), "{told}");
    assert!(told.contains("links that lead nowhere passed over: x/dangling.jpg"), "{told}");

    // Links out of the set are followed: that is how subsets are made.
    let subset = folder(&[]);
    symlink(dir.path().join("y"), subset.path().join("class")).unwrap();
    assert_eq!(open(subset.path(), Split::Train).unwrap().class_names(), ["class"]);
}
