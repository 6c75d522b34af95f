//! Clustering: k-means on unit features, its clusters against the labels.
//!
//! k-means is ours: a gemm and a mean, on the crate `gemm` that is there already. The
//! crate at hand for it, `linfa-clustering`, brings a second linear algebra, a second random
//! generator and no measure of agreement with labels.

use ocl_data::{Draws, Purpose};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::Features;
use crate::heads::{Matrix, Threads, gemm, unit_rows};
use crate::progress::Progress;

/// `[clustering]`: settings of k-means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusteringConfig {
    /// Restarts for each seed, of which the one with the least inertia counts.
    pub restarts: usize,
    /// At most so many rounds of Lloyd's algorithm.
    pub rounds: usize,
}

impl ClusteringConfig {
    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`].
    pub fn check(&self) -> Result<(), EvalError> {
        for (setting, value) in
            [("clustering.restarts", self.restarts), ("clustering.rounds", self.rounds)]
        {
            if value == 0 {
                let reason = "is at least 1".to_owned();
                return Err(EvalError::Setting { setting, reason });
            }
        }
        Ok(())
    }
}

/// k-means (Lloyd, initialised by k-means++) of unit features into as many clusters as there are
/// classes, against the labels: normalised mutual information (arithmetic mean) and adjusted Rand
/// index.
pub(super) fn clustering(
    features: &Features,
    classes: usize,
    config: &ClusteringConfig,
    seeds: &[u64],
    progress: &mut Progress,
) -> Measured {
    let width = features.width();
    let unit = unit_rows(features.values(), width);
    let clusters = classes.min(features.len());
    let (mut information, mut rand) = (vec![], vec![]);
    for &seed in seeds {
        let mut best: Option<(f64, Vec<u32>)> = None;
        for restart in 0..config.restarts {
            progress.line(|| format!("clustering: seed {seed}, restart {}", restart + 1));
            let mut draws = Draws::new(seed, 0, restart as u64, Purpose::KMeans);
            let run = lloyd(&unit, width, clusters, config.rounds, &mut draws);
            if best.as_ref().is_none_or(|best| run.0 < best.0) {
                best = Some(run);
            }
        }
        let (_, assigned) = best.expect("there is at least one restart");
        let table = Contingency::of(&assigned, features.labels());
        information.push(table.information());
        rand.push(table.rand());
    }
    let constants = json!({
        "clusters": clusters,
        "restarts": config.restarts,
        "rounds": config.rounds,
        "features": "unit length",
        "images": "the test images",
    });
    let scores = vec![Score::new("NMI", information), Score::new("ARI", rand)];
    Measured { constants, scores, seeds: seeds.to_vec() }
}

/// Inertia and the cluster of each row.
fn lloyd(x: &[f32], width: usize, k: usize, rounds: usize, draws: &mut Draws) -> (f64, Vec<u32>) {
    let rows = x.len() / width;
    let mut centres = plus_plus(x, width, k, draws);
    let mut assigned = vec![u32::MAX; rows];
    let mut inertia = f64::INFINITY;
    let mut dots = vec![0.0; rows * k];
    for _ in 0..rounds {
        gemm(
            Matrix::new(x, width),
            Matrix::new(&centres, width).transpose(),
            &mut dots,
            Threads::All,
        );
        let squares: Vec<f32> =
            centres.chunks_exact(width).map(|c| c.iter().map(|v| v * v).sum()).collect();
        let mut moved = 0;
        inertia = 0.0;
        for (row, own) in dots.chunks_exact(k).zip(&mut assigned) {
            // |x - c|^2 = |x|^2 - 2 x c + |c|^2, and |x| is 1.
            let distances = row.iter().zip(&squares).map(|(dot, square)| 1.0 - 2.0 * dot + square);
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            let (cluster, distance) = nearest.unwrap_or((0, 0.0));
            inertia += f64::from(distance.max(0.0));
            moved += usize::from(*own != cluster as u32);
            *own = cluster as u32;
        }
        if moved == 0 {
            break;
        }
        let mut counts = vec![0usize; k];
        let mut sums = vec![0.0; k * width];
        for (row, &cluster) in x.chunks_exact(width).zip(&assigned) {
            counts[cluster as usize] += 1;
            let sum = &mut sums[cluster as usize * width..][..width];
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        for (cluster, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // An empty cluster keeps its centre.
            for i in cluster * width..(cluster + 1) * width {
                centres[i] = sums[i] / *count as f32;
            }
        }
    }
    (inertia, assigned)
}

/// Centres drawn one after the other, each with a probability in proportion to the squared distance
/// from the nearest so far (Arthur and Vassilvitskii, 2007).
fn plus_plus(x: &[f32], width: usize, k: usize, draws: &mut Draws) -> Vec<f32> {
    let rows = x.len() / width;
    let row = |i: usize| &x[i * width..][..width];
    let mut centres = row(draws.below(rows as u32) as usize).to_vec();
    let mut distances = vec![f64::INFINITY; rows];
    while centres.len() < k * width {
        let newest = &centres[centres.len() - width..];
        for (i, distance) in distances.iter_mut().enumerate() {
            let new: f32 = row(i).iter().zip(newest).map(|(a, b)| (a - b) * (a - b)).sum();
            *distance = distance.min(f64::from(new));
        }
        let mut left = draws.unit() * distances.iter().sum::<f64>();
        let chosen = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        centres.extend_from_slice(row(chosen.unwrap_or(rows - 1)));
    }
    centres
}

/// How often each pair of cluster and label occurs.
struct Contingency {
    table: Vec<Vec<f64>>,
    clusters: Vec<f64>,
    labels: Vec<f64>,
    total: f64,
}

impl Contingency {
    fn of(assigned: &[u32], labels: &[u32]) -> Self {
        let size = |values: &[u32]| values.iter().max().map_or(0, |most| *most as usize + 1);
        let mut table = vec![vec![0.0; size(labels)]; size(assigned)];
        for (&cluster, &label) in assigned.iter().zip(labels) {
            table[cluster as usize][label as usize] += 1.0;
        }
        let clusters = table.iter().map(|row| row.iter().sum()).collect();
        let labels = (0..size(labels)).map(|i| table.iter().map(|row| row[i]).sum()).collect();
        Self { table, clusters, labels, total: assigned.len() as f64 }
    }

    /// Normalised mutual information, by the arithmetic mean of both entropies.
    fn information(&self) -> f64 {
        let n = self.total;
        let entropy = |parts: &[f64]| -> f64 {
            parts.iter().filter(|p| **p > 0.0).map(|p| -p / n * (p / n).ln()).sum()
        };
        let mut mutual = 0.0;
        for (row, cluster) in self.table.iter().zip(&self.clusters) {
            for (both, label) in row.iter().zip(&self.labels).filter(|(both, _)| **both > 0.0) {
                mutual += both / n * (both * n / (cluster * label)).ln();
            }
        }
        let mean = (entropy(&self.clusters) + entropy(&self.labels)) / 2.0;
        // One cluster and one label agree perfectly.
        if mean == 0.0 { 1.0 } else { mutual / mean }
    }

    /// The Rand index, adjusted for chance (Hubert and Arabie, 1985).
    fn rand(&self) -> f64 {
        let pairs = |count: f64| count * (count - 1.0) / 2.0;
        let sum = |parts: &[f64]| parts.iter().copied().map(pairs).sum::<f64>();
        let (clusters, labels) = (sum(&self.clusters), sum(&self.labels));
        let both: f64 = self.table.iter().map(|row| sum(row)).sum();
        let expected = clusters * labels / pairs(self.total).max(1.0);
        let most = (clusters + labels) / 2.0;
        if most == expected { 1.0 } else { (both - expected) / (most - expected) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised_information(a: &[u32], b: &[u32]) -> f64 {
        Contingency::of(a, b).information()
    }

    fn adjusted_rand(a: &[u32], b: &[u32]) -> f64 {
        Contingency::of(a, b).rand()
    }

    #[test]
    fn agreement_is_scikit_learns() {
        // >>> a, b = [0,0,1,1,2,2,2,0], [1,1,0,0,2,2,0,0]
        // >>> normalized_mutual_info_score(a, b), adjusted_rand_score(a, b)
        let (a, b) = ([0, 0, 1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 2, 2, 0, 0]);
        assert!((normalised_information(&a, &b) - 0.5300257549140327).abs() < 1e-9);
        assert!((adjusted_rand(&a, &b) - 0.18181818181818182).abs() < 1e-9);
        // Names of clusters do not matter.
        assert_eq!(
            (normalised_information(&a, &a), adjusted_rand(&[2, 2, 0], &[0, 0, 1])),
            (1.0, 1.0)
        );
    }

    #[test]
    fn three_clusters_are_found() {
        let rows: Vec<f32> = (0..90)
            .flat_map(|i| {
                let wave = 0.1 * (i as f32 * 1.7).sin();
                (0..4).map(move |d| if d == i % 3 { 1.0 + wave } else { wave * d as f32 })
            })
            .collect();
        let features = Features::new(rows, 4, (0..90).map(|i| i % 3).collect());
        let config = ClusteringConfig { restarts: 3, rounds: 50 };
        let measured = clustering(&features, 3, &config, &[0, 1], &mut Progress::silent());
        assert!(measured.scores.iter().all(|score| score.mean > 0.999), "{:?}", measured.scores);
    }
}
