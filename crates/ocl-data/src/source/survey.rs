//! What was met with on the way through a data set and is not used.

use std::collections::BTreeMap;

/// Things of one kind that were passed over: how many, and the first by name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Passed {
    count: u64,
    first: String,
}

/// What was passed over, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Files by extension, in lower case with its dot; `none` without one.
    other_kinds: BTreeMap<String, u64>,
    /// By reason.
    passed: BTreeMap<&'static str, Passed>,
    /// Sentences about the whole.
    notes: Vec<String>,
}

impl Survey {
    /// A file that is no image by its name.
    pub(super) fn other_kind(&mut self, name: &str) {
        let kind = match name.rsplit_once('.') {
            Some((_, extension)) => format!(".{}", extension.to_lowercase()),
            None => "none".to_owned(),
        };
        *self.other_kinds.entry(kind).or_default() += 1;
    }

    /// Something that is passed over for a reason: `hidden entries`.
    pub(super) fn pass(&mut self, reason: &'static str, name: &str) {
        self.pass_many(reason, 1, name);
    }

    /// Several at once, and the first of them.
    pub(super) fn pass_many(&mut self, reason: &'static str, count: u64, first: &str) {
        let passed =
            self.passed.entry(reason).or_insert(Passed { count: 0, first: first.to_owned() });
        passed.count += count;
    }

    /// What was met with elsewhere too.
    pub(super) fn merge(&mut self, other: Survey) {
        for (kind, count) in other.other_kinds {
            *self.other_kinds.entry(kind).or_default() += count;
        }
        for (reason, Passed { count, first }) in other.passed {
            self.pass_many(reason, count, &first);
        }
        self.notes.extend(other.notes);
    }

    /// A sentence without its full stop.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// For people, a clause each; empty where nothing was passed over.
    pub(super) fn clauses(&self) -> Vec<String> {
        let mut clauses = self.notes.clone();
        let files: u64 = self.other_kinds.values().sum();
        if files > 0 {
            let kinds: Vec<String> = self
                .other_kinds
                .iter()
                .map(|(kind, count)| match count {
                    1 => kind.clone(),
                    count => format!("{kind} ({count})"),
                })
                .collect();
            let noun = if files == 1 { "file of another kind" } else { "files of other kinds" };
            clauses.push(format!("{files} {noun} passed over: {}", kinds.join(", ")));
        }
        for (reason, Passed { count, first }) in &self.passed {
            clauses.push(match count {
                1 => format!("{reason} passed over: {first}"),
                count => format!("{count} {reason} passed over: {first}, ..."),
            });
        }
        clauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_say_how_many_and_which() {
        let mut survey = Survey::default();
        for name in ["1.TIF", "a.tif", "4"] {
            survey.other_kind(name);
        }
        survey.pass("hidden entries", ".git");
        survey.pass("hidden entries", ".b");
        assert_eq!(
            survey.clauses(),
            [
                "3 files of other kinds passed over: .tif (2), none",
                "2 hidden entries passed over: .git, ..."
            ]
        );
    }
}
