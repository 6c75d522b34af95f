//! Which sample stands where in an epoch, and who steps in for an unreadable one.

use std::ops::Range;
use std::sync::Arc;

use super::config::{LoaderConfig, Order};
use crate::error::LoaderError;
use crate::random::{Draws, Purpose};
use crate::source::{Runs, Source};

/// Neighbours in a shard that stay together, and how many such runs are mixed.
const RUN: usize = 512;
const MIXED: usize = 32;

/// The samples of one epoch in their order.
pub(super) struct EpochOrder {
    pub(super) epoch: u64,
    order: Arc<Vec<u32>>,
    batch: usize,
}

impl EpochOrder {
    /// `runs`: the samples that it pays to visit together.
    pub(super) fn new(
        epoch: u64,
        samples: Arc<Vec<u32>>,
        config: &LoaderConfig,
        runs: Option<Runs<'_>>,
    ) -> EpochOrder {
        let order = match config.order {
            Order::Sequential => samples,
            Order::Shuffled => {
                // No sample has this number: it is the epoch's own stream.
                let mut draws = Draws::new(config.seed, epoch, u64::MAX, Purpose::Order);
                let (runs, mixed) = split(&samples, runs);
                Arc::new(shuffle_runs(runs, mixed, &mut draws))
            }
        };
        EpochOrder { epoch, order, batch: config.batch }
    }

    /// The sample at a position.
    pub(super) fn sample(&self, position: usize) -> u32 {
        self.order[position]
    }

    /// Positions to try in place of `position`, best first: those a whole number of batches further
    /// on, round the epoch's end, each position once; the own batch's only when there is no other.
    pub(super) fn substitutes(&self, position: usize) -> impl Iterator<Item = usize> + '_ {
        let (len, batch) = (self.order.len(), self.batch);
        let own = position / batch;
        let rounds = len.div_ceil(batch);
        let others = (1..rounds * batch)
            .map(move |step| {
                // Down the column of this position first, then the columns beside it.
                let (row, column) = (step % rounds, step / rounds);
                (own + row) % rounds * batch + (position + column) % batch
            })
            .filter(move |&other| other < len && other / batch != own);
        let mates = (1..batch).map(move |step| own * batch + (position + step) % batch);
        others.chain(mates.filter(move |&mate| mate < len))
    }
}

/// The runs that samples are in, and how many of them are mixed. What is as near as any other, or
/// all mixed with all, is one run.
fn split<'a>(samples: &'a [u32], runs: Option<Runs<'_>>) -> (Vec<&'a [u32]>, usize) {
    let (split, mixed): (Vec<&[u32]>, usize) = match runs {
        None => return (vec![samples], 1),
        Some(Runs::Neighbours) => (samples.chunks(RUN).collect(), MIXED),
        Some(Runs::Groups { starts, mixed }) => {
            let group = |sample: u32| starts.partition_point(|&start| start <= sample);
            (samples.chunk_by(|&one, &other| group(one) == group(other)).collect(), mixed)
        }
    };
    if split.len() <= mixed { (vec![samples], 1) } else { (split, mixed) }
}

/// Runs in shuffled order, and then the samples of each `mixed` runs among themselves: far apart in
/// the batches, and near each other on the disk when they are read.
fn shuffle_runs(mut runs: Vec<&[u32]>, mixed: usize, draws: &mut Draws) -> Vec<u32> {
    let len = runs.len();
    if len > 1 {
        draws.shuffle_front(&mut runs, len);
    }
    let mut order = Vec::with_capacity(runs.iter().map(|run| run.len()).sum());
    for runs in runs.chunks(mixed) {
        let start = order.len();
        runs.iter().for_each(|run| order.extend_from_slice(run));
        let len = order.len() - start;
        draws.shuffle_front(&mut order[start..], len);
    }
    order
}

/// A batch of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchId {
    pub(super) epoch: u64,
    pub(super) index: u64,
}

impl BatchId {
    /// The one that follows.
    pub(super) fn after(self, per_epoch: u64) -> BatchId {
        if self.index + 1 < per_epoch {
            BatchId { index: self.index + 1, ..self }
        } else {
            BatchId { epoch: self.epoch + 1, index: 0 }
        }
    }

    /// Where in the order of its epoch, of so many samples, those stand that this process makes.
    pub(super) fn positions(self, samples: usize, config: &LoaderConfig) -> Range<usize> {
        let start = self.index as usize * config.batch;
        let share = config.share.clone().unwrap_or(0..config.batch);
        (start + share.start).min(samples)..(start + share.end).min(samples)
    }
}

/// Batches of a whole epoch.
pub(super) fn batches_per_epoch(samples: usize, config: &LoaderConfig) -> u64 {
    let batches = match config.order {
        Order::Shuffled => samples / config.batch,
        Order::Sequential => samples.div_ceil(config.batch),
    };
    batches as u64
}

/// The samples to run over, and the checks of all settings that concern them.
pub(super) fn samples(source: &Source, config: &mut LoaderConfig) -> Result<Vec<u32>, LoaderError> {
    let fault = |setting, reason| Err(LoaderError::Setting { setting, reason });
    let len = u32::try_from(source.len()).ok().filter(|&len| len > 0);
    let Some(len) = len else {
        return fault("source", format!("{} samples; 1 to 2^32 - 1 can be loaded", source.len()));
    };
    if config.workers == 0 || config.workers > 1024 {
        return fault("workers", format!("{} must be 1 to 1024", config.workers));
    }
    if config.batch == 0 {
        return fault("batch", "0 images make no batch; use at least 1".into());
    }
    if let Some(share) = config.share.as_ref().filter(|s| s.is_empty() || s.end > config.batch) {
        let reason = format!("{share:?} is no part of a batch of {}", config.batch);
        return fault("share", reason);
    }
    if !(0.0..=1.0).contains(&config.max_bad_share) {
        return fault("max_bad_share", format!("{} must be 0 to 1", config.max_bad_share));
    }
    let samples = match config.subset.take() {
        None => (0..len).collect(),
        Some(subset) => subset,
    };
    if let Some(beyond) = samples.iter().find(|&&sample| sample >= len) {
        return fault("subset", format!("sample {beyond} does not exist; there are {len}"));
    }
    if samples.is_empty() {
        return fault("subset", "names no samples".into());
    }
    if batches_per_epoch(samples.len(), config) == 0 {
        let reason = format!(
            "{} images are more than the {} of the data set; use fewer",
            config.batch,
            samples.len()
        );
        return fault("batch", reason);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(len: u32, batch: usize, epoch: u64) -> EpochOrder {
        let config = LoaderConfig { batch, ..LoaderConfig::default() };
        EpochOrder::new(epoch, Arc::new((0..len).collect()), &config, None)
    }

    #[test]
    fn runs_are_a_permutation_too() {
        let samples: Vec<u32> = (0..40_000).collect();
        let (runs, mixed) = split(&samples, Some(Runs::Neighbours));
        let order = shuffle_runs(runs, mixed, &mut Draws::new(1, 0, 0, Purpose::Order));
        let mut runs: Vec<u32> = order[..1024].iter().map(|sample| sample / 512).collect();
        runs.sort_unstable();
        runs.dedup();
        assert_eq!(runs.len(), 32, "the first batches are from 32 runs");
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted == samples);
    }

    #[test]
    fn groups_stay_together_and_are_mixed_with_few_others() {
        // Groups of 10, 20, ..., 100 samples, of which every other one is asked for.
        let starts: Vec<u32> = (0..=10).map(|group| 5 * group * (group + 1)).collect();
        let samples: Vec<u32> = (0..550).step_by(2).collect();
        let (runs, mixed) = split(&samples, Some(Runs::Groups { starts: &starts, mixed: 3 }));
        assert_eq!((runs.len(), mixed), (10, 3));
        let order = shuffle_runs(runs, mixed, &mut Draws::new(1, 0, 0, Purpose::Order));
        let group = |sample: &u32| starts.partition_point(|start| start <= sample);
        // Once the fourth group appears, none of the first three comes again, and so on.
        let mut met: Vec<usize> = vec![];
        for sample in &order {
            let place = met.iter().position(|known| *known == group(sample));
            let place = place.unwrap_or_else(|| {
                met.push(group(sample));
                met.len() - 1
            });
            assert_eq!(place / 3, (met.len() - 1) / 3);
        }
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted == samples);
        // As many as are mixed anyway are mixed all with all.
        assert_eq!(split(&samples, Some(Runs::Groups { starts: &starts, mixed: 10 })).0.len(), 1);
    }

    #[test]
    fn processes_share_a_batch() {
        for shares in [vec![0..5, 5..10], vec![0..3, 3..4, 4..10]] {
            let seen = shares.into_iter().flat_map(|share| {
                let config =
                    LoaderConfig { batch: 10, share: Some(share), ..LoaderConfig::default() };
                assert_eq!(batches_per_epoch(103, &config), 10);
                BatchId { epoch: 0, index: 9 }.positions(103, &config)
            });
            assert!(seen.eq(90..100));
        }
    }

    #[test]
    fn every_epoch_is_another_permutation() {
        let (first, second) = (order(1000, 10, 0), order(1000, 10, 1));
        assert_ne!(first.order, second.order);
        let mut sorted = first.order.to_vec();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(first.order, order(1000, 10, 0).order);
    }

    #[test]
    fn substitutes_name_every_other_position_once_and_the_own_batch_last() {
        for (len, batch) in [(100, 10), (103, 10), (10, 10), (12, 10), (7, 1), (1, 1), (25, 7)] {
            let order = order(len, batch, 0);
            for position in 0..len as usize {
                let tried: Vec<usize> = order.substitutes(position).collect();
                let mut all = tried.clone();
                all.push(position);
                all.sort_unstable();
                assert!(all.into_iter().eq(0..len as usize), "{len} {batch} {position}: {tried:?}");
                let own = position / batch;
                let outside = tried.iter().filter(|&&other| other / batch != own).count();
                assert!(tried[..outside].iter().all(|&other| other / batch != own));
            }
            if len > 20 {
                assert_eq!(order.substitutes(3).next(), Some(3 + batch));
            }
        }
    }
}
