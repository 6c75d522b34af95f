//! Settings files: TOML, and `--set` over it.

use std::path::Path;

use ocl_train::{Known, Layers};
use serde::de::DeserializeOwned;

use crate::error::EvalError;
use crate::files::read_text;

/// The settings in `text`, which errors call `origin`, with overrides (`section.key=value`) over
/// it. Every key stands in the text, so that these are the keys that can be overridden.
pub(crate) fn with_overrides<T: DeserializeOwned>(
    origin: &str,
    text: &str,
    overrides: &[String],
) -> Result<T, EvalError> {
    let (known, environment) = (Known::default(), vec![]);
    Ok(Layers { origin, text, known, environment, overrides }.read()?.0)
}

/// A file of settings that nothing overrides.
pub(crate) fn read_toml<T: DeserializeOwned>(file: &Path) -> Result<T, EvalError> {
    toml::from_str(&read_text(file)?).map_err(|error| EvalError::Recipe {
        name: file.display().to_string(),
        reason: error.to_string().trim_end().replace('\n', " "),
    })
}
