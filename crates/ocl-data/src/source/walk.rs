//! The way through folders: what is passed over, and each real folder once.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use super::survey::Survey;
use crate::error::SourceError;

/// Extensions of image files, in lower case. What a file really is is told by its first bytes.
pub(super) const EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Folders and files that systems and programs leave beside a user's own, in lower case.
const SYSTEM: [&str; 13] = [
    "@eadir",
    "#recycle",
    "#snapshot",
    "lost+found",
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
];
const SYSTEM_WORDS: &str = "system folders and files";
const HIDDEN_WORDS: &str = "hidden entries";
const LINK_WORDS: &str = "links to folders that were visited already";
const LOST_WORDS: &str = "links that lead nowhere";

/// Why an entry of this name is none of the user's own, if it is not.
pub(super) fn foreign(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    if SYSTEM.contains(&lower.as_str()) {
        Some(SYSTEM_WORDS)
    } else if name.starts_with('.') {
        // What desktops write is a system's file, though hidden.
        let system = matches!(
            lower.as_str(),
            ".ds_store" | ".ipynb_checkpoints" | ".trashes" | ".spotlight-v100" | ".fseventsd"
        );
        Some(if system { SYSTEM_WORDS } else { HIDDEN_WORDS })
    } else {
        None
    }
}

/// Whether a file is an image by its name.
pub(super) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// The entries of a folder, sorted by name.
pub(super) fn list(dir: &Path) -> Result<Vec<DirEntry>, SourceError> {
    let io = |cause| SourceError::Io { path: dir.into(), cause };
    let mut entries: Vec<DirEntry> =
        std::fs::read_dir(dir).map_err(io)?.collect::<Result<_, _>>().map_err(io)?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

/// The names of the folders in a folder, links to folders among them, that are a user's own.
pub(super) fn folders(dir: &Path) -> Result<Vec<String>, SourceError> {
    let own = |entry: &DirEntry| {
        foreign(&entry.file_name().to_string_lossy()).is_none() && entry.path().is_dir()
    };
    let listed = list(dir)?;
    Ok(listed.iter().filter(|entry| own(entry)).map(name_of).collect())
}

fn name_of(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// The real folder behind a path, whatever links lead to it.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = PathBuf;

fn identity(dir: &Path) -> Result<Identity, SourceError> {
    let io = |cause| SourceError::Io { path: dir.into(), cause };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(dir).map_err(io)?;
        Ok((data.dev(), data.ino()))
    }
    #[cfg(not(unix))]
    dir.canonicalize().map_err(io)
}

/// A walk below a folder. Real folders come before links to folders, so that an image is known by
/// its real name wherever it has one here.
pub(super) struct Walk<'a> {
    base: &'a Path,
    seen: HashSet<Identity>,
    /// Relative to the base; the last is the next.
    folders: Vec<PathBuf>,
    links: Vec<PathBuf>,
    pub(super) survey: Survey,
}

/// What a folder holds.
#[derive(Default)]
pub(super) struct Visit {
    /// Names of images.
    pub(super) images: Vec<OsString>,
    /// Names of the folders that are a user's own, links among them.
    pub(super) folders: Vec<String>,
}

impl<'a> Walk<'a> {
    /// Will visit `base` and all below it.
    pub(super) fn new(base: &'a Path) -> Walk<'a> {
        let folders = vec![PathBuf::new()];
        Walk { base, seen: HashSet::new(), folders, links: Vec::new(), survey: Survey::default() }
    }

    /// Leaves a folder and what is below it out.
    pub(super) fn leave_out(&mut self, dir: &Path) -> Result<(), SourceError> {
        self.seen.insert(identity(dir)?);
        Ok(())
    }

    /// The next folder, relative to the base, and what it holds; `None` when all were visited.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<(PathBuf, Visit)>, SourceError> {
        loop {
            let (relative, linked) = match self.folders.pop() {
                Some(folder) => (folder, false),
                None if self.links.is_empty() => return Ok(None),
                None => (self.links.remove(0), true),
            };
            let dir = self.base.join(&relative);
            if self.seen.insert(identity(&dir)?) {
                let visit = self.visit(&dir, &relative)?;
                return Ok(Some((relative, visit)));
            }
            if linked {
                self.survey.pass(LINK_WORDS, &relative.to_string_lossy());
            }
        }
    }

    fn visit(&mut self, dir: &Path, relative: &Path) -> Result<Visit, SourceError> {
        let mut visit = Visit::default();
        // From the last to the first, so that the first lies on top of the stack.
        for entry in list(dir)?.iter().rev() {
            let name = name_of(entry);
            if let Some(reason) = foreign(&name) {
                self.survey.pass(reason, &name);
                continue;
            }
            let path = entry.path();
            // `file_type` costs no look at the file itself; only a link needs one.
            let (is_dir, is_file, is_link) = match entry.file_type() {
                Ok(kind) if kind.is_symlink() => (path.is_dir(), path.is_file(), true),
                Ok(kind) => (kind.is_dir(), kind.is_file(), false),
                Err(cause) => return Err(SourceError::Io { path, cause }),
            };
            if is_dir {
                let child = relative.join(entry.file_name());
                if is_link { &mut self.links } else { &mut self.folders }.push(child);
                visit.folders.push(name);
            } else if is_file && is_image(&path) {
                visit.images.push(entry.file_name());
            } else if is_file {
                self.survey.other_kind(&name);
            } else if is_link {
                self.survey.pass(LOST_WORDS, &relative.join(&name).to_string_lossy());
            }
        }
        visit.images.reverse();
        visit.folders.reverse();
        // The least name first, whichever folder it was met with in.
        self.links.sort();
        Ok(visit)
    }
}

/// Whether there is an image in a folder or below it.
pub(super) fn holds_image(dir: &Path) -> Result<bool, SourceError> {
    let mut walk = Walk::new(dir);
    while let Some((_, visit)) = walk.next()? {
        if !visit.images.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
