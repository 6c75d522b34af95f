//! Text for an 80-column terminal.

use std::error::Error;
use std::fmt::Write;

const COLUMNS: usize = 80;

/// A number of things in words: `1 class`, `2 classes`.
pub(crate) fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

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

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
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
    fn one_thing_is_not_several() {
        let classes = |number| counted(number, "class", "classes");
        assert_eq!([0, 1, 2].map(classes), ["0 classes", "1 class", "2 classes"]);
    }

    #[test]
    fn shares_are_percent() {
        assert_eq!([0.0, 0.8416, 1.0].map(percent), ["0.0 %", "84.2 %", "100.0 %"]);
    }
}
