//! A folder of image files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::kind::Split;
use super::layout::{self, Layout};
use super::opened::{MAX_FILE_BYTES, Opened};
use super::parts::SplitNames;
use super::survey::Survey;
use super::tree::{Disk, Tree};
use super::walk::{EXTENSIONS, Walk};
use crate::error::SourceError;

/// Image files, in their order.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Relative to `root`.
    files: Vec<PathBuf>,
}

impl Folder {
    /// Files below a folder, relative to it.
    pub(super) fn new(root: PathBuf, files: Vec<PathBuf>) -> Folder {
        Folder { root, files }
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.root.join(self.file(index))
    }

    /// Relative to the folder.
    pub(super) fn file(&self, index: usize) -> &Path {
        &self.files[index]
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
pub(super) fn open(
    root: &Path,
    split: Split,
    names: &SplitNames,
) -> Result<Opened<Folder>, SourceError> {
    let layout = layout::find(&Disk, root, split, names)?;
    let mut walk = Walk::new(&layout.base);
    if let Some(other) = &layout.without {
        walk.leave_out(other)?;
    }
    let (mut files, mut class_names, mut folders) = (Vec::new(), BTreeSet::new(), 0u64);
    while let Some((relative, visit)) = walk.next()? {
        if layout.undivided && folders > 0 && layout::look_like_parts(&visit.folders) {
            return Err(layout::parts_further_down(root, &relative));
        }
        folders += 1;
        if relative.components().count() == 1 {
            class_names.insert(relative.to_string_lossy().into_owned());
        }
        files.extend(visit.images.iter().map(|name| relative.join(name)));
    }
    files.sort();
    let found = Found { tree: &Disk, what: "image folder", root, split, layout: &layout };
    let opened = found.labelled(&files, class_names, walk.survey)?;
    Ok(opened.with(Folder::new(layout.base.clone(), files)))
}

/// A part that was found in a tree of folders.
pub(super) struct Found<'a> {
    pub(super) tree: &'a dyn Tree,
    /// What kind of data set it is, for people.
    pub(super) what: &'a str,
    pub(super) root: &'a Path,
    pub(super) split: Split,
    pub(super) layout: &'a Layout,
}

impl Found<'_> {
    /// What its images' paths say of them, `files` relative to the part: their class is the first
    /// folder. `class_names` are those of folders without an image.
    ///
    /// # Errors
    /// If there are no images.
    pub(super) fn labelled(
        &self,
        files: &[PathBuf],
        mut class_names: BTreeSet<String>,
        mut survey: Survey,
    ) -> Result<Opened<()>, SourceError> {
        let Found { tree, what, root, split, layout } = self;
        let base = &layout.base;
        if files.is_empty() {
            let passed = survey.clauses().join("; ");
            let passed = if passed.is_empty() { passed } else { format!("; {passed}") };
            return Err(SourceError::NotFound {
                path: base.clone(),
                looked_for: format!(
                    "no image in it or below it ({}){passed}",
                    EXTENSIONS.join(", ")
                ),
                advice: "give a folder of images, of class folders, or with `train` in it".into(),
            });
        }
        if !layout.beside.is_empty() {
            let first = &layout.beside[0];
            survey.pass_many("folders beside the part", layout.beside.len() as u64, first);
        }
        let loose = files.iter().filter(|file| class_of(file).is_none()).count();
        let name = root.file_name().unwrap_or(root.as_os_str()).to_string_lossy();
        let mut title = (format!("{what} {name}"), format!("{split} images"));
        if let Some(part) = base.strip_prefix(root).ok().filter(|part| *part != Path::new("")) {
            title.0 = format!("{}/{}", title.0, part.display());
        }
        let (mut labels, mut named) = (None, Vec::new());
        if loose == 0 {
            // Both parts count, so that a class keeps its number where one part lacks it.
            if let Some(other) = &layout.other {
                class_names.extend(tree.folders(other)?);
            }
            class_names.extend(files.iter().filter_map(|file| class_of(file)));
            named = class_names.into_iter().collect();
            let label = |file: &PathBuf| {
                let class = class_of(file).unwrap_or_default();
                named.binary_search(&class).map_or(0, |place| place as u32)
            };
            labels = Some(files.iter().map(label).collect());
        } else if loose < files.len() {
            title.1 = format!("{} ({loose} of them beside the class folders)", title.1);
        }
        Ok(Opened { store: (), labels, class_names: named, title, survey })
    }
}

/// The first folder of a relative path; `None` for a file that lies in no folder.
fn class_of(file: &Path) -> Option<String> {
    let mut parts = file.components();
    let first = parts.next()?;
    parts.next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}
