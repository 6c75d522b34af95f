//! Text for an 80-column terminal.

use std::fmt::Write;

use crate::labelled::DataRecord;
use crate::progress::thousands;
use crate::results::{Protocol, ResultRecord};

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

/// One measurement.
pub fn result_text(record: &ResultRecord) -> String {
    let mut text = String::new();
    match &record.protocol {
        Protocol::Knn { k, temperature } => {
            let _ = writeln!(text, "Weighted k-NN of {}\n", features(record));
            text += &data_lines(&record.data);
            let _ = writeln!(text, "  {:<9}k = {k}, temperature {temperature}", "votes");
        }
        Protocol::Linear { epochs, warmup_epochs, batch, base_lr, weight_decay, .. } => {
            let _ = writeln!(text, "Linear probe of {}\n", features(record));
            text += &data_lines(&record.data);
            let decay = match weight_decay {
                0.0 => String::new(),
                decay => format!(", decay {decay}"),
            };
            let _ = writeln!(text, "  {:<9}batch norm, linear; LARS{decay}", "head");
            let _ = writeln!(
                text,
                "  {:<9}{epochs} epochs, {warmup_epochs} of warm-up; batch {}, base_lr {base_lr}",
                "",
                thousands(*batch)
            );
            if record.pool.is_some() {
                let _ = writeln!(text, "  {:<9}on centre views, encoded once; MAE augments", "");
            }
        }
    }
    let deviation = match record.seeds.len() {
        0 | 1 => String::new(),
        n => format!("   (+- {:.2} over {n} seeds)", record.top1_deviation * 100.0),
    };
    let _ = writeln!(text, "\n  {:<9}{:>7}{deviation}", "top-1", percent(record.top1));
    let _ = writeln!(text, "  {:<9}{:>7}", "top-5", percent(record.top5));
    let _ = writeln!(
        text,
        "\n  {:<9}{:.1} s features, {:.1} s protocol",
        "took", record.features_secs, record.protocol_secs
    );
    text
}

/// What the features are.
fn features(record: &ResultRecord) -> String {
    let mut text = format!("{} ({} values an image", record.subject, thousands(record.width));
    if let Some(pool) = record.pool {
        let _ = write!(text, ", pool {pool}");
    }
    text.push(')');
    if let Some(weights) = &record.weights {
        let _ = write!(text, "\n{}", weights.display());
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
