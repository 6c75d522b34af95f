//! Shards: images and their classes in tar archives, as WebDataset lays them out.
//!
//! Members that share a name up to the first dot of its last part are one sample: an image, and its
//! class in `.cls` (a number) or in the `label` of `.json`. Images of `.ppm` are pixels as they
//! are: the archive is mapped into memory, and only what the kept patches need is read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::archives::{IMAGES, expand, of_split};
use super::kind::Split;
use super::opened::{Opened, damaged};
use super::tar::{self, Member};
use crate::error::{ImageError, SourceError};

/// The most bytes an image may have: it is read whole.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// The most archives whose lists are read at once: a disk answers many small questions together.
const LISTED_AT_ONCE: usize = 16;
/// The most classes there may be.
const MAX_CLASSES: u32 = 1 << 20;

/// The samples of all archives, in order.
#[derive(Debug)]
pub(super) struct Shards {
    archives: Vec<Archive>,
    samples: Vec<Place>,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    /// For pixels as they are, and to say what will be read.
    map: Option<Mmap>,
}

#[derive(Debug)]
struct Place {
    archive: u32,
    bytes: Range<u64>,
    name: Box<str>,
    raw: bool,
}

/// Pixels that lie in memory already.
pub(crate) struct Raw<'a> {
    pub(crate) width_px: u32,
    pub(crate) height_px: u32,
    /// `[height, width, 3]`.
    pub(crate) pixels: &'a [u8],
}

impl Shards {
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn name_of(&self, index: usize) -> String {
        let place = &self.samples[index];
        format!("{}/{}", self.archives[place.archive as usize].path.display(), place.name)
    }

    /// Reads a sample's bytes, or says where its pixels are.
    pub(super) fn fetch(
        &self,
        index: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Raw<'_>>, ImageError> {
        let place = &self.samples[index];
        let archive = &self.archives[place.archive as usize];
        let len = place.bytes.end - place.bytes.start;
        if let (true, Some(map)) = (place.raw, &archive.map) {
            let range = place.bytes.start as usize..place.bytes.end as usize;
            return map
                .get(range)
                .and_then(raw)
                .map(Some)
                .ok_or_else(|| ImageError::Decoder("no PPM of 8-bit RGB".into()));
        }
        if len > MAX_FILE_BYTES {
            return Err(ImageError::Read(io::Error::other("longer than 1 GiB")));
        }
        bytes.resize(len as usize, 0);
        tar::read_at(&archive.file, bytes, place.bytes.start).map_err(ImageError::Read)?;
        Ok(None)
    }
}

impl Shards {
    /// Tells the system that a sample will be fetched soon, so that the disk reads ahead of the
    /// workers: shuffled places are none that it could guess. Of raw pixels only few pages will be
    /// touched.
    pub(super) fn announce(&self, index: usize) {
        #[cfg(unix)]
        {
            let Place { archive, bytes, raw, .. } = &self.samples[index];
            if let (false, Some(map)) = (raw, &self.archives[*archive as usize].map) {
                let len = (bytes.end - bytes.start) as usize;
                // Advice that cannot be taken does no harm.
                let _ = map.advise_range(memmap2::Advice::WillNeed, bytes.start as usize, len);
            }
        }
        #[cfg(not(unix))]
        let _ = index;
    }
}

/// A PPM of the form that `pack` writes: `P6`, width, height, 255, each ended by one white space.
fn raw(bytes: &[u8]) -> Option<Raw<'_>> {
    let mut words = bytes.get(..bytes.len().min(64))?.split(u8::is_ascii_whitespace);
    let (magic, mut at) = (words.next()?, 0);
    let mut numbers = [0u32; 3];
    at += magic.len() + 1;
    for value in &mut numbers {
        let word = words.next()?;
        at += word.len() + 1;
        *value = std::str::from_utf8(word).ok()?.parse().ok()?;
    }
    let [width_px, height_px, most] = numbers;
    let pixels = bytes.get(at..)?;
    let len = u64::from(width_px) * u64::from(height_px) * 3;
    let whole = magic == b"P6" && most == 255 && len > 0 && pixels.len() as u64 == len;
    whole.then_some(Raw { width_px, height_px, pixels })
}

/// Opens a part of the archives that a path names.
pub(super) fn open(path: &str, split: Split) -> Result<Opened<Shards>, SourceError> {
    let root = Path::new(path);
    let paths = if root.is_dir() { of_split(root, split)? } else { expand(path) };
    if paths.is_empty() || (split == Split::Test && !root.is_dir()) {
        return Err(SourceError::NotFound {
            path: root.into(),
            looked_for: format!("no {split} archives (`.tar`) there"),
            advice: "give a folder of train-*.tar and val-*.tar, or name archives of the training \
                     part as in train-{0000..0146}.tar"
                .into(),
        });
    }
    let mut shards = Shards { archives: Vec::new(), samples: Vec::new() };
    let mut labels = Vec::new();
    let listed = list(&paths);
    for (path, listed) in paths.into_iter().zip(listed) {
        let (file, members) = listed?;
        add(&mut shards, &mut labels, path, file, members)?;
    }
    if shards.samples.is_empty() {
        return Err(damaged(root, format!("no images in {} archives", shards.archives.len())));
    }
    let classes = labels.iter().flatten().max().map_or(0, |most| most + 1);
    let labels: Option<Vec<u32>> = labels.into_iter().collect();
    let class_names =
        labels.iter().flat_map(|_| 0..classes).map(|class| class.to_string()).collect();
    let title = (format!("{} tar shards", shards.archives.len()), format!("{split} images"));
    Ok(Opened { store: shards, labels, class_names, title })
}

type Listed = Result<(File, Vec<Member>), SourceError>;

/// Opens archives and lists what is in them, in their order.
fn list(paths: &[PathBuf]) -> Vec<Listed> {
    let one = |path: &PathBuf| {
        let file =
            File::open(path).map_err(|cause| SourceError::Io { path: path.clone(), cause })?;
        let members = tar::members(&file, is_label).map_err(|reason| damaged(path, reason))?;
        Ok((file, members))
    };
    let share = paths.len().div_ceil(LISTED_AT_ONCE).max(1);
    let mut listed: Vec<Option<Listed>> = paths.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        for (listed, paths) in listed.chunks_mut(share).zip(paths.chunks(share)) {
            scope.spawn(move || {
                for (listed, path) in listed.iter_mut().zip(paths) {
                    *listed = Some(one(path));
                }
            });
        }
    });
    listed.into_iter().flatten().collect()
}

/// Whether a member says a class.
fn is_label(name: &str) -> bool {
    matches!(key(name).1.to_ascii_lowercase().as_str(), "cls" | "json")
}

/// Adds the samples of one archive.
fn add(
    shards: &mut Shards,
    labels: &mut Vec<Option<u32>>,
    path: PathBuf,
    file: File,
    members: Vec<Member>,
) -> Result<(), SourceError> {
    let io = |cause| SourceError::Io { path: path.clone(), cause };
    let archive = shards.archives.len() as u32;
    let mut any_raw = false;
    for sample in members.chunk_by(|a, b| key(&a.name).0 == key(&b.name).0) {
        let mut label = None;
        for member in sample {
            let extension = key(&member.name).1.to_ascii_lowercase();
            if is_label(&member.name) {
                label = class(&member.content, &extension).or(label);
                if label.is_some_and(|label| label >= MAX_CLASSES) {
                    return Err(damaged(
                        &path,
                        format!("{} is a class above {MAX_CLASSES}", member.name),
                    ));
                }
            }
        }
        let image = sample
            .iter()
            .find(|member| IMAGES.contains(&key(&member.name).1.to_ascii_lowercase().as_str()));
        if let Some(image) = image {
            let raw = image.name.to_ascii_lowercase().ends_with(".ppm");
            any_raw |= raw;
            let name = image.name.clone().into_boxed_str();
            shards.samples.push(Place { archive, bytes: image.bytes.clone(), name, raw });
            labels.push(label);
        }
    }
    // SAFETY: the file is only read. A program that cuts it short meanwhile ends this one, as with
    // every mapped file; removing or renaming it does no harm.
    let map = unsafe { Mmap::map(&file) };
    // Without raw pixels it serves `announce` alone, which a file can do without.
    let map = if any_raw { Some(map.map_err(io)?) } else { map.ok() };
    shards.archives.push(Archive { path, file, map });
    Ok(())
}

/// A member's key, and its extension: all that follows the first dot of the last part.
fn key(name: &str) -> (&str, &str) {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].find('.') {
        Some(dot) => (&name[..last + dot], &name[last + dot + 1..]),
        None => (name, ""),
    }
}

fn class(content: &[u8], extension: &str) -> Option<u32> {
    if extension == "cls" {
        return std::str::from_utf8(content).ok()?.trim().parse().ok();
    }
    let value: serde_json::Value = serde_json::from_slice(content).ok()?;
    let label = value.get("label").or_else(|| value.get("cls"))?;
    u32::try_from(label.as_u64()?).ok()
}
