//! CIFAR-10 and CIFAR-100, binary version: records of one or two label bytes and 3072 bytes of
//! 32 x 32 pixels, one plane per channel (<https://www.cs.toronto.edu/~kriz/cifar.html>).

use std::path::{Path, PathBuf};

use super::kind::Split;
use super::memory::Memory;
use super::opened::{Opened, damaged, read_file};
use super::survey::Survey;
use crate::error::SourceError;

const SIDE_PX: u32 = 32;
const PLANE: usize = 32 * 32;

/// Which of the two, in what they differ.
struct Variant {
    title: &'static str,
    /// The folder in the official archive.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// Label bytes of a record; the last one is the label.
    label_bytes: usize,
    classes: usize,
    /// Where the classes' names are.
    names: &'static str,
}

const CIFAR10: Variant = Variant {
    title: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    label_bytes: 1,
    classes: 10,
    names: "batches.meta.txt",
};

const CIFAR100: Variant = Variant {
    title: "CIFAR-100",
    folder: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    label_bytes: 2,
    classes: 100,
    names: "fine_label_names.txt",
};

/// Whether the folder holds CIFAR-10.
pub(super) fn detects_10(root: &Path) -> bool {
    CIFAR10.locate(root).is_some()
}

/// Whether the folder holds CIFAR-100.
pub(super) fn detects_100(root: &Path) -> bool {
    CIFAR100.locate(root).is_some()
}

/// Opens CIFAR-10.
pub(super) fn open10(root: &Path, split: Split) -> Result<Opened<Memory>, SourceError> {
    CIFAR10.open(root, split)
}

/// Opens CIFAR-100 with its fine labels.
pub(super) fn open100(root: &Path, split: Split) -> Result<Opened<Memory>, SourceError> {
    CIFAR100.open(root, split)
}

impl Variant {
    /// The folder with the files: the given one or the archive's own inside it.
    fn locate(&self, root: &Path) -> Option<PathBuf> {
        [root.to_path_buf(), root.join(self.folder)]
            .into_iter()
            .find(|dir| dir.join(self.train[0]).is_file() || dir.join(self.test).is_file())
    }

    fn open(&self, root: &Path, split: Split) -> Result<Opened<Memory>, SourceError> {
        let files = match split {
            Split::Train => self.train,
            Split::Test => &[self.test][..],
        };
        let dir = self.locate(root).unwrap_or_else(|| root.into());
        if let Some(missing) = files.iter().find(|file| !dir.join(file).is_file()) {
            return Err(SourceError::NotFound {
                path: dir,
                looked_for: format!("no {missing} in it"),
                advice: format!("unpack the binary version of {} and give that folder", self.title),
            });
        }
        let record = self.label_bytes + 3 * PLANE;
        let mut memory = Memory {
            width_px: SIDE_PX,
            height_px: SIDE_PX,
            channels: 3,
            pixels: Vec::new(),
            files: Vec::new(),
        };
        let mut labels = Vec::new();
        for file in files {
            let path = dir.join(file);
            let bytes = read_file(&path)?;
            if bytes.is_empty() || bytes.len() % record != 0 {
                let reason = format!("has {} bytes, no multiple of {record}", bytes.len());
                return Err(damaged(&path, reason));
            }
            for bytes in bytes.chunks_exact(record) {
                let (label, planes) = bytes.split_at(self.label_bytes);
                let label = label[self.label_bytes - 1];
                if usize::from(label) >= self.classes {
                    let reason = format!("has label {label}, there are {} classes", self.classes);
                    return Err(damaged(&path, reason));
                }
                labels.push(u32::from(label));
                for place in 0..PLANE {
                    let pixel = [place, place + PLANE, place + 2 * PLANE];
                    memory.pixels.extend(pixel.map(|at| planes[at]));
                }
            }
            memory.files.push(((*file).into(), bytes.len() / record));
        }
        Ok(Opened {
            store: memory,
            labels: Some(labels),
            class_names: self.class_names(&dir),
            title: (self.title.into(), format!("{split} images")),
            survey: Survey::default(),
        })
    }

    /// From the archive's list; numbers where it is absent or has another length.
    fn class_names(&self, dir: &Path) -> Vec<String> {
        let listed: Vec<String> = std::fs::read_to_string(dir.join(self.names))
            .unwrap_or_default()
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_string)
            .collect();
        if listed.len() == self.classes {
            listed
        } else {
            (0..self.classes).map(|class| class.to_string()).collect()
        }
    }
}
