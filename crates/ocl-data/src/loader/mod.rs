//! Batches in a fixed order, made by several threads.
//!
//! The consumer hands out chunks of batches, a few batches ahead and no more, and puts what comes
//! back in order. All of the order is computed on the consumer's side; a worker knows only its
//! chunk, and writes it straight into the batch's memory. There is no thread that waits for room in
//! a channel, so none can be left hanging when the loader is dropped.

mod config;
mod order;
mod quarantine;
mod room;
mod sample;
mod stages;
mod supervised;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

pub use config::{LoaderConfig, Order};
pub use quarantine::{BadImage, Findings};
pub use stages::StageTimes;
pub use supervised::{SupervisedBatch, SupervisedConfig, SupervisedLoader};

use crate::error::LoaderError;
use crate::source::Source;
use crate::view::{Batch, View};
use order::{BatchId, EpochOrder, batches_per_epoch};
use quarantine::Quarantine;
use room::Lent;
use worker::{Chunk, Outcome, Task};

/// Samples that a worker makes at a time: small enough that all workers share a batch, large enough
/// that small images do not drown in messages.
const CHUNK: usize = 16;
/// Batches under way beside the one that is wanted next.
const BATCHES_AHEAD: usize = 2;

/// An iterator over batches. Dropping it ends its threads.
pub struct Loader {
    source: Arc<Source>,
    view: View,
    config: LoaderConfig,
    samples: Arc<Vec<u32>>,
    /// The batch that is wanted next and the one whose chunks are handed out next.
    wanted: BatchId,
    ahead: BatchId,
    order: Option<Arc<EpochOrder>>,
    /// The batches under way, from the wanted one on.
    under_way: VecDeque<UnderWay>,
    /// Chunks by number; those that came before their turn wait here.
    early: BTreeMap<u64, Outcome>,
    next_chunk: u64,
    handed_out: u64,
    tasks: Option<Sender<Task>>,
    outcomes: Receiver<Outcome>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    quarantine: Quarantine,
    /// What the last batch of a share met with.
    findings: Findings,
    waited: Duration,
    stages: StageTimes,
    /// Taken chunks and batches given back, whose memory the next ones use.
    spare: Vec<Chunk>,
    spare_batches: Vec<Batch>,
    failed: bool,
}

/// A batch that workers fill.
struct UnderWay {
    /// Empty, but for its memory other than the patches'.
    batch: Batch,
    patches: Lent,
    chunks: usize,
}

impl Loader {
    /// Checks the settings and starts the workers.
    ///
    /// # Errors
    /// [`LoaderError::Setting`] for settings that cannot work, [`LoaderError::Quarantine`] when its
    /// file cannot be opened, [`LoaderError::Threads`] when no thread can be had.
    pub fn start(
        source: Arc<Source>,
        view: View,
        mut config: LoaderConfig,
    ) -> Result<Loader, LoaderError> {
        view.check().map_err(|(setting, reason)| LoaderError::Setting { setting, reason })?;
        let samples = Arc::new(order::samples(&source, &mut config)?);
        let quarantine =
            Quarantine::open(config.quarantine.clone(), config.max_bad_share, samples.len())?;
        let per_epoch = batches_per_epoch(samples.len(), &config);
        // The batch after an epoch's last is the next epoch's first.
        let first = BatchId {
            epoch: config.epochs.start.saturating_add(config.first_batch / per_epoch),
            index: config.first_batch % per_epoch,
        };
        let (tasks, task_queue) = unbounded();
        let (outcome_queue, outcomes) = unbounded();
        let mut loader = Loader {
            source,
            view,
            samples,
            wanted: first,
            ahead: first,
            order: None,
            under_way: VecDeque::new(),
            early: BTreeMap::new(),
            next_chunk: 0,
            handed_out: 0,
            tasks: Some(tasks),
            outcomes,
            stop: Arc::new(AtomicBool::new(false)),
            workers: Vec::new(),
            quarantine,
            findings: Findings::default(),
            waited: Duration::ZERO,
            stages: StageTimes::default(),
            spare: Vec::new(),
            spare_batches: Vec::new(),
            failed: false,
            config,
        };
        for number in 0..loader.config.workers {
            let context = worker::Context {
                source: Arc::clone(&loader.source),
                view: loader.view,
                config: loader.config.clone(),
                stop: Arc::clone(&loader.stop),
                tasks: task_queue.clone(),
                outcomes: outcome_queue.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("ocl-data-{number}"))
                .spawn(move || worker::run(context))
                .map_err(LoaderError::Threads)?;
            loader.workers.push(thread);
        }
        loader.hand_out();
        Ok(loader)
    }

    /// Batches of a whole epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        batches_per_epoch(self.samples.len(), &self.config)
    }

    /// Distinct images that could not be read so far.
    pub fn skipped(&self) -> u64 {
        self.quarantine.bad()
    }

    /// What the share of the last batch met with. A loader of a [share](LoaderConfig::share) takes
    /// no note of it by itself: too many unreadable images are a matter of the whole batch.
    pub fn take_findings(&mut self) -> Findings {
        std::mem::take(&mut self.findings)
    }

    /// Takes note of what all shares of a batch met with together, in their order.
    ///
    /// # Errors
    /// [`LoaderError::TooManyBad`], [`LoaderError::Quarantine`].
    pub fn note(&mut self, findings: &Findings) -> Result<(), LoaderError> {
        self.quarantine.note(findings)
    }

    /// What the workers have spent on the batches taken so far.
    pub fn stage_times(&self) -> StageTimes {
        self.stages
    }

    /// How long the consumer has waited in `next` so far.
    pub fn wait_time(&self) -> Duration {
        self.waited
    }

    /// Takes the memory of a batch that is no longer needed, for the batches to come. Without this
    /// every batch is made in new memory, which the system has to find and clear.
    pub fn give_back(&mut self, batch: Batch) {
        // More than this are never under way at once.
        if self.spare_batches.len() <= BATCHES_AHEAD {
            self.spare_batches.push(batch);
        }
    }

    /// Keeps the wanted batch and `BATCHES_AHEAD` more under way.
    fn hand_out(&mut self) {
        while self.under_way.len() <= BATCHES_AHEAD && self.ahead.epoch < self.config.epochs.end {
            let BatchId { epoch, .. } = self.ahead;
            let order = match &self.order {
                Some(order) if order.epoch == epoch => Arc::clone(order),
                _ => Arc::new(EpochOrder::new(
                    epoch,
                    Arc::clone(&self.samples),
                    &self.config,
                    self.source.runs(),
                )),
            };
            self.order = Some(Arc::clone(&order));
            let positions = self.ahead.positions(self.samples.len(), &self.config);
            let end = positions.end;
            positions.clone().for_each(|at| self.source.announce(order.sample(at) as usize));
            let image_len = self.view.image_len();
            let mut batch = self.spare_batches.pop().unwrap_or_default();
            let mut values = std::mem::take(&mut batch.patches);
            values.resize(positions.len() * image_len, 0.0);
            let (patches, pieces) = room::lend(values, CHUNK * image_len);
            let chunks = pieces.len();
            for (from, piece) in positions.step_by(CHUNK).zip(pieces) {
                let task = Task {
                    number: self.handed_out,
                    positions: from..(from + CHUNK).min(end),
                    order: Arc::clone(&order),
                    piece,
                    room: self.spare.pop().unwrap_or_default(),
                };
                if let Some(tasks) = &self.tasks {
                    // It fails only when every worker is gone, which the wait for outcomes reports.
                    let _ = tasks.send(task);
                }
                self.handed_out += 1;
            }
            self.under_way.push_back(UnderWay { batch, patches, chunks });
            self.ahead = self.ahead.after(self.batches_per_epoch());
        }
    }

    /// Waits for the chunk whose turn it is.
    fn next_outcome(&mut self) -> Result<Chunk, LoaderError> {
        let number = self.next_chunk;
        self.next_chunk += 1;
        loop {
            if let Some(outcome) = self.early.remove(&number) {
                return outcome.result;
            }
            let started = Instant::now();
            let outcome = self.outcomes.recv().map_err(|_| {
                LoaderError::Threads(std::io::Error::other("every worker thread has ended"))
            });
            self.waited += started.elapsed();
            let outcome = outcome?;
            self.early.insert(outcome.number, outcome);
        }
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, LoaderError> {
        let Some(UnderWay { mut batch, patches, chunks }) = self.under_way.pop_front() else {
            return Ok(None);
        };
        (batch.epoch, batch.index) = (self.wanted.epoch, self.wanted.index);
        (batch.crops, batch.kept) = (self.view.crops(), self.view.kept());
        batch.patch_len = self.view.geometry().patch_len();
        batch.samples.clear();
        batch.positions.clear();
        batch.labels.clear();
        // Images that stand behind the place of one that could not be made: from, to and how many.
        let mut moves = Vec::new();
        let mut findings = Findings::default();
        let share = self.config.share.as_ref();
        let first = share.is_none_or(|share| share.start == 0);
        for number in 0..chunks {
            let chunk = self.next_outcome()?;
            findings.add(&self.source, chunk.tried, &chunk.bad);
            if first {
                self.quarantine.stop_if_all_bad(&findings)?;
            }
            if batch.samples.len() < number * CHUNK {
                moves.push((number * CHUNK, batch.samples.len(), chunk.samples.len()));
            }
            batch.samples.extend_from_slice(&chunk.samples);
            batch.positions.extend_from_slice(&chunk.positions);
            self.stages += chunk.stages;
            self.spare.push(chunk);
        }
        batch.images = batch.samples.len();
        batch.patches = patches.back().expect("a worker that has answered has let go of its piece");
        let image_len = self.view.image_len();
        for (from, to, images) in moves {
            let from = from * image_len;
            batch.patches.copy_within(from..from + images * image_len, to * image_len);
        }
        batch.patches.truncate(batch.images * image_len);
        match self.config.share {
            // Neither can be told from a share alone.
            Some(_) => self.findings = findings,
            None => {
                self.quarantine.note(&findings)?;
                batch = self.view.with_blocks(batch, self.config.seed);
            }
        }
        if let Some(labels) = self.source.labels() {
            batch.labels.extend(batch.samples.iter().map(|&sample| labels[sample as usize]));
        }
        self.wanted = self.wanted.after(self.batches_per_epoch());
        self.hand_out();
        Ok(Some(batch))
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoaderError>;

    /// The next batch; an error is the last item.
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            match self.next_batch() {
                // Every image of a batch of a sequential run may be unreadable. A share that lacks
                // all of its images is still this batch's.
                Ok(Some(batch)) if batch.images == 0 && self.config.share.is_none() => {
                    self.give_back(batch);
                }
                Ok(batch) => return batch.map(Ok),
                Err(error) => {
                    self.failed = true;
                    self.stop.store(true, Ordering::Relaxed);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        for worker in self.workers.drain(..) {
            // A worker reports its panics as outcomes; there is nobody left to tell.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Geometry, Normalisation};
    use crate::view::EvalView;

    #[test]
    fn a_workers_panic_is_an_error_that_names_the_sample() {
        let view = View::Eval(EvalView {
            geometry: Geometry { image_px: 8, patch_px: 4 },
            normalisation: Normalisation::IMAGENET,
            resize_ratio: 1.0,
        });
        for workers in [1, 3] {
            let config = LoaderConfig {
                batch: 50,
                workers,
                order: Order::Sequential,
                ..LoaderConfig::default()
            };
            let source = Arc::new(Source::trap(100, 70));
            let mut loader = Loader::start(source, view, config).unwrap();
            assert_eq!(loader.next().unwrap().unwrap().images, 50);
            match loader.next() {
                Some(Err(LoaderError::WorkerPanicked { sample, name, message })) => {
                    assert_eq!((sample, name.as_str()), (70, "trap[70]"));
                    assert!(message.contains("the trap was stepped on"), "{message}");
                }
                other => panic!("{other:?}"),
            }
            assert!(loader.next().is_none());
        }
    }
}
