//! The code map in ARCHITECTURE.md names every folder of sources, and only what exists.
//!
//! A folder or file is named in backticks: by its path from the root
//! (`crates/ocl-data/src/lib.rs`), by a path below the folder or crate that the section's heading
//! names in backticks (`source/` or `src/source/` under `crates/ocl-data` or `ocl-data`), several
//! at once (`source/{idx,cifar}.rs`), or with a star for any one folder or file
//! (`crates/*/src/lib.rs`). A folder's name ends with a slash.

use std::collections::BTreeSet;

use super::{File, Finding};

/// Where the map is.
pub(super) const MAP: &str = "ARCHITECTURE.md";

/// Checks the map against the paths of all source files.
///
/// `exists` is asked about folders and files that are not sources.
pub(super) fn check(map: &File, sources: &[&str], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let folders = folders(sources);
    let mut named = vec![false; folders.len()];
    for mention in mentions(&map.text, sources) {
        let mut found = false;
        for path in &mention.candidates {
            let path = path.trim_end_matches('/');
            for (folder, named) in folders.iter().zip(&mut named) {
                if matches(path, folder) {
                    (found, *named) = (true, true);
                }
            }
            found = found || exists(path) || sources.iter().any(|source| matches(path, source));
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
    let missing = folders.iter().zip(named).filter(|(folder, named)| !named && is_mapped(folder));
    findings.extend(missing.map(|(folder, _)| {
        let remedy = format!("add a line for it to {MAP}");
        Finding::error(folder, 1, "the code map does not name this folder", remedy)
    }));
    findings
}

/// All folders that hold sources, themselves or in a folder of theirs.
fn folders<'a>(sources: &[&'a str]) -> BTreeSet<&'a str> {
    let ends = |source: &&'a str| {
        let source = *source;
        source.match_indices('/').map(move |(end, _)| &source[..end])
    };
    sources.iter().flat_map(ends).collect()
}

/// A crate's sources are found by its section; tests, benches and examples speak for themselves.
fn is_mapped(folder: &str) -> bool {
    folder.contains("/src/")
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
    span.chars().all(plain) && (ours || span.ends_with(".rs") || span.ends_with('/'))
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
        let findings = check(&File::synthetic(MAP, map), &SOURCES, |path| path == "crates");
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_naming_counts() {
        let map = "# Code map\nEach crate's surface is `crates/*/src/lib.rs`.\n\
                   ## `crates/ocl-data`: images\n- `source/`: files, `source/{idx,cifar}.rs`\n\
                   ## `xtask`\n- `main.rs`: commands, `cargo xtask tidy`\n";
        assert_eq!(checked(map), [""; 0]);
        assert_eq!(checked(&map.replace("`crates/ocl-data`", "`ocl-data`")), [""; 0]);
    }

    #[test]
    fn a_folder_without_a_line_is_found() {
        // A file in it is not the folder.
        let map = "`crates/*/src/lib.rs`\n`xtask/src/main.rs`\n## `crates/ocl-data`\n\
                   `src/source/idx.rs`\n";
        let findings = checked(map);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("crates/ocl-data/src/source:1:"), "{findings:?}");
        assert_eq!(checked(&map.replace("source/idx.rs", "source/")), [""; 0]);
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
