//! Batches of augmented, mixed images with their labels, one made while the one before is learnt
//! from.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::quarantine::{Findings, Quarantine};
use crate::augment::{ImageMaker, Mix, SupervisedAugment};
use crate::error::{ImageError, LoaderError};
use crate::picture::cut;
use crate::picture::{Geometry, Normalisation};
use crate::random::{Draws, Purpose};
use crate::source::Source;

/// Images tried in place of one that cannot be read.
const REPLACEMENTS: usize = 16;

/// What a supervised loader makes.
#[derive(Clone, Debug)]
pub struct SupervisedConfig {
    /// Sides of picture and patch.
    pub geometry: Geometry,
    /// Mean and deviation of the channels.
    pub normalisation: Normalisation,
    /// What becomes of each image.
    pub augment: SupervisedAugment,
    /// How the images of a batch are mixed.
    pub mix: Mix,
    /// Classes that there are, `C`.
    pub classes: usize,
    /// Samples of the source to learn from.
    pub samples: Vec<u32>,
    /// Images in a batch, `N`, at most as many as there are samples.
    pub batch: usize,
    /// Threads that make a batch's images, at least 1.
    pub workers: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// The share of unreadable images, 0 to 1, above which the loader stops.
    pub max_bad_share: f64,
    /// Of each batch, only the images `i` and `N - 1 - i` for these `i`, which are mixed with one
    /// another: what one of several processes makes. All processes together make the batch.
    pub pairs: Option<Range<usize>>,
}

impl SupervisedConfig {
    /// Steps of an epoch; the last, partial batch is left out.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.len().checked_div(self.batch).unwrap_or(0) as u64
    }

    /// Places in the batch of the images that are made, in order.
    fn places(&self) -> Vec<usize> {
        let pairs = self.pairs.clone().unwrap_or(0..self.batch.div_ceil(2));
        let partners = partners(self.batch, &pairs);
        pairs.chain(partners).collect()
    }

    fn check(&self, source: &Source) -> Result<(), LoaderError> {
        let fault = |setting, reason| Err(LoaderError::Setting { setting, reason });
        if let Err(reason) = self.geometry.check() {
            return fault("geometry", reason);
        }
        if self.workers == 0 {
            return fault("workers", "0 must be at least 1".into());
        }
        if self.steps_per_epoch() == 0 {
            let (batch, samples) = (self.batch, self.samples.len());
            return fault("batch", format!("{batch} must be 1 to the {samples} samples"));
        }
        let half = self.batch.div_ceil(2);
        if let Some(pairs) = self.pairs.as_ref().filter(|p| p.is_empty() || p.end > half) {
            return fault("pairs", format!("{pairs:?} are not among the {half} of a batch"));
        }
        let Some(labels) = source.labels() else {
            return fault("source", "has no labels".into());
        };
        for sample in &self.samples {
            match labels.get(*sample as usize) {
                None => return fault("samples", format!("{sample} of {} samples", source.len())),
                Some(label) if *label as usize >= self.classes => {
                    return fault("classes", format!("{} do not hold label {label}", self.classes));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// A batch with labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SupervisedBatch {
    /// `[N, L, P * P * 3]`: all patches in row-major order, normalised; inside a patch row, column,
    /// channel.
    pub patches: Vec<f32>,
    /// `[N, C]`: the share of each class in each image; a row sums to 1.
    pub targets: Vec<f32>,
    /// The images' places in the whole batch, in order; `N` of them.
    pub places: Vec<usize>,
}

impl SupervisedBatch {
    /// The images of some of its pairs, counted from its first: `i` and `N - 1 - i` of it.
    pub fn of_pairs(&self, pairs: Range<usize>) -> Self {
        let n = self.places.len();
        let partners = partners(n, &pairs);
        let take = |values: &[f32]| {
            let len = values.len() / n;
            let of = |images: &Range<usize>| &values[images.start * len..images.end * len];
            [of(&pairs), of(&partners)].concat()
        };
        let (patches, targets) = (take(&self.patches), take(&self.targets));
        let places = [&self.places[pairs.clone()], &self.places[partners.clone()]].concat();
        Self { patches, targets, places }
    }
}

/// The images `n - 1 - i` of `n` for some `i` of the first half; the one in the middle is its own and
/// left out.
fn partners(n: usize, pairs: &Range<usize>) -> Range<usize> {
    (n - pairs.end).max(pairs.end)..n - pairs.start
}

/// An iterator over the batches of some steps, in order. Dropping it ends its threads.
#[derive(Debug)]
pub struct SupervisedLoader {
    batches: Option<Receiver<Made>>,
    thread: Option<JoinHandle<()>>,
    /// Batches still to come.
    left: u64,
    quarantine: Quarantine,
    /// Whether a part of each batch is made.
    shares: bool,
    /// What the last part of a batch met with.
    findings: Findings,
}

/// A batch, and what was met with on the way.
type Made = (Result<SupervisedBatch, LoaderError>, Findings);

impl SupervisedLoader {
    /// Starts making the batches of `steps`, counted from 0 over all epochs. A batch is a function
    /// of the seed and its step alone.
    ///
    /// # Errors
    /// [`LoaderError::Setting`] for settings that cannot work, [`LoaderError::Threads`] when no
    /// thread can be had.
    pub fn start(
        source: Arc<Source>,
        config: SupervisedConfig,
        steps: Range<u64>,
    ) -> Result<SupervisedLoader, LoaderError> {
        config.check(&source)?;
        let left = steps.end.saturating_sub(steps.start);
        let quarantine = Quarantine::open(None, config.max_bad_share, config.samples.len())?;
        let shares = config.pairs.is_some();
        let mut maker = BatchMaker::new(source, config);
        let (send, batches) = sync_channel(1);
        let run = move || {
            for step in steps {
                let made = maker.make(step);
                let failed = made.0.is_err();
                // Nobody listens any more when training has stopped early.
                if send.send(made).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("ocl-data-labelled".to_owned()).spawn(run);
        let thread = thread.map_err(LoaderError::Threads)?;
        Ok(SupervisedLoader {
            batches: Some(batches),
            thread: Some(thread),
            left,
            quarantine,
            shares,
            findings: Findings::default(),
        })
    }

    /// What the last part of a batch met with. A loader of [some pairs](SupervisedConfig::pairs)
    /// takes no note of it by itself: too many unreadable images are a matter of the whole batch.
    pub fn take_findings(&mut self) -> Findings {
        std::mem::take(&mut self.findings)
    }

    /// Takes note of what all parts of a batch met with together.
    ///
    /// # Errors
    /// [`LoaderError::TooManyBad`].
    pub fn note(&mut self, findings: &Findings) -> Result<(), LoaderError> {
        self.quarantine.note(findings)
    }
}

impl Iterator for SupervisedLoader {
    type Item = Result<SupervisedBatch, LoaderError>;

    /// The next batch; an error is the last item.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let batch = match self.batches.as_ref()?.recv() {
            Ok((batch, findings)) if self.shares => {
                self.findings = findings;
                batch
            }
            Ok((batch, findings)) => self.quarantine.note(&findings).and(batch),
            Err(_) => Err(LoaderError::Threads(std::io::Error::other("the thread has ended"))),
        };
        if batch.is_err() {
            self.left = 0;
        }
        Some(batch)
    }
}

impl Drop for SupervisedLoader {
    fn drop(&mut self) {
        // The sender fails once the receiver is gone, and so the thread ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What makes batches, one step after the other.
struct BatchMaker {
    source: Arc<Source>,
    config: SupervisedConfig,
    maker: ImageMaker,
    /// Places in a batch of the images that are made.
    places: Vec<usize>,
    /// The epoch at hand and its order.
    order: Option<(u64, Vec<u32>)>,
}

/// What is known of some of a batch's images beside their values.
#[derive(Default)]
struct Part {
    labels: Vec<u32>,
    tried: u64,
    bad: Vec<(u32, ImageError)>,
    /// Whether there was no readable image for a place.
    gave_up: bool,
}

impl BatchMaker {
    fn new(source: Arc<Source>, config: SupervisedConfig) -> BatchMaker {
        let maker = ImageMaker::new(
            config.augment.clone(),
            config.geometry.image_px,
            &config.normalisation,
            config.seed,
        );
        let places = config.places();
        BatchMaker { source, config, maker, places, order: None }
    }

    fn make(&mut self, step: u64) -> Made {
        let per_epoch = self.config.steps_per_epoch();
        let (epoch, start) = (step / per_epoch, (step % per_epoch) as usize * self.config.batch);
        let order = match self.order.take() {
            Some((of, order)) if of == epoch => order,
            _ => self.shuffled(epoch),
        };
        let mut images = vec![0.0; self.places.len() * self.maker.len()];
        let parts = self.parts(&order, start, epoch, &mut images);
        self.order = Some((epoch, order));
        let (mut labels, mut findings) = (vec![], Findings::default());
        for part in parts {
            findings.add(&self.source, part.tried, &part.bad);
            if part.gave_up {
                let reason = format!("{REPLACEMENTS} images in a row cannot be read");
                return (Err(LoaderError::Setting { setting: "data", reason }), findings);
            }
            labels.extend(part.labels);
        }
        let SupervisedConfig { geometry, mix, classes, seed, .. } = &self.config;
        let mut draws = Draws::new(*seed, step, 0, Purpose::Mix);
        let side = geometry.image_px as usize;
        let targets = mix.apply(&mut images, side, &labels, *classes, &mut draws);
        let patches = cut(&images, *geometry);
        (Ok(SupervisedBatch { patches, targets, places: self.places.clone() }), findings)
    }

    /// The samples in the order of an epoch.
    fn shuffled(&self, epoch: u64) -> Vec<u32> {
        let mut order = self.config.samples.clone();
        let count = order.len();
        let mut draws = Draws::new(self.config.seed, epoch, 0, Purpose::FinetuneOrder);
        draws.shuffle_front(&mut order, count);
        order
    }

    /// Makes the images that stand from `start` on in the order, a thread for each part of them.
    fn parts(&self, order: &[u32], start: usize, epoch: u64, images: &mut [f32]) -> Vec<Part> {
        let each = self.places.len().div_ceil(self.config.workers);
        let len = self.maker.len();
        std::thread::scope(|scope| {
            let begin = |(places, images)| {
                scope.spawn(move || self.part(order, start, places, epoch, images))
            };
            let images = images.chunks_mut(each * len);
            let threads: Vec<_> = self.places.chunks(each).zip(images).map(begin).collect();
            let end = |thread: std::thread::ScopedJoinHandle<Part>| {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            threads.into_iter().map(end).collect()
        })
    }

    fn part(
        &self,
        order: &[u32],
        start: usize,
        places: &[usize],
        epoch: u64,
        images: &mut [f32],
    ) -> Part {
        let mut part = Part::default();
        for (place, out) in places.iter().zip(images.chunks_exact_mut(self.maker.len())) {
            if !self.image(order, start + place, epoch, out, &mut part) {
                part.gave_up = true;
                break;
            }
        }
        part
    }

    /// Makes the image at a place of the order, or the next one that can be read.
    fn image(
        &self,
        order: &[u32],
        place: usize,
        epoch: u64,
        out: &mut [f32],
        part: &mut Part,
    ) -> bool {
        let labels = self.source.labels().unwrap_or_default();
        for place in place..place + REPLACEMENTS {
            let sample = order[place % order.len()];
            part.tried += 1;
            match self.source.image(sample as usize) {
                Ok(image) => {
                    self.maker.make(&image, epoch, sample, out);
                    part.labels.push(labels[sample as usize]);
                    return true;
                }
                Err(error) => part.bad.push((sample, error)),
            }
        }
        false
    }
}
