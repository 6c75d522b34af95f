//! Files that are read and replaced whole, with errors that name them.

use std::path::Path;

use crate::error::EvalError;

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, EvalError> {
    let failed = |source| EvalError::File { doing: "read", path: path.to_owned(), source };
    std::fs::read_to_string(path).map_err(failed)
}

/// Puts a whole file in its place, so that a crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let failed = |source| EvalError::File { doing: "write", path: path.to_owned(), source };
    ocl_train::replace_file(path, bytes).map_err(failed)
}
