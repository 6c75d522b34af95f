//! What a run writes down: `log.jsonl`, a line a step, and TensorBoard events.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::tensorboard::EventWriter;

/// One step, as `log.jsonl` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Fractional epoch at the end of the step.
    pub epoch: f64,
    /// Loss of the batch, before the update.
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Mean squared distance of the two views of an image, at length 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<f64>,
    /// Mean cosine of the two views of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive: Option<f64>,
    /// Mean cosine of views of different images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative: Option<f64>,
    /// Logarithm of the mean of `exp(-2 d^2)` over pairs of images, at some steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uniformity: Option<f64>,
    /// RankMe, the effective rank of 256 embeddings, at some steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<f64>,
    /// Share of held-out images that k-NN classifies rightly, at some steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn_top1: Option<f64>,
    /// Share of the device's peak that visible tokens use, where the peak is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Images per second since the record before.
    pub images_per_sec: f64,
    /// Share of the time since the record before spent waiting for data, 0..1.
    pub data_wait: f64,
}

/// A journal that cannot be written.
#[derive(Debug, Error)]
#[error("cannot write {}", path.display())]
pub struct JournalError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The open journal of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    lines: BufWriter<File>,
    events: EventWriter,
    flushed: Instant,
}

/// Seconds between flushes: a crash loses at most this much of the log.
const FLUSH_SECS: u64 = 2;

impl Journal {
    /// Opens the journal of a run that has done `step` steps; later lines, left by a run that went on after
    /// its last checkpoint, are dropped.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn open(run: &Path, step: u64) -> Result<Self, JournalError> {
        let path = run.join("log.jsonl");
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError { path, source }
        };
        if path.exists() {
            let kept = File::open(&path).and_then(|file| kept_lines(file, step));
            let draft = run.join(".log.jsonl.draft");
            let kept = kept.map_err(fail(&path))?;
            fs::write(&draft, kept).map_err(fail(&draft))?;
            fs::rename(&draft, &path).map_err(fail(&path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(fail(&path))?;
        let folder = run.join("tensorboard");
        let events = EventWriter::create(&folder, step).map_err(fail(&folder))?;
        Ok(Self { path, lines: BufWriter::new(file), events, flushed: Instant::now() })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// When the disk is full, say.
    pub(crate) fn record(&mut self, record: &StepRecord) -> Result<(), JournalError> {
        let scalars = [
            ("train/loss", Some(record.loss)),
            ("train/lr", Some(record.lr)),
            ("train/gradient_norm", record.gradient_norm),
            ("views/alignment", record.alignment),
            ("views/positive", record.positive),
            ("views/negative", record.negative),
            ("views/uniformity", record.uniformity),
            ("views/rank", record.rank),
            ("probe/knn_top1", record.knn_top1),
            ("speed/images_per_sec", Some(record.images_per_sec)),
            ("speed/data_wait", Some(record.data_wait)),
            ("speed/mfu", record.mfu),
        ];
        let scalars: Vec<(&str, f64)> =
            scalars.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect();
        let line = serde_json::to_string(record).expect("a record is plain data");
        let flush = self.flushed.elapsed().as_secs() >= FLUSH_SECS;
        let written = writeln!(self.lines, "{line}")
            .and_then(|()| self.events.scalars(record.step, &scalars))
            .and_then(|()| if flush { self.flush_files() } else { Ok(()) });
        written.map_err(|source| JournalError { path: self.path.clone(), source })
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When the disk is full, say.
    pub(crate) fn flush(&mut self) -> Result<(), JournalError> {
        self.flush_files().map_err(|source| JournalError { path: self.path.clone(), source })
    }

    fn flush_files(&mut self) -> std::io::Result<()> {
        self.flushed = Instant::now();
        self.lines.flush()?;
        self.events.flush()
    }
}

/// Lines of whole records up to `step`, byte by byte as they were. A torn last line, left by a crash, is no record.
fn kept_lines(file: File, step: u64) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Ok(record) = serde_json::from_slice::<StepRecord>(&line) else { continue };
        if record.step <= step {
            kept.extend(line);
            kept.push(b'\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_journal_goes_on_where_the_checkpoint_was() {
        let run = tempfile::tempdir().unwrap();
        let record = |step: u64, loss: f64| StepRecord {
            step,
            epoch: step as f64 / 2.0,
            loss,
            lr: 0.1,
            gradient_norm: None,
            alignment: None,
            positive: Some(0.5),
            negative: None,
            uniformity: None,
            rank: None,
            knn_top1: None,
            mfu: None,
            images_per_sec: 10.0,
            data_wait: 0.0,
        };
        let mut journal = Journal::open(run.path(), 0).unwrap();
        for step in 1..=4 {
            journal.record(&record(step, 1.0)).unwrap();
        }
        journal.flush().unwrap();
        let path = run.path().join("log.jsonl");
        let torn = fs::read_to_string(&path).unwrap() + "{\"step\":5,\"ep";
        fs::write(&path, torn).unwrap();

        let mut journal = Journal::open(run.path(), 2).unwrap();
        journal.record(&record(3, 2.0)).unwrap();
        journal.flush().unwrap();
        let steps: Vec<(u64, f64)> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<StepRecord>(line).unwrap())
            .map(|record| (record.step, record.loss))
            .collect();
        assert_eq!(steps, [(1, 1.0), (2, 1.0), (3, 2.0)]);

        // Read and written again, the last digit of some numbers would change.
        let digits = "{\"step\":4,\"epoch\":2.0,\"loss\":4.3521714210510254,\"lr\":1e-05,\"gradient_norm\":null,\
            \"images_per_sec\":10.0,\"data_wait\":0.0}\n";
        let before = fs::read_to_string(&path).unwrap() + digits;
        fs::write(&path, &before).unwrap();
        drop(Journal::open(run.path(), 4).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
}
