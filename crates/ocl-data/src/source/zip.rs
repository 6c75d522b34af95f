//! ZIP archives of image folders, read where they are.
//!
//! The list at an archive's end is read once. What it names is laid out as a folder of images would
//! be: folders of parts and classes. Of several archives in a folder (`train.zip`, `val.zip`) each is
//! a folder of its own name, where one of them is named as a part is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zip::ZipArchive;
use zip::read::{ZipArchiveMetadata, ZipReadOptions};

use super::archives::{ZIP, expand, in_folder};
use super::at::At;
use super::folder::Found;
use super::kind::Split;
use super::layout;
use super::opened::{MAX_FILE_BYTES, Opened, damaged};
use super::parts::{self, SplitNames};
use super::survey::Survey;
use super::tree::Listed;
use super::walk::{self, foreign};
use crate::error::SourceError;

/// The most that is taken on a list's word before the bytes are there.
const MAX_TRUSTED_BYTES: u64 = 16 << 20;

/// The images of all archives, sorted by their paths.
#[derive(Debug)]
pub(super) struct Zips {
    archives: Vec<Archive>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    len: u64,
    list: Arc<ZipArchiveMetadata>,
}

/// A member's archive and its place in the list.
#[derive(Clone, Copy, Debug)]
struct Member {
    archive: u32,
    index: u32,
}

impl Zips {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn name_of(&self, index: usize) -> String {
        let Member { archive, index } = self.members[index];
        let Archive { path, list, .. } = &self.archives[archive as usize];
        let entry = list.entry(index as usize).ok();
        let name = entry.as_ref().and_then(|entry| entry.name().ok()).unwrap_or_default();
        format!("{}/{name}", path.display())
    }

    /// The archive that a sample lies in.
    pub(super) fn archive(&self, index: usize) -> &Path {
        &self.archives[self.members[index].archive as usize].path
    }

    /// The bytes of a sample's image, as the list has them.
    pub(super) fn bytes_of(&self, index: usize) -> Option<u64> {
        let Member { archive, index } = self.members[index];
        Some(self.archives[archive as usize].list.entry(index as usize).ok()?.size())
    }

    /// Reads a sample's bytes; whether they are what was packed tells their checksum.
    pub(super) fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let Member { archive, index } = self.members[index];
        let Archive { file, len, list, .. } = &self.archives[archive as usize];
        bytes.clear();
        let entry = list.entry(index as usize).map_err(io::Error::other)?;
        bytes.reserve(entry.size().min(MAX_TRUSTED_BYTES) as usize + 1);
        let mut reader = At { file, at: 0, len: *len };
        let member = entry.with_reader(&mut reader, ZipReadOptions::new());
        let read = member.map_err(io::Error::other)?.take(MAX_FILE_BYTES).read_to_end(bytes)?;
        if read as u64 == MAX_FILE_BYTES {
            return Err(io::Error::other("longer than 1 GiB"));
        }
        Ok(())
    }
}

/// Opens a part of the archives that a path names.
pub(super) fn open(
    path: &str,
    split: Split,
    names: &SplitNames,
) -> Result<Opened<Zips>, SourceError> {
    let root = Path::new(path);
    let paths = if root.is_dir() {
        in_folder(root, ZIP)?.iter().map(|name| root.join(name)).collect()
    } else {
        expand(path)
    };
    let mut survey = Survey::default();
    let mut archives = Vec::with_capacity(paths.len());
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        let archive = Archive::open(path)?;
        found.push(archive.images(&mut survey)?);
        archives.push(archive);
    }
    // One archive, or several that are pieces of one set: their folders are the set's.
    let apart = archives.len() > 1
        && archives.iter().any(|archive| !parts::in_name(&archive.folder(root)).is_empty());
    let mut images: Vec<(PathBuf, Member)> = Vec::new();
    for (number, (mut members, archive)) in found.into_iter().zip(&archives).enumerate() {
        let folder = archive.folder(root);
        unwrap(&mut members, &folder, apart);
        images.extend(members.into_iter().map(|(parts, index)| {
            let place = if apart { root.join(&folder) } else { root.to_owned() };
            let member = Member { archive: number as u32, index };
            (place.join(parts.iter().collect::<PathBuf>()), member)
        }));
    }
    images.sort_by(|one, other| one.0.cmp(&other.0));
    let (paths, members): (Vec<PathBuf>, Vec<Member>) = images.into_iter().unzip();

    let tree = Listed(&paths);
    let layout = layout::find(&tree, root, split, names)?;
    if layout.undivided {
        tree.refuse_parts_below(root)?;
    }
    let without =
        |path: &Path| layout.without.as_ref().is_some_and(|other| path.starts_with(other));
    let (files, members) = paths
        .iter()
        .zip(members)
        .filter(|(path, _)| !without(path))
        .filter_map(|(path, member)| Some((path.strip_prefix(&layout.base).ok()?.into(), member)))
        .unzip::<PathBuf, Member, Vec<_>, Vec<_>>();
    let found = Found { tree: &tree, what: "ZIP archive", root, split, layout: &layout };
    let opened = found.labelled(&files, BTreeSet::new(), survey)?;
    Ok(opened.with(Zips { archives, members }))
}

/// The parts of a member's path, and its place in the list.
type Named = (Vec<String>, u32);

impl Archive {
    fn open(path: PathBuf) -> Result<Archive, SourceError> {
        let io = |cause| SourceError::Io { path: path.clone(), cause };
        let file = File::open(&path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => SourceError::Missing(path.clone()),
            _ => io(cause),
        })?;
        let len = file.metadata().map_err(io)?.len();
        let list = ZipArchive::new(BufReader::new(At { file: &file, at: 0, len }))
            .map_err(|error| damaged(&path, format!("no ZIP archive, or cut short ({error})")))?
            .metadata();
        Ok(Archive { path, file, len, list })
    }

    /// What it is called where it stands for a folder: as the folder that it lies in, if that is a
    /// part, else as itself.
    fn folder(&self, root: &Path) -> String {
        let inner = self.path.strip_prefix(root).ok().and_then(Path::parent);
        let name = inner.filter(|inner| *inner != Path::new("")).map(Path::as_os_str);
        name.or(self.path.file_stem()).unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The images in it by their names.
    fn images(&self, survey: &mut Survey) -> Result<Vec<Named>, SourceError> {
        let mut images = Vec::new();
        for index in 0..self.list.len() {
            let wrong = |error| damaged(&self.path, format!("member {index}: {error}"));
            let entry = self.list.entry(index).map_err(wrong)?;
            let name = entry.name().map_err(wrong)?;
            if entry.is_dir() || name.ends_with(['/', '\\']) {
                continue;
            }
            // Names are words and no paths on this machine: what leads out of the archive is dropped.
            let words = name.split(['/', '\\']);
            let parts: Vec<String> =
                words.filter(|part| !matches!(*part, "" | "." | "..")).map(str::to_owned).collect();
            let last = parts.last().map_or("", String::as_str);
            if let Some(reason) = parts.iter().find_map(|part| foreign(part)) {
                survey.pass(reason, &name);
            } else if entry.is_symlink() {
                survey.pass("links in archives", &name);
            } else if !walk::is_image(Path::new(last)) {
                survey.other_kind(last);
            } else if entry.encrypted() {
                let reason = format!("{name} is encrypted");
                return Err(damaged(&self.path, reason));
            } else {
                images.push((parts, index as u32));
            }
        }
        Ok(images)
    }
}

/// Takes away the folders that hold all of an archive, as packing a folder makes them; what names a
/// class or a part stays.
fn unwrap(members: &mut [Named], own: &str, apart: bool) {
    let folder_of = |(parts, _): &Named| (parts.len() > 1).then(|| parts[0].clone());
    while let Some(first) = members.first().and_then(folder_of) {
        let all = members.iter().all(|member| folder_of(member).as_ref() == Some(&first));
        let folders = members.iter().all(|(parts, _)| parts.len() > 2);
        let is_part = !apart && parts::of_word(&first).is_some();
        if !all || is_part || !(folders || apart && first == own) {
            return;
        }
        for (parts, _) in members.iter_mut() {
            parts.remove(0);
        }
    }
}
