//! What a worker thread does.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::order::EpochOrder;
use super::{LoaderConfig, Order, StageTimes};
use crate::decode::panic_message;
use crate::error::{ImageError, LoaderError};
use crate::sample::SampleMaker;
use crate::source::Source;
use crate::view::View;

/// Substitutes tried for one image before it is left out; so many unreadable ones in a row mean that
/// the data set is, and the consumer then stops.
const MAX_SUBSTITUTES: usize = 64;

/// A part of a batch to be made.
pub(super) struct Task {
    /// Counts all chunks of the run.
    pub(super) number: u64,
    /// Where in the epoch's order its samples stand.
    pub(super) positions: Range<usize>,
    pub(super) order: Arc<EpochOrder>,
    /// A chunk that was taken, for its memory.
    pub(super) room: Chunk,
}

/// A task's result.
pub(super) struct Outcome {
    pub(super) number: u64,
    pub(super) result: Result<Chunk, LoaderError>,
}

/// A made part of a batch.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) samples: Vec<u64>,
    pub(super) patches: Vec<f32>,
    pub(super) positions: Vec<u32>,
    pub(super) bad: Vec<(u32, ImageError)>,
    /// Samples looked at, readable or not.
    pub(super) tried: u64,
    pub(super) stages: StageTimes,
}

impl Chunk {
    /// Empties it, keeping memory.
    fn clear(&mut self) {
        self.samples.clear();
        self.patches.clear();
        self.positions.clear();
        self.bad.clear();
        (self.tried, self.stages) = (0, StageTimes::default());
    }
}

/// What a worker needs.
pub(super) struct Context {
    pub(super) source: Arc<Source>,
    pub(super) view: View,
    pub(super) config: LoaderConfig,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) tasks: Receiver<Task>,
    pub(super) outcomes: Sender<Outcome>,
}

/// Makes chunks until the loader stops or is gone.
pub(super) fn run(context: Context) {
    let mut maker = SampleMaker::new(context.view, context.config.seed);
    while let Ok(mut task) = context.tasks.recv() {
        if context.stopped() {
            return;
        }
        let mut current = 0;
        let made =
            catch_unwind(AssertUnwindSafe(|| context.make(&mut maker, &mut task, &mut current)));
        let result = made.unwrap_or_else(|panic| {
            // Its buffers may be in any state.
            maker = SampleMaker::new(context.view, context.config.seed);
            Err(LoaderError::WorkerPanicked {
                sample: u64::from(current),
                name: context.source.name_of(current as usize),
                message: panic_message(panic.as_ref()),
            })
        });
        if context.outcomes.send(Outcome { number: task.number, result }).is_err() {
            return;
        }
    }
}

impl Context {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// `current` is always the sample at hand, to name it if something panics.
    fn make(
        &self,
        maker: &mut SampleMaker,
        task: &mut Task,
        current: &mut u32,
    ) -> Result<Chunk, LoaderError> {
        let images = task.positions.len();
        let (kept, patch_len) = (self.view.kept(), self.view.geometry().patch_len());
        let mut chunk = std::mem::take(&mut task.room);
        chunk.clear();
        chunk.samples.reserve(images);
        chunk.patches.reserve(images * kept * patch_len);
        chunk.positions.reserve(images * kept);
        for position in task.positions.clone() {
            if self.stopped() {
                // Nobody waits for this chunk any more.
                return Ok(Chunk::default());
            }
            let order = &task.order;
            if self.make_one(maker, order, position, current, &mut chunk) {
                continue;
            }
            if self.config.order == Order::Sequential {
                continue;
            }
            let found = order
                .substitutes(position)
                .take(MAX_SUBSTITUTES)
                .any(|other| self.make_one(maker, order, other, current, &mut chunk));
            if !found {
                return Ok(chunk);
            }
        }
        chunk.stages = maker.take_stages();
        Ok(chunk)
    }

    /// Appends one sample to the chunk, or notes why it cannot be read.
    fn make_one(
        &self,
        maker: &mut SampleMaker,
        order: &EpochOrder,
        position: usize,
        current: &mut u32,
        chunk: &mut Chunk,
    ) -> bool {
        let sample = order.sample(position);
        *current = sample;
        chunk.tried += 1;
        let (patches, positions) = (&mut chunk.patches, &mut chunk.positions);
        match maker.make(&self.source, order.epoch, sample, patches, positions) {
            Ok(()) => chunk.samples.push(u64::from(sample)),
            Err(error) => {
                chunk.bad.push((sample, error));
                return false;
            }
        }
        true
    }
}
