//! Which folders of a data set are its parts.
//!
//! `Train`, `validation` and the like are parts, in any case; beside other folders of images such a
//! name may be a class. What cannot be decided is an error that names both readings.

use std::path::{Path, PathBuf};

use super::kind::Split;
use super::parts::{self, Part, SplitNames};
use super::tree::Tree;
use crate::error::SourceError;

/// Where the images of a part are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The folder of the part.
    pub(super) base: PathBuf,
    /// The folder of the other part, whose classes count as well.
    pub(super) other: Option<PathBuf>,
    /// What lies below the base and belongs to another part.
    pub(super) without: Option<PathBuf>,
    /// Whether the base is the whole set because nothing in it looks like a part.
    pub(super) undivided: bool,
    /// Folders beside the part that are no part of anything.
    pub(super) beside: Vec<String>,
}

impl Layout {
    fn of(base: PathBuf, other: Option<PathBuf>) -> Layout {
        Layout { base, other, without: None, undivided: false, beside: Vec::new() }
    }
}

/// Finds a part below `root`.
///
/// # Errors
/// If the part is missing, or the names can be read in two ways.
pub(super) fn find(
    tree: &dyn Tree,
    root: &Path,
    split: Split,
    names: &SplitNames,
) -> Result<Layout, SourceError> {
    let given = |part| names.of(part).map(|name| (name, named(tree, root, name, part)));
    let (mine, theirs) = match split {
        Split::Train => (given(Split::Train), given(Split::Test)),
        Split::Test => (given(Split::Test), given(Split::Train)),
    };
    match (mine, theirs, split) {
        (Some((".", _)), None | Some((".", _)), _) => return Ok(Layout::of(root.into(), None)),
        (Some((".", _)) | None, Some((_, test)), Split::Train) => {
            // The part to measure on was named: the rest is for training.
            let (reading, test) = (Reading::of(tree, root)?, test?);
            let train = match names.train {
                Some(_) => None,
                None => reading.only(tree, root, &reading.train, split)?,
            };
            return Ok(match train {
                Some(train) => Layout::of(train, Some(test)),
                None => Layout { without: Some(test), ..Layout::of(root.into(), None) },
            });
        }
        (Some((name, base)), theirs, _) => {
            let other = match theirs {
                Some((".", _)) => None,
                Some((_, other)) => Some(other?),
                None => Reading::of(tree, root)?.other_than(root, name, split),
            };
            return Ok(Layout::of(base?, other));
        }
        (None, Some((".", _)), Split::Test) => return Err(no_test(root)),
        (None, Some((_, train)), Split::Test) => {
            let reading = Reading::of(tree, root)?;
            return match reading.only(tree, root, &reading.test, split)? {
                Some(test) => Ok(Layout::of(test, Some(train?))),
                None => Err(no_test(root)),
            };
        }
        (None, None, _) => {}
    }
    let reading = Reading::of(tree, root)?;
    let (train, test) = (&reading.train, &reading.test);
    match reading.verdict(tree, root)? {
        Verdict::Unclear(word, other) => Err(unclear(root, &word, &other)),
        Verdict::Undivided if split == Split::Train => {
            Ok(Layout { undivided: true, ..Layout::of(root.into(), None) })
        }
        Verdict::Undivided => Err(no_test(root)),
        Verdict::Parts => {
            let (mine, others) = match split {
                Split::Train => (train, test),
                Split::Test => (test, train),
            };
            let Some(base) = reading.only(tree, root, mine, split)? else {
                return Err(match split {
                    Split::Train => no_train(root, &test.join("`, `")),
                    Split::Test => no_test(root),
                });
            };
            let other = match others.as_slice() {
                [one] => Some(root.join(one)),
                _ => None,
            };
            let mut layout = Layout::of(base, other);
            layout.beside = reading.rest.iter().chain(&reading.passed).cloned().collect();
            Ok(layout)
        }
    }
}

/// What the names of a folder's folders say.
struct Reading {
    /// Folders that may be the training part.
    train: Vec<String>,
    /// Folders that may be the part to measure on.
    test: Vec<String>,
    /// A test part beside a validation part, and more of what `train` and `test` were taken from.
    passed: Vec<String>,
    /// All other folders.
    rest: Vec<String>,
    /// Whether the whole name is a word for a part, for training and for measuring.
    exact: [bool; 2],
}

enum Verdict {
    Parts,
    Undivided,
    /// A folder whose name is that of a part, and one beside it whose name is not.
    Unclear(String, String),
}

impl Reading {
    fn of(tree: &dyn Tree, root: &Path) -> Result<Reading, SourceError> {
        let names = tree.folders(root)?;
        let exact = |name: &str| parts::of_word(name);
        // `train2017`, `images_val`: only where no name is a word for the part by itself.
        let loose = |name: &str| match parts::in_name(name).as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        let pick = |of: &dyn Fn(&str) -> Option<Part>, wanted: Part| -> Vec<String> {
            names.iter().filter(|name| of(name) == Some(wanted)).cloned().collect()
        };
        let first = |all: [Vec<String>; 2]| all.into_iter().find(|some| !some.is_empty());
        let measured = |of: &dyn Fn(&str) -> Option<Part>| {
            first([pick(of, Part::Validation), pick(of, Part::Test)])
        };
        let exact_train = pick(&exact, Part::Train);
        let exact_test = measured(&exact);
        let is_exact = [!exact_train.is_empty(), exact_test.is_some()];
        let train = if is_exact[0] { exact_train } else { pick(&loose, Part::Train) };
        let test = exact_test.or_else(|| measured(&loose)).unwrap_or_default();
        let (mut passed, mut rest) = (Vec::new(), Vec::new());
        for name in names.iter().filter(|name| !train.contains(name) && !test.contains(name)) {
            let known = exact(name).or_else(|| loose(name)).is_some();
            if known { &mut passed } else { &mut rest }.push(name.clone());
        }
        Ok(Reading { train, test, passed, rest, exact: is_exact })
    }

    fn verdict(&self, tree: &dyn Tree, root: &Path) -> Result<Verdict, SourceError> {
        let [exact_train, exact_test] = self.exact;
        let any = |names: &[String]| !names.is_empty();
        if !any(&self.train) && !any(&self.test) {
            return Ok(Verdict::Undivided);
        }
        let mut other = None;
        for name in &self.rest {
            if tree.holds_image(&root.join(name))? {
                other = Some(name.clone());
                break;
            }
        }
        let both = any(&self.train) && any(&self.test);
        let Some(other) = other else {
            // One folder whose name merely contains a word is a class: `bullet_train`.
            let parts = both || exact_train || exact_test;
            return Ok(if parts { Verdict::Parts } else { Verdict::Undivided });
        };
        let mut inner = false;
        for name in self.train.iter().chain(&self.test) {
            let folder = root.join(name);
            for class in tree.folders(&folder)? {
                inner = inner || tree.holds_image(&folder.join(class))?;
            }
        }
        let word = self.train.iter().chain(&self.test).next().cloned().unwrap_or_default();
        let unclear = Verdict::Unclear(word, other);
        Ok(match (exact_train || exact_test, both) {
            // Class folders in it, so it is none itself.
            (true, true) if inner => Verdict::Parts,
            (true, true) => unclear,
            // Training images would be measured on, or the other way round.
            (true, false) if inner || exact_test => unclear,
            (false, true) if inner => unclear,
            _ => Verdict::Undivided,
        })
    }

    /// The one folder of a part; `None` without one.
    fn only(
        &self,
        tree: &dyn Tree,
        root: &Path,
        names: &[String],
        split: Split,
    ) -> Result<Option<PathBuf>, SourceError> {
        // Two names of one folder are no two folders.
        let mut real: Vec<PathBuf> =
            names.iter().filter_map(|name| tree.real(&root.join(name))).collect();
        real.sort();
        real.dedup();
        if real.len() > 1 {
            return Err(SourceError::NotFound {
                path: root.into(),
                looked_for: format!("`{}` may each be the {split} part", names.join("` and `")),
                advice: format!("say which it is: --{split}-split {}", names[0]),
            });
        }
        Ok(names.first().map(|name| root.join(name)))
    }

    /// The folder of the other part than the one that was named, where there is just one.
    fn other_than(&self, root: &Path, name: &str, split: Split) -> Option<PathBuf> {
        let others = if split == Split::Train { &self.test } else { &self.train };
        match others.as_slice() {
            [one] if one != name => Some(root.join(one)),
            _ => None,
        }
    }
}

/// The folder of a name that was given.
fn named(tree: &dyn Tree, root: &Path, name: &str, split: Split) -> Result<PathBuf, SourceError> {
    let path = root.join(name);
    if tree.is_folder(&path) {
        return Ok(path);
    }
    let there = tree.folders(root)?;
    let there = match there.len() {
        0 => "there are none".to_owned(),
        1..=8 => format!("there are `{}`", there.join("`, `")),
        more => format!("there are {more}: `{}`, ...", there[..8].join("`, `")),
    };
    Err(SourceError::NotFound {
        path: root.into(),
        looked_for: format!("no folder `{name}` in it"),
        advice: format!("give --{split}-split the name of a folder that is there ({there})"),
    })
}

fn unclear(root: &Path, word: &str, other: &str) -> SourceError {
    let is_train = parts::in_name(word).first().is_some_and(|part| part.is_train());
    let (part, flag) =
        if is_train { ("training", "--train-split") } else { ("test", "--test-split") };
    SourceError::NotFound {
        path: root.into(),
        looked_for: format!(
            "`{word}` may be the {part} part, or a class beside `{other}` and others: both hold \
             images"
        ),
        advice: format!(
            "say which it is: {flag} {word} for the part, --train-split . for a class (every folder \
             is then trained on)"
        ),
    }
}

fn no_train(root: &Path, test: &str) -> SourceError {
    SourceError::NotFound {
        path: root.into(),
        looked_for: format!("a `{test}` folder but no `train` folder in it"),
        advice: "name the folder of training images `train`, or say --train-split NAME (`.`: all \
                 of it)"
            .into(),
    }
}

fn no_test(root: &Path) -> SourceError {
    SourceError::NotFound {
        path: root.into(),
        looked_for: "no `val` or `test` folder in it, so there is no test part".into(),
        advice: "put the images to measure on into ROOT/val/CLASS and the others into \
                 ROOT/train/CLASS, or say --test-split NAME"
            .into(),
    }
}

/// Folders that look like parts, further down in a set that has none at the top.
pub(super) fn parts_further_down(root: &Path, dir: &Path) -> SourceError {
    let dir = dir.display();
    SourceError::NotFound {
        path: root.into(),
        looked_for: format!(
            "`{dir}` in it holds a training part and a part to measure on, so both would be trained \
             on"
        ),
        advice: format!(
            "give {}/{dir}, or say --train-split . to train on all of it",
            root.display()
        ),
    }
}

/// Whether folders of these names are a training part and one to measure on.
pub(super) fn look_like_parts(names: &[String]) -> bool {
    let is = |train: bool| {
        names.iter().any(|name| parts::of_word(name).is_some_and(|part| part.is_train() == train))
    };
    is(true) && is(false)
}
