//! The files that features are kept in.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ocl_data::Source;
use serde_json::json;

use super::values::Features;
use crate::error::EvalError;

/// How features are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Npy,
    Safetensors,
    /// The values alone, of which a table is made in the end.
    Parquet,
}

impl Format {
    /// Tells it from the file's name.
    pub(crate) fn of(path: &Path) -> Result<Self, EvalError> {
        let wrong = |reason| Err(EvalError::Setting { setting: "out", reason });
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("parquet") => Ok(Self::Parquet),
            _ => wrong(format!("{} ends in none of .npy, .safetensors, .parquet", path.display())),
        }
    }

    /// Everything before the values of a file of `shape`.
    pub(crate) fn header(self, shape: &[usize]) -> Vec<u8> {
        match self {
            Self::Npy => {
                // NumPy's format 1.0: the values begin at a multiple of 64.
                let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
                let mut dict = format!(
                    "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}",
                    sides.join(", ")
                );
                while !(10 + dict.len() + 1).is_multiple_of(64) {
                    dict.push(' ');
                }
                dict.push('\n');
                let length = u16::try_from(dict.len()).expect("three numbers fit").to_le_bytes();
                [&b"\x93NUMPY\x01\x00"[..], &length[..], dict.as_bytes()].concat()
            }
            Self::Parquet => vec![],
            Self::Safetensors => {
                let bytes = 4 * shape.iter().product::<usize>();
                let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": [0, bytes] });
                let mut text = json!({ "features": tensor }).to_string();
                while !text.len().is_multiple_of(8) {
                    text.push(' ');
                }
                [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
            }
        }
    }
}

/// Writes a line of JSON for each image: its name, label and class.
pub(crate) fn write_names(source: &Source, path: &Path) -> io::Result<()> {
    let labels = source.labels();
    let names = source.class_names();
    let mut file = BufWriter::new(File::create(path)?);
    for index in 0..source.len() {
        let label = labels.map(|labels| labels[index]);
        let class = label.and_then(|label| names.get(label as usize));
        let line = json!({ "name": source.name_of(index), "label": label, "class": class });
        writeln!(file, "{line}")?;
    }
    file.flush()
}

/// Reads an `.npy` file of features that [`embed`](crate::embed) wrote, `[N, D]`. Rows of images
/// that could not be read become zeros, which are near nothing.
///
/// # Errors
/// When it cannot be read or has another form.
pub fn read_features(path: &Path) -> Result<Features, EvalError> {
    let bytes = std::fs::read(path).map_err(|source| EvalError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    let form = || EvalError::Setting {
        setting: "features",
        reason: format!("{} is no .npy file of pooled features that embed wrote", path.display()),
    };
    let length = bytes.get(8..10).map(|length| u16::from_le_bytes([length[0], length[1]]));
    let start = 10 + usize::from(length.ok_or_else(form)?);
    let header = String::from_utf8_lossy(bytes.get(10..start).ok_or_else(form)?).into_owned();
    let inside =
        |(_, rest): (&str, &str)| rest.split_once(')').map(|(inside, _)| inside.to_owned());
    let shape = header.split_once("'shape': (").and_then(inside).ok_or_else(form)?;
    let sides: Vec<usize> = shape.split(',').filter_map(|side| side.trim().parse().ok()).collect();
    let &[images, width] = sides.as_slice() else { return Err(form()) };
    let values: Vec<f32> = bytes[start..]
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .map(|value| if value.is_nan() { 0.0 } else { value })
        .collect();
    if !header.contains("'<f4'") || width == 0 || values.len() != images * width {
        return Err(form());
    }
    Ok(Features::new(values, width, vec![0; images]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_the_format() {
        assert_eq!(Format::of(Path::new("a/x.npy")).unwrap(), Format::Npy);
        assert_eq!(Format::of(Path::new("x.safetensors")).unwrap(), Format::Safetensors);
        assert_eq!(Format::of(Path::new("x.parquet")).unwrap(), Format::Parquet);
        let error = Format::of(Path::new("x.csv")).unwrap_err().to_string();
        assert!(error.contains("x.csv") && error.contains(".npy"), "{error}");
    }

    #[test]
    fn a_file_of_another_form_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        std::fs::write(&path, b"short").unwrap();
        assert!(read_features(&path).unwrap_err().to_string().contains("x.npy"));
    }
}
