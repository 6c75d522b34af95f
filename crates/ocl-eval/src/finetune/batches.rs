//! Training batches of augmented, mixed images, one made while the one before is learnt from.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ocl_data::{Draws, Purpose, Source, Split};
use rayon::prelude::*;

use super::augment::{Augment, patches};
use super::mix::mix;
use super::recipe::MixRecipe;
use crate::error::EvalError;

/// Images tried in place of one that cannot be read.
const REPLACEMENTS: usize = 16;

/// What makes batches.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) source: Arc<Source>,
    /// Samples to learn from.
    pub(crate) samples: Arc<Vec<u32>>,
    pub(crate) augment: Augment,
    pub(crate) mix: MixRecipe,
    pub(crate) classes: usize,
    pub(crate) batch: usize,
    /// Share of unreadable images above which training stops.
    pub(crate) max_bad_share: f64,
    pub(crate) bad: Arc<Mutex<BTreeSet<u32>>>,
}

/// A batch on the host.
#[derive(Debug)]
pub(crate) struct TrainBatch {
    /// `[N, L, P*P*3]`.
    pub(crate) patches: Vec<f32>,
    /// `[N, C]`; a row sums to 1.
    pub(crate) targets: Vec<f32>,
    pub(crate) images: usize,
}

impl Maker {
    /// Steps of an epoch; the last, partial batch is left out.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        (self.samples.len() / self.batch) as u64
    }

    /// The batch of a step counted from 0: a function of the seed and the step alone.
    pub(crate) fn make(&self, order: &[u32], step: u64) -> Result<TrainBatch, EvalError> {
        let (epoch, index) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let start = index as usize * self.batch;
        let made: Result<Vec<(Vec<f32>, u32)>, EvalError> = (start..start + self.batch)
            .into_par_iter()
            .map(|place| self.sample(order, place, epoch))
            .collect();
        let (images, labels): (Vec<Vec<f32>>, Vec<u32>) = made?.into_iter().unzip();
        let mut images = images.concat();
        let side = self.augment.geometry.image_px as usize;
        let mut draws = Draws::new(self.augment.seed, step, 0, Purpose::Mix);
        let targets = mix(&mut images, side, &labels, self.classes, &self.mix, &mut draws);
        let patches = patches(&images, self.augment.geometry);
        Ok(TrainBatch { patches, targets, images: labels.len() })
    }

    /// The samples in the order of an epoch.
    pub(crate) fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order = self.samples.to_vec();
        let count = order.len();
        Draws::new(self.augment.seed, epoch, 0, Purpose::FinetuneOrder)
            .shuffle_front(&mut order, count);
        order
    }

    /// The image at a place of the order, or the next one that can be read.
    fn sample(
        &self,
        order: &[u32],
        place: usize,
        epoch: u64,
    ) -> Result<(Vec<f32>, u32), EvalError> {
        let labels = self.source.labels().unwrap_or_default();
        for place in place..place + REPLACEMENTS {
            let sample = order[place % order.len()];
            match self.source.image(sample as usize) {
                Ok(image) => {
                    let values = self.augment.make(&image, epoch, sample);
                    return Ok((values, labels[sample as usize]));
                }
                Err(source) => self.note(sample, source)?,
            }
        }
        let reason = format!("{REPLACEMENTS} images in a row cannot be read");
        Err(EvalError::Setting { setting: "data", reason })
    }

    fn note(&self, sample: u32, source: ocl_data::ImageError) -> Result<(), EvalError> {
        let mut bad = self.bad.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        bad.insert(sample);
        if bad.len() as f64 <= self.max_bad_share * self.samples.len() as f64 {
            return Ok(());
        }
        let name = self.source.name_of(sample as usize);
        Err(EvalError::Image { split: Split::Train, bad: bad.len(), name, source })
    }
}

/// Batches of steps `first..last`, in order, made by a thread of their own.
#[derive(Debug)]
pub(crate) struct Batches {
    batches: Option<Receiver<Result<TrainBatch, EvalError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Batches {
    pub(crate) fn start(maker: Maker, first: u64, last: u64) -> Result<Self, EvalError> {
        let (send, batches) = sync_channel(1);
        let run = move || {
            let mut order = (u64::MAX, vec![]);
            for step in first..last {
                let epoch = step / maker.steps_per_epoch();
                if order.0 != epoch {
                    order = (epoch, maker.order(epoch));
                }
                let batch = maker.make(&order.1, step);
                let failed = batch.is_err();
                // Nobody listens any more when training has stopped early.
                if send.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ocl-finetune-data".to_owned()).spawn(run);
        let thread = thread.map_err(|source| EvalError::File {
            doing: "start a thread for",
            path: "training images".into(),
            source,
        })?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }
}

impl Iterator for Batches {
    type Item = Result<TrainBatch, EvalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // The sender fails once the receiver is gone, and so the thread ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
