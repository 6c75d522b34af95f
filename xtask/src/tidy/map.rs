//! The code map in ARCHITECTURE.md names every source file, and only what exists.
//!
//! A file is named in backticks: by its path from the root (`crates/ocl-data/src/lib.rs`), by a
//! path below the folder or crate that the section's heading names in backticks (`decode.rs` or
//! `src/decode.rs` under `crates/ocl-data` or `ocl-data`), several at once (`source/{idx,cifar}.rs`), or with a
//! star for any one folder or file (`crates/*/src/lib.rs`).

use super::{File, Finding};

/// Where the map is.
pub(super) const MAP: &str = "ARCHITECTURE.md";

/// Checks the map against the paths of all source files.
///
/// `exists` is asked about folders and files that are not sources.
pub(super) fn check(map: &File, sources: &[&str], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = vec![false; sources.len()];
    for mention in mentions(&map.text, sources) {
        let mut found = false;
        for path in &mention.candidates {
            let path = path.trim_end_matches('/');
            for (source, named) in sources.iter().zip(&mut named) {
                if matches(path, source) {
                    (found, *named) = (true, true);
                }
            }
            // A star may also stand in the name of a folder.
            let is_folder = |source: &&str| {
                source.match_indices('/').any(|(end, _)| matches(path, &source[..end]))
            };
            found = found || exists(path) || sources.iter().any(is_folder);
            if found {
                break;
            }
        }
        if !found {
            let what = format!("`{}` does not exist", mention.path);
            let remedy = "name what took its place, or take it out of the map";
            findings.push(Finding::error(&map.path, mention.line, what, remedy));
        }
    }
    let missing = sources.iter().zip(named).filter(|(source, named)| !named && is_mapped(source));
    findings.extend(missing.map(|(source, _)| {
        let remedy = format!("add a line for it to {MAP}");
        Finding::error(source, 1, "the code map does not name this file", remedy)
    }));
    findings
}

/// Tests, benches and examples speak for themselves.
fn is_mapped(source: &str) -> bool {
    source.contains("/src/")
}

/// A path in backticks, with the paths from the root that it may stand for.
struct Mention {
    path: String,
    candidates: Vec<String>,
    line: usize,
}

fn mentions(text: &str, sources: &[&str]) -> Vec<Mention> {
    let mut mentions = Vec::new();
    let mut folder: Option<String> = None;
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let heading = line.starts_with('#');
        if heading {
            folder = spans(line).find_map(|span| folder_of(span, sources));
        }
        for span in spans(line).filter(|span| is_path(span)) {
            for path in braces(span) {
                let mut candidates = vec![path.clone()];
                if let Some(folder) = folder.as_ref().filter(|_| !heading) {
                    candidates.push(format!("{folder}/{path}"));
                    candidates.push(format!("{folder}/src/{path}"));
                }
                mentions.push(Mention { path, candidates, line: index + 1 });
            }
        }
    }
    mentions
}

/// The folder that a heading means: itself, or the crate of that name.
fn folder_of(span: &str, sources: &[&str]) -> Option<String> {
    let span = span.trim_end_matches('/');
    [span.to_owned(), format!("crates/{span}")].into_iter().find(|folder| {
        sources.iter().any(|source| {
            source.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
        })
    })
}

/// The texts between single backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-*{},".contains(c);
    let ours = ["crates/", "xtask/"].iter().any(|start| span.starts_with(start));
    span.chars().all(plain) && (ours || span.ends_with(".rs"))
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn braces(span: &str) -> Vec<String> {
    let Some((before, rest)) = span.split_once('{') else { return vec![span.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![span.to_owned()] };
    inside.split(',').flat_map(|part| braces(&format!("{before}{part}{after}"))).collect()
}

/// Whether `path` is `source`, where a `*` is any one component or the rest of one.
fn matches(path: &str, source: &str) -> bool {
    let (mut left, mut right) = (path.split('/'), source.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) => {
                let same = match pattern.split_once('*') {
                    Some((start, end)) => {
                        part.len() >= start.len() + end.len()
                            && part.starts_with(start)
                            && part.ends_with(end)
                    }
                    None => pattern == part,
                };
                if !same {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: [&str; 6] = [
        "crates/ocl-data/src/lib.rs",
        "crates/ocl-data/src/source/cifar.rs",
        "crates/ocl-data/src/source/idx.rs",
        "crates/ocl-data/tests/golden.rs",
        "crates/ocl-loss/src/lib.rs",
        "xtask/src/main.rs",
    ];

    fn checked(map: &str) -> Vec<String> {
        let findings = check(&File::made_up(MAP, map), &SOURCES, |path| path == "crates");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_naming_counts() {
        let map = "# Code map\nEach crate's surface is `crates/*/src/lib.rs`.\n\
                   ## `crates/ocl-data`: images\n- `source/{idx,cifar}.rs`: files\n\
                   ## `xtask`\n- `main.rs`: commands, `cargo xtask tidy`\n";
        assert_eq!(checked(map), [""; 0]);
        assert_eq!(checked(&map.replace("`crates/ocl-data`", "`ocl-data`")), [""; 0]);
    }

    #[test]
    fn a_file_without_a_line_is_found() {
        let map = "`crates/*/src/lib.rs`\n`xtask/src/main.rs`\n## `crates/ocl-data`\n\
                   `src/source/idx.rs`\n";
        let findings = checked(map);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("crates/ocl-data/src/source/cifar.rs:1:"), "{findings:?}");
    }

    #[test]
    fn a_line_without_a_file_is_found() {
        let map = "`crates/*/src/lib.rs` `xtask/src/main.rs`\n\
                   `crates/ocl-data/src/source/{idx,cifar,tar}.rs`\n\n`crates/ocl-zoo/`\n\
                   ```\n`crates/ocl-gone`\n```\n`crates/ocl-data/src/source/` `cfg.rs`\n";
        let findings = checked(map);
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings[0].starts_with("ARCHITECTURE.md:2: `crates/ocl-data/src/source/tar.rs`"));
        assert!(findings[1].starts_with("ARCHITECTURE.md:4: `crates/ocl-zoo/`"));
        assert!(findings[2].starts_with("ARCHITECTURE.md:8: `cfg.rs`"));
    }
}
