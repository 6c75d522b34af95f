//! The zip archives that `torch.save` writes: entries stored as they are, read one at a time.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};

use thiserror::Error;

/// Why an archive is refused.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file could not be read.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    /// There is no list of entries at the end.
    #[error("the zip archive is truncated: it does not end with its list of entries")]
    NoDirectory,
    /// The list of entries contradicts itself or the file.
    #[error("the zip archive is damaged: {0}")]
    Damaged(&'static str),
    /// An entry is compressed, which `torch.save` never does.
    #[error("`{0}` in the zip archive is compressed, which torch.save does not do")]
    Compressed(String),
    /// An entry's bytes are not those that were written.
    #[error("`{0}` in the zip archive is damaged: its checksum differs")]
    Checksum(String),
    /// There is no such entry.
    #[error("the zip archive has no `{0}`")]
    Missing(String),
}

#[derive(Debug)]
struct Entry {
    offset: u64,
    len: u64,
    crc: u32,
    stored: bool,
}

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive<R> {
    file: R,
    /// Length of the file.
    len: u64,
    entries: HashMap<String, Entry>,
}

const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const LISTED: &[u8; 4] = b"PK\x01\x02";
const LOCAL: &[u8; 4] = b"PK\x03\x04";
/// A field that stands in the extra field for 64-bit values instead.
const IN_EXTRA: u64 = 0xffff_ffff;

fn number(bytes: &[u8], at: usize, len: usize) -> Result<u64, ArchiveError> {
    let field = bytes.get(at..at + len).ok_or(ArchiveError::Damaged("an entry is cut off"))?;
    Ok(field.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the list of entries.
    pub(super) fn open(mut file: R) -> Result<Self, ArchiveError> {
        let len = file.seek(SeekFrom::End(0))?;
        // The end record has 22 bytes, perhaps behind a 64-bit one of 56 + 20, and a comment of up
        // to 64 KiB.
        let tail_len = len.min(22 + 76 + 65535);
        let tail = read_at(&mut file, len - tail_len, tail_len)?;
        let at = tail.windows(4).rposition(|window| window == END).filter(|at| {
            let comment = number(&tail, at + 20, 2).unwrap_or(u64::MAX);
            comment.checked_add(*at as u64 + 22) == Some(tail_len)
        });
        let at = at.ok_or(ArchiveError::NoDirectory)?;
        let (mut size, mut offset) = (number(&tail, at + 12, 4)?, number(&tail, at + 16, 4)?);
        if let Some(at) = tail[..at].windows(4).rposition(|window| window == END_64) {
            (size, offset) = (number(&tail, at + 40, 8)?, number(&tail, at + 48, 8)?);
        }
        if offset.checked_add(size).is_none_or(|end| end > len) {
            return Err(ArchiveError::Damaged("the list of entries lies outside of the file"));
        }
        let list = read_at(&mut file, offset, size)?;
        Ok(Self { entries: entries(&list)?, file, len })
    }

    /// Length of the whole file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Names of the entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of an entry.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let missing = || ArchiveError::Missing(name.to_owned());
        let Entry { offset, len, crc, stored } = self.entries.get(name).ok_or_else(missing)?;
        if !stored {
            return Err(ArchiveError::Compressed(name.to_owned()));
        }
        let outside = ArchiveError::Damaged("an entry lies outside of the file");
        if offset.checked_add(30).is_none_or(|end| end > self.len) {
            return Err(outside);
        }
        let local = read_at(&mut self.file, *offset, 30)?;
        if !local.starts_with(LOCAL) {
            return Err(ArchiveError::Damaged("an entry is not where the list says"));
        }
        let start = offset + 30 + number(&local, 26, 2)? + number(&local, 28, 2)?;
        if start.checked_add(*len).is_none_or(|end| end > self.len) {
            return Err(outside);
        }
        let bytes = read_at(&mut self.file, start, *len)?;
        if crc32fast::hash(&bytes) != *crc {
            return Err(ArchiveError::Checksum(name.to_owned()));
        }
        Ok(bytes)
    }
}

/// Reads `len` bytes, which the caller has checked to lie inside the file.
fn read_at<R: Read + Seek>(file: &mut R, offset: u64, len: u64) -> Result<Vec<u8>, ArchiveError> {
    let len = usize::try_from(len).map_err(|_| ArchiveError::Damaged("an entry is too long"))?;
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn entries(list: &[u8]) -> Result<HashMap<String, Entry>, ArchiveError> {
    let mut entries = HashMap::new();
    let mut rest = list;
    while rest.starts_with(LISTED) {
        let [name_len, extra_len, comment_len] =
            [28, 30, 32].map(|at| number(rest, at, 2).map(|len| len as usize));
        let (name_end, extra_len) = (46 + name_len?, extra_len?);
        let end = name_end + extra_len + comment_len?;
        let name = rest.get(46..name_end).ok_or(ArchiveError::Damaged("an entry is cut off"))?;
        let extra = rest.get(name_end..name_end + extra_len);
        let extra = extra.ok_or(ArchiveError::Damaged("an entry is cut off"))?;
        let wide = wide_fields(extra);
        // In this order, and only those that do not fit 32 bits.
        let mut wide = wide.iter().copied();
        let mut field = |at| match number(rest, at, 4)? {
            IN_EXTRA => wide.next().ok_or(ArchiveError::Damaged("a 64-bit length is missing")),
            value => Ok(value),
        };
        let (len, packed, offset) = (field(24)?, field(20)?, field(42)?);
        let stored = number(rest, 10, 2)? == 0 && len == packed;
        let entry = Entry { offset, len, crc: number(rest, 16, 4)? as u32, stored };
        entries.insert(String::from_utf8_lossy(name).into_owned(), entry);
        rest = rest.get(end..).ok_or(ArchiveError::Damaged("an entry is cut off"))?;
    }
    Ok(entries)
}

/// The values of the extra field for 64-bit archives.
fn wide_fields(mut extra: &[u8]) -> Vec<u64> {
    while let [a, b, c, d, rest @ ..] = extra {
        let len = usize::from(u16::from_le_bytes([*c, *d])).min(rest.len());
        if u16::from_le_bytes([*a, *b]) == 1 {
            let values = rest[..len].chunks_exact(8);
            return values
                .map(|v| v.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)))
                .collect();
        }
        extra = &rest[len..];
    }
    vec![]
}
