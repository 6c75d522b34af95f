//! Source files: their length, their name, and what a `lib.rs` may say.

use super::{File, Finding};

/// Above this a file is reported, without effect.
const LONG_LINES: usize = 300;
/// Above this a file must say why.
const TOO_LONG_LINES: usize = 500;
/// How a file that has to be longer says why, on a line of its own.
const REASON: &str = "// long file: ";

/// Checks one source file.
pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(length(file));
    findings.extend(name(file));
    findings.extend(includes(file));
    if file.path.ends_with("/src/lib.rs") {
        findings.extend(globs(file));
        findings.extend(silenced(file));
    }
    findings
}

fn length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let finding = |remedy| Finding::error(&file.path, 1, format!("{lines} lines"), remedy);
    let reason = file
        .text
        .lines()
        .any(|line| line.strip_prefix(REASON).is_some_and(|reason| !reason.trim().is_empty()));
    match lines {
        0..=LONG_LINES => None,
        _ if lines > TOO_LONG_LINES && !reason => Some(finding(format!(
            "split it below {TOO_LONG_LINES}, or say why not in a line `{REASON}REASON`"
        ))),
        _ => Some(finding(format!("{LONG_LINES} are enough for most")).into_warning()),
    }
}

fn name(file: &File) -> Option<Finding> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let module = match name {
        "mod.rs" => folder.rsplit('/').next()?,
        _ => name.strip_suffix(".rs")?,
    };
    matches!(module, "utils" | "util" | "helpers" | "misc").then(|| {
        let what = format!("`{module}` says nothing about what is inside");
        Finding::error(&file.path, 1, what, "name it after that, or move it to where it is used")
    })
}

/// Finds files that are built in from outside of the crate: a package of it would lack them.
fn includes(file: &File) -> Vec<Finding> {
    // Folders between the file and its crate's root.
    let inside = file.path.split('/').skip(2).count().saturating_sub(1);
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let included = ["include_str!(\"", "include_bytes!(\""]
            .iter()
            .find_map(|start| line.split_once(start)?.1.split('"').next());
        let Some(path) = included else { continue };
        if path.split('/').take_while(|part| *part == "..").count() > inside {
            let what = format!("`{path}` lies outside of the crate");
            let remedy = "move it into the crate, so that a package of it is whole";
            findings.push(Finding::error(&file.path, index + 1, what, remedy));
        }
    }
    findings
}

/// Finds `pub use …::*`, also inside braces and over several lines.
fn globs(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut statement_line = None;
    for (index, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if code.trim_start().starts_with("pub use ") {
            statement_line = Some(index + 1);
        }
        let Some(start) = statement_line else { continue };
        if code.contains('*') {
            let remedy = "name what is exported, so that the crate's surface can be read here";
            findings.push(Finding::error(&file.path, start, "a glob re-export", remedy));
            statement_line = None;
        } else if code.contains(';') {
            statement_line = None;
        }
    }
    findings
}

/// Finds the lints of the public surface switched off for a whole crate.
fn silenced(file: &File) -> Vec<Finding> {
    let off = |line: &str| {
        let line = line.trim_start();
        (line.starts_with("#![allow") || line.starts_with("#![expect"))
            && (line.contains("missing_docs") || line.contains("unreachable_pub"))
    };
    let lines = file.text.lines().enumerate().filter(|(_, line)| off(line));
    lines
        .map(|(index, _)| {
            let what = "a lint of the public surface is switched off for the crate";
            Finding::error(&file.path, index + 1, what, "document the items or make them private")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(path: &str, text: &str) -> Vec<Finding> {
        check(&File::synthetic(path, text))
    }

    #[test]
    fn length_has_two_marks() {
        let lines = |n: usize| "x\n".repeat(n);
        assert_eq!(checked("crates/a/src/b.rs", &lines(300)), []);
        assert!(checked("crates/a/src/b.rs", &lines(301))[0].warning);
        assert!(checked("crates/a/src/b.rs", &lines(500))[0].warning);
        assert!(!checked("crates/a/src/b.rs", &lines(501))[0].warning);
    }

    #[test]
    fn a_reason_turns_too_long_into_a_warning() {
        let text = format!("// long file: one table.\n{}", "x\n".repeat(600));
        assert!(checked("crates/a/src/b.rs", &text)[0].warning);
        let text = format!("// long file: \n{}", "x\n".repeat(600));
        assert!(!checked("crates/a/src/b.rs", &text)[0].warning);
    }

    #[test]
    fn utils_is_no_name() {
        for path in ["crates/a/src/utils.rs", "crates/a/src/utils/mod.rs"] {
            assert_eq!(checked(path, "").len(), 1, "{path}");
        }
        assert_eq!(checked("crates/a/src/futility.rs", ""), []);
    }

    #[test]
    fn globs_are_found_in_lib_alone() {
        let text =
            "use a::*;\npub use b::C; // not *\n/* x */\npub use d::{\n    E,\n    f::*,\n};\n";
        let findings = checked("crates/a/src/lib.rs", text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].line, 4);
        assert_eq!(checked("crates/a/src/b.rs", text), []);
    }

    #[test]
    fn what_is_built_in_lies_in_the_crate() {
        let of = |text: &str| check(&File::synthetic("crates/a/src/b/c.rs", text)).len();
        assert_eq!(of("const A: &str = include_str!(\"../../recipes/a.toml\");\n"), 0);
        assert_eq!(of("const A: &str = include_str!(\"../../../../recipes/a.toml\");\n"), 1);
        assert_eq!(of("let a = include_bytes!(\"../../../a\");\n"), 1);
    }

    #[test]
    fn lints_stay_on() {
        let text = "//! Docs.\n#![allow(missing_docs)]\n";
        assert_eq!(checked("crates/a/src/lib.rs", text)[0].line, 2);
    }
}
