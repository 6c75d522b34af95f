//! `log.jsonl` of a seed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::EvalError;
use crate::files::replace;

/// `log.jsonl` of a seed.
pub(super) struct Log {
    file: fs::File,
    path: PathBuf,
}

impl Log {
    /// Opens the log of a run that has done `step` steps; lines of later ones are dropped.
    pub(super) fn open(folder: &Path, step: u64) -> Result<Self, EvalError> {
        let path = folder.join("log.jsonl");
        let old = fs::read_to_string(&path).unwrap_or_default();
        let kept: String = old
            .lines()
            .filter(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                value["step"].as_u64().is_some_and(|at| at <= step)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        replace(&path, kept.as_bytes())?;
        let file = fs::OpenOptions::new().append(true).open(&path);
        let file =
            file.map_err(|source| EvalError::File { doing: "open", path: path.clone(), source })?;
        Ok(Self { file, path })
    }

    pub(super) fn write(
        &mut self,
        step: u64,
        epoch: f64,
        loss: f64,
        lr: f64,
    ) -> Result<(), EvalError> {
        let line = json!({ "step": step, "epoch": epoch, "loss": loss, "lr": lr });
        writeln!(self.file, "{line}").map_err(|source| EvalError::File {
            doing: "append to",
            path: self.path.clone(),
            source,
        })
    }
}
