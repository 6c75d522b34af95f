//! Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899): image `i` of a batch with image `N - 1 -
//! i`, and their labels in the same proportion.

use serde::{Deserialize, Serialize};

use crate::random::Draws;

/// How the images of a batch are mixed, with the keys of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Alpha of mixup's beta distribution; 0 leaves it out.
    pub mixup: f64,
    /// Alpha of cutmix's beta distribution; 0 leaves it out.
    pub cutmix: f64,
    /// Probability that a batch is mixed at all.
    pub probability: f64,
    /// Where both are on, the probability of cutmix.
    pub cutmix_share: f64,
    /// Share of a label that goes to all classes alike.
    pub label_smoothing: f64,
}

impl Mix {
    /// Mixes normalised pictures `[N, S, S, 3]` in place and gives their targets `[N, C]`.
    pub(crate) fn apply(
        &self,
        images: &mut [f32],
        side: usize,
        labels: &[u32],
        classes: usize,
        draws: &mut Draws,
    ) -> Vec<f32> {
        let n = labels.len();
        let own = draw(images, side, n, self, draws);
        let mut targets = vec![self.label_smoothing as f32 / classes as f32; n * classes];
        let label = 1.0 - self.label_smoothing;
        for i in 0..n {
            let row = &mut targets[i * classes..][..classes];
            row[labels[i] as usize] += (own * label) as f32;
            row[labels[n - 1 - i] as usize] += ((1.0 - own) * label) as f32;
        }
        targets
    }
}

/// Mixes, and gives the share that each image kept.
fn draw(images: &mut [f32], side: usize, n: usize, mix: &Mix, draws: &mut Draws) -> f64 {
    let mixed = draws.unit() < mix.probability;
    let by_cutmix = match (mix.mixup > 0.0, mix.cutmix > 0.0) {
        (true, true) => draws.unit() < mix.cutmix_share,
        (mixup, cutmix) => {
            if !(mixup || cutmix) || !mixed {
                return 1.0;
            }
            cutmix
        }
    };
    if !mixed {
        return 1.0;
    }
    if by_cutmix {
        let own = beta(mix.cutmix, draws);
        let cut = (side as f64 * (1.0 - own).sqrt()) as usize;
        let at = |centre: u32| {
            let low = (centre as usize).saturating_sub(cut / 2);
            low..(centre as usize + cut.div_ceil(2)).min(side)
        };
        let (columns, rows) = (at(draws.below(side as u32)), at(draws.below(side as u32)));
        pairs(images, n, |a, b| {
            for y in rows.clone() {
                let row = (y * side + columns.start) * 3..(y * side + columns.end) * 3;
                a[row.clone()].swap_with_slice(&mut b[row]);
            }
        });
        // The box may reach over the rim: what counts is what was swapped.
        return 1.0 - (columns.len() * rows.len()) as f64 / (side * side) as f64;
    }
    let own = beta(mix.mixup, draws);
    let (kept, other) = (own as f32, (1.0 - own) as f32);
    pairs(images, n, |a, b| {
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (kept * *a + other * *b, kept * *b + other * *a);
        }
    });
    own
}

/// Hands each image and its partner to `f`, each pair once.
fn pairs(images: &mut [f32], n: usize, mut f: impl FnMut(&mut [f32], &mut [f32])) {
    let len = images.len() / n.max(1);
    for i in 0..n / 2 {
        let (front, back) = images.split_at_mut((n - 1 - i) * len);
        f(&mut front[i * len..][..len], &mut back[..len]);
    }
}

/// A draw from `Beta(alpha, alpha)` (Joehnk 1964: right for every alpha, quick for those near 1).
fn beta(alpha: f64, draws: &mut Draws) -> f64 {
    loop {
        let (x, y) = (draws.unit().powf(1.0 / alpha), draws.unit().powf(1.0 / alpha));
        if x + y <= 1.0 && x + y > 0.0 {
            return x / (x + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn recipe(mixup: f64, cutmix: f64) -> Mix {
        Mix { mixup, cutmix, probability: 1.0, cutmix_share: 0.5, label_smoothing: 0.1 }
    }

    /// Two pictures, all 0 and all 1, of classes 0 and 2.
    fn run(recipe: &Mix, sample: u64) -> (Vec<f32>, Vec<f32>) {
        let mut images = vec![0.0; 64 * 3];
        images.extend(vec![1.0; 64 * 3]);
        let mut draws = Draws::new(0, 0, sample, Purpose::Test);
        let targets = recipe.apply(&mut images, 8, &[0, 2], 4, &mut draws);
        (images, targets)
    }

    #[test]
    fn labels_follow_the_pixels() {
        for (mixup, cutmix) in [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)] {
            for sample in 0..50 {
                let (images, targets) = run(&recipe(mixup, cutmix), sample);
                let other = images[..192].iter().sum::<f32>() / 192.0;
                assert!((targets[2] - (0.025 + 0.9 * other)).abs() < 1e-5, "{targets:?} {other}");
                assert!((targets[..4].iter().sum::<f32>() - 1.0).abs() < 1e-5);
                let back = images[192..].iter().sum::<f32>() / 192.0;
                assert!((other + back - 1.0).abs() < 1e-5, "what one loses the other gains");
            }
        }
    }

    #[test]
    fn without_mixing_labels_are_smoothed_only() {
        let (images, targets) = run(&recipe(0.0, 0.0), 0);
        assert_eq!((images[0], images[192]), (0.0, 1.0));
        assert!((targets[0] - 0.925).abs() < 1e-6 && (targets[1] - 0.025).abs() < 1e-6);
        let never = Mix { probability: 0.0, ..recipe(0.8, 1.0) };
        assert_eq!(run(&never, 1).0, images);
    }

    #[test]
    fn beta_has_its_moments() {
        for alpha in [0.4, 0.8, 1.0, 2.0] {
            let mut draws = Draws::new(1, 0, 0, Purpose::Test);
            let values: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut draws)).collect();
            let mean = values.iter().sum::<f64>() / 2e4;
            let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2e4;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01 && (var - expected).abs() < 0.005, "{alpha}: {var}");
        }
    }
}
