//! What a worker thread does.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::config::{LoaderConfig, Order};
use super::order::EpochOrder;
use super::room::Piece;
use super::sample::SampleMaker;
use super::stages::StageTimes;
use crate::decode::panic_message;
use crate::error::{ImageError, LoaderError};
use crate::source::Source;
use crate::view::View;

/// Substitutes tried for one image before it is left out; so many unreadable ones in a row mean
/// that the data set is, and the consumer then stops.
const MAX_SUBSTITUTES: usize = 64;

/// A part of a batch to be made.
pub(super) struct Task {
    /// Counts all chunks of the run.
    pub(super) number: u64,
    /// Where in the epoch's order its samples stand.
    pub(super) positions: Range<usize>,
    pub(super) order: Arc<EpochOrder>,
    /// Where the patches go, one image after the other.
    pub(super) piece: Piece,
    /// A chunk that was taken, for its memory.
    pub(super) room: Chunk,
}

/// A task's result.
pub(super) struct Outcome {
    pub(super) number: u64,
    pub(super) result: Result<Chunk, LoaderError>,
}

/// What is known of a made part of a batch beside its patches.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) samples: Vec<u64>,
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
    while let Ok(task) = context.tasks.recv() {
        if context.stopped() {
            return;
        }
        let (number, mut current) = (task.number, 0);
        // The task goes along, so that its piece of the batch is given up before the answer is
        // sent.
        let made = catch_unwind(AssertUnwindSafe(|| context.make(&mut maker, task, &mut current)));
        let result = made.unwrap_or_else(|panic| {
            // Its buffers may be in any state.
            maker = SampleMaker::new(context.view, context.config.seed);
            Err(LoaderError::WorkerPanicked {
                sample: u64::from(current),
                name: context.source.name_of(current as usize),
                message: panic_message(panic.as_ref()),
            })
        });
        if context.outcomes.send(Outcome { number, result }).is_err() {
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
        task: Task,
        current: &mut u32,
    ) -> Result<Chunk, LoaderError> {
        let Task { positions, order, mut piece, room: mut chunk, .. } = task;
        let image_len = self.view.image_len();
        chunk.clear();
        let mut places = piece.values().chunks_exact_mut(image_len);
        let mut place = places.next();
        for position in positions {
            if self.stopped() {
                // Nobody waits for this chunk any more.
                return Ok(Chunk::default());
            }
            // There are as many places as positions.
            let Some(patches) = place.as_deref_mut() else { break };
            let mut one = |at| self.make_one(maker, &order, at, current, patches, &mut chunk);
            let made = one(position)
                || self.config.order == Order::Shuffled
                    && order.substitutes(position).take(MAX_SUBSTITUTES).any(one);
            if made {
                place = places.next();
            } else if self.config.order == Order::Shuffled {
                return Ok(chunk);
            }
        }
        chunk.stages = maker.take_stages();
        Ok(chunk)
    }

    /// Makes one sample's patches and adds it to the chunk, or notes why it cannot be read.
    fn make_one(
        &self,
        maker: &mut SampleMaker,
        order: &EpochOrder,
        position: usize,
        current: &mut u32,
        patches: &mut [f32],
        chunk: &mut Chunk,
    ) -> bool {
        let sample = order.sample(position);
        *current = sample;
        chunk.tried += 1;
        match maker.make(&self.source, order.epoch, sample, patches, &mut chunk.positions) {
            Ok(()) => chunk.samples.push(u64::from(sample)),
            Err(error) => {
                chunk.bad.push((sample, error));
                return false;
            }
        }
        true
    }
}
