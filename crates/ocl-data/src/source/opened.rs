//! What every kind of data set is opened to, and errors of its files.

use std::path::{Path, PathBuf};

use super::survey::Survey;
use crate::error::SourceError;

/// The most bytes that the file or member of an image may have: it is read whole.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 30;

/// A store of samples, and what is known of them.
pub(super) struct Opened<S> {
    pub(super) store: S,
    pub(super) labels: Option<Vec<u32>>,
    pub(super) class_names: Vec<String>,
    /// What it is and what its samples are, for people: `("CIFAR-10", "train images")`.
    pub(super) title: (String, String),
    /// What was passed over on the way.
    pub(super) survey: Survey,
}

impl Opened<()> {
    /// With the store that was still missing.
    pub(super) fn with<S>(self, store: S) -> Opened<S> {
        let Opened { labels, class_names, title, survey, .. } = self;
        Opened { store, labels, class_names, title, survey }
    }
}

/// Reads a whole file, with its path in the error.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, SourceError> {
    std::fs::read(path).map_err(|cause| SourceError::Io { path: path.into(), cause })
}

/// A damaged file's error.
pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> SourceError {
    SourceError::Format { path: PathBuf::from(path), reason: reason.into() }
}
