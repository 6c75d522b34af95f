//! Text for an 80-column terminal.

use std::fmt::Write;

use crate::labelled::DataRecord;
use crate::progress::thousands;
use crate::results::ResultRecord;

const COLUMNS: usize = 80;

/// A share as `84.1 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Breaks a paragraph into lines of at most 80 columns.
pub(crate) fn wrap(paragraph: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > COLUMNS {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text
}

/// `word` so that a POSIX shell reads it as one word.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What was measured on, split by split.
pub(crate) fn data_lines(data: &DataRecord) -> String {
    let mut text = String::new();
    for (name, words, images) in
        [("train", &data.train, data.train_images), ("test", &data.test, data.test_images)]
    {
        // A share of the images, or some of them unreadable: the description has the whole number.
        let used = thousands(images);
        let part = if words.contains(&used) { String::new() } else { format!("; used: {used}") };
        let _ = writeln!(text, "  {name:<9}{words}{part}");
    }
    text
}

/// Measurements of one subject, with what they have in common above them.
pub fn results_text(records: &[ResultRecord]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let mut text = format!("{}\n\n{}", subject(first), data_lines(&first.data));
    for record in records {
        let _ = writeln!(text, "\n{}: {}", record.protocol, record.says);
        let seeds = match record.seeds.len() {
            0 => String::new(),
            1 => "1 seed, ".to_owned(),
            n => format!("{n} seeds, "),
        };
        let _ = writeln!(text, "  {seeds}{:.1} s", record.protocol_secs);
        for score in &record.scores {
            let deviation = match score.values.len() {
                0 | 1 => String::new(),
                _ => format!("  +- {:.2}", score.deviation * 100.0),
            };
            let _ = writeln!(text, "  {:<28}{:>8}{deviation}", score.name, percent(score.mean));
        }
    }
    let _ = writeln!(text, "\nfeatures took {:.1} s", first.features_secs);
    text
}

/// Whose features.
fn subject(record: &ResultRecord) -> String {
    let mut text = format!("{} ({} values an image", record.subject, thousands(record.width));
    if let Some(pool) = record.pool {
        let _ = write!(text, ", pool {pool}");
    }
    text.push(')');
    if let Some(weights) = &record.weights {
        let _ = write!(text, "\n{} (sha256 {}...)", weights.path.display(), &weights.sha256[..12]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_before_the_terminal_does() {
        let text = wrap(&"measure ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= 80 && !line.ends_with(' ')), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(shell_word("runs/a-1"), "runs/a-1");
        assert_eq!(shell_word("it's mine"), r"'it'\''s mine'");
    }

    #[test]
    fn shares_are_percent() {
        assert_eq!([0.0, 0.8416, 1.0].map(percent), ["0.0 %", "84.2 %", "100.0 %"]);
    }
}
