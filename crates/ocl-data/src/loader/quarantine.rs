//! The record of unreadable images, and when there are too many of them.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{ImageError, LoaderError};
use crate::source::Source;

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    sample: u64,
    name: String,
    reason: String,
}

/// Fewer samples than this say little about a share: until so many have been tried, the share is
/// taken of this number, or of the whole set when that is smaller.
const LEAST_TRIED: u64 = 1000;
/// When the first so many are all unreadable, nothing more is tried.
const ALL_BAD: u64 = 20;

/// Counts and writes down unreadable images.
pub(super) struct Quarantine {
    file: Option<(PathBuf, File)>,
    /// Samples that the file already names.
    written: HashSet<u64>,
    bad: HashSet<u64>,
    tried: u64,
    samples: u64,
    max_share: f64,
}

impl Quarantine {
    /// Opens the file for appending; what it already names is not named again.
    pub(super) fn open(
        path: Option<PathBuf>,
        max_share: f64,
        samples: usize,
    ) -> Result<Quarantine, LoaderError> {
        let mut written = HashSet::new();
        let file = match path {
            None => None,
            Some(path) => {
                let fault = |cause| LoaderError::Quarantine { path: path.clone(), cause };
                if let Ok(old) = File::open(&path) {
                    for line in BufReader::new(old).lines() {
                        // A line cut short by a crash is no reason to stop.
                        if let Ok(entry) = serde_json::from_str::<Entry>(&line.map_err(fault)?) {
                            written.insert(entry.sample);
                        }
                    }
                }
                let file =
                    OpenOptions::new().create(true).append(true).open(&path).map_err(fault)?;
                Some((path, file))
            }
        };
        let samples = samples as u64;
        Ok(Quarantine { file, written, bad: HashSet::new(), tried: 0, samples, max_share })
    }

    /// Distinct unreadable images.
    pub(super) fn bad(&self) -> u64 {
        self.bad.len() as u64
    }

    /// Takes note of `tried` more samples, of which `bad` could not be read.
    pub(super) fn note(
        &mut self,
        source: &Source,
        tried: u64,
        bad: &[(u32, ImageError)],
    ) -> Result<(), LoaderError> {
        self.tried += tried;
        let mut last = None;
        for (sample, error) in bad {
            let sample = u64::from(*sample);
            if !self.bad.insert(sample) {
                continue;
            }
            let entry =
                Entry { sample, name: source.name_of(sample as usize), reason: chain(error) };
            if self.written.insert(sample) {
                self.write(&entry)?;
            }
            last = Some(entry);
        }
        match last {
            Some(entry) if self.too_many() => Err(LoaderError::TooManyBad {
                bad: self.bad(),
                tried: self.distinct_tried(),
                allowed: self.max_share,
                last: format!("{} ({})", entry.name, entry.reason),
                quarantine: self.file.as_ref().map(|(path, _)| path.clone()),
            }),
            _ => Ok(()),
        }
    }

    fn write(&mut self, entry: &Entry) -> Result<(), LoaderError> {
        if let Some((path, file)) = &mut self.file {
            let fault = |cause| LoaderError::Quarantine { path: path.clone(), cause };
            let mut line = serde_json::to_string(entry)
                .map_err(|error| fault(std::io::Error::other(error)))?;
            line.push('\n');
            // One write a line, so that a crash leaves whole lines.
            file.write_all(line.as_bytes()).map_err(fault)?;
        }
        Ok(())
    }

    /// Every epoch tries the same samples again.
    fn distinct_tried(&self) -> u64 {
        self.tried.min(self.samples).max(self.bad())
    }

    fn too_many(&self) -> bool {
        let (bad, tried) = (self.bad(), self.distinct_tried());
        let base = tried.max(self.samples.min(LEAST_TRIED));
        let all = bad == tried && bad >= self.samples.min(ALL_BAD);
        all || bad as f64 > self.max_share * base as f64
    }
}

/// An error with its causes, in one line.
fn chain(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
