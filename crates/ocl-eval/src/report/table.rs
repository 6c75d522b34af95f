//! Text for an 80-column terminal.

use std::fmt::Write;

use super::results::ResultRecord;
use crate::features::DataRecord;
use crate::progress::thousands;
use crate::text::percent;

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
