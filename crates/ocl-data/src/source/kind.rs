//! Which part of a data set, and how it is stored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::SourceError;

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The images to learn from.
    Train,
    /// The images to measure on.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Test => "test",
        })
    }
}

/// How a data set is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// Told from the path alone.
    #[default]
    Auto,
    /// JPEG, PNG, WebP, BMP, GIF and TIFF files: `ROOT/train/CLASS/*` beside `val` or `test`,
    /// `ROOT/CLASS/*`, or a flat folder without labels.
    Folder,
    /// The MNIST family's IDX files, gzipped or not.
    Idx,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version, fine labels.
    Cifar100,
    /// Tar archives as WebDataset lays them out: a `.tar`, a range `train-{0000..0146}.tar`, or a
    /// folder of them.
    Shards,
    /// ZIP archives of image folders: one, or a folder of them.
    Zip,
    /// Parquet tables as Hugging Face's libraries write them: one, `train-*.parquet`, or a folder.
    Parquet,
    /// A table of images (CSV, TSV or JSON lines): path, label and part of each.
    Manifest,
    /// The 10,000 Fashion-MNIST images inside the program.
    Embedded,
}

/// All kinds by name.
const KINDS: [(&str, SourceKind); 10] = [
    ("auto", SourceKind::Auto),
    ("folder", SourceKind::Folder),
    ("zip", SourceKind::Zip),
    ("parquet", SourceKind::Parquet),
    ("manifest", SourceKind::Manifest),
    ("shards", SourceKind::Shards),
    ("idx", SourceKind::Idx),
    ("cifar10", SourceKind::Cifar10),
    ("cifar100", SourceKind::Cifar100),
    ("embedded", SourceKind::Embedded),
];

impl FromStr for SourceKind {
    type Err = SourceError;

    fn from_str(name: &str) -> Result<SourceKind, SourceError> {
        let kind = KINDS.iter().find(|kind| kind.0 == name);
        kind.map(|kind| kind.1).ok_or_else(|| SourceError::UnknownKind(name.into()))
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KINDS.iter().find(|kind| kind.1 == *self).map_or("", |kind| kind.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_name() {
        for (name, kind) in [("auto", SourceKind::Auto), ("cifar100", SourceKind::Cifar100)] {
            assert_eq!(name.parse::<SourceKind>().unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{name}\""));
        }
        assert!("cifar".parse::<SourceKind>().unwrap_err().to_string().contains("cifar10"));
    }
}
