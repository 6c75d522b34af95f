//! `cargo xtask tidy`: the house rules that a machine can check.
//!
//! Each check is a function from what was read to findings, so that it can be tested on synthetic
//! input; reading is done here.

mod files;
mod layers;
mod licences;
mod manifests;
mod map;
mod recipes;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::command::{self, Failure};
use crate::own_help;

/// One thing that breaks a rule, at a place, with what to do about it.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
    remedy: String,
    /// A warning is shown and changes nothing else.
    warning: bool,
}

impl Finding {
    fn error(path: &str, line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into(), remedy: remedy.into(), warning: false }
    }

    fn into_warning(self) -> Self {
        Self { warning: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what, remedy, warning } = self;
        let kind = if *warning { "warning: " } else { "" };
        write!(f, "{path}:{line}: {kind}{what}; {remedy}")
    }
}

/// A text file of the project, its path relative to the root and with `/` everywhere.
#[derive(Debug)]
struct File {
    path: String,
    text: String,
}

/// A crate of the workspace, as cargo sees it.
#[derive(Debug)]
struct Package {
    name: String,
    manifest: File,
    /// Names and kinds (`normal`, `dev`, `build`) of the direct dependencies.
    dependencies: Vec<(String, String)>,
}

/// `cargo xtask tidy`.
pub(crate) fn command(args: Vec<OsString>) -> Result<(), Failure> {
    if own_help("tidy", &args, "  It has no options.\n") {
        return Ok(());
    }
    if let Some(arg) = args.first() {
        return Err(Failure::usage(format!("tidy has no option `{}`", arg.to_string_lossy())));
    }
    let root = command::root();
    let mut findings = all(root, &packages(root)?)?;
    let licences = licences::check()?;
    findings.extend(licences.findings);
    findings.sort_by(|a, b| (!a.warning, &a.path, a.line).cmp(&(!b.warning, &b.path, b.line)));
    for finding in &findings {
        eprintln!("{finding}");
    }
    let counted = licences.counted.iter().map(|(licence, count)| format!("{licence} ({count})"));
    eprintln!("licences: {}", counted.collect::<Vec<_>>().join(", "));
    match findings.iter().filter(|finding| !finding.warning).count() {
        0 => {
            eprintln!("tidy: in order, {} warnings", findings.len());
            Ok(())
        }
        errors => Err(Failure::new(format!("tidy: {errors} findings"))),
    }
}

fn all(root: &Path, packages: &[Package]) -> Result<Vec<Finding>, Failure> {
    let mut sources = Vec::new();
    for folder in ["crates", "xtask"] {
        read_below(root, folder, "rs", &mut sources)?;
    }
    let mut recipes = Vec::new();
    for package in packages {
        let folder = package.manifest.path.replace("Cargo.toml", "recipes");
        if root.join(&folder).is_dir() {
            read_below(root, &folder, "toml", &mut recipes)?;
        }
    }
    let workspace = read(root, "Cargo.toml")?;

    let mut findings = layers::check(packages);
    findings.extend(layers::check_rooms(&sources));
    findings.extend(manifests::check_workspace(&workspace));
    findings.extend(packages.iter().flat_map(|package| manifests::check(&package.manifest)));
    findings.extend(sources.iter().flat_map(files::check));
    findings.extend(recipes.iter().flat_map(recipes::check));
    let paths: Vec<&str> = sources.iter().map(|file| file.path.as_str()).collect();
    findings.extend(match read(root, map::MAP) {
        Ok(map) => map::check(&map, &paths, |path| root.join(path).exists()),
        Err(_) => vec![Finding::error(map::MAP, 1, "it is missing", "write the code map")],
    });
    Ok(findings)
}

/// The workspace's crates, from `cargo metadata`.
fn packages(root: &Path) -> Result<Vec<Package>, Failure> {
    let mut cargo = command::cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let output = cargo.output().map_err(|error| command::cannot_start(&cargo, &error))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("cargo metadata failed: {error}")));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::new(format!("cargo metadata: {error}")))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.map(|package| self::package(root, package)).collect()
}

fn package(root: &Path, package: &Value) -> Result<Package, Failure> {
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    Ok(Package {
        name: text(&package["name"]),
        manifest: read(root, &relative(root, Path::new(manifest)))?,
        dependencies: dependencies
            .map(|dependency| {
                let kind = dependency["kind"].as_str().unwrap_or("normal");
                (text(&dependency["name"]), kind.to_owned())
            })
            .collect(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Reads every file with `extension` below `folder`, in the order of their paths.
///
/// The folders rather than git's list: the result is the same in a source archive.
fn read_below(
    root: &Path,
    folder: &str,
    extension: &str,
    files: &mut Vec<File>,
) -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return Ok(()) };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let relative = relative(root, &path);
        if path.is_dir() {
            if !relative.ends_with("/target") {
                read_below(root, &relative, extension, files)?;
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(read(root, &relative)?);
        }
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> Result<File, Failure> {
    let text = fs::read_to_string(root.join(path))
        .map_err(|error| Failure::new(format!("{path}: {error}")))?;
    Ok(File { path: path.to_owned(), text })
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
impl File {
    fn synthetic(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_place_what_remedy() {
        let finding = Finding::error("a.rs", 3, "it is long", "split it");
        assert_eq!(finding.to_string(), "a.rs:3: it is long; split it");
        assert_eq!(finding.into_warning().to_string(), "a.rs:3: warning: it is long; split it");
    }

    #[test]
    fn packages_are_read_from_metadata() {
        let root = command::root();
        let manifest = root.join("xtask/Cargo.toml");
        let metadata = serde_json::json!({
            "name": "xtask",
            "manifest_path": manifest.to_string_lossy(),
            "dependencies": [{ "name": "a", "kind": null }, { "name": "b", "kind": "dev" }],
        });
        let package = package(root, &metadata).expect("a package");
        assert_eq!(package.manifest.path, "xtask/Cargo.toml");
        let kinds: Vec<_> = package.dependencies.iter().map(|(_, kind)| kind.as_str()).collect();
        assert_eq!(kinds, ["normal", "dev"]);
    }
}
