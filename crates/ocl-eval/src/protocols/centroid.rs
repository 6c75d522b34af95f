//! Nearest class mean: what the features separate without any training of a head.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use crate::features::Features;
use crate::heads::{Matrix, Standard, Tally, Threads, gemm, unit_rows};

/// `[centroid]`: settings of the nearest class mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CentroidConfig {
    /// Subtract the mean of the training features first; the cosine then sees what differs.
    pub centre: bool,
}

/// Assigns each test feature to the class whose mean of unit training features is nearest by cosine
/// (as prototypical networks do, arXiv 1703.05175; by cosine rather than Euclidean distance).
///
/// A class without training features has no mean and is never answered.
///
/// # Panics
/// If the widths of `train` and `test` differ, or a label is not below `classes`.
pub(super) fn centroid(
    train: &Features,
    test: &Features,
    classes: usize,
    config: &CentroidConfig,
) -> Measured {
    assert_eq!(train.width(), test.width(), "features of train and test differ in width");
    let width = train.width();
    let unit = |features: &Features| {
        if config.centre {
            let mean = Standard::of(train.values(), width);
            unit_rows(&mean.centre(features.values()), width)
        } else {
            unit_rows(features.values(), width)
        }
    };
    let (train_unit, test_unit) = (unit(train), unit(test));
    let mut means = vec![0.0; classes * width];
    for (row, &label) in train_unit.chunks_exact(width).zip(train.labels()) {
        let mean = &mut means[label as usize * width..][..width];
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value);
    }
    let means = unit_rows(&means, width);
    let mut cosines = vec![0.0; test.len() * classes];
    let (test_unit, means) = (Matrix::new(&test_unit, width), Matrix::new(&means, width));
    gemm(test_unit, means.transpose(), &mut cosines, Threads::All); // [N, C]
    let mut known = vec![false; classes];
    train.labels().iter().for_each(|label| known[*label as usize] = true);
    for row in cosines.chunks_exact_mut(classes) {
        let unknown = row.iter_mut().zip(&known).filter(|(_, known)| !**known);
        unknown.for_each(|(cosine, _)| *cosine = f32::NEG_INFINITY);
    }
    let mut tally = Tally::default();
    tally.add_scores(&cosines, test.labels());
    let accuracy = tally.accuracy();
    Measured {
        constants: json!({ "metric": "cosine", "centre": config.centre }),
        scores: vec![
            Score::new("top-1", vec![accuracy.top1]),
            Score::new("top-5", vec![accuracy.top5]),
        ],
        seeds: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top1(train: &Features, test: &Features, classes: usize, centre: bool) -> f64 {
        centroid(train, test, classes, &CentroidConfig { centre }).scores[0].mean
    }

    #[test]
    fn the_nearest_mean_wins_and_an_empty_class_never() {
        // Class 1 has no training feature; its mean, zero, is not nearer than an opposite one.
        let train = Features::new(vec![1.0, 0.1, 1.0, -0.1, -1.0, 0.2], 2, vec![0, 0, 2]);
        let test = Features::new(vec![5.0, 0.0, -3.0, 0.0, -1.0, -9.0], 2, vec![0, 2, 1]);
        assert!((top1(&train, &test, 3, false) - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn centring_takes_away_what_all_have_in_common() {
        let far = 100.0;
        let train = Features::new(vec![far, 1.0, far, -1.0], 2, vec![0, 1]);
        let test = Features::new(vec![far + 0.5, 2.0, far - 0.5, -2.0], 2, vec![0, 1]);
        assert_eq!(top1(&train, &test, 2, true), 1.0);
    }
}
