//! What images of each class were taken for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

use crate::text::percent;

/// Up to so many classes are shown in full.
const IN_FULL: usize = 10;
/// Lines of what is shown of more classes.
const LINES: usize = 10;
/// Columns for a class's name.
const NAME: usize = 20;

/// How many images of a class were taken for a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32, u64)>", into = "Vec<(u32, u32, u64)>")]
pub(super) struct Confusion {
    /// Label and answer; pairs that never occur are left out.
    counts: BTreeMap<(u32, u32), u64>,
}

impl From<Vec<(u32, u32, u64)>> for Confusion {
    fn from(list: Vec<(u32, u32, u64)>) -> Self {
        Self { counts: list.into_iter().map(|(label, answer, n)| ((label, answer), n)).collect() }
    }
}

impl From<Confusion> for Vec<(u32, u32, u64)> {
    fn from(confusion: Confusion) -> Self {
        confusion.counts.into_iter().map(|((label, answer), n)| (label, answer, n)).collect()
    }
}

impl<'a> Sum<&'a Self> for Confusion {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        let mut sum = Self::default();
        for (pair, count) in all.flat_map(|one| &one.counts) {
            *sum.counts.entry(*pair).or_default() += count;
        }
        sum
    }
}

impl Confusion {
    /// Adds `[N, C]` scores with their `N` labels. Of equal scores the lower class is the answer.
    pub(super) fn add_scores(&mut self, scores: &[f32], labels: &[u32]) {
        let classes = scores.len() / labels.len().max(1);
        for (row, &label) in scores.chunks_exact(classes.max(1)).zip(labels) {
            if let Some(answer) = best(row) {
                *self.counts.entry((label, answer)).or_default() += 1;
            }
        }
    }

    fn count(&self, label: u32, answer: u32) -> u64 {
        self.counts.get(&(label, answer)).copied().unwrap_or(0)
    }

    /// Images of each class that has any.
    fn images(&self) -> BTreeMap<u32, u64> {
        let mut images = BTreeMap::new();
        for ((label, _), count) in &self.counts {
            *images.entry(*label).or_default() += count;
        }
        images
    }

    /// The accuracy of each class, least first where there are many, and what was taken for what;
    /// nothing if nothing was counted.
    pub(super) fn text(&self, names: &[String]) -> String {
        let images = self.images();
        if images.is_empty() {
            return String::new();
        }
        let classes: BTreeSet<u32> =
            self.counts.keys().flat_map(|(label, answer)| [*label, *answer]).collect();
        let name = |class: u32| {
            let name = names.get(class as usize).cloned();
            name.unwrap_or_else(|| format!("class {class}"))
        };
        let accuracy = |class: u32| self.count(class, class) as f64 / images[&class] as f64;
        let mut shown: Vec<u32> = images.keys().copied().collect();
        let mut text = String::from("\nAccuracy of each class on the test images\n");
        if classes.len() > IN_FULL {
            shown.sort_by(|a, b| accuracy(*a).total_cmp(&accuracy(*b)));
            shown.truncate(LINES);
            text = format!("\nThe {} classes of {} with the least accuracy\n", LINES, images.len());
        }
        for class in shown {
            let (share, all) = (percent(accuracy(class)), images[&class]);
            let _ = writeln!(text, "  {:<NAME$}{share:>8}  of {all}", cut(&name(class)));
        }
        if classes.len() > IN_FULL {
            self.frequent(&images, name, &mut text);
        } else {
            self.table(&classes, name, &mut text);
        }
        text
    }

    /// A row for each label, a column for each answer.
    fn table(&self, classes: &BTreeSet<u32>, name: impl Fn(u32) -> String, text: &mut String) {
        text.push_str(
            "\nWhat they were taken for: a row for each class, a column for each answer\n",
        );
        let _ = write!(text, "  {:<NAME$}", "");
        for answer in classes {
            let _ = write!(text, "{answer:>5}");
        }
        for &label in classes {
            let _ = write!(text, "\n  {:<NAME$}", cut(&format!("{label} {}", name(label))));
            for &answer in classes {
                let _ = write!(text, "{:>5}", self.count(label, answer));
            }
        }
        text.push('\n');
    }

    /// The most frequent mistakes.
    fn frequent(
        &self,
        images: &BTreeMap<u32, u64>,
        name: impl Fn(u32) -> String,
        text: &mut String,
    ) {
        let mut wrong: Vec<((u32, u32), u64)> = self
            .counts
            .iter()
            .filter(|((label, answer), _)| label != answer)
            .map(|(pair, count)| (*pair, *count))
            .collect();
        // Stable: of equals the lower label first.
        wrong.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if wrong.is_empty() {
            return;
        }
        text.push_str("\nThe most frequent mistakes\n");
        for ((label, answer), count) in wrong.into_iter().take(LINES) {
            let (own, other) = (cut(&name(label)), cut(&name(answer)));
            let all = images[&label];
            let _ = writeln!(text, "  {own:<NAME$} taken for {other:<NAME$} {count:>5} of {all}");
        }
    }
}

/// A name that leaves a space before the next column.
fn cut(name: &str) -> String {
    if name.chars().count() < NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 2).chain(['~']).collect()
}

/// The class of the highest score, of equals the lowest; none where no score is a number.
fn best(scores: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (class, &score) in scores.iter().enumerate().filter(|(_, score)| !score.is_nan()) {
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((class as u32, score));
        }
    }
    best.map(|(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(pairs: &[(u32, u32)]) -> Confusion {
        let mut confusion = Confusion::default();
        for &(label, answer) in pairs {
            let scores: Vec<f32> = (0..20).map(|c| if c == answer { 1.0 } else { 0.0 }).collect();
            confusion.add_scores(&scores, &[label]);
        }
        confusion
    }

    #[test]
    fn few_classes_are_shown_in_full() {
        let one = confusion(&[(0, 0), (0, 0), (0, 1), (1, 1)]);
        let text = one.text(&["cat".to_owned(), "dog".to_owned()]);
        assert!(text.contains("cat                   66.7 %  of 3"), "{text}");
        assert!(text.contains("  0 cat                   2    1\n"), "{text}");
        assert!(text.contains("  1 dog                   0    1\n"), "{text}");
        assert_eq!(Confusion::default().text(&[]), "");
    }

    #[test]
    fn of_many_classes_the_worst_are_shown() {
        let mut pairs: Vec<(u32, u32)> = (0..20).map(|class| (class, class)).collect();
        pairs.extend([(7, 3), (7, 3), (4, 5)]);
        let text = confusion(&pairs).text(&[]);
        assert!(text.contains("The 10 classes of 20 with the least accuracy"), "{text}");
        let first = text.lines().position(|line| line.starts_with("  class 7")).unwrap();
        assert!(text.lines().nth(first + 1).unwrap().starts_with("  class 4"), "{text}");
        assert!(
            text.contains("class 7              taken for class 3                  2 of 3"),
            "{text}"
        );
    }

    #[test]
    fn long_names_are_cut_and_the_lines_are_short() {
        let names = vec!["a name that is far too long for any table".to_owned(); 20];
        let pairs: Vec<(u32, u32)> = (0..10).map(|class| (class, 9 - class)).collect();
        let text = confusion(&pairs).text(&names);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn counts_go_to_json_and_back_and_are_summed() {
        let one = confusion(&[(0, 1), (2, 2)]);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, "[[0,1,1],[2,2,1]]");
        assert_eq!(serde_json::from_str::<Confusion>(&json).unwrap(), one);
        let sum: Confusion = [&one, &one].into_iter().sum();
        assert_eq!(sum.count(0, 1), 2);
    }
}
