//! What a table says of itself, held against its file before memory is taken for it.
//!
//! A few bytes of a table can promise any number of rows, and of bytes in a page. Here both are
//! compared with what the file can hold at all.

use std::io::{self, Read};

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// The most bytes that the images of a row group may have in memory.
pub(super) const MAX_GROUP_BYTES: u64 = 4 << 30;
/// Rows beyond those that a file has bytes for: rows without an image and with the same class take
/// next to none.
const FREE_ROWS: u64 = 1 << 20;
/// Snappy makes at most 64 bytes of 3.
const MOST_UNPACKED: u64 = 24;
/// What a page may have beside that: its levels, and much room for a small one.
const FREE_BYTES: u64 = 1 << 16;
/// Structures inside of structures in a page's header; there are two.
const DEPTH: usize = 8;

/// The codec of a column that cannot be unpacked, if there is one.
pub(super) fn unknown_codec(about: &ParquetMetaData, columns: &[usize]) -> Option<String> {
    let chunks = about
        .row_groups()
        .iter()
        .flat_map(|group| columns.iter().filter_map(|&column| group.columns().get(column)));
    chunks.map(ColumnChunkMetaData::compression).find_map(|codec| match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY => None,
        // With its level: `ZSTD(ZstdLevel(1))`.
        other => Some(format!("{other:?}").split('(').next().unwrap_or_default().to_owned()),
    })
}

/// Whether the rows and the columns' places are such as a file of `len` bytes can have.
pub(super) fn check(about: &ParquetMetaData, columns: &[usize], len: u64) -> Result<(), String> {
    let mut rows = 0u64;
    for (number, group) in about.row_groups().iter().enumerate() {
        let own = u64::try_from(group.num_rows()).unwrap_or(u64::MAX);
        rows = rows.saturating_add(own);
        if rows > len.saturating_add(FREE_ROWS) {
            return Err(format!("{rows} rows and more in {len} bytes"));
        }
        for &column in columns {
            let chunk = group.columns().get(column);
            if chunk.and_then(place).is_none_or(|(start, own)| start.saturating_add(own) > len) {
                return Err(format!("row group {number} lies beyond the file's end"));
            }
        }
    }
    Ok(())
}

/// Where the pages of a column begin, and how long they are together.
pub(super) fn place(chunk: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    Some((u64::try_from(start).ok()?, u64::try_from(chunk.compressed_size()).ok()?))
}

/// Whether the pages of a column unpack to no more than their bytes can hold.
///
/// # Errors
/// A sentence, also when a header cannot be read.
pub(super) fn check_pages<R: Read>(
    chunk: &ColumnChunkMetaData,
    read_from: impl Fn(u64) -> Result<R, String>,
) -> Result<(), String> {
    let Some((start, len)) = place(chunk) else { return Err("no place of its pages".into()) };
    let (mut at, end, mut all) = (start, start.saturating_add(len), 0u64);
    while at < end {
        let mut header = Header { input: read_from(at)?, read: 0 };
        let (unpacked, packed) =
            header.sizes().map_err(|error| format!("the header of a page: {error}"))?;
        all = all.saturating_add(unpacked);
        let most = packed.saturating_mul(MOST_UNPACKED) + FREE_BYTES;
        if unpacked > most || all > MAX_GROUP_BYTES {
            return Err(format!("a page of {packed} bytes is said to unpack to {unpacked}"));
        }
        at = at.saturating_add(header.read).saturating_add(packed);
    }
    Ok(())
}

/// A page's header, in Thrift's compact form.
struct Header<R> {
    input: R,
    read: u64,
}

impl<R: Read> Header<R> {
    /// The bytes of the page when it is unpacked, and as it lies there.
    fn sizes(&mut self) -> io::Result<(u64, u64)> {
        let (mut sizes, mut field) = ([None; 2], 0);
        while let Some(kind) = self.field(&mut field)? {
            match (field, kind) {
                (2 | 3, 5) => {
                    let number = self.varint()?;
                    let size = (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
                    sizes[field as usize - 2] = u64::try_from(size).ok();
                }
                _ => self.skip(kind, DEPTH)?,
            }
        }
        match sizes {
            [Some(unpacked), Some(packed)] => Ok((unpacked, packed)),
            _ => Err(io::Error::other("no sizes")),
        }
    }

    /// The type of the next field, whose number replaces the last one's; `None` at the end.
    fn field(&mut self, number: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *number = match byte >> 4 {
            0 => (self.varint()? >> 1).cast_signed(),
            step => number.saturating_add(i64::from(step)),
        };
        Ok(Some(byte & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if depth == 0 {
            return Err(io::Error::other("too deep"));
        }
        match kind {
            // Truth stands in the type.
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let len = self.varint()?;
                self.pass(len)
            }
            12 => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth - 1)?;
                }
                Ok(())
            }
            // No page's header has lists or maps.
            _ => Err(io::Error::other("a field of another type")),
        }
    }

    fn pass(&mut self, len: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.input.by_ref().take(len), &mut io::sink())?;
        self.read += passed;
        if passed < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(io::Error::other("a number of more than 64 bits"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }
}
