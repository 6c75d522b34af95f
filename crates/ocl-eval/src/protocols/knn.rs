//! Weighted k nearest neighbours (Wu et al., arXiv 1805.01978, section 3.4; constants as in DINO).

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use super::nearest::{Neighbour, nearest};
use crate::error::EvalError;
use crate::features::Features;
use crate::heads::{Tally, rank_of};
use crate::progress::Progress;

/// `[knn]`: settings of weighted k-NN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnConfig {
    /// Neighbours that vote, each a figure of its own; all of the bank if it is smaller. The first
    /// is the headline.
    pub k: Vec<usize>,
    /// `T` of a vote's weight `exp(similarity / T)`.
    pub temperature: f64,
}

impl KnnConfig {
    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong = |setting, reason: String| Err(EvalError::Setting { setting, reason });
        if self.k.is_empty() || self.k.contains(&0) {
            return wrong("knn.k", "at least 1 neighbour must vote".to_owned());
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong("knn.temperature", format!("{} must be above 0", self.temperature));
        }
        Ok(())
    }
}

/// Classifies each query by the votes of its `k` nearest bank features, each weighing
/// `exp(cosine/T)`, for each `k` of the settings.
///
/// Top-5 asks for votes: a label that no neighbour has is wrong.
///
/// # Errors
/// When a setting cannot work or the device fails.
///
/// # Panics
/// If the widths of `bank` and `queries` differ, or a label is not below `classes`.
pub fn knn(
    bank: &Features,
    queries: &Features,
    classes: usize,
    config: &KnnConfig,
    device: &Device,
    progress: &mut Progress,
) -> Result<Measured, EvalError> {
    config.check()?;
    let most = config.k.iter().copied().max().unwrap_or(1);
    let nearest = nearest(bank, queries, most, device, progress)?;
    let mut scores = Vec::new();
    for &k in &config.k {
        let mut tally = Tally::default();
        for (neighbours, &label) in nearest.iter().zip(queries.labels()) {
            let neighbours = &neighbours[..k.min(neighbours.len())];
            let votes = votes(neighbours, bank.labels(), classes, config.temperature);
            tally.add(if votes[label as usize] > 0.0 {
                rank_of(&votes, label)
            } else {
                usize::MAX
            });
        }
        let accuracy = tally.accuracy();
        scores.push(Score::new(format!("k={k} top-1"), vec![accuracy.top1]));
        scores.push(Score::new(format!("k={k} top-5"), vec![accuracy.top5]));
    }
    let constants = json!({ "k": config.k, "temperature": config.temperature, "metric": "cosine" });
    Ok(Measured { constants, scores, seeds: vec![] })
}

/// Sum of the weights of each class, `[C]`, up to a common factor.
fn votes(neighbours: &[Neighbour], labels: &[u32], classes: usize, temperature: f64) -> Vec<f64> {
    let mut votes = vec![0.0; classes];
    let best = neighbours.first().map_or(0.0, |first| f64::from(first.similarity));
    for neighbour in neighbours {
        // Relative to the best one, so that no weight overflows at a low temperature.
        let weight = ((f64::from(neighbour.similarity) - best) / temperature).exp();
        votes[labels[neighbour.row as usize] as usize] += weight;
    }
    votes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    fn random(n: usize, width: usize, classes: u32, seed: u64) -> Features {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let rows = (0..n * width).map(|_| stream.random::<f32>() - 0.5).collect();
        let labels = (0..n).map(|_| stream.random_range(0..classes)).collect();
        Features::new(rows, width, labels)
    }

    fn find(bank: &Features, queries: &Features, k: usize) -> Vec<Vec<Neighbour>> {
        nearest(bank, queries, k, &Device::default(), &mut Progress::silent()).unwrap()
    }

    fn config() -> KnnConfig {
        KnnConfig { k: vec![20], temperature: 0.07 }
    }

    /// Top-1 and top-5.
    fn measure(
        bank: &Features,
        queries: &Features,
        classes: usize,
        config: &KnnConfig,
    ) -> [f64; 2] {
        let (device, mut progress) = (Device::default(), Progress::silent());
        let measured = knn(bank, queries, classes, config, &device, &mut progress).unwrap();
        [measured.scores[0].mean, measured.scores[1].mean]
    }

    #[test]
    fn several_k_are_what_each_alone_is() {
        let (bank, queries) = (random(500, 8, 6, 3), random(150, 8, 6, 4));
        let alone = |k| measure(&bank, &queries, 6, &KnnConfig { k: vec![k], ..config() });
        let several = KnnConfig { k: vec![20, 1, 5], ..config() };
        let (device, mut progress) = (Device::default(), Progress::silent());
        let measured = knn(&bank, &queries, 6, &several, &device, &mut progress).unwrap();
        for (i, k) in [20, 1, 5].into_iter().enumerate() {
            let [top1, top5] = alone(k);
            assert_eq!(
                (measured.scores[2 * i].mean, measured.scores[2 * i + 1].mean),
                (top1, top5)
            );
            assert_eq!(measured.scores[2 * i].name, format!("k={k} top-1"));
        }
    }

    #[test]
    fn a_small_bank_votes_as_a_whole() {
        let bank = Features::new(vec![1.0, 0.0, 0.0, 1.0, 0.1, 1.0], 2, vec![0, 1, 1]);
        let queries = Features::new(vec![1.0, 0.2, 0.0, 3.0], 2, vec![0, 1]);
        assert_eq!(find(&bank, &queries, 20)[0].len(), 3);
        let accuracy = measure(&bank, &queries, 2, &config());
        assert_eq!(accuracy, [1.0, 1.0]);
        // A label that no neighbour has is not among the top five either.
        let stranger = Features::new(vec![1.0, 0.0], 2, vec![2]);
        assert_eq!(measure(&bank, &stranger, 3, &config())[1], 0.0);
    }

    #[test]
    fn nearer_neighbours_weigh_more() {
        // One neighbour at cosine 1 against three at 0: exp(1 / 0.07) is far more than 3.
        let bank = Features::new(vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0], 2, vec![0, 1, 1, 1]);
        let query = Features::new(vec![2.0, 0.0], 2, vec![0]);
        assert_eq!(measure(&bank, &query, 2, &config())[0], 1.0);
        // A temperature so high that all weigh the same lets the three win.
        let flat = KnnConfig { temperature: 1e3, ..config() };
        assert_eq!(measure(&bank, &query, 2, &flat)[0], 0.0);
    }

    #[test]
    fn names_of_classes_do_not_matter() {
        let (bank, queries) = (random(400, 8, 6, 3), random(150, 8, 6, 4));
        let before = measure(&bank, &queries, 6, &config());
        let renamed = |features: &Features| {
            let labels = features.labels().iter().map(|label| [4, 0, 5, 1, 3, 2][*label as usize]);
            let rows = (0..features.len()).flat_map(|i| features.row(i).to_vec());
            Features::new(rows.collect(), features.width(), labels.collect())
        };
        let after = measure(&renamed(&bank), &renamed(&queries), 6, &config());
        assert_eq!(before, after);
    }

    #[test]
    fn impossible_settings_are_named() {
        let bank = random(4, 2, 2, 5);
        for (name, config) in [
            ("knn.k", KnnConfig { k: vec![3, 0], ..config() }),
            ("knn.temperature", KnnConfig { temperature: 0.0, ..config() }),
        ] {
            let run = knn(&bank, &bank, 2, &config, &Device::default(), &mut Progress::silent());
            assert!(run.unwrap_err().to_string().starts_with(name));
        }
    }
}
