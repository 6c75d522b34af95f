//! What two measures against two baselines mean, in words that never say more than the figures.

/// Top-1 of the trained encoder, the untrained one and raw pixels.
pub(super) struct Verdict {
    pub(super) knn: [f64; 3],
    pub(super) linear: [f64; 3],
}

/// How the trained encoder compares with a baseline by one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Better,
    /// Within a point: seeds alone differ by tenths.
    Alike,
    Worse,
}

impl Standing {
    fn of(values: [f64; 3], baseline: usize) -> Self {
        match values[0] - values[baseline] {
            gain if gain >= 0.01 => Self::Better,
            gain if gain > -0.01 => Self::Alike,
            _ => Self::Worse,
        }
    }

    /// Completes "the features are ... OTHER".
    fn than(self) -> &'static str {
        match self {
            Self::Better => "better than",
            Self::Alike => "within a point of",
            Self::Worse => "worse than",
        }
    }
}

impl Verdict {
    /// Whether training helped, and how the features compare with both baselines by each measure.
    pub(super) fn sentences(&self) -> String {
        use Standing::{Alike, Better, Worse};
        let of = |baseline| (Standing::of(self.linear, baseline), Standing::of(self.knn, baseline));
        let (untrained, pixels) = (of(1), of(2));
        let lead = match untrained {
            (Better, Better | Alike) | (Alike, Better) => "Training has made the features better.",
            (Alike, Alike) => "Training has not changed what the features are worth yet.",
            (Worse | Alike, Worse | Alike) => "Training has made the features worse.",
            (Better, Worse) | (Worse, Better) => "The two measures disagree on what training did.",
        };
        let mut text = format!(
            "{lead} They are {}. They are {}.",
            both(untrained, "the untrained encoder's"),
            both(pixels, "raw pixels"),
        );
        if untrained.0 != untrained.1 || pixels.0 != pixels.1 {
            text += " Where the measures differ: k-NN compares whole features as they are, the probe learns \
                     which of their values to use.";
        }
        text
    }
}

/// How the features compare with a baseline: by the probe, and by k-NN.
fn both((linear, knn): (Standing, Standing), baseline: &str) -> String {
    if linear == knn {
        return format!("{} {baseline} by both measures", linear.than());
    }
    format!("{} {baseline} by the linear probe, {} them by k-NN", linear.than(), knn.than())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_both_measures_agree_it_is_said_once() {
        let text = Verdict { knn: [0.8, 0.7, 0.6], linear: [0.9, 0.8, 0.7] }.sentences();
        assert_eq!(
            text,
            "Training has made the features better. They are better than the untrained encoder's by \
             both measures. They are better than raw pixels by both measures."
        );
    }

    #[test]
    fn a_measure_that_disagrees_is_named() {
        let text = Verdict { knn: [0.8, 0.75, 0.82], linear: [0.84, 0.8, 0.83] }.sentences();
        let says = "They are better than raw pixels by the linear probe, worse than them by k-NN.";
        assert!(text.contains(says) && text.contains("measures differ"), "{text}");
        let text = Verdict { knn: [0.5, 0.6, 0.7], linear: [0.9, 0.8, 0.7] }.sentences();
        assert!(text.starts_with("The two measures disagree"), "{text}");
    }

    #[test]
    fn no_figures_make_it_contradict_itself() {
        let values = [0.4, 0.495, 0.5, 0.505, 0.6];
        let mut seen = 0;
        for untrained_knn in values {
            for untrained in values {
                for pixels_knn in values {
                    for pixels in values {
                        let knn = [0.5, untrained_knn, pixels_knn];
                        let linear = [0.5, untrained, pixels];
                        let text = Verdict { knn, linear }.sentences();
                        let better = text.starts_with("Training has made the features better");
                        let worse = untrained > 0.55 || untrained_knn > 0.55;
                        assert!(!(better && worse), "{text}");
                        let claim = text.contains("better than raw pixels by both");
                        assert_eq!(claim, pixels < 0.45 && pixels_knn < 0.45, "{text}");
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 625);
    }
}
