//! Random numbers that are a function of what they are for.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// What a stream of draws is for: part of its key, so that adding draws to one purpose leaves the
/// others alone. All of the workspace's stand here; a number is never used for another purpose, or
/// runs would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// The order of an epoch.
    Order = 1,
    /// The crop box of a sample.
    Crop = 2,
    /// Whether a sample is mirrored.
    Flip = 3,
    /// Which patches of a sample are kept.
    Keep = 4,
    /// The crop box of a sample's second crop.
    SecondCrop = 5,
    /// Whether a sample's second crop is mirrored.
    SecondFlip = 6,
    /// What is done to the colours of a sample's first crop.
    Augment = 7,
    /// What is done to the colours of a sample's second crop.
    SecondAugment = 8,
    /// Sizes of a batch's blocks; the batch's number stands for the sample.
    BlockSizes = 9,
    /// Corners of a sample's blocks.
    BlockCorners = 10,
    /// The order of an epoch of fine-tuning.
    FinetuneOrder = 0x666f,
    /// How a step of fine-tuning mixes its images.
    Mix = 0x666d,
    /// The crop box of a sample in fine-tuning.
    FinetuneCrop = 0x6663,
    /// The operations that a sample undergoes in fine-tuning.
    RandAugment = 0x6672,
    /// Which box of a sample is erased in fine-tuning.
    Erase = 0x6665,
    /// Initial weights of a classifier.
    Head = 0x6668,
    /// Which branches of a network a step leaves out.
    StochasticDepth = 0x6664,
    /// The order in which linear probes see their features.
    ProbeOrder = 0x6c6f,
    /// Which samples of a class are held out to choose a learning rate by.
    HeldOut = 0x6c68,
    /// Where a restart of k-means begins.
    KMeans = 0x6b6d,
    /// What is done to a sample to try robustness.
    Corruption = 0x726f,
    /// Which labelled samples of a class a few-label protocol uses.
    FewShot = 0x6673,
    /// Which images are shown in pictures of what an encoder sees.
    Inspected = 0x6973,
    /// Which patches stay of an image that is shown occluded.
    Occluded = 0x6f63,
    /// Which samples the embedded set is made of.
    EmbeddedSet = 256,
    /// Synthetic values of benches and tests.
    Test = 300,
}

/// A stream of random numbers keyed by `(seed, epoch, sample, purpose)`: ChaCha8 with the four as
/// its 256-bit key.
///
/// The draws are made here from the raw 32- and 64-bit words, so neither the width of `usize` nor a
/// new version of a library changes them.
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The stream of a purpose.
    pub fn new(seed: u64, epoch: u64, sample: u64, purpose: Purpose) -> Draws {
        Draws::keyed(seed, epoch, sample, purpose as u64)
    }

    fn keyed(seed: u64, epoch: u64, sample: u64, purpose: u64) -> Draws {
        let mut key = [0; 32];
        for (part, word) in key.chunks_exact_mut(8).zip([seed, epoch, sample, purpose]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Draws(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`; `low` where both are equal.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..count`, without bias (Lemire, "Fast Random Integer Generation in an
    /// Interval", 2019).
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn below(&mut self, count: u32) -> u32 {
        assert!(count > 0, "no number is below 0");
        let mut product = u64::from(self.0.next_u32()) * u64::from(count);
        if (product as u32) < count {
            let threshold = count.wrapping_neg() % count;
            while (product as u32) < threshold {
                product = u64::from(self.0.next_u32()) * u64::from(count);
            }
        }
        (product >> 32) as u32
    }

    /// Normal of mean 0 and deviation 1, by the Box-Muller transform.
    pub fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Moves a uniform draw without replacement of `taken` items to the front of `items`, in drawn
    /// order (Fisher and Yates). `taken = items.len()` shuffles all.
    pub fn shuffle_front<T>(&mut self, items: &mut [T], taken: usize) {
        let len = u32::try_from(items.len()).expect("at most 2^32 items are shuffled");
        for front in 0..taken.min(items.len()) as u32 {
            let other = front + self.below(len - front);
            items.swap(front as usize, other as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_counts() {
        let first = |key: [u64; 4]| Draws::keyed(key[0], key[1], key[2], key[3]).unit();
        let base = first([1, 2, 3, 4]);
        assert_eq!(base, first([1, 2, 3, 4]));
        for other in [[0, 2, 3, 4], [1, 0, 3, 4], [1, 2, 0, 4], [1, 2, 3, 0], [2, 1, 3, 4]] {
            assert_ne!(base, first(other), "{other:?}");
        }
    }

    #[test]
    fn the_stream_is_pinned() {
        // A change of these numbers changes every run that is resumed: bump the major version then.
        let mut draws = Draws::keyed(1, 2, 3, 4);
        let got: Vec<u32> = (0..6).map(|_| draws.below(1000)).collect();
        assert_eq!(got, [680, 66, 658, 345, 902, 251], "the random stream has changed");
    }

    #[test]
    fn below_is_uniform() {
        let mut draws = Draws::keyed(5, 0, 0, 0);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[draws.below(7) as usize] += 1;
        }
        // Six standard deviations of a binomial with n = 70,000 and p = 1/7 are 556.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 556), "{counts:?}");
    }
}
