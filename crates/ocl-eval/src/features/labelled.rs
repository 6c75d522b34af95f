//! The two labelled splits that every protocol needs.

use std::collections::BTreeSet;
use std::sync::Arc;

use ocl_data::{Source, SourceKind, Split, SplitNames};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde::Serialize;

use super::digest::digest_of;
use crate::error::EvalError;

/// A train and a test split whose labels mean the same classes.
#[derive(Clone, Debug)]
pub struct Labelled {
    path: String,
    train: Arc<Source>,
    test: Arc<Source>,
    classes: usize,
}

/// What was measured on, for a result's record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataRecord {
    /// Where the data lies, or `embedded`.
    pub path: String,
    /// The training split in words.
    pub train: String,
    /// The test split in words.
    pub test: String,
    /// Training images used.
    pub train_images: usize,
    /// Test images used.
    pub test_images: usize,
    /// Number of classes.
    pub classes: usize,
    /// What the splits hold, training first: see [`digest_of`](digest_of).
    pub digests: [String; 2],
}

impl Labelled {
    /// Opens both splits of the data at `path`; `names` are theirs, where they do not tell.
    ///
    /// # Errors
    /// When a split is missing, has no labels or too little in it, or the classes do not agree.
    pub fn open(path: &str, kind: SourceKind, names: &SplitNames) -> Result<Self, EvalError> {
        let open = |split| {
            let failed = |source| EvalError::Source { split, source };
            Source::open_named(path, kind, split, names).map_err(failed)
        };
        let train = open(Split::Train)?;
        // Before the test split is asked for: a flat folder has neither labels nor a test split,
        // and the labels are what its owner has to know about.
        labels(&train)?;
        Self::new(path, train, open(Split::Test)?)
    }

    fn new(path: &str, train: Source, test: Source) -> Result<Self, EvalError> {
        let (train_classes, test_classes) = (present(&train)?, present(&test)?);
        for (split, source, classes) in
            [(Split::Train, &train, &train_classes), (Split::Test, &test, &test_classes)]
        {
            let few = source.len() < 2 || (split == Split::Train && classes.len() < 2);
            if few {
                let (data, images, classes) = (source.describe(), source.len(), classes.len());
                return Err(EvalError::TooSmall { split, data, images, classes });
            }
        }
        compare_names(train.class_names(), test.class_names())?;
        let unseen: Vec<&u32> = test_classes.difference(&train_classes).collect();
        if let Some(&&first) = unseen.first() {
            let name = test.class_names().get(first as usize).cloned();
            let name = name.unwrap_or_else(|| first.to_string());
            let more = match unseen.len() {
                1 => String::new(),
                n => format!(" and {} more classes", n - 1),
            };
            let difference = format!("`{name}`{more} has test images but no training images");
            return Err(EvalError::Classes { difference });
        }
        let named = train.class_names().len();
        let labelled = train_classes.last().map_or(0, |last| *last as usize + 1);
        let (train, test) = (Arc::new(train), Arc::new(test));
        Ok(Self { path: path.to_owned(), train, test, classes: named.max(labelled) })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Where the data lies.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// One of the two splits.
    pub fn split(&self, split: Split) -> &Arc<Source> {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    /// At most `limit` images of a split, drawn by a fixed seed; `None` if that is all of them.
    pub(crate) fn sample(&self, split: Split, limit: Option<usize>) -> Option<Vec<u32>> {
        let images = self.split(split).len();
        let limit = limit.filter(|limit| *limit < images)?;
        let mut all: Vec<u32> = (0..images as u32).collect();
        // Folders are sorted by class: the first images would be of a few classes only.
        all.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
        all.truncate(limit);
        all.sort_unstable();
        Some(all)
    }

    /// What is recorded of the data when so many images of it were used.
    pub fn record(&self, train_images: usize, test_images: usize) -> DataRecord {
        DataRecord {
            path: self.path.clone(),
            train: self.train.describe(),
            test: self.test.describe(),
            train_images,
            test_images,
            classes: self.classes,
            digests: [digest_of(&self.train), digest_of(&self.test)],
        }
    }
}

fn labels(source: &Source) -> Result<&[u32], EvalError> {
    source.labels().ok_or_else(|| EvalError::NoLabels { data: source.describe() })
}

fn present(source: &Source) -> Result<BTreeSet<u32>, EvalError> {
    Ok(labels(source)?.iter().copied().collect())
}

/// The same label must have the same name on both sides; one side may have fewer.
fn compare_names(train: &[String], test: &[String]) -> Result<(), EvalError> {
    let differs = train.iter().zip(test).enumerate().find(|(_, (train, test))| train != test);
    let Some((label, (train, test))) = differs else { return Ok(()) };
    let difference = format!("class {label} is `{train}` in train and `{test}` in test");
    Err(EvalError::Classes { difference })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// 1x1 BMP files, named by their class.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"BM").unwrap();
        }
        folder
    }

    fn open(path: &Path) -> Result<Labelled, String> {
        Labelled::open(path.to_str().unwrap(), SourceKind::Folder, &SplitNames::default())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_flat_folder_has_no_labels() {
        let folder = folder(&["a.bmp", "b.bmp"]);
        let error = open(folder.path()).unwrap_err();
        assert!(error.contains("no labels") && error.contains("train/CLASS/*.jpg"), "{error}");
    }

    #[test]
    fn classes_must_be_known_from_training() {
        let with = ["train/cat/1.bmp", "train/dog/1.bmp", "val/cat/2.bmp", "val/cat/3.bmp"];
        assert_eq!(open(folder(&with).path()).unwrap().classes(), 2);
        let other = ["train/cat/1.bmp", "train/dog/1.bmp", "val/cat/2.bmp", "val/fish/3.bmp"];
        let error = open(folder(&other).path()).unwrap_err();
        assert!(error.contains("`fish` has test images but no training images"), "{error}");
    }

    #[test]
    fn one_class_is_too_few() {
        let one = ["train/cat/1.bmp", "train/cat/2.bmp", "val/cat/2.bmp", "val/cat/3.bmp"];
        let error = open(folder(&one).path()).unwrap_err();
        assert!(error.contains("2 images of 1 class"), "{error}");
    }

    #[test]
    fn names_are_compared_by_label() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!(compare_names(&names(&["a", "b", "c"]), &names(&["a", "b"])).is_ok());
        let error = compare_names(&names(&["a", "b"]), &names(&["a", "c"])).unwrap_err();
        assert!(error.to_string().contains("`b` in train and `c` in test"));
    }

    #[test]
    fn a_sample_is_spread_and_sorted() {
        let data =
            Labelled::open("embedded", SourceKind::Embedded, &SplitNames::default()).unwrap();
        assert_eq!(data.sample(Split::Test, Some(2_000)), None);
        let sample = data.sample(Split::Train, Some(500)).unwrap();
        assert!(sample.is_sorted() && sample.len() == 500 && *sample.last().unwrap() > 7_000);
    }
}
