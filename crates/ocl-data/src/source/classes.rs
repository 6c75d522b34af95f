//! What data sets say about the class of a sample, and the labels that follow.

use std::collections::BTreeSet;
use std::path::Path;

use super::opened::damaged;
use super::survey::Survey;
use crate::error::SourceError;

/// The most classes there may be.
const MAX_CLASSES: u32 = 1 << 20;

/// What is said about a sample's class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Missing,
    Number(i64),
    Word(String),
}

impl Class {
    /// What a text says: a number if it is one.
    pub(super) fn of_text(text: &str) -> Class {
        let text = text.trim_start_matches('\u{feff}');
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        match text.parse() {
            _ if text.is_empty() => Class::Missing,
            Ok(number) => Class::Number(number),
            Err(_) => Class::Word(text.to_owned()),
        }
    }

    /// What a value of JSON says.
    pub(super) fn of_json(value: &serde_json::Value) -> Class {
        match value {
            serde_json::Value::Number(number) => {
                number.as_i64().map_or(Class::Missing, Class::Number)
            }
            serde_json::Value::String(word) => Class::of_text(word),
            _ => Class::Missing,
        }
    }

    /// As a word; empty where nothing is said.
    pub(super) fn said(&self) -> String {
        match self {
            Class::Missing => String::new(),
            Class::Number(number) => number.to_string(),
            Class::Word(word) => word.clone(),
        }
    }
}

/// Labels and the classes' names, from what was said of each sample. Words are sorted, those of the
/// other part among them, so that a class keeps its number where one part lacks it.
///
/// # Errors
/// If some are words and others numbers, or a number is no class.
pub(super) fn labels(
    root: &Path,
    name_of: impl Fn(usize) -> String,
    classes: &[Class],
    survey: &mut Survey,
    other_words: impl FnOnce() -> BTreeSet<String>,
) -> Result<(Option<Vec<u32>>, Vec<String>), SourceError> {
    let missing = classes.iter().filter(|class| **class == Class::Missing).count();
    if missing > 0 {
        if missing < classes.len() {
            let first = classes.iter().position(|class| *class == Class::Missing).unwrap_or(0);
            survey.note(format!(
                "without labels, as {missing} samples have no class, {} the first",
                name_of(first)
            ));
        }
        return Ok((None, Vec::new()));
    }
    let word = classes.iter().position(|class| matches!(class, Class::Word(_)));
    let number = classes.iter().position(|class| matches!(class, Class::Number(_)));
    if let (Some(word), Some(number)) = (word, number) {
        return Err(damaged(
            root,
            format!(
                "{} is of class {}, which is no number, while {} is of class {}",
                name_of(word),
                classes[word].said(),
                name_of(number),
                classes[number].said()
            ),
        ));
    }
    if word.is_some() {
        let mut all = other_words();
        all.extend(classes.iter().map(Class::said));
        let all: Vec<String> = all.into_iter().collect();
        let place =
            |class: &Class| all.binary_search(&class.said()).map_or(0, |place| place as u32);
        return Ok((Some(classes.iter().map(place).collect()), all));
    }
    let mut numbers = Vec::with_capacity(classes.len());
    for (index, class) in classes.iter().enumerate() {
        match class {
            Class::Number(number) if (0..i64::from(MAX_CLASSES)).contains(number) => {
                numbers.push(*number as u32);
            }
            other => {
                let name = name_of(index);
                let reason = format!(
                    "{name} is of class {}, which is not in 0..{MAX_CLASSES}",
                    other.said()
                );
                return Err(damaged(root, reason));
            }
        }
    }
    let count = numbers.iter().max().map_or(0, |most| most + 1);
    Ok((Some(numbers), (0..count).map(|class| class.to_string()).collect()))
}
