//! Digests by which a result says what it was measured on and with.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ocl_data::Source;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::EvalError;

/// A weights file and its content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsRecord {
    /// Where it lay.
    pub path: PathBuf,
    /// SHA-256 of its bytes, as `sha256sum` prints it.
    pub sha256: String,
}

impl WeightsRecord {
    /// Reads and digests a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self, EvalError> {
        let failed = |source| EvalError::File { doing: "read", path: path.to_owned(), source };
        let mut hasher = Sha256::new();
        let mut file = std::fs::File::open(path).map_err(failed)?;
        std::io::copy(&mut file, &mut hasher).map_err(failed)?;
        Ok(Self { path: path.to_owned(), sha256: hex(&hasher.finalize()) })
    }
}

/// The first 16 hexadecimal digits of a SHA-256 over what a split holds: for each image its label
/// and its name and length as a file or member of an archive; for sets that lie in memory, its label and pixels.
///
/// It tells data sets and versions of them apart for the price of listing them; an image file
/// altered without changing its length is not seen.
pub(super) fn digest_of(source: &Source) -> String {
    let mut hasher = Sha256::new();
    let labels = source.labels().unwrap_or_default();
    for index in 0..source.len() {
        match source.bytes_of(index) {
            Some(bytes) => {
                // The folder that the data happen to lie in says nothing of them.
                for part in Path::new(&source.relative_name(index)).iter().rev().take(2) {
                    hasher.update(part.as_encoded_bytes());
                    hasher.update([0]);
                }
                hasher.update(bytes.to_le_bytes());
            }
            // In memory, or not there; an image that cannot be read adds nothing.
            None => hasher.update(source.image(index).unwrap_or_default().pixels),
        }
        hasher.update(labels.get(index).copied().unwrap_or(u32::MAX).to_le_bytes());
    }
    hex(&hasher.finalize())[..16].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_data::{SourceKind, Split};

    #[test]
    fn a_file_has_the_digest_that_sha256sum_prints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let record = WeightsRecord::of(&path).unwrap();
        assert!(record.sha256.starts_with("ba7816bf8f01cfea"), "{}", record.sha256);
        let error = WeightsRecord::of(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read") && error.ends_with("none"), "{error}");
    }

    #[test]
    fn a_changed_file_or_class_changes_the_digest_and_another_place_does_not() {
        let digest = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = folder.path().join("train").join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let path = folder.path().to_str().unwrap();
            digest_of(&Source::open(path, SourceKind::Folder, Split::Train).unwrap())
        };
        let first = digest(&[("cat/1.bmp", "BM"), ("dog/2.bmp", "BM")]);
        assert_eq!(first, digest(&[("cat/1.bmp", "BM"), ("dog/2.bmp", "BM")]));
        assert_ne!(first, digest(&[("cat/1.bmp", "BM"), ("dog/2.bmp", "BM.")]));
        assert_ne!(first, digest(&[("cat/1.bmp", "BM"), ("eel/2.bmp", "BM")]));
    }
}
