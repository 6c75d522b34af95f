//! A loader's settings.

use std::ops::Range;
use std::path::PathBuf;

/// In which order samples come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A permutation per epoch, from seed and epoch alone; the last partial batch is dropped.
    Shuffled,
    /// From the first to the last; the last partial batch is kept.
    Sequential,
}

/// How a loader runs.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Images in a batch, `N`.
    pub batch: usize,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Seed of order, crops, flips and kept patches.
    pub seed: u64,
    /// In which order samples come.
    pub order: Order,
    /// The epochs to run.
    pub epochs: Range<u64>,
    /// The batch of the first epoch to begin at, for resuming.
    pub first_batch: u64,
    /// The share of unreadable images, 0 to 1, above which the loader stops.
    pub max_bad_share: f64,
    /// Where unreadable images are named, one JSON object a line; appended to.
    pub quarantine: Option<PathBuf>,
    /// Only these samples of the source.
    pub subset: Option<Vec<u32>>,
    /// Of each batch, only the images at these places of it: what one of several processes makes.
    /// All processes together make the very batches that one makes alone, images that step in for
    /// unreadable ones included.
    pub share: Option<Range<usize>>,
}

impl Default for LoaderConfig {
    /// 256 images, one worker, seed 0, one shuffled epoch, at most 5 % unreadable, no quarantine
    /// file, whole batches.
    fn default() -> LoaderConfig {
        LoaderConfig {
            batch: 256,
            workers: 1,
            seed: 0,
            order: Order::Shuffled,
            epochs: 0..1,
            first_batch: 0,
            max_bad_share: 0.05,
            quarantine: None,
            subset: None,
            share: None,
        }
    }
}
