//! A folder of image files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::kind::Split;
use super::opened::Opened;
use crate::error::SourceError;

/// Extensions of image files, in lower case. What a file really is is told by its first bytes.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"];
/// How deep folders may lie in each other; links can make them endless.
const MAX_DEPTH: usize = 32;
/// The most bytes a file may have: it is read whole.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The image files below a folder, sorted by name.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Relative to `root`.
    files: Vec<PathBuf>,
}

impl Folder {
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.root.join(&self.files[index])
    }

    /// Reads a file's bytes into the buffer.
    pub(super) fn read(
        &self,
        index: usize,
        path: &mut PathBuf,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        path.as_mut_os_string().clear();
        path.push(&self.root);
        path.push(&self.files[index]);
        bytes.clear();
        let file = File::open(path)?;
        // One more than there are, so that the end is found without growing.
        bytes.reserve(file.metadata()?.len().min(MAX_FILE_BYTES) as usize + 1);
        file.take(MAX_FILE_BYTES).read_to_end(bytes)?;
        Ok(())
    }
}

/// Opens a part of a folder.
pub(super) fn open(root: &Path, split: Split) -> Result<Opened<Folder>, SourceError> {
    let train = existing(root, &["train"]);
    let test = existing(root, &["val", "test", "validation"]);
    let base = match (split, &train, &test) {
        (Split::Train, Some(train), _) => train.clone(),
        (Split::Train, None, None) => root.to_path_buf(),
        (Split::Test, _, Some(test)) => test.clone(),
        (Split::Train, None, Some(test)) => {
            let name = test.file_name().unwrap_or_default().to_string_lossy();
            return Err(SourceError::NotFound {
                path: root.into(),
                looked_for: format!("a `{name}` folder but no `train` folder in it"),
                advice: "name the folder of training images `train`".into(),
            });
        }
        (Split::Test, _, None) => {
            return Err(SourceError::NotFound {
                path: root.into(),
                looked_for: "no `val` or `test` folder in it, so there is no test part".into(),
                advice: "put the images to measure on into ROOT/val/CLASS and the others into \
                         ROOT/train/CLASS"
                    .into(),
            });
        }
    };
    let mut files = Vec::new();
    walk(&base, Path::new(""), 0, &mut files)?;
    if files.is_empty() {
        return Err(SourceError::NotFound {
            path: base,
            looked_for: format!("no image in it or below it ({})", EXTENSIONS.join(", ")),
            advice: "give a folder of images, of class folders, or with `train` in it".into(),
        });
    }
    files.sort();

    let loose = files.iter().filter(|file| class_of(file).is_none()).count();
    let name = root.file_name().unwrap_or(root.as_os_str()).to_string_lossy();
    let mut title = (format!("image folder {name}"), format!("{split} images"));
    let (mut labels, mut class_names) = (None, Vec::new());
    if loose == 0 {
        // Both parts count, so that a class keeps its number where one part lacks it.
        let parts = [train, test].into_iter().flatten().chain([base.clone()]);
        for part in parts {
            class_names.extend(class_folders(&part)?);
        }
        class_names.sort();
        class_names.dedup();
        let label = |file: &PathBuf| {
            let class = class_of(file).unwrap_or_default();
            class_names.binary_search(&class).map_or(0, |place| place as u32)
        };
        labels = Some(files.iter().map(label).collect());
    } else if loose < files.len() {
        title.1 = format!("{} ({loose} of them beside the class folders)", title.1);
    }
    Ok(Opened { store: Folder { root: base, files }, labels, class_names, title })
}

fn existing(root: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| root.join(name)).find(|path| path.is_dir())
}

/// The first folder of a relative path; `None` for a file that lies in no folder.
fn class_of(file: &Path) -> Option<String> {
    let mut parts = file.components();
    let first = parts.next()?;
    parts.next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

/// The names of the folders that may hold a class.
fn class_folders(base: &Path) -> Result<Vec<String>, SourceError> {
    let mut names = Vec::new();
    for entry in list(base)? {
        let path = entry.path();
        if path.is_dir() && !is_hidden(&path) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn walk(
    base: &Path,
    relative: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), SourceError> {
    let dir = base.join(relative);
    for entry in list(&dir)? {
        let path = entry.path();
        if is_hidden(&path) {
            continue;
        }
        let child = relative.join(entry.file_name());
        // `file_type` costs no look at the file itself; only a link needs one.
        let (is_dir, is_file) = match entry.file_type() {
            Ok(kind) if kind.is_symlink() && leads_back(&path, &dir) => continue,
            Ok(kind) if kind.is_symlink() => (path.is_dir(), path.is_file()),
            Ok(kind) => (kind.is_dir(), kind.is_file()),
            Err(cause) => return Err(SourceError::Io { path, cause }),
        };
        if is_dir {
            if depth < MAX_DEPTH {
                walk(base, &child, depth + 1, files)?;
            }
        } else if is_file && is_image(&child) {
            files.push(child);
        }
    }
    Ok(())
}

/// Whether a link in `dir` points to a folder that `dir` lies in.
fn leads_back(link: &Path, dir: &Path) -> bool {
    match (link.canonicalize(), dir.canonicalize()) {
        (Ok(target), Ok(dir)) => dir.starts_with(target),
        _ => false,
    }
}

fn list(dir: &Path) -> Result<Vec<std::fs::DirEntry>, SourceError> {
    let io = |cause| SourceError::Io { path: dir.into(), cause };
    std::fs::read_dir(dir).map_err(io)?.collect::<Result<_, _>>().map_err(io)
}

/// Dot files and what macOS leaves in archives.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with('.') || name == "__MACOSX"
    })
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}
