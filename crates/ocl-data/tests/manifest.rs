//! Tables of images, as spreadsheets and programs write them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};

use ocl_data::{Source, SourceError, SourceKind, Split, SplitNames};

fn open(path: &Path, split: Split) -> Result<Source, SourceError> {
    Source::open(path.to_str().unwrap(), SourceKind::Auto, split)
}

/// A table beside images `i/0.jpg` to `i/9.jpg`.
fn table(dir: &Path, name: &str, text: &str) -> PathBuf {
    fs::create_dir_all(dir.join("i")).unwrap();
    for number in 0..10 {
        fs::write(dir.join(format!("i/{number}.jpg")), b"x").unwrap();
    }
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn told(source: &Source) -> (usize, Option<Vec<u32>>, Vec<String>) {
    (source.len(), source.labels().map(<[u32]>::to_vec), source.class_names().to_vec())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn columns_by_name_whatever_the_separator() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.csv", "path,label,split\ni/0.jpg,dog,train\ni/1.jpg,cat,train\ni/2.jpg,ant,val\n"),
        (
            "a.csv",
            "\u{feff}split;Label;FileName\r\ntrain;dog;i\\0.jpg\r\ntrain;cat;i\\1.jpg\r\nval;ant;i\\2.jpg\r\n",
        ),
        (
            "a.tsv",
            "class\timage\tset\ndog\ti/0.jpg\tTraining\ncat\ti/1.jpg\ttraining\nant\ti/2.jpg\tdev",
        ),
        ("a.csv", "i/0.jpg, dog, train\ni/1.jpg, cat, train\n\ni/2.jpg, ant, test\n"),
        (
            "a.csv",
            "path,label,split\n\"i/0.jpg\",\"dog\",train\n\"i/1.jpg\",cat,train\ni/2.jpg,ant,validation\ni/3.jpg,ant,test",
        ),
        (
            "a.jsonl",
            "{\"file_name\": \"i/0.jpg\", \"label\": \"dog\", \"split\": \"train\"}\n\
             {\"split\": \"train\", \"label\": \"cat\", \"file_name\": \"i/1.jpg\"}\n\n\
             {\"file_name\": \"i/2.jpg\", \"label\": \"ant\", \"split\": \"test\"}\n",
        ),
    ] {
        let path = table(dir.path(), name, text);
        let train = open(&path, Split::Train).unwrap();
        assert_eq!(told(&train), (2, Some(vec![2, 1]), words(&["ant", "cat", "dog"])), "{text}");
        let test = open(&path, Split::Test).unwrap();
        assert_eq!(told(&test), (1, Some(vec![0]), words(&["ant", "cat", "dog"])), "{text}");
        assert!(train.name_of(1).ends_with("i/1.jpg"), "{}", train.name_of(1));
    }
}

#[test]
fn without_parts_all_is_for_training() {
    let dir = tempfile::tempdir().unwrap();
    let path = table(dir.path(), "a.csv", "path,label\ni/0.jpg,3\ni/1.jpg,0\n");
    let source = open(&path, Split::Train).unwrap();
    assert_eq!(told(&source), (2, Some(vec![3, 0]), words(&["0", "1", "2", "3"])));
    let error = open(&path, Split::Test).unwrap_err().to_string();
    assert!(error.contains("column `split`"), "{error}");
    // Where one class is a word, all are.
    let path = table(dir.path(), "a.csv", "path,label\ni/0.jpg,3\ni/1.jpg,three\n");
    assert_eq!(told(&open(&path, Split::Train).unwrap()).2, words(&["3", "three"]));
    // Without classes there are no labels.
    let path = table(dir.path(), "a.csv", "path\ni/0.jpg\ni/1.jpg\n");
    assert_eq!(told(&open(&path, Split::Train).unwrap()), (2, None, vec![]));
}

#[test]
fn parts_by_names_that_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let text = "path,label,split\ni/0.jpg,a,one\ni/1.jpg,a,two\ni/2.jpg,b,three\n";
    let path = table(dir.path(), "a.csv", text);
    let error = open(&path, Split::Train).unwrap_err().to_string();
    assert!(error.contains("--train-split") && error.contains("`one`, `three`, `two`"), "{error}");
    let count = |split, train: Option<&str>, test: Option<&str>| {
        let names = SplitNames { train: train.map(str::to_owned), test: test.map(str::to_owned) };
        Source::open_named(path.to_str().unwrap(), SourceKind::Auto, split, &names).unwrap().len()
    };
    assert_eq!(count(Split::Train, Some("one"), None), 1);
    assert_eq!(count(Split::Train, Some("."), None), 3);
    assert_eq!(count(Split::Train, None, Some("Two")), 2);
    assert_eq!(count(Split::Test, None, Some("Two")), 1);
}

#[test]
fn what_is_left_out_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let text = "path,label,split,width\ni/0.jpg,a,train,1\ni/0.jpg,a,train,1\ni/1.jpg,b,val,1\n\
                i/1.jpg,b,train,1\n,b,train,1\ni/2.jpg,a,later,1\ni/3.jpg,,train,1\n";
    let path = table(dir.path(), "a.csv", text);
    let source = open(&path, Split::Train).unwrap();
    assert_eq!((source.len(), source.labels()), (3, None));
    let passed = source.passed_over().unwrap();
    for told in [
        "1 images are in both parts, i/1.jpg the first",
        "rows of an image that an earlier row names passed over: i/0.jpg",
        "rows of no known part passed over: i/2.jpg",
        "rows without a path",
        "without labels, as 1 samples have no class, i/3.jpg the first",
        "columns passed over: width",
    ] {
        assert!(passed.contains(told), "{told} in {passed}");
    }
}

#[test]
fn wrong_tables_are_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, wanted) in [
        ("a.csv", "name,label\nx,1\n", "no column of paths among `name`, `label`; call it `path`"),
        ("a.csv", "", "no row in it"),
        ("a.csv", "path,label\nj/0.jpg,1\n", "its images are not there"),
        ("a.jsonl", "{\"path\": \"i/0.jpg\"}\n[1]\n", "line 2"),
        ("a.jsonl", "{\"a\": 1}\n", "no column of paths"),
        ("a.csv", "path,label\ni/0.jpg,-2\n", "not in 0.."),
    ] {
        let path = table(dir.path(), name, text);
        let error = open(&path, Split::Train).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains(name), "{text}: {error}");
    }
    let error = Source::open("nowhere.csv", SourceKind::Manifest, Split::Train).unwrap_err();
    assert!(matches!(error, SourceError::Missing(_)));
}
