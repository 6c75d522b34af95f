//! Folders of images, wherever they are: on a disk, or as names in an archive.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{layout, walk};
use crate::error::SourceError;

/// What the search for the parts of a data set asks of its folders.
pub(super) trait Tree {
    /// The names of the folders in a folder that are a user's own, sorted.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn folders(&self, dir: &Path) -> Result<Vec<String>, SourceError>;

    /// Whether there is an image in a folder or below it.
    ///
    /// # Errors
    /// If a folder cannot be read.
    fn holds_image(&self, dir: &Path) -> Result<bool, SourceError>;

    /// Whether a path is a folder.
    fn is_folder(&self, dir: &Path) -> bool;

    /// The folder behind a path, whatever links lead to it.
    fn real(&self, dir: &Path) -> Option<PathBuf>;
}

/// Folders on a disk.
pub(super) struct Disk;

impl Tree for Disk {
    fn folders(&self, dir: &Path) -> Result<Vec<String>, SourceError> {
        walk::folders(dir)
    }

    fn holds_image(&self, dir: &Path) -> Result<bool, SourceError> {
        walk::holds_image(dir)
    }

    fn is_folder(&self, dir: &Path) -> bool {
        dir.is_dir()
    }

    fn real(&self, dir: &Path) -> Option<PathBuf> {
        dir.canonicalize().ok()
    }
}

/// Folders that the sorted paths of images speak of.
pub(super) struct Listed<'a>(pub(super) &'a [PathBuf]);

impl Listed<'_> {
    /// The images in a folder and below it, relative to it.
    fn below<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = &'a Path> {
        // Sorted by component, so that what lies in one folder stands side by side.
        let first = self.0.partition_point(|image| image.as_path() < dir);
        self.0[first..].iter().map_while(move |image| image.strip_prefix(dir).ok())
    }

    /// Refuses an undivided set in which some folder holds parts.
    pub(super) fn refuse_parts_below(&self, root: &Path) -> Result<(), SourceError> {
        let mut last = PathBuf::new();
        for image in self.below(root) {
            for dir in image.ancestors().skip(1).filter(|dir| *dir != Path::new("")) {
                if last.starts_with(dir) {
                    break;
                }
                if layout::look_like_parts(&self.folders(&root.join(dir))?) {
                    return Err(layout::parts_further_down(root, dir));
                }
            }
            last = image.parent().unwrap_or(image).to_owned();
        }
        Ok(())
    }
}

impl Tree for Listed<'_> {
    fn folders(&self, dir: &Path) -> Result<Vec<String>, SourceError> {
        let folder = |image: &Path| {
            let mut parts = image.components();
            let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
            parts.next().map(|_| first)
        };
        let folders: BTreeSet<String> = self.below(dir).filter_map(folder).collect();
        Ok(folders.into_iter().collect())
    }

    fn holds_image(&self, dir: &Path) -> Result<bool, SourceError> {
        Ok(self.is_folder(dir))
    }

    fn is_folder(&self, dir: &Path) -> bool {
        self.below(dir).next().is_some()
    }

    fn real(&self, dir: &Path) -> Option<PathBuf> {
        Some(dir.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_folders() {
        let mut images: Vec<PathBuf> =
            ["z/b-c/1.jpg", "z/b/2.jpg", "z/b/d/3.jpg", "z/0.jpg", "z/a/1.jpg"]
                .map(PathBuf::from)
                .into();
        images.sort();
        let tree = Listed(&images);
        assert_eq!(tree.folders(Path::new("z")).unwrap(), ["a", "b", "b-c"]);
        assert_eq!(tree.folders(Path::new("z/b")).unwrap(), ["d"]);
        assert!(tree.holds_image(Path::new("z/b/d")).unwrap());
        assert!(!tree.is_folder(Path::new("z/c")) && !tree.is_folder(Path::new("y")));
    }
}
