//! Retrieval: each image asks for the others of its class.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::Features;
use crate::heads::{Matrix, Threads, gemm, unit_rows};
use crate::progress::Progress;

/// `[retrieval]`: settings of retrieval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Answers among which one of the class is asked for, each a figure of its own.
    pub recall_at: Vec<usize>,
}

impl RetrievalConfig {
    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`].
    pub fn check(&self) -> Result<(), EvalError> {
        if self.recall_at.is_empty() || self.recall_at.contains(&0) {
            let reason = "needs at least one number, each at least 1".to_owned();
            return Err(EvalError::Setting { setting: "retrieval.recall_at", reason });
        }
        Ok(())
    }
}

/// Queries whose similarities a thread holds at a time.
const QUERIES: usize = 64;

/// What one query came to.
struct Found {
    /// Rank of the best answer of the class, from 1.
    first: usize,
    average_precision: f64,
}

/// Ranks all other features by cosine for each feature, leaving itself out (the convention of
/// metric learning, arXiv 1511.06452): recall at K is the share of queries with one of their class
/// among the first K, mAP the mean of average precision over the whole ranking.
///
/// A query whose class has no other image is left out; of equals one of another class comes first.
pub(super) fn retrieval(
    features: &Features,
    config: &RetrievalConfig,
    progress: &mut Progress,
) -> Measured {
    let (width, labels) = (features.width(), features.labels());
    let unit = unit_rows(features.values(), width);
    progress.line(|| "retrieval".to_owned());
    let found: Vec<Found> = unit
        .par_chunks(QUERIES * width)
        .enumerate()
        .flat_map_iter(|(block, queries)| {
            let mut cosines = vec![0.0; queries.len() / width * labels.len()];
            let all = Matrix::new(&unit, width).transpose();
            gemm(Matrix::new(queries, width), all, &mut cosines, Threads::One);
            let rows = cosines.chunks_exact(labels.len()).enumerate();
            rows.filter_map(|(i, row)| rank(row, labels, block * QUERIES + i)).collect::<Vec<_>>()
        })
        .collect();
    let share = |hits: usize| hits as f64 / found.len().max(1) as f64;
    let mut scores: Vec<Score> = config
        .recall_at
        .iter()
        .map(|&k| {
            let hits = found.iter().filter(|found| found.first <= k).count();
            Score::new(format!("recall@{k}"), vec![share(hits)])
        })
        .collect();
    let sum: f64 = found.iter().map(|found| found.average_precision).sum();
    scores.push(Score::new("mAP", vec![sum / found.len().max(1) as f64]));
    let constants = json!({
        "metric": "cosine",
        "gallery": "the test images, the query left out",
        "queries": found.len(),
        "recall_at": config.recall_at,
    });
    Measured { constants, scores, seeds: vec![] }
}

/// Ranks of the query's class without sorting the rest: the few of the class are sorted, each of
/// the others is counted between two of them.
fn rank(cosines: &[f32], labels: &[u32], query: usize) -> Option<Found> {
    let own = labels[query];
    let mut same: Vec<f32> = (0..labels.len())
        .filter(|&other| other != query && labels[other] == own)
        .map(|other| cosines[other])
        .collect();
    if same.is_empty() {
        return None;
    }
    same.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut before = vec![0usize; same.len() + 1];
    for (&cosine, &label) in cosines.iter().zip(labels) {
        if label != own {
            before[same.partition_point(|&other| other > cosine)] += 1;
        }
    }
    let (mut others, mut sum, mut first) = (0, 0.0, 0);
    for (i, &more) in before[..same.len()].iter().enumerate() {
        others += more;
        let place = i + 1 + others;
        if i == 0 {
            first = place;
        }
        sum += (i + 1) as f64 / place as f64;
    }
    Some(Found { first, average_precision: sum / same.len() as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_a_sort() {
        // Cosines to query 0, itself included; class 0 at ranks 1, 3 and 4.
        let cosines = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5];
        let found = rank(&cosines, &[0, 0, 1, 0, 0, 1], 0).unwrap();
        assert_eq!(found.first, 1);
        let expected = (1.0 + 2.0 / 3.0 + 3.0 / 4.0) / 3.0;
        assert!((found.average_precision - expected).abs() < 1e-12);
        // One of another class comes before an equal one of the own.
        let found = rank(&[1.0, 0.5, 0.5], &[0, 1, 0], 0).unwrap();
        assert_eq!((found.first, found.average_precision), (2, 0.5));
    }

    #[test]
    fn a_lone_image_is_no_query() {
        let features = Features::new(vec![1.0, 0.0, 0.9, 0.1, 0.0, 1.0], 2, vec![0, 0, 1]);
        let config = RetrievalConfig { recall_at: vec![1] };
        let measured = retrieval(&features, &config, &mut Progress::silent());
        assert_eq!(measured.constants["queries"], 2);
        assert_eq!((measured.scores[0].mean, measured.scores[1].mean), (1.0, 1.0));
    }
}
