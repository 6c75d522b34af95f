//! Reading and writing plain tar archives: ustar, with GNU's and POSIX' long names.
//!
//! Names of members are words and never paths on this machine, so `../` or a link in an archive
//! leads nowhere: links, folders and devices are passed over.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;

use super::at::read_at;

/// Archives are made of blocks of so many bytes.
const BLOCK: u64 = 512;
/// The most bytes a long name may have.
const MAX_NAME: u64 = 1 << 16;
/// The most bytes of a file that is read on the way.
const MAX_CONTENT: u64 = 1 << 20;

/// Bytes read at once where headers are looked for: one is seldom read for its own sake alone,
/// since a class, the next header and small images lie right behind it.
const WINDOW: u64 = 16 << 10;

/// Bytes that are read at any place: a file's, or those in memory.
pub(super) trait Places {
    /// Fills the buffer with the bytes from a place on.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl Places for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        read_at(self, buffer, at)
    }
}

impl Places for &[u8] {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Reads small pieces whose places mostly grow.
struct Window<'a> {
    places: &'a dyn Places,
    len: u64,
    at: u64,
    held: Vec<u8>,
}

impl Window<'_> {
    /// Looks at so many bytes.
    fn new(places: &dyn Places, len: u64) -> Window<'_> {
        Window { places, len, at: 0, held: Vec::new() }
    }

    /// The bytes `range`, which must lie in the file.
    fn read(&mut self, range: Range<u64>) -> io::Result<&[u8]> {
        let held = self.at..self.at + self.held.len() as u64;
        if range.start < held.start || range.end > held.end {
            let end = range.end.max(range.start.saturating_add(WINDOW).min(self.len));
            self.at = range.start;
            self.held.clear();
            self.held.resize((end - range.start) as usize, 0);
            let read = self.places.read_at(&mut self.held, range.start);
            if read.is_err() {
                self.held.clear();
            }
            read?;
        }
        Ok(&self.held[(range.start - self.at) as usize..(range.end - self.at) as usize])
    }
}

/// A file in an archive: its name, and where its bytes lie.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) bytes: Range<u64>,
    /// Its bytes, where they were asked for.
    pub(super) content: Vec<u8>,
}

/// The plain files of the archive that the bytes `within` are, in their order, with the content of
/// those that `wanted` says by name.
///
/// # Errors
/// A sentence when the archive is damaged or cut short.
pub(super) fn members(
    places: &dyn Places,
    within: Range<u64>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Member>, String> {
    let (mut members, mut at, len) = (Vec::new(), within.start, within.end);
    let (mut long_name, mut long_size) = (None, None);
    let mut window = Window::new(places, len);
    let mut read = |range| -> Result<Vec<u8>, String> {
        window.read(range).map(<[u8]>::to_vec).map_err(|error| error.to_string())
    };
    while at + BLOCK <= len {
        let header = read(at..at + BLOCK)?;
        if header.iter().all(|&byte| byte == 0) {
            // The end is marked by blocks of zeros.
            return Ok(members);
        }
        let wrong = |what: &str| format!("the header at byte {at} {what}");
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(i, &byte)| if (148..156).contains(&i) { 32 } else { u64::from(byte) })
            .sum();
        if number(&header[148..156]) != Some(sum) {
            return Err(wrong("has a wrong checksum: no tar archive, a packed one, or damaged"));
        }
        let size = number(&header[124..136]).ok_or_else(|| wrong("has no size"))?;
        let kind = header[156];
        let size = if matches!(kind, b'x' | b'g' | b'L' | b'K') {
            size
        } else {
            long_size.take().unwrap_or(size)
        };
        let start = at + BLOCK;
        let end = start
            .checked_add(size)
            .filter(|&end| end <= len)
            .ok_or_else(|| wrong("promises more bytes than the archive has: it is cut short"))?;
        match kind {
            b'L' | b'x' => {
                if size > MAX_NAME {
                    return Err(wrong("has a name that is too long"));
                }
                let content = read(start..end)?;
                if kind == b'L' {
                    long_name = Some(text(&content));
                } else {
                    for (key, value) in records(&content) {
                        match key {
                            b"path" => long_name = Some(text(value)),
                            b"size" => long_size = text(value).parse().ok(),
                            _ => {}
                        }
                    }
                }
            }
            b'g' | b'K' => {}
            _ => {
                let short = || {
                    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
                    let posix = &header[257..263] == b"ustar\0";
                    if posix && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
                };
                let name = long_name.take().unwrap_or_else(short);
                if matches!(kind, b'0' | 0) && !name.ends_with('/') {
                    let content = if !wanted(&name) {
                        Vec::new()
                    } else if size > MAX_CONTENT {
                        return Err(format!("{name} is too long"));
                    } else {
                        read(start..end)?
                    };
                    members.push(Member { name, bytes: start..end, content });
                }
            }
        }
        at = start + size.div_ceil(BLOCK) * BLOCK;
    }
    Ok(members)
}

/// Octal digits, or GNU's big-endian number where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (upper, lower) = field.split_at(field.len() - 8);
        if upper.iter().enumerate().any(|(i, &byte)| byte != if i == 0 { 0x80 } else { 0 }) {
            return None;
        }
        return Some(lower.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)));
    }
    let digits = text(field);
    u64::from_str_radix(digits.trim(), 8).ok()
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The records of a POSIX header: `LENGTH KEY=VALUE\n`.
fn records(mut content: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    while let Some(space) = content.iter().position(|&byte| byte == b' ') {
        let len: Option<usize> =
            std::str::from_utf8(&content[..space]).ok().and_then(|len| len.parse().ok());
        let Some(record) =
            len.filter(|&len| len > space + 1).and_then(|len| content.get(space + 1..len - 1))
        else {
            break;
        };
        if let Some(equals) = record.iter().position(|&byte| byte == b'=') {
            found.push((&record[..equals], &record[equals + 1..]));
        }
        content = content.get(space + 1 + record.len() + 1..).unwrap_or_default();
    }
    found
}

/// Appends a file to an archive. The same content gives the same bytes, whoever writes and when.
///
/// # Errors
/// If the bytes cannot be written, or the name is longer than 100 bytes.
pub(crate) fn append(archive: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = [0; BLOCK as usize];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    if name.len() > 100 || bytes.len() >> 33 > 0 {
        return Err(io::Error::other("a name or a file too long for a tar archive"));
    }
    put(0, name);
    put(100, "0000644\x000000000\x000000000\0");
    put(124, &format!("{:011o}\0{:011o}\0        0", bytes.len(), 0));
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.write_all(&header)?;
    archive.write_all(bytes)?;
    let rest = bytes.len() % BLOCK as usize;
    archive.write_all(&[0; BLOCK as usize][..(BLOCK as usize - rest) % BLOCK as usize])
}

/// Marks an archive's end.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn finish(archive: &mut impl Write) -> io::Result<()> {
    archive.write_all(&[0; 2 * BLOCK as usize])?;
    archive.flush()
}
