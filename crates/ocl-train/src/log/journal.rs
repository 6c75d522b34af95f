//! What a run writes down: `log.jsonl`, a line a step, and TensorBoard events.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use thiserror::Error;

use super::StepRecord;
use super::tensorboard::EventWriter;

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
    /// Opens the journal of a run that has done `step` steps; later lines, left by a run that went
    /// on after its last checkpoint, are dropped.
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
        let mut scalars = vec![("train/loss", record.loss), ("train/lr", record.lr)];
        scalars.extend(record.figures.iter());
        scalars.push(("speed/images_per_sec", record.images_per_sec));
        scalars.push(("speed/data_wait", record.data_wait));
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

/// Lines of whole records up to `step`, byte by byte as they were. A torn last line, left by a
/// crash, is no record.
fn kept_lines(file: File, step: u64) -> std::io::Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Record {
        step: u64,
    }
    let mut kept = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Ok(record) = serde_json::from_slice::<Record>(&line) else { continue };
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
    use crate::methods::Figures;

    #[test]
    fn a_resumed_journal_goes_on_where_the_checkpoint_was() {
        let run = tempfile::tempdir().unwrap();
        let mut figures = Figures::default();
        figures.push("views/positive", Some(0.5));
        let record = |step: u64, loss: f64| StepRecord {
            step,
            epoch: step as f64 / 2.0,
            loss,
            lr: 0.1,
            figures: figures.clone(),
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
