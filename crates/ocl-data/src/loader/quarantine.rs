//! The record of unreadable images, and when there are too many of them.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{ImageError, LoaderError, in_words};
use crate::source::Source;

/// An image that could not be read: one line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadImage {
    /// Its index in the source.
    pub sample: u64,
    /// Its name in the source.
    pub name: String,
    /// Why it could not be read, with all causes.
    pub reason: String,
}

/// What a loader met with on the way to a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Images looked at, readable or not.
    pub tried: u64,
    /// Those that could not be read, in the order in which they were met.
    pub bad: Vec<BadImage>,
}

impl Findings {
    /// Adds what another share of the batch met with.
    pub fn extend(&mut self, other: Self) {
        self.tried += other.tried;
        self.bad.extend(other.bad);
    }

    /// Adds what was met with next.
    pub(super) fn add(&mut self, source: &Source, tried: u64, bad: &[(u32, ImageError)]) {
        self.tried += tried;
        self.bad.extend(bad.iter().map(|(sample, error)| BadImage {
            sample: u64::from(*sample),
            name: source.name_of(*sample as usize),
            reason: in_words(error),
        }));
    }
}

/// Fewer samples than this say little about a share: until so many have been tried, the share is
/// taken of this number, or of the whole set when that is smaller.
const LEAST_TRIED: u64 = 1000;
/// So many are allowed whatever the share, where any are and they are no more than half: of few
/// images one bad one is soon more than a small share.
const ALLOWANCE: f64 = 10.0;
/// When the first so many are all unreadable, nothing more is tried.
const ALL_BAD: u64 = 20;

/// Counts and writes down unreadable images.
#[derive(Debug)]
pub(super) struct Quarantine {
    file: Option<(PathBuf, File)>,
    /// Samples that the file already names.
    written: HashSet<u64>,
    bad: HashSet<u64>,
    last: Option<BadImage>,
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
                        if let Ok(entry) = serde_json::from_str::<BadImage>(&line.map_err(fault)?) {
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
        Ok(Quarantine {
            file,
            written,
            bad: HashSet::new(),
            last: None,
            tried: 0,
            samples,
            max_share,
        })
    }

    /// Distinct unreadable images.
    pub(super) fn bad(&self) -> u64 {
        self.bad.len() as u64
    }

    /// Takes note of what was met with, and says so when too much of it is unreadable.
    pub(super) fn note(&mut self, findings: &Findings) -> Result<(), LoaderError> {
        self.tried += findings.tried;
        for image in &findings.bad {
            if !self.bad.insert(image.sample) {
                continue;
            }
            if self.written.insert(image.sample) {
                self.write(image)?;
            }
            self.last = Some(image.clone());
        }
        match &self.last {
            Some(last) if self.too_many() => Err(LoaderError::TooManyBad {
                bad: self.bad(),
                tried: self.distinct_tried(),
                allowed: self.max_share,
                last: format!("{} ({})", last.name, last.reason),
                quarantine: self.file.as_ref().map(|(path, _)| path.clone()),
            }),
            _ => Ok(()),
        }
    }

    /// Stops at once when nothing of what was tried can be read, these findings included: the end
    /// of a large batch would take long to come.
    pub(super) fn stop_if_all_bad(&mut self, findings: &Findings) -> Result<(), LoaderError> {
        let bad = self.bad() + findings.bad.len() as u64;
        let all = bad == self.tried + findings.tried && bad >= self.samples.min(ALL_BAD);
        if all { self.note(findings) } else { Ok(()) }
    }

    fn write(&mut self, entry: &BadImage) -> Result<(), LoaderError> {
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
        let few = if self.max_share > 0.0 { ALLOWANCE.min(self.samples as f64 / 2.0) } else { 0.0 };
        all || bad as f64 > few.max(self.max_share * base as f64)
    }
}
