//! Shards: images and their classes in tar archives, as WebDataset lays them out.
//!
//! What makes a sample says `samples.rs`; its class stands in `.cls` or in the `label` of `.json`, as
//! a number or, in all samples, as a word. Images of `.ppm` are pixels as they are: the archive is
//! mapped into memory, and only what the kept patches need is read. An archive of archives, as
//! ImageNet's training part is, has a class in each; classes of its validation part stand in a file
//! beside it (`beside.rs`).

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::archives::{TAR, at_once, is_archive, of_path};
use super::at::read_at;
use super::beside;
use super::classes::{Class, labels};
use super::kind::Split;
use super::opened::{MAX_FILE_BYTES, Opened, damaged};
use super::parts::SplitNames;
use super::samples::{Sample, is_class, samples};
use super::survey::Survey;
use super::tar::{self, Member};
use crate::error::{ImageError, SourceError};

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
        format!("{}/{}", self.archive(index).display(), self.samples[index].name)
    }

    /// The archive that a sample lies in.
    pub(super) fn archive(&self, index: usize) -> &Path {
        &self.archives[self.samples[index].archive as usize].path
    }

    /// The bytes of a sample's image.
    pub(super) fn bytes_of(&self, index: usize) -> u64 {
        let Range { start, end } = self.samples[index].bytes;
        end - start
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
        read_at(&archive.file, bytes, place.bytes.start).map_err(ImageError::Read)?;
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
pub(super) fn open(
    path: &str,
    split: Split,
    names: &SplitNames,
) -> Result<Opened<Shards>, SourceError> {
    let root = Path::new(path);
    let mut survey = Survey::default();
    let paths = of_path(root, TAR, split, names, &mut survey)?;
    let mut shards = Shards { archives: Vec::new(), samples: Vec::new() };
    let mut classes = Vec::new();
    let listed = list(&paths);
    for (path, listed) in paths.into_iter().zip(listed) {
        let (file, members) = listed?;
        add(&mut shards, &mut classes, &mut survey, path, file, &members)?;
    }
    if shards.samples.is_empty() {
        let passed: String = survey.clauses().iter().map(|clause| format!("; {clause}")).collect();
        let archives = shards.archives.len();
        return Err(damaged(root, format!("no images in {archives} archives{passed}")));
    }
    let other = if split == Split::Train { Split::Test } else { Split::Train };
    let words = OnceCell::new();
    let other_words = || words.get_or_init(|| words_of(root, other, names)).clone();
    if split == Split::Test && classes.iter().all(|class| *class == Class::Missing) {
        let images: Vec<&str> = shards.samples.iter().map(|place| &*place.name).collect();
        if let Some(known) = beside::classes(root, &images, other_words, &mut survey)? {
            classes = known;
        }
    }
    let name_of = |sample| shards.name_of(sample);
    let (labels, class_names) = labels(root, name_of, &classes, &mut survey, other_words)?;
    let count = shards.archives.len();
    let noun = if count == 1 { "tar archive" } else { "tar archives" };
    let title = (format!("{count} {noun}"), format!("{split} images"));
    Ok(Opened { store: shards, labels, class_names, title, survey })
}

/// The words that a part's classes are called by; none where there is no such part.
fn words_of(root: &Path, split: Split, names: &SplitNames) -> BTreeSet<String> {
    let mut survey = Survey::default();
    let paths = of_path(root, TAR, split, names, &mut survey).unwrap_or_default();
    let mut words = BTreeSet::new();
    for (path, listed) in paths.iter().zip(list(&paths)) {
        // A fault of the other part is told when it is opened.
        let Ok((_, members)) = listed else { continue };
        words.extend(samples(path, &members, &mut survey).iter().map(|sample| sample.class.said()));
    }
    words.remove("");
    words
}

type Listed = Result<(File, Vec<Member>), SourceError>;

/// Opens archives and lists what is in them, in their order.
fn list(paths: &[PathBuf]) -> Vec<Listed> {
    at_once(paths, |path| {
        let io = |cause| SourceError::Io { path: path.clone(), cause };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let members = tar::members(&file, 0..len, is_class).map_err(|why| damaged(path, why))?;
        let members = with_inner(path, &file, members)?;
        Ok((file, members))
    })
}

/// The members, and in place of an archive among them its own members, as ImageNet's archive holds
/// one of each class.
fn with_inner(path: &Path, file: &File, members: Vec<Member>) -> Result<Vec<Member>, SourceError> {
    if !members.iter().any(|member| is_archive(Path::new(&member.name), TAR)) {
        return Ok(members);
    }
    let listed = at_once(&members, |member| {
        if !is_archive(Path::new(&member.name), TAR) {
            return Ok(None);
        }
        let inner = tar::members(file, member.bytes.clone(), is_class);
        inner.map(Some).map_err(|why| damaged(path, format!("{} in it: {why}", member.name)))
    });
    let mut all = Vec::new();
    for (member, inner) in members.into_iter().zip(listed) {
        match inner? {
            None => all.push(member),
            Some(inner) => {
                all.extend(inner.into_iter().map(|own| {
                    let name = format!("{}/{}", member.name, own.name);
                    Member { name, ..own }
                }));
            }
        }
    }
    Ok(all)
}

/// Adds the samples of one archive.
fn add(
    shards: &mut Shards,
    classes: &mut Vec<Class>,
    survey: &mut Survey,
    path: PathBuf,
    file: File,
    members: &[Member],
) -> Result<(), SourceError> {
    let io = |cause| SourceError::Io { path: path.clone(), cause };
    let archive = shards.archives.len() as u32;
    let mut any_raw = false;
    for Sample { image, class } in samples(&path, members, survey) {
        let raw = image.name.to_ascii_lowercase().ends_with(".ppm");
        any_raw |= raw;
        let name = image.name.clone().into_boxed_str();
        shards.samples.push(Place { archive, bytes: image.bytes.clone(), name, raw });
        classes.push(class);
    }
    // SAFETY: the file is only read. A program that cuts it short meanwhile ends this one, as with
    // every mapped file; removing or renaming it does no harm.
    let map = unsafe { Mmap::map(&file) };
    // Without raw pixels it serves `announce` alone, which a file can do without.
    let map = if any_raw { Some(map.map_err(io)?) } else { map.ok() };
    shards.archives.push(Archive { path, file, map });
    Ok(())
}
