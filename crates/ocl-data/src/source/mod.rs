//! Data sets: image folders, ZIP archives of them, tables of images, tar shards, IDX files, CIFAR
//! binaries, the embedded set.

mod archives;
mod at;
mod beside;
mod cifar;
mod classes;
mod embedded;
mod folder;
mod idx;
mod kind;
mod layout;
mod manifest;
mod matlab;
mod memory;
mod opened;
mod parquet;
mod parts;
mod samples;
mod shards;
mod survey;
mod tar;
mod tree;
mod walk;
mod zip;

use std::path::{Path, PathBuf};

use self::parquet::Parquet;
use self::zip::Zips;
use crate::decode::decode;
use crate::error::{ImageError, SourceError};
use crate::picture::RgbImage;
use folder::Folder;
pub use kind::{SourceKind, Split};
use memory::Memory;
use opened::Opened;
pub use parts::SplitNames;
pub(crate) use shards::Raw;
use shards::Shards;
use survey::Survey;
pub(crate) use tar::{append, finish};

impl SourceKind {
    /// The kind that a path alone suggests; never [`SourceKind::Auto`]. Whether anything is there
    /// is for [`Source::open`] to say.
    pub fn detect(path: &str) -> SourceKind {
        let root = Path::new(path);
        if path == "embedded" && !root.exists() {
            SourceKind::Embedded
        } else if manifest::detects(root) {
            SourceKind::Manifest
        } else if archives::detects(path, archives::TAR) {
            SourceKind::Shards
        } else if parquet::detects(path) {
            SourceKind::Parquet
        } else if archives::detects(path, archives::ZIP) {
            SourceKind::Zip
        } else if idx::detects(root) {
            SourceKind::Idx
        } else if cifar::detects_10(root) {
            SourceKind::Cifar10
        } else if cifar::detects_100(root) {
            SourceKind::Cifar100
        } else {
            SourceKind::Folder
        }
    }
}

/// An opened part of a data set: which samples there are, their labels, and how to fetch one.
#[derive(Debug)]
pub struct Source {
    store: Store,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    title: (String, String),
    survey: Survey,
}

#[derive(Debug)]
enum Store {
    Folder(Folder),
    Shards(Shards),
    Zips(Zips),
    Parquet(Parquet),
    Memory(Memory),
    /// A sample whose fetching panics, to see what becomes of a worker's panic.
    #[cfg(test)]
    Panics {
        len: usize,
        at: usize,
    },
}

/// Samples that lie side by side in large files.
#[derive(Clone, Copy)]
pub(crate) enum Runs<'a> {
    /// Those next to each other.
    Neighbours,
    /// Groups that are read as a whole: the first sample of each, and how many groups are mixed.
    Groups { starts: &'a [u32], mixed: usize },
}

/// Where a store puts what it hands over.
pub(crate) struct Room<'a> {
    /// For the path of a file.
    pub(crate) path: &'a mut PathBuf,
    pub(crate) bytes: &'a mut Vec<u8>,
    pub(crate) image: &'a mut RgbImage,
}

/// What a store hands over.
pub(crate) enum Stored<'a> {
    /// An image file's bytes.
    Encoded,
    /// Pixels.
    Pixels,
    /// Pixels that stay where they are.
    Raw(Raw<'a>),
}

impl Source {
    /// Opens a part of the data set at `path`; `embedded` names the one inside the program.
    ///
    /// With [`SourceKind::Auto`] a file is taken for what its name says (`.tar`, `.zip`, `.parquet`,
    /// `.csv`, ...), and a folder for what it holds: archives, tables, IDX files or CIFAR binaries (or
    /// a folder of CIFAR's own name), else images.
    ///
    /// # Errors
    /// [`SourceError`] when nothing is there, the part is missing, or a file is not what it should
    /// be.
    pub fn open(path: &str, kind: SourceKind, split: Split) -> Result<Source, SourceError> {
        Source::open_named(path, kind, split, &SplitNames::default())
    }

    /// As [`Source::open`], with names for the parts. IDX, CIFAR and the embedded set have parts of
    /// fixed names, and ignore them.
    ///
    /// # Errors
    /// As [`Source::open`]; also where no part has the given name.
    pub fn open_named(
        path: &str,
        kind: SourceKind,
        split: Split,
        names: &SplitNames,
    ) -> Result<Source, SourceError> {
        let kind = if kind == SourceKind::Auto { SourceKind::detect(path) } else { kind };
        Ok(match kind {
            SourceKind::Embedded => Source::of(embedded::open(split)?, Store::Memory),
            SourceKind::Shards => Source::of(shards::open(path, split, names)?, Store::Shards),
            SourceKind::Zip => Source::of(zip::open(path, split, names)?, Store::Zips),
            SourceKind::Parquet => Source::of(parquet::open(path, split, names)?, Store::Parquet),
            SourceKind::Manifest => {
                Source::of(manifest::open(Path::new(path), split, names)?, Store::Folder)
            }
            SourceKind::Idx => Source::of(idx::open(existing(path)?, split)?, Store::Memory),
            SourceKind::Cifar10 => {
                Source::of(cifar::open10(existing(path)?, split)?, Store::Memory)
            }
            SourceKind::Cifar100 => {
                Source::of(cifar::open100(existing(path)?, split)?, Store::Memory)
            }
            SourceKind::Folder | SourceKind::Auto => {
                Source::of(folder::open(existing(path)?, split, names)?, Store::Folder)
            }
        })
    }

    fn of<S>(opened: Opened<S>, store: fn(S) -> Store) -> Source {
        let Opened { store: inner, labels, class_names, title, survey } = opened;
        Source { store: store(inner), labels, class_names, title, survey }
    }

    /// Samples.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Folder(folder) => folder.len(),
            Store::Shards(shards) => shards.len(),
            Store::Zips(zips) => zips.len(),
            Store::Parquet(parquet) => parquet.len(),
            Store::Memory(memory) => memory.len(),
            #[cfg(test)]
            Store::Panics { len, .. } => *len,
        }
    }

    /// Whether there are no samples. An opened source has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of each sample, an index into [`Source::class_names`]; `None` without labels.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The classes' names in the order of their labels; empty without labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// What to call a sample: its file, or the file that holds it and its place there, as in
    /// `train-images-idx3-ubyte.gz[17]`.
    pub fn name_of(&self, index: usize) -> String {
        match &self.store {
            Store::Folder(folder) => folder.path(index).display().to_string(),
            Store::Shards(shards) => shards.name_of(index),
            Store::Zips(zips) => zips.name_of(index),
            Store::Parquet(parquet) => parquet.name_of(index),
            Store::Memory(memory) => memory.name_of(index),
            #[cfg(test)]
            Store::Panics { .. } => format!("trap[{index}]"),
        }
    }

    /// What a sample is called within its data set, wherever that lies: a file below its folder, or the
    /// archive's name and the member's.
    pub fn relative_name(&self, index: usize) -> String {
        match &self.store {
            Store::Folder(folder) => folder.file(index).display().to_string(),
            Store::Shards(shards) => last_of(&shards.name_of(index), shards.archive(index)),
            Store::Zips(zips) => last_of(&zips.name_of(index), zips.archive(index)),
            Store::Parquet(parquet) => last_of(&parquet.name_of(index), parquet.table(index)),
            _ => self.name_of(index),
        }
    }

    /// The bytes of a sample's file or member, or of the row group that it is read with; `None` for
    /// pixels in memory, and for a file that is not there. Where samples are files of their own this is
    /// a look at the disk.
    pub fn bytes_of(&self, index: usize) -> Option<u64> {
        match &self.store {
            Store::Folder(folder) => Some(folder.path(index).metadata().ok()?.len()),
            Store::Shards(shards) => Some(shards.bytes_of(index)),
            Store::Zips(zips) => zips.bytes_of(index),
            Store::Parquet(parquet) => Some(parquet.bytes_of(index)),
            _ => None,
        }
    }

    /// Whether each sample is a file of its own.
    pub fn has_files(&self) -> bool {
        matches!(self.store, Store::Folder(_))
    }

    /// One line for people: `embedded Fashion-MNIST, 8,000 train images, 10 classes`.
    pub fn describe(&self) -> String {
        let classes = match (&self.labels, self.class_names.len()) {
            (None, _) => "no labels".into(),
            (Some(_), 1) => "1 class".into(),
            (Some(_), count) => format!("{} classes", thousands(count)),
        };
        format!("{}, {} {}, {classes}", self.title.0, thousands(self.len()), self.title.1)
    }

    /// What lies there and is not used, and why, in one line for people; `None` where there is
    /// nothing to say.
    pub fn passed_over(&self) -> Option<String> {
        let clauses = self.survey.clauses();
        (!clauses.is_empty()).then(|| clauses.join("; "))
    }

    /// One sample whole, for who needs more than patches of it.
    ///
    /// # Errors
    /// [`ImageError`] when it cannot be read.
    pub fn image(&self, index: usize) -> Result<RgbImage, ImageError> {
        let (mut path, mut bytes, mut image) = (PathBuf::new(), Vec::new(), RgbImage::default());
        let room = Room { path: &mut path, bytes: &mut bytes, image: &mut image };
        match self.fetch(index, room)? {
            Stored::Encoded => decode(&bytes),
            Stored::Pixels => Ok(image),
            Stored::Raw(raw) => Ok(RgbImage::new(raw.width_px, raw.height_px, raw.pixels.to_vec())),
        }
    }

    /// Which samples it pays to visit together; `None` where each is as near as any other.
    pub(crate) fn runs(&self) -> Option<Runs<'_>> {
        match &self.store {
            Store::Shards(_) => Some(Runs::Neighbours),
            Store::Parquet(parquet) => Some(parquet.runs()),
            _ => None,
        }
    }

    /// Says that a sample will be fetched soon.
    pub(crate) fn announce(&self, index: usize) {
        if let Store::Shards(shards) = &self.store {
            shards.announce(index);
        }
    }

    /// Fetches one sample into either buffer, and says which.
    pub(crate) fn fetch(&self, index: usize, room: Room) -> Result<Stored<'_>, ImageError> {
        match &self.store {
            Store::Folder(folder) => {
                folder.read(index, room.path, room.bytes).map_err(ImageError::Read)?;
                Ok(Stored::Encoded)
            }
            Store::Shards(shards) => {
                Ok(shards.fetch(index, room.bytes)?.map_or(Stored::Encoded, Stored::Raw))
            }
            Store::Zips(zips) => {
                zips.read(index, room.bytes).map_err(ImageError::Read)?;
                Ok(Stored::Encoded)
            }
            Store::Parquet(parquet) => {
                parquet.read(index, room.bytes)?;
                Ok(Stored::Encoded)
            }
            Store::Memory(memory) => {
                memory.copy(index, room.image);
                Ok(Stored::Pixels)
            }
            #[cfg(test)]
            Store::Panics { at, .. } => {
                assert_ne!(index, *at, "the trap was stepped on");
                room.image.reshape(8, 8).fill(index as u8);
                Ok(Stored::Pixels)
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn trap(len: usize, at: usize) -> Source {
        let store = Store::Panics { len, at };
        let (title, survey) = Default::default();
        Source { store, labels: None, class_names: Vec::new(), title, survey }
    }
}

/// A member's name from its archive's own name on.
fn last_of(name: &str, archive: &Path) -> String {
    let folder = archive.parent().map_or(0, |folder| folder.as_os_str().len());
    name[folder..].trim_start_matches(['/', '\\']).to_owned()
}

/// The folder of a data set.
fn existing(path: &str) -> Result<&Path, SourceError> {
    let root = Path::new(path);
    match std::fs::metadata(root) {
        Ok(data) if data.is_dir() => Ok(root),
        Ok(_) => Err(SourceError::NotAFolder(root.into())),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            Err(SourceError::Missing(root.into()))
        }
        Err(cause) => Err(SourceError::Io { path: root.into(), cause }),
    }
}

/// `8000` as `8,000`.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (8000, "8,000"), (1_281_167, "1,281,167")] {
            assert_eq!(thousands(number), text);
        }
    }
}
