//! Top-1 and top-5 from scores.

use serde::{Deserialize, Serialize};

/// Share of samples whose label is the best class, and among the best five; both in `0..=1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Accuracy {
    /// Share of labels that score highest.
    pub top1: f64,
    /// Share of labels among the five highest; 1 with five classes or fewer.
    pub top5: f64,
}

/// Counts hits as scores arrive, batch by batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    samples: usize,
    top1: usize,
    top5: usize,
}

impl Tally {
    /// Adds one sample by its label's [`rank_of`].
    pub(crate) fn add(&mut self, rank: usize) {
        self.samples += 1;
        self.top1 += usize::from(rank < 1);
        self.top5 += usize::from(rank < 5);
    }

    /// Adds `[N, C]` scores with their `N` labels.
    pub(crate) fn add_scores(&mut self, scores: &[f32], labels: &[u32]) {
        let classes = scores.len() / labels.len().max(1);
        for (row, &label) in scores.chunks_exact(classes.max(1)).zip(labels) {
            self.add(rank_of(row, label));
        }
    }

    pub(crate) fn accuracy(self) -> Accuracy {
        let share = |hits: usize| hits as f64 / self.samples.max(1) as f64;
        Accuracy { top1: share(self.top1), top5: share(self.top5) }
    }
}

/// Number of classes that beat class `label`: 0 is top-1.
///
/// Of equal scores the lower class wins, as in a stable sort; a score that is not a number never
/// counts in the label's favour.
///
/// # Panics
/// If `label` is not a class of `scores`.
pub(crate) fn rank_of<T: PartialOrd + Copy>(scores: &[T], label: u32) -> usize {
    let label = label as usize;
    let own = scores[label];
    let loses = |(class, &score): (usize, &T)| score < own || (score == own && class > label);
    scores
        .iter()
        .enumerate()
        .filter(|&(class, score)| class != label && !loses((class, score)))
        .count()
}

/// Mean and sample standard deviation (`n - 1`); the deviation of one value is 0.
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_counts_the_better_classes() {
        let scores = [0.1, 0.7, 0.2, 0.7];
        assert_eq!((0..4).map(|label| rank_of(&scores, label)).collect::<Vec<_>>(), [3, 0, 2, 1]);
    }

    #[test]
    fn what_is_not_a_number_is_wrong() {
        assert_eq!(rank_of(&[f32::NAN, 0.0], 0), 1);
        assert_eq!(rank_of(&[f32::NAN, 0.0], 1), 1);
    }

    #[test]
    fn a_tally_counts_top1_and_top5() {
        let mut tally = Tally::default();
        let scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        let three = [scores, scores, scores].concat();
        tally.add_scores(&three, &[0, 4, 5]);
        assert_eq!(tally.accuracy(), Accuracy { top1: 1.0 / 3.0, top5: 2.0 / 3.0 });
    }

    #[test]
    fn deviation_is_the_samples() {
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 3.0]), (2.0, 1.0));
        assert_eq!(mean_and_deviation(&[4.0]), (4.0, 0.0));
    }
}
