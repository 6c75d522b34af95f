//! Manifests: one place for versions, one place for lints.
//!
//! Read line by line: what is looked for stands on one line in any manifest a person writes, and
//! a TOML parser would be a third of xtask's build.

use super::{File, Finding};

const LINTS: [&str; 2] = ["missing_docs", "unreachable_pub"];

/// Checks the manifest of one crate.
pub(super) fn check(manifest: &File) -> Vec<Finding> {
    let mut findings = versions(manifest);
    let takes_lints = entries(&manifest.text).any(|entry| {
        let key = (entry.section, entry.key);
        (key == ("lints", "workspace") || key == ("", "lints.workspace")) && entry.value == "true"
    });
    if !takes_lints {
        let what = "the crate does not take the workspace's lints";
        let remedy = "add `[lints]` with `workspace = true`";
        findings.push(Finding::error(&manifest.path, 1, what, remedy));
    }
    findings
}

/// Checks the workspace's own manifest.
pub(super) fn check_workspace(manifest: &File) -> Vec<Finding> {
    let on = |lint: &str| {
        entries(&manifest.text).any(|entry| {
            let level = entry.value.trim_matches(|c: char| !c.is_alphanumeric());
            entry.section == "workspace.lints.rust"
                && entry.key == lint
                && ["warn", "deny", "forbid"].iter().any(|on| level.contains(on))
        })
    };
    LINTS
        .iter()
        .filter(|lint| !on(lint))
        .map(|lint| {
            let what = format!("the lint {lint} is not on");
            let remedy = format!("set `{lint} = \"warn\"` in [workspace.lints.rust]");
            Finding::error(&manifest.path, 1, what, remedy)
        })
        .collect()
}

/// Finds every dependency that has a version, path or source of its own.
fn versions(manifest: &File) -> Vec<Finding> {
    const OWN: [&str; 4] = ["version", "path", "git", "registry"];
    let own = |entry: &Entry<'_>| {
        let (table, name) = entry.section.rsplit_once('.').unwrap_or(("", entry.section));
        if is_dependencies(entry.section) {
            // `name = …` or `name.part = …`
            match entry.key.rsplit_once('.') {
                Some((name, part)) => OWN.contains(&part).then(|| name.to_owned()),
                None => (!entry.value.replace(' ', "").contains("workspace=true"))
                    .then(|| entry.key.to_owned()),
            }
        } else if is_dependencies(table) {
            // `[dependencies.name]`, then `part = …`
            OWN.contains(&entry.key).then(|| name.to_owned())
        } else {
            None
        }
    };
    entries(&manifest.text)
        .filter_map(|entry| own(&entry).map(|name| (entry.line, name)))
        .map(|(line, name)| {
            let what = format!("{name} has a version or place of its own");
            let remedy = format!(
                "list it in the root's [workspace.dependencies] and write `{name}.workspace = true`"
            );
            Finding::error(&manifest.path, line, what, remedy)
        })
        .collect()
}

/// `dependencies`, `dev-dependencies`, `build-dependencies`, also below `target.'cfg(…)'`.
fn is_dependencies(section: &str) -> bool {
    let last = section.rsplit_once('.').map_or(section, |(_, last)| last);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
}

/// A line `key = value` and the section it stands in.
struct Entry<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
    line: usize,
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut section = "";
    let mut open = 0_i32;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        // Inside an array that spans lines nothing is a key.
        let inside = open > 0;
        if inside || !line.starts_with(['[', '#']) {
            open += brackets(line);
        }
        if inside {
            return None;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.split(" #").next().unwrap_or(name).trim_end().trim_end_matches(']');
            return None;
        }
        let (key, value) = line.split_once('=')?;
        let key = key.trim();
        if key.starts_with('#') {
            return None;
        }
        let value = value.split(" #").next().unwrap_or(value).trim();
        Some(Entry { section, key: key.trim_matches('"'), value, line: index + 1 })
    })
}

fn brackets(line: &str) -> i32 {
    line.chars().map(|c| i32::from(c == '[') - i32::from(c == ']')).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Vec<Finding> {
        check(&File::synthetic("crates/a/Cargo.toml", text))
    }

    #[test]
    fn the_workspaces_versions_are_fine() {
        let text = r#"
[package]
version.workspace = true
[lints]
workspace = true
[dependencies]
serde.workspace = true
burn = { workspace = true, features = [
    "a",
    "b",
] } # a = { version = "1" }
# rand = "1"
[dependencies.toml]
workspace = true
features = ["x"]
[target.'cfg(unix)'.dev-dependencies]
tempfile = {workspace=true}
[features]
default = ["flex"]
"#;
        assert_eq!(checked(text), []);
    }

    #[test]
    fn versions_of_its_own_are_found_at_their_line() {
        let text = r#"lints.workspace = true
[dependencies]
serde = "1"
rand = { version = "0.10" }
toml.version = "1"
[dev-dependencies.tempfile]
version = "3"
[target.'cfg(unix)'.dependencies]
libc = "0.2"
"#;
        let lines: Vec<_> = checked(text).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [3, 4, 5, 7, 9]);
        assert!(checked(text)[2].remedy.contains("`toml.workspace = true`"));
    }

    #[test]
    fn lints_must_be_taken() {
        assert_eq!(checked("[lints]\nworkspace = true\n"), []);
        assert_eq!(checked("[package]\nname = \"a\"\n").len(), 1);
        assert_eq!(checked("[lints.rust]\nmissing_docs = \"warn\"\n").len(), 1);
    }

    #[test]
    fn both_lints_must_be_on() {
        let workspace = |text: &str| check_workspace(&File::synthetic("Cargo.toml", text)).len();
        let on = "[workspace.lints.rust]\nmissing_docs = \"warn\"\nunreachable_pub = ";
        assert_eq!(workspace(&format!("{on}\"deny\"\n")), 0);
        assert_eq!(workspace(&format!("{on}{{ level = \"warn\", priority = 1 }}\n")), 0);
        assert_eq!(workspace(&format!("{on}\"allow\"\n")), 1);
        assert_eq!(workspace("[workspace.lints.clippy]\nmissing_docs = \"warn\"\n"), 2);
    }
}
