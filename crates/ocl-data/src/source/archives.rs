//! Which archives a path names: one, a range of them, or those of a folder.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::kind::Split;
use super::parts::{self, Part, SplitNames};
use super::survey::Survey;
use super::walk;
use crate::error::SourceError;

/// Extensions of images.
pub(super) const IMAGES: [&str; 10] =
    ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "img"];

/// Extensions of archives.
pub(super) const TAR: &str = "tar";
pub(super) const ZIP: &str = "zip";
pub(super) const PARQUET: &str = "parquet";

/// The most archives whose lists are read at once.
const LISTED_AT_ONCE: usize = 16;

/// Whether a path names archives: one, a brace range of them, or a folder of them.
pub(super) fn detects(path: &str, extension: &str) -> bool {
    is_archive(Path::new(path), extension)
        || holds_archives(Path::new(path), extension).unwrap_or(false)
}

/// Whether a folder holds archives and no images: beside these an archive is likely what they were
/// unpacked from. What is hidden does not count.
fn holds_archives(root: &Path, extension: &str) -> Result<bool, SourceError> {
    let mut archives = false;
    for entry in walk::list(root)? {
        let path = entry.path();
        if walk::foreign(&entry.file_name().to_string_lossy()).is_some() || path.is_dir() {
            continue;
        }
        if walk::is_image(&path) {
            return Ok(false);
        }
        archives |= is_archive(&path, extension);
    }
    let archives = archives || !in_folder(root, extension)?.is_empty();
    // Looked at last: it may be a long way to the first image.
    Ok(archives && !walk::holds_image(root)?)
}

/// Whether a path is an archive by its name.
pub(super) fn is_archive(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension))
}

/// `a-{000..012}.tar` as thirteen paths, and `a-*.tar` as those that are there; another path as
/// itself.
pub(super) fn expand(path: &str) -> Vec<PathBuf> {
    if let Some((folder, names)) = matching(Path::new(path)) {
        return names.iter().map(|name| folder.join(name)).collect();
    }
    let range = path.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        let numbers: Range<u32> = first.parse().ok()?..last.parse::<u32>().ok()?.checked_add(1)?;
        (numbers.len() <= 1 << 20).then_some((before, after, first.len(), numbers))
    });
    match range {
        Some((before, after, width, numbers)) => {
            numbers.flat_map(|number| expand(&format!("{before}{number:0width$}{after}"))).collect()
        }
        None => vec![path.into()],
    }
}

/// The folder of a pattern with `*`, and the names of its files that fit and are a user's own, sorted;
/// `None` without a pattern, or where a file is called so.
fn matching(path: &Path) -> Option<(&Path, Vec<String>)> {
    let pattern = path.file_name()?.to_str().filter(|name| name.contains('*'))?;
    if path.exists() {
        return None;
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let entries = walk::list(if folder == Path::new("") { Path::new(".") } else { folder }).ok()?;
    let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
    let own = |name: &String| walk::foreign(name).is_none() && fits(name, pattern);
    Some((folder, names.filter(own).collect()))
}

/// Whether a name has the pieces of a pattern between its `*` in their order.
fn fits(name: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// The archives of a folder and of the folders in it whose names are those of parts; relative to
/// it, sorted by name.
pub(super) fn in_folder(root: &Path, extension: &str) -> Result<Vec<String>, SourceError> {
    let mut names = Vec::new();
    for entry in walk::list(root)? {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if walk::foreign(&name).is_some() {
            continue;
        }
        if is_archive(&path, extension) {
            names.push(name);
        } else if parts::of_word(&name).is_some() && path.is_dir() {
            let inner = walk::list(&path)?.into_iter().filter(|inner| {
                let name = inner.file_name();
                walk::foreign(&name.to_string_lossy()).is_none()
                    && is_archive(&inner.path(), extension)
            });
            names.extend(
                inner.map(|inner| format!("{name}/{}", inner.file_name().to_string_lossy())),
            );
        }
    }
    Ok(names)
}

/// The archives of a part that a path names. Those of a folder or a pattern are told apart by their
/// names; what is named itself is for training.
///
/// # Errors
/// If there are none, or a name can be read in two ways.
pub(super) fn of_path(
    path: &Path,
    extension: &str,
    split: Split,
    names: &SplitNames,
    survey: &mut Survey,
) -> Result<Vec<PathBuf>, SourceError> {
    let paths = if path.is_dir() {
        of_split(path, in_folder(path, extension)?, extension, split, names, survey)?
    } else if let Some((folder, all)) = matching(path) {
        of_split(folder, all, extension, split, names, survey)?
    } else if split == Split::Train {
        expand(&path.to_string_lossy())
    } else {
        Vec::new()
    };
    if paths.is_empty() {
        return Err(none(path, extension, split, "no name has a word for it"));
    }
    Ok(paths)
}

/// Those of a part by the words of the names; where no name has one, all are for training.
fn of_split(
    root: &Path,
    all: Vec<String>,
    extension: &str,
    split: Split,
    names: &SplitNames,
    survey: &mut Survey,
) -> Result<Vec<PathBuf>, SourceError> {
    let paths = |chosen: Vec<&String>| chosen.into_iter().map(|name| root.join(name)).collect();
    let named = |name: &str, wanted: &str| wanted == "." || parts::has_words(name, wanted);
    if let Some(wanted) = names.of(split) {
        let other = match split {
            Split::Train => names.of(Split::Test),
            Split::Test => None,
        };
        let mine =
            |name: &&String| named(name, wanted) && !other.is_some_and(|other| named(name, other));
        let chosen: Vec<_> = all.iter().filter(mine).collect();
        if chosen.is_empty() {
            return Err(none(
                root,
                extension,
                split,
                &format!("`{wanted}` is no word of any archive's name"),
            ));
        }
        return Ok(paths(chosen));
    }
    if let (Split::Train, Some(test)) = (split, names.of(Split::Test)) {
        // The part to measure on was named: the rest is for training.
        return Ok(paths(all.iter().filter(|name| !named(name, test)).collect()));
    }
    let parts = parts_of(root, &all)?;
    let of = |part: Option<Part>| -> Vec<&String> {
        all.iter().zip(&parts).filter(|(_, found)| **found == part).map(|(name, _)| name).collect()
    };
    let (train, validation, test, unnamed) =
        (of(Some(Part::Train)), of(Some(Part::Validation)), of(Some(Part::Test)), of(None));
    let measured = !validation.is_empty() || !test.is_empty();
    Ok(paths(match split {
        Split::Train if train.is_empty() && unnamed.is_empty() && measured => {
            return Err(none(
                root,
                extension,
                split,
                "all archives are named as a part to measure on",
            ));
        }
        Split::Train if train.is_empty() => {
            if measured {
                survey.note(format!(
                    "{} archives whose names say no part are taken for training, {} the first",
                    unnamed.len(),
                    unnamed[0]
                ));
            }
            unnamed
        }
        Split::Train => {
            if let Some(first) = unnamed.first() {
                survey.pass_many("archives whose names say no part", unnamed.len() as u64, first);
            }
            train
        }
        Split::Test if validation.is_empty() => test,
        Split::Test => {
            if let Some(first) = test.first() {
                survey.pass_many(
                    "test archives beside validation archives",
                    test.len() as u64,
                    first,
                );
            }
            validation
        }
    }))
}

/// The part that each name speaks of.
fn parts_of(root: &Path, all: &[String]) -> Result<Vec<Option<Part>>, SourceError> {
    let found: Vec<Vec<Part>> = all.iter().map(|name| parts::in_name(name)).collect();
    // A word that every name has is part of the data set's own name: `test-set-train-0.tar`.
    let common = |part: &Part| found.iter().all(|parts| parts.contains(part));
    let one = |(parts, name): (&Vec<Part>, &String)| match parts.as_slice() {
        [] => Ok(None),
        [part] => Ok(Some(*part)),
        several => {
            let own: Vec<Part> = several.iter().copied().filter(|part| !common(part)).collect();
            match own.as_slice() {
                [part] => Ok(Some(*part)),
                _ => Err(SourceError::NotFound {
                    path: root.into(),
                    looked_for: format!(
                        "the name of {name} can be read as for training or as for measuring"
                    ),
                    advice: "say which word of the names stands for a part: --train-split WORD, \
                             --test-split WORD"
                        .into(),
                }),
            }
        }
    };
    found.iter().zip(all).map(one).collect()
}

/// Looks at many things at once: a disk answers many small questions together.
pub(super) fn at_once<T: Sync, R: Send>(items: &[T], look: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(LISTED_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(share)
            .map(|items| scope.spawn(|| items.iter().map(&look).collect::<Vec<R>>()))
            .collect();
        let made = threads.into_iter().map(|thread| match thread.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        made.flatten().collect()
    })
}

/// A part without archives.
fn none(root: &Path, extension: &str, split: Split, why: &str) -> SourceError {
    SourceError::NotFound {
        path: root.into(),
        looked_for: format!("no {split} archives (`.{extension}`) there: {why}"),
        advice: format!(
            "have a word such as `train` or `val` in the archives' names, give --{split}-split WORD, \
             or name archives of the training part as in train-{{0000..0146}}.{extension}"
        ),
    }
}
