//! The features nearest to a query, by cosine.

use std::cmp::Ordering;
use std::ops::Range;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use crate::error::EvalError;
use crate::features::Features;
use crate::heads::{self, Matrix, Threads};
use crate::progress::Progress;

/// A neighbour of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Cosine of the two features.
    pub similarity: f32,
    /// Row in the bank.
    pub row: u32,
}

/// Queries of a block of similarities: 512 by 1,024 floats stay in a core's cache.
const QUERIES: usize = 512;
/// Bank rows of a block of similarities.
const BANK: usize = 1024;

/// The `k` most similar bank rows of each query by cosine, best first; of equals the lower row.
///
/// The bank passes by in blocks and the host keeps the best of each query: memory does not grow
/// with the product of both sizes. On the CPU each core has queries of its own and a block of
/// similarities never leaves its cache.
///
/// # Errors
/// When the device fails.
///
/// # Panics
/// If `k` is 0 or the widths of `bank` and `queries` differ.
pub fn nearest(
    bank: &Features,
    queries: &Features,
    k: usize,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<Vec<Neighbour>>, EvalError> {
    assert!(k > 0, "k must be at least 1");
    assert_eq!(bank.width(), queries.width(), "features of bank and queries differ in width");
    if ocl_model::is_host(device) {
        Ok(nearest_on_host(bank, queries, k))
    } else {
        nearest_on_device(bank, queries, k, device, progress)
    }
}

fn nearest_on_host(bank: &Features, queries: &Features, k: usize) -> Vec<Vec<Neighbour>> {
    let width = bank.width();
    let unit_bank = heads::unit_rows(bank.values(), width);
    let unit_queries = heads::unit_rows(queries.values(), width);
    let mut best = vec![Best::new(k.min(bank.len())); queries.len()];
    best.par_chunks_mut(QUERIES).zip(unit_queries.par_chunks(QUERIES * width)).for_each(
        |(best, queries)| {
            let mut block = vec![0.0; best.len() * BANK];
            for columns in blocks(bank.len(), BANK) {
                let bank = &unit_bank[columns.start * width..columns.end * width];
                let block = &mut block[..best.len() * columns.len()];
                let (queries, bank) = (Matrix::new(queries, width), Matrix::new(bank, width));
                heads::gemm(queries, bank.transpose(), block, Threads::One);
                for (best, row) in best.iter_mut().zip(block.chunks_exact(columns.len())) {
                    best.take(row, columns.start as u32);
                }
            }
        },
    );
    best.into_par_iter().map(Best::sorted).collect()
}

fn nearest_on_device(
    bank: &Features,
    queries: &Features,
    k: usize,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<Vec<Neighbour>>, EvalError> {
    let mut best = vec![Best::new(k.min(bank.len())); queries.len()];
    let blocks: Vec<(Range<usize>, Tensor<2>)> = blocks(queries.len(), QUERIES)
        .map(|rows| (rows.clone(), unit_rows(queries.block(rows, device))))
        .collect(); // [Q, D] each
    progress.begin();
    for columns in self::blocks(bank.len(), BANK) {
        let bank_block = unit_rows(bank.block(columns.clone(), device)).transpose(); // [D, B]
        for (rows, queries) in &blocks {
            let similarities = queries.clone().matmul(bank_block.clone()); // [Q, B]
            let data = similarities.try_into_vec_as::<f32>().map_err(EvalError::Device)?;
            let rows = data.par_chunks_exact(columns.len()).zip(&mut best[rows.clone()]);
            rows.for_each(|(row, best)| best.take(row, columns.start as u32));
        }
        progress.images("k-NN, bank", columns.end, bank.len());
    }
    Ok(best.into_par_iter().map(Best::sorted).collect())
}

/// `0..total` in ranges of at most `size`.
fn blocks(total: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(size).map(move |start| start..total.min(start + size))
}

/// `x / max(|x|, 1e-12)` row by row.
fn unit_rows(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12); // [N, 1]
    x / length
}

/// The best of one query so far.
#[derive(Clone, Debug)]
struct Best {
    k: usize,
    /// The best `k`, and others that may be among them, in no order.
    found: Vec<Neighbour>,
    /// What is not above it is not among the best `k`.
    floor: f32,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(Self::room(k)), floor: f32::NEG_INFINITY }
    }

    /// As many again as are wanted: putting them in order once in a while costs less than keeping
    /// it.
    fn room(k: usize) -> usize {
        2 * k.max(16)
    }

    /// Takes similarities to bank rows from `offset` on. Rows come in rising order, so an equal one
    /// later does not displace an earlier one. Almost every similarity is below the floor: whole
    /// groups are passed over by comparisons without branches, which the compiler turns into vector
    /// instructions.
    fn take(&mut self, row: &[f32], offset: u32) {
        const GROUP: usize = 16;
        for (group, values) in row.chunks(GROUP).enumerate() {
            if !values.iter().fold(false, |any, &value| any | (value > self.floor)) {
                continue;
            }
            for (i, &similarity) in values.iter().enumerate() {
                if similarity <= self.floor {
                    continue;
                }
                if self.found.len() == Self::room(self.k) {
                    self.drop_rest();
                }
                let row = offset + (group * GROUP + i) as u32;
                self.found.push(Neighbour { similarity, row });
            }
        }
    }

    /// Keeps the best `k`.
    fn drop_rest(&mut self) {
        if self.found.len() > self.k {
            self.found.select_nth_unstable_by(self.k - 1, Neighbour::order);
            self.found.truncate(self.k);
            self.floor = self.found[self.k - 1].similarity;
        }
    }

    /// The best `k`, best first.
    fn sorted(mut self) -> Vec<Neighbour> {
        self.drop_rest();
        self.found.sort_unstable_by(Neighbour::order);
        self.found
    }
}

impl Neighbour {
    /// The more similar first; of equals the lower row.
    fn order(&self, other: &Self) -> Ordering {
        other.similarity.total_cmp(&self.similarity).then(self.row.cmp(&other.row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    fn random(n: usize, width: usize, seed: u64) -> Features {
        let mut stream = ChaCha8Rng::seed_from_u64(seed);
        let rows = (0..n * width).map(|_| stream.random::<f32>() - 0.5).collect();
        Features::new(rows, width, vec![0; n])
    }

    fn find(bank: &Features, queries: &Features, k: usize) -> Vec<Vec<Neighbour>> {
        nearest(bank, queries, k, &Device::default(), &mut Progress::silent()).unwrap()
    }

    #[test]
    fn host_and_device_agree() {
        let (bank, queries) = (random(BANK + 300, 24, 8), random(QUERIES + 30, 24, 9));
        let host = nearest_on_host(&bank, &queries, 9);
        let (device, mut progress) = (Device::default(), Progress::silent());
        let other = nearest_on_device(&bank, &queries, 9, &device, &mut progress).unwrap();
        for (host, other) in host.iter().zip(&other) {
            for (host, other) in host.iter().zip(other) {
                assert!((host.similarity - other.similarity).abs() < 1e-5);
            }
        }
    }

    fn sort_all(bank: &Features, query: &[f32], k: usize) -> Vec<(f64, u32)> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let mut all: Vec<(f64, u32)> = (0..bank.len())
            .map(|i| {
                let row = bank.row(i);
                (dot(row, query) / (dot(row, row) * dot(query, query)).sqrt(), i as u32)
            })
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(k);
        all
    }

    #[test]
    fn blocks_and_threads_find_what_sorting_finds() {
        // Sizes that leave partial blocks on both sides.
        let (bank, queries) = (random(BANK + 700, 6, 1), random(QUERIES + 9, 6, 2));
        let found = find(&bank, &queries, 20);
        for i in (0..queries.len()).step_by(37) {
            let expected = sort_all(&bank, queries.row(i), 20);
            for (found, expected) in found[i].iter().zip(&expected) {
                assert!((f64::from(found.similarity) - expected.0).abs() < 1e-5);
            }
            let same = found[i].iter().zip(&expected).filter(|(f, e)| f.row == e.1).count();
            assert!(same >= 18, "only near-ties may change places, {same} of 20 agree");
        }
    }

    #[test]
    fn of_equals_the_lower_row_comes_first() {
        let row = [0.6, 0.8, 0.0, 0.1];
        // More than are kept before the rest is dropped.
        let bank = Features::new(row.repeat(100), 4, vec![0; 100]);
        let query = Features::new(row.to_vec(), 4, vec![0]);
        let rows: Vec<u32> = find(&bank, &query, 7)[0].iter().map(|n| n.row).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4, 5, 6]);
    }
}
