//! What was found at a point of a run, a line of `marks.jsonl` each.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// The method of a mark that is none's: pixels without an encoder.
pub(super) const RAW_PIXELS: &str = "raw pixels";

/// What an encoder is worth at a point of its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The method, or `raw pixels`.
    pub method: String,
    /// The run's seed.
    pub seed: u64,
    /// Number of the mark; 0 is before the first step.
    pub mark: u64,
    /// Steps done.
    pub step: u64,
    /// Passes over the data.
    pub epochs: f64,
    /// Time of the steps, in minutes as [`ocl_train::Backend::time_used`] counts them.
    pub minutes: f64,
    /// Top-1 of the nearest neighbours, 0..1.
    pub knn: f64,
    /// Top-1 of the linear probe at its best rate, 0..1.
    pub linear: f64,
    /// Loss of the last step before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// The marks of a folder. A last line that is not whole, which a killed process may leave, does not
/// count.
pub(super) fn read(folder: &Path) -> Result<Vec<Mark>, EvalError> {
    let path = folder.join("marks.jsonl");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => return Err(EvalError::File { doing: "read", path, source }),
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let marks = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    let marks = marks.map_err(|error| EvalError::File {
        doing: "understand",
        path: path.clone(),
        source: error.into(),
    })?;
    if whole.len() + 1 < text.len() {
        let file = fs::OpenOptions::new().write(true).open(&path);
        let end = if whole.is_empty() { 0 } else { whole.len() as u64 + 1 };
        file.and_then(|file| file.set_len(end)).map_err(|source| EvalError::File {
            doing: "mend",
            path,
            source,
        })?;
    }
    Ok(marks)
}

/// Adds a line, which is on the disk when this returns.
pub(super) fn append(folder: &Path, mark: &Mark) -> Result<(), EvalError> {
    let path = folder.join("marks.jsonl");
    let mut line = serde_json::to_string(mark).expect("a mark is plain data");
    line.push('\n');
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_data()))
        .map_err(|source| EvalError::File { doing: "append to", path, source })
}

#[cfg(test)]
pub(super) fn example(method: &str, seed: u64, mark: u64, accuracy: f64) -> Mark {
    Mark {
        method: method.to_owned(),
        seed,
        mark,
        step: 10 * mark,
        epochs: mark as f64 / 2.0,
        minutes: 1.5 * mark as f64,
        knn: accuracy,
        linear: accuracy + 0.02,
        loss: (mark > 0).then_some(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let [one, two] = [example("ocl", 0, 0, 0.5), example("mae", 1, 2, 0.75)];
        append(folder.path(), &one).unwrap();
        let path = folder.path().join("marks.jsonl");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), std::slice::from_ref(&one));
        append(folder.path(), &two).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [one, two]);
        fs::write(&path, "nonsense\n").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cannot understand"), "{error}");
        fs::write(&path, "nons").unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }
}
