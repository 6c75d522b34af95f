//! Few labels: logistic regression on a handful of images of each class, or on a share of all.

use ocl_data::{Draws, Purpose};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::Features;
use crate::heads::{Logistic, Standard, Tally};
use crate::progress::Progress;

/// `[few-shot]`: settings of the few-label protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShotConfig {
    /// Labelled images of each class, each a figure of its own.
    pub shots: Vec<usize>,
    /// Shares of each class's images, each a figure of its own.
    pub shares: Vec<f64>,
    /// Inverse strength of the penalty, as scikit-learn's `C`.
    pub c: f64,
    /// At most so many steps of L-BFGS.
    pub steps: usize,
}

impl FewShotConfig {
    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong = |setting, reason: String| Err(EvalError::Setting { setting, reason });
        if self.shots.contains(&0) {
            return wrong("few-shot.shots", "a class needs at least 1 image".to_owned());
        }
        if let Some(share) = self.shares.iter().find(|share| !(**share > 0.0 && **share <= 1.0)) {
            return wrong("few-shot.shares", format!("{share} is no share, above 0 to 1"));
        }
        if self.shots.is_empty() && self.shares.is_empty() {
            return wrong("few-shot.shots", "neither shots nor shares are given".to_owned());
        }
        if !(self.c.is_finite() && self.c > 0.0) {
            return wrong("few-shot.c", format!("{} must be above 0", self.c));
        }
        Ok(())
    }
}

/// Fits a logistic regression (L2 penalty, as in MSN's low-shot protocol, arXiv 2204.07141) on a
/// few labelled images of each class, drawn by each seed, and measures it on all of `test`.
///
/// Features are standardised by all training images, which takes no label. A class with fewer
/// images than asked for gives all it has.
pub(super) fn few_shot(
    train: &Features,
    test: &Features,
    classes: usize,
    config: &FewShotConfig,
    seeds: &[u64],
    progress: &mut Progress,
) -> Result<Measured, EvalError> {
    config.check()?;
    let width = train.width();
    let standard = Standard::of(train.values(), width);
    let (train_x, test_x) = (standard.apply(train.values()), standard.apply(test.values()));
    let shots =
        config.shots.iter().map(|&shots| (format!("{shots}-shot top-1"), Count::Shots(shots)));
    let shares = config
        .shares
        .iter()
        .map(|&share| (format!("{} % of labels top-1", share * 100.0), Count::Share(share)));
    let mut scores = Vec::new();
    for (name, count) in shots.chain(shares) {
        let mut values = Vec::new();
        for &seed in seeds {
            progress.line(|| format!("few labels: {name}, seed {seed}"));
            let chosen = choose(train.labels(), classes, count, seed);
            let x: Vec<f32> =
                chosen.iter().flat_map(|&row| &train_x[row * width..][..width]).copied().collect();
            let labels: Vec<u32> = chosen.iter().map(|&row| train.labels()[row]).collect();
            let fitted = Logistic::fit(&x, width, &labels, classes, config.c, config.steps);
            let mut tally = Tally::default();
            tally.add_scores(&fitted.logits(&test_x), test.labels());
            values.push(tally.accuracy().top1);
        }
        scores.push(Score::new(name, values));
    }
    let constants = json!({
        "regression": "multinomial, L2 penalty, L-BFGS",
        "shots": config.shots,
        "shares": config.shares,
        "c": config.c,
        "steps": config.steps,
        "features": "standardised by all training images",
    });
    Ok(Measured { constants, scores, seeds: seeds.to_vec() })
}

/// How many of each class.
#[derive(Clone, Copy)]
enum Count {
    Shots(usize),
    Share(f64),
}

/// Rows of the chosen images, class after class.
fn choose(labels: &[u32], classes: usize, count: Count, seed: u64) -> Vec<usize> {
    let mut of_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(row, label)| of_class[*label as usize].push(row));
    let mut chosen = Vec::new();
    for (class, mut rows) in of_class.into_iter().enumerate() {
        let wanted = match count {
            Count::Shots(shots) => shots,
            Count::Share(share) => (share * rows.len() as f64).round().max(1.0) as usize,
        }
        .min(rows.len());
        Draws::new(seed, 0, class as u64, Purpose::FewShot).shuffle_front(&mut rows, wanted);
        chosen.extend_from_slice(&rows[..wanted]);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_gives_what_is_asked_for_or_all_it_has() {
        let labels: Vec<u32> = (0..100).map(|i| u32::from(i >= 97)).collect();
        let count = |count, seed| {
            let chosen = choose(&labels, 3, count, seed);
            [0, 1].map(|class| chosen.iter().filter(|row| labels[**row] == class).count())
        };
        assert_eq!(count(Count::Shots(5), 0), [5, 3]);
        assert_eq!(count(Count::Share(0.1), 0), [10, 1]);
        assert_ne!(choose(&labels, 2, Count::Shots(5), 0), choose(&labels, 2, Count::Shots(5), 1));
    }
}
