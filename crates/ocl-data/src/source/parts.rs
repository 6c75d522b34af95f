//! Which part of a data set a name speaks of.

use serde::{Deserialize, Serialize};

use super::kind::Split;

/// The names that stand for the parts of a data set, where its own names do not tell.
///
/// For a folder of images, packed or not, a name is that of a folder in it, and `.` is the folder
/// itself; for tar archives and Parquet files it is a word of their names, for a table of paths an
/// entry of its column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitNames {
    /// What the training part is called.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "train_split")]
    pub train: Option<String>,
    /// What the part to measure on is called.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "test_split")]
    pub test: Option<String>,
}

impl SplitNames {
    /// The name of one part, if it was given.
    pub fn of(&self, split: Split) -> Option<&str> {
        match split {
            Split::Train => self.train.as_deref(),
            Split::Test => self.test.as_deref(),
        }
    }
}

/// A part, as names have it. Where a set has both a validation and a test part, the validation part
/// is measured on: labels of test parts are often withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    pub(super) fn is_train(self) -> bool {
        self == Part::Train
    }
}

/// The part that a word stands for, in any case: `Train`, `VALID`.
pub(super) fn of_word(word: &str) -> Option<Part> {
    Some(match word.to_ascii_lowercase().as_str() {
        "train" | "training" => Part::Train,
        "val" | "valid" | "validation" | "dev" | "eval" => Part::Validation,
        "test" | "testing" => Part::Test,
        _ => return None,
    })
}

/// The parts that a longer name speaks of, each once: `cc3m_train_0000.tar`, `val2017`,
/// `train-00000-of-00005.parquet`.
pub(super) fn in_name(name: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = words(name)
        .filter_map(|word| of_word(word.trim_end_matches(|c: char| c.is_ascii_digit())))
        .collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// Whether the words of `wanted` stand one after the other in a name, in any case.
pub(super) fn has_words(name: &str, wanted: &str) -> bool {
    let name: Vec<String> = words(name).map(str::to_lowercase).collect();
    let wanted: Vec<String> = words(wanted).map(str::to_lowercase).collect();
    !wanted.is_empty() && name.windows(wanted.len()).any(|part| part == wanted)
}

/// What stands between anything that is neither letter nor digit.
fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_word() {
        for (name, parts) in [
            ("train-00000-of-00005.parquet", &[Part::Train][..]),
            ("cc3m_TRAINING_0000.tar", &[Part::Train]),
            ("train00.tar", &[Part::Train]),
            ("x.validation.7.tar", &[Part::Validation]),
            ("imagenet val 3.tar", &[Part::Validation]),
            ("Dev-1.tar", &[Part::Validation]),
            ("my-testing-3.tar", &[Part::Test]),
            ("test-train-3.tar", &[Part::Train, Part::Test]),
            ("strain-contest-trained-valuable.tar", &[]),
            ("00train.tar", &[]),
        ] {
            assert_eq!(in_name(name), parts, "{name}");
        }
        assert_eq!(of_word("train2017"), None);
    }

    #[test]
    fn words_in_a_row() {
        assert!(has_words("cc3m_Hold-Out_0.tar", "hold-out"));
        assert!(!has_words("cc3m_hold_0_out.tar", "hold-out") && !has_words("a.tar", ""));
    }
}
