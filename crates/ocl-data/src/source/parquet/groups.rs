//! Row groups of Parquet files: read whole, held for as long as they are wanted, shared by threads.

use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{AsBytes, ByteArray, ByteArrayType, DataType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use parquet::file::serialized_reader::SerializedRowGroupReader;

use super::super::at::{At, read_at};
use super::super::classes::Class;
use super::checks::{self, MAX_GROUP_BYTES};
use crate::decode::panic_message;

/// Rows that are read between two looks at how many bytes they have.
const ROWS_AT_ONCE: usize = 64;

/// A file of tables and what its end says of it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) path: PathBuf,
    chunks: Arc<Chunks>,
    pub(super) about: ParquetMetaData,
}

/// Bytes of a file, read where they are.
#[derive(Debug)]
struct Chunks {
    file: Arc<File>,
    len: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<At<Arc<File>>>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(At { file: Arc::clone(&self.file), at: start, len: self.len }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF("the file ends before".into()));
        }
        let mut bytes = vec![0; length];
        read_at(&self.file, &mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// What is read of a row group's images: those that are there, in their order.
type Images = std::result::Result<Vec<ByteArray>, String>;

impl Table {
    /// Opens a file and reads its end.
    pub(super) fn open(path: &Path) -> std::result::Result<Table, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let len = file.metadata().map_err(|error| error.to_string())?.len();
        let chunks = Arc::new(Chunks { file: Arc::new(file), len });
        let about = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&*chunks))?;
        Ok(Table { path: path.to_owned(), chunks, about })
    }

    /// Whether what the file says of its rows and of these columns can be.
    pub(super) fn check(&self, columns: &[usize]) -> std::result::Result<(), String> {
        checks::check(&self.about, columns, self.chunks.len)
    }

    /// The rows of a group; 0 where the file says what cannot be.
    pub(super) fn rows(&self, group: usize) -> usize {
        usize::try_from(self.about.row_group(group).num_rows()).unwrap_or(0)
    }

    /// The bytes of a column of a group, as they lie in the file.
    pub(super) fn stored_bytes(&self, group: usize, column: usize) -> u64 {
        self.about.row_group(group).column(column).compressed_size().max(0).cast_unsigned()
    }

    /// What a column says of the rows of a group: the numbers or words of classes.
    pub(super) fn classes(
        &self,
        group: usize,
        column: usize,
    ) -> std::result::Result<Vec<Class>, String> {
        guarded(|| {
            Ok(match self.column(group, column)? {
                ColumnReader::Int32ColumnReader(reader) => {
                    self.values(group, column, reader, |&n| Class::Number(n.into()))?
                }
                ColumnReader::Int64ColumnReader(reader) => {
                    self.values(group, column, reader, |&n| Class::Number(n))?
                }
                ColumnReader::ByteArrayColumnReader(reader) => {
                    let word =
                        |word: &ByteArray| Class::of_text(&String::from_utf8_lossy(word.data()));
                    self.values(group, column, reader, word)?
                }
                _ => return Err(ParquetError::General("a column of another type".into())),
            }
            .into_iter()
            .map(|class| class.unwrap_or(Class::Missing))
            .collect())
        })
    }

    /// Which rows of a group have no image; nothing is read where the file says that all have one.
    pub(super) fn missing(
        &self,
        group: usize,
        column: usize,
    ) -> std::result::Result<Vec<u32>, String> {
        let statistics = self.about.row_group(group).column(column).statistics();
        if statistics.is_none_or(|told| told.null_count_opt().is_none_or(|count| count == 0)) {
            return Ok(Vec::new());
        }
        let rows = guarded(|| self.images_of(group, column))?;
        let missing = rows.iter().enumerate().filter(|(_, image)| image.is_none());
        Ok(missing.map(|(row, _)| row as u32).collect())
    }

    /// The images of a group that are there.
    pub(super) fn images(&self, group: usize, column: usize) -> Images {
        Ok(guarded(|| self.images_of(group, column))?.into_iter().flatten().collect())
    }

    fn images_of(&self, group: usize, column: usize) -> Result<Vec<Option<ByteArray>>> {
        match self.column(group, column)? {
            ColumnReader::ByteArrayColumnReader(reader) => {
                self.values::<ByteArrayType, _>(group, column, reader, ByteArray::clone)
            }
            _ => Err(ParquetError::General("a column of another type".into())),
        }
    }

    fn column(&self, group: usize, column: usize) -> Result<ColumnReader> {
        let properties = Arc::new(ReaderProperties::builder().build());
        let chunks = Arc::clone(&self.chunks);
        let about = self.about.row_group(group);
        checks::check_pages(about.column(column), |start| {
            chunks.get_read(start).map_err(|error| error.to_string())
        })
        .map_err(ParquetError::General)?;
        let index = self.about.page_index_for_row_group(group);
        SerializedRowGroupReader::new(chunks, about, index, properties)?.get_column_reader(column)
    }

    /// A value for each row of a group, `None` where there is none.
    fn values<T: DataType, V>(
        &self,
        group: usize,
        column: usize,
        mut reader: ColumnReaderImpl<T>,
        value: impl Fn(&T::T) -> V,
    ) -> Result<Vec<Option<V>>> {
        let rows = self.rows(group);
        let most = self.about.file_metadata().schema_descr().column(column).max_def_level();
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (mut done, mut bytes, mut measured) = (0, 0u64, 0);
        while done < rows {
            // A few at a time: each may be made of a long beginning that it shares with the others.
            let some = (rows - done).min(ROWS_AT_ONCE);
            let (read, ..) = reader.read_records(some, Some(&mut levels), None, &mut values)?;
            if read == 0 {
                return Err(ParquetError::General(format!("{done} of {rows} rows are there")));
            }
            done += read;
            bytes += values[measured..].iter().map(|own| own.as_bytes().len() as u64).sum::<u64>();
            measured = values.len();
            if bytes > MAX_GROUP_BYTES {
                return Err(ParquetError::General("a row group of more than 4 GiB".into()));
            }
        }
        let mut values = values.iter();
        if most == 0 {
            return Ok(values.map(|own| Some(value(own))).collect());
        }
        Ok(levels
            .iter()
            .map(|&level| (level == most).then(|| values.next().map(&value)).flatten())
            .collect())
    }
}

/// Runs what reads bytes of unknown origin: an error or a panic is a sentence.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(panic) => Err(panic_message(panic.as_ref())),
    }
}

/// Row groups that were read, the last used ones.
#[derive(Debug)]
pub(super) struct Cache {
    room: usize,
    held: Mutex<Vec<Held>>,
}

#[derive(Debug)]
struct Held {
    group: u32,
    images: Arc<OnceLock<Arc<Images>>>,
}

impl Cache {
    /// Holds so many groups at most.
    pub(super) fn new(room: usize) -> Cache {
        Cache { room, held: Mutex::new(Vec::new()) }
    }

    /// The images of a group. Who asks first reads them, and all others who ask meanwhile wait.
    pub(super) fn get(&self, group: u32, read: impl FnOnce() -> Images) -> Arc<Images> {
        let images = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let there = held.iter().position(|held| held.group == group);
            // The last used stands last.
            let own = match there {
                Some(at) => held.remove(at),
                None => Held { group, images: Arc::default() },
            };
            let images = Arc::clone(&own.images);
            held.push(own);
            let beyond = held.len().saturating_sub(self.room);
            held.drain(..beyond);
            images
        };
        Arc::clone(images.get_or_init(|| Arc::new(read())))
    }
}
