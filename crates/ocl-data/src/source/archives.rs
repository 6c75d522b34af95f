//! Which archives a path names: one, a range of them, or those of a folder.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::kind::Split;
use crate::error::SourceError;

/// Extensions of images.
pub(super) const IMAGES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "img"];

/// Whether a path names archives: a `.tar`, a brace range of them, or a folder of them.
pub(super) fn detects(path: &str) -> bool {
    path.ends_with(".tar") || only_archives(Path::new(path)).unwrap_or(false)
}

/// Whether a folder holds archives and neither folders nor images: beside these an archive is
/// likely what they were unpacked from.
fn only_archives(root: &Path) -> io::Result<bool> {
    let mut any = false;
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if path.is_dir() || IMAGES.contains(&extension.as_str()) {
            return Ok(false);
        }
        any |= extension == "tar";
    }
    Ok(any)
}

/// `a-{000..012}.tar` as thirteen paths; a path without a range as itself.
pub(super) fn expand(path: &str) -> Vec<PathBuf> {
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

/// The archives of a folder, sorted by name.
fn in_folder(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Those whose names begin with a word for the part; where no name does, all are for training.
pub(super) fn of_split(root: &Path, split: Split) -> Result<Vec<PathBuf>, SourceError> {
    let all = in_folder(root).map_err(|cause| SourceError::Io { path: root.into(), cause })?;
    let begins = |path: &PathBuf, words: &[&str]| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        words.iter().any(|word| name.starts_with(word))
    };
    let (train, test) = (["train"].as_slice(), ["val", "test"].as_slice());
    let named = all.iter().any(|path| begins(path, train) || begins(path, test));
    let words = if split == Split::Train { train } else { test };
    Ok(all
        .into_iter()
        .filter(|path| if named { begins(path, words) } else { split == Split::Train })
        .collect())
}
