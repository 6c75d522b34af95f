//! Features as a Parquet table: `name`, `label`, `class`, `features`, a row an image.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use ocl_data::Source;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

/// The list is laid out as the format's own rules have it, so that every reader sees arrays.
const SCHEMA: &str = "message features {
    required binary name (STRING);
    optional int32 label;
    optional binary class (STRING);
    required group features (LIST) { repeated group list { required float element; } }
}";

/// Values of one row group: some 32 MiB.
const GROUP_VALUES: usize = 8 << 20;

/// Writes the rows that stand in a file, of this shape `[N, ...]`, with what is known of the images.
/// What lies within a row, such as patch tokens, lies flat; the shape stands in the table's notes.
///
/// # Errors
/// When the rows cannot be read, or the table cannot be written.
pub(super) fn write_table(
    rows: &Path,
    shape: &[usize],
    source: &Source,
    table: &Path,
) -> Result<()> {
    let mut values = BufReader::new(File::open(rows)?);
    let about = KeyValue::new("shape".to_owned(), format!("{shape:?}"));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(vec![about]))
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(File::create(table)?, schema, Arc::new(properties))?;
    let width: usize = shape[1..].iter().product();
    let at_once = (GROUP_VALUES / width.max(1)).max(1);
    let mut bytes = vec![];
    for first in (0..shape[0]).step_by(at_once) {
        let images = first..shape[0].min(first + at_once);
        bytes.resize(images.len() * width * 4, 0);
        values.read_exact(&mut bytes)?;
        let floats: Vec<f32> =
            bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let mut group = writer.next_row_group()?;
        write_group(&mut group, source, images, &floats, width)?;
        group.close()?;
    }
    writer.finish()?;
    Ok(writer.inner().sync_all()?)
}

fn write_group(
    group: &mut SerializedRowGroupWriter<'_, File>,
    source: &Source,
    images: std::ops::Range<usize>,
    floats: &[f32],
    width: usize,
) -> Result<()> {
    let names: Vec<ByteArray> =
        images.clone().map(|image| source.name_of(image).as_str().into()).collect();
    column::<ByteArrayType>(group, &names, None, None)?;
    let labels = source.labels().map_or(&[][..], |labels| &labels[images.clone()]);
    let numbers: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
    let classes: Vec<ByteArray> =
        labels.iter().map(|&label| source.class_names()[label as usize].as_str().into()).collect();
    // A level of 0 means that the value is missing, of 1 that it is the next one given.
    let there = vec![i16::from(!labels.is_empty()); images.len()];
    column::<Int32Type>(group, &numbers, Some(&there), None)?;
    column::<ByteArrayType>(group, &classes, Some(&there), None)?;
    // A value that begins a list repeats nothing.
    let repeats: Vec<i16> = (0..floats.len()).map(|at| i16::from(at % width > 0)).collect();
    column::<FloatType>(group, floats, Some(&vec![1; floats.len()]), Some(&repeats))
}

/// Writes the group's next column.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    defined: Option<&[i16]>,
    repeats: Option<&[i16]>,
) -> Result<()> {
    let missing = || ParquetError::General("the schema has fewer columns".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(values, defined, repeats)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_data::{SourceKind, Split};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{ListAccessor, RowAccessor};

    fn source(folder: &Path, names: &[&str]) -> Source {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        Source::open(folder.to_str().unwrap(), SourceKind::Folder, Split::Train).unwrap()
    }

    #[test]
    fn rows_come_back_with_what_is_known_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        let source =
            source(&images, &["ant/0.jpg", "ant/1.jpg", "owl/2.jpg", "owl/3.jpg", "owl/4.jpg"]);
        // Rows so wide that there are three groups, the last of them shorter.
        let (rows, width) = (5, GROUP_VALUES / 2);
        let values: Vec<u8> = (0..rows * width).flat_map(|at| (at as f32).to_le_bytes()).collect();
        let (part, out) = (folder.path().join("x.part"), folder.path().join("x.parquet"));
        std::fs::write(&part, values).unwrap();
        write_table(&part, &[rows, 2, width / 2], &source, &out).unwrap();
        let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 3);
        let about = reader.metadata().file_metadata().key_value_metadata().unwrap();
        assert_eq!(about[0].value.as_deref(), Some("[5, 2, 2097152]"));
        for (index, row) in reader.get_row_iter(None).unwrap().enumerate() {
            let row = row.unwrap();
            assert!(row.get_string(0).unwrap().ends_with(&format!("{index}.jpg")));
            let (label, class) = if index < 2 { (0, "ant") } else { (1, "owl") };
            assert_eq!(
                (row.get_int(1).unwrap(), row.get_string(2).unwrap().as_str()),
                (label, class)
            );
            let list = row.get_list(3).unwrap();
            assert_eq!(list.len(), width);
            for at in [0, width - 1] {
                assert_eq!(list.get_float(at).unwrap(), (index * width + at) as f32);
            }
        }
    }

    #[test]
    fn what_is_not_known_is_null() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(&folder.path().join("images"), &["0.jpg", "1.jpg"]);
        let (part, out) = (folder.path().join("x.part"), folder.path().join("x.parquet"));
        std::fs::write(&part, [0u8; 2 * 3 * 4]).unwrap();
        write_table(&part, &[2, 3], &source, &out).unwrap();
        let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
        let row = reader.get_row_iter(None).unwrap().next().unwrap().unwrap();
        assert!(row.get_int(1).is_err() && row.get_string(2).is_err());
        // Fewer rows than the shape says.
        assert!(write_table(&part, &[3, 3], &source, &out).is_err());
    }
}
