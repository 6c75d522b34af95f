//! Features as a Parquet table: `name`, `label`, `class`, `features`, a row an image.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::Deserialize;

const HELP: &str =
    "to-parquet FEATURES.npy OUT.parquet: the table of an array of 32-bit floats and of the
names in FEATURES.npy.names.jsonl, as `embed` writes both";

/// The list is laid out as the format's own rules have it, so that every reader sees arrays.
const SCHEMA: &str = "message features {
    required binary name (STRING);
    optional int32 label;
    optional binary class (STRING);
    required group features (LIST) { repeated group list { required float element; } }
}";

/// Values of one row group: some 32 MiB.
const GROUP_VALUES: usize = 8 << 20;

/// What an image is called.
#[derive(Deserialize)]
struct Named {
    name: String,
    label: Option<i32>,
    class: Option<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [features, out] = words.as_slice() else {
        let _ = writeln!(std::io::stdout(), "{HELP}");
        return ExitCode::from(if words == ["--help"] { 0 } else { 2 });
    };
    // Under another name until it is whole.
    let part = format!("{out}.part");
    let made = convert(features, Path::new(&part)).and_then(|()| Ok(std::fs::rename(&part, out)?));
    if let Err(error) = made {
        let _ = writeln!(std::io::stderr(), "error: {features} to {out}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn convert(features: &str, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut values = BufReader::new(File::open(features)?);
    let shape = read_shape(&mut values)?;
    let names = format!("{features}.names.jsonl");
    let mut names =
        BufReader::new(File::open(&names).map_err(|error| format!("{names}: {error}"))?);
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    // Patch tokens lie flat in their row.
    let about = KeyValue::new("shape".to_owned(), format!("{shape:?}"));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(vec![about]))
        .build();
    let mut writer = SerializedFileWriter::new(File::create(out)?, schema, Arc::new(properties))?;
    let width: usize = shape[1..].iter().product();
    let rows = (GROUP_VALUES / width.max(1)).max(1);
    let mut bytes = vec![];
    for first in (0..shape[0]).step_by(rows) {
        let count = rows.min(shape[0] - first);
        bytes.resize(count * width * 4, 0);
        values.read_exact(&mut bytes)?;
        let floats: Vec<f32> =
            bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let named = read_names(&mut names, count)?;
        let mut group = writer.next_row_group()?;
        write_group(&mut group, &named, &floats, width)?;
        group.close()?;
    }
    writer.finish()?;
    Ok(writer.inner().sync_all()?)
}

/// Reads NumPy's header, of format 1.0, up to the first value.
fn read_shape(file: &mut impl Read) -> Result<Vec<usize>, Box<dyn Error>> {
    let mut start = [0; 10];
    file.read_exact(&mut start)?;
    if &start[..8] != b"\x93NUMPY\x01\x00" {
        return Err("no array of NumPy's format 1.0".into());
    }
    let mut header = vec![0; usize::from(u16::from_le_bytes([start[8], start[9]]))];
    file.read_exact(&mut header)?;
    let header = String::from_utf8(header)?;
    let plain = header.contains("'<f4'") && header.contains("'fortran_order': False");
    let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    match shape {
        Some((sides, _)) if plain => {
            let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty());
            let shape = sides.map(str::parse).collect::<Result<Vec<usize>, _>>()?;
            if shape.len() < 2 { Err("an array of rows is wanted".into()) } else { Ok(shape) }
        }
        _ => Err(format!("no array of 32-bit floats in row-major order: {}", header.trim()).into()),
    }
}

fn read_names(lines: &mut impl BufRead, count: usize) -> Result<Vec<Named>, Box<dyn Error>> {
    let mut names = Vec::with_capacity(count);
    let mut line = String::new();
    while names.len() < count {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        names.push(serde_json::from_str(&line)?);
    }
    Ok(names)
}

fn write_group(
    group: &mut SerializedRowGroupWriter<'_, File>,
    named: &[Named],
    floats: &[f32],
    width: usize,
) -> Result<(), ParquetError> {
    // A level of 0 means that the value is missing, of 1 that it is the next one given.
    let levels = |there: &dyn Fn(&Named) -> bool| -> Vec<i16> {
        named.iter().map(|image| i16::from(there(image))).collect()
    };
    let names: Vec<ByteArray> = named.iter().map(|image| image.name.as_str().into()).collect();
    column::<ByteArrayType>(group, &names, None, None)?;
    let labels: Vec<i32> = named.iter().filter_map(|image| image.label).collect();
    let has_label = levels(&|image| image.label.is_some());
    column::<Int32Type>(group, &labels, Some(&has_label), None)?;
    let classes: Vec<ByteArray> =
        named.iter().filter_map(|image| image.class.as_deref()).map(Into::into).collect();
    let has_class = levels(&|image| image.class.is_some());
    column::<ByteArrayType>(group, &classes, Some(&has_class), None)?;
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
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(values, defined, repeats)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{ListAccessor, RowAccessor};

    /// As `embed` writes them.
    fn write_npy(path: &Path, shape: &str, values: &[f32]) {
        let mut dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        while !(dict.len() + 11).is_multiple_of(64) {
            dict.push(' ');
        }
        dict.push('\n');
        let length = (dict.len() as u16).to_le_bytes();
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let file = [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes(), &values].concat();
        std::fs::write(path, file).unwrap();
    }

    #[test]
    fn rows_come_back_with_what_is_known_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let (npy, out) = (folder.path().join("x.npy"), folder.path().join("x.parquet"));
        // Rows so wide that there are three groups, the last of them shorter.
        let (rows, width) = (5, GROUP_VALUES / 2);
        let values: Vec<f32> = (0..rows * width).map(|at| at as f32).collect();
        write_npy(&npy, &format!("({rows}, 2, {})", width / 2), &values);
        let lines = "{\"name\":\"a.jpg\",\"label\":7,\"class\":\"owl\"}\n\
                     {\"name\":\"b.jpg\",\"label\":null,\"class\":null}\n"
            .repeat(3);
        std::fs::write(folder.path().join("x.npy.names.jsonl"), lines).unwrap();
        convert(npy.to_str().unwrap(), &out).unwrap();
        let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 3);
        let about = reader.metadata().file_metadata().key_value_metadata().unwrap();
        assert_eq!(about[0].value.as_deref(), Some("[5, 2, 2097152]"));
        for (index, row) in reader.get_row_iter(None).unwrap().enumerate() {
            let row = row.unwrap();
            if index % 2 == 0 {
                assert_eq!(
                    (row.get_string(0).unwrap().as_str(), row.get_int(1).unwrap()),
                    ("a.jpg", 7)
                );
                assert_eq!(row.get_string(2).unwrap(), "owl");
            } else {
                assert_eq!(row.get_string(0).unwrap(), "b.jpg");
                assert!(row.get_int(1).is_err() && row.get_string(2).is_err());
            }
            let list = row.get_list(3).unwrap();
            assert_eq!(list.len(), width);
            for at in [0, width - 1] {
                assert_eq!(list.get_float(at).unwrap(), (index * width + at) as f32);
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (npy, out) = (folder.path().join("x.npy"), folder.path().join("x.parquet"));
        let refused = |looked_for: &str| {
            let error = convert(npy.to_str().unwrap(), &out).unwrap_err().to_string();
            assert!(error.contains(looked_for), "{error}");
        };
        std::fs::write(&npy, "nothing of the kind").unwrap();
        refused("NumPy");
        write_npy(&npy, "(3,)", &[0.0; 3]);
        refused("rows");
        write_npy(&npy, "(3, 2)", &[0.0; 6]);
        refused("names.jsonl");
    }
}
