//! Licences of everything that is built into the programs: what MIT OR Apache-2.0 can ship with.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Finding;
use crate::command::{self, Failure};

/// Licences that ask for no more than a notice, or for the sources of their own files (MPL-2.0).
const FINE: [&str; 14] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "MPL-2.0",
    "CDLA-Permissive-2.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Packages that name no licence in their manifest, and the one in their licence file.
const READ_BY_HAND: [(&str, &str); 1] = [("cfg_block", "Apache-2.0")];

/// The dependencies' licences, each with how many packages have it, and what cannot be shipped.
pub(super) struct Licences {
    pub(super) counted: BTreeMap<String, usize>,
    pub(super) findings: Vec<Finding>,
}

/// Asks cargo about every dependency of every backend, for the system that this runs on.
pub(super) fn check() -> Result<Licences, Failure> {
    let mut rustc = std::process::Command::new("rustc");
    let output = rustc.arg("-vV").output().map_err(|e| command::cannot_start(&rustc, &e))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Failure::new("rustc -vV names no host"))?;
    let arguments = ["metadata", "--format-version", "1", "--locked", "--all-features"];
    let mut cargo = command::cargo(&arguments);
    cargo.args(["--filter-platform", host]);
    let output = cargo.output().map_err(|error| command::cannot_start(&cargo, &error))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("cargo metadata failed: {error}")));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::new(format!("cargo metadata: {error}")))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(of(packages.map(|package| {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        (text("name"), text("license"))
    })))
}

fn of(packages: impl Iterator<Item = (String, String)>) -> Licences {
    let mut licences = Licences { counted: BTreeMap::new(), findings: vec![] };
    for (name, licence) in packages {
        let by_hand = READ_BY_HAND.iter().find(|(known, _)| *known == name);
        let licence = match by_hand {
            Some((_, read)) if licence.is_empty() => (*read).to_owned(),
            _ => licence,
        };
        if !is_fine(&licence) {
            let what = match licence.as_str() {
                "" => format!("the dependency {name} names no licence"),
                licence => format!("the dependency {name} is licensed as {licence}"),
            };
            let remedy = "use another crate, or read its licence and add it to tidy's list";
            licences.findings.push(Finding::error("Cargo.lock", 1, what, remedy));
        }
        *licences.counted.entry(licence).or_default() += 1;
    }
    licences
}

/// Whether an SPDX expression leaves a choice that is fine: of `OR` one side, of `AND` both.
fn is_fine(expression: &str) -> bool {
    // The form of before SPDX: a slash is a choice.
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let (fine, rest) = choice(&words);
    fine && rest.is_empty()
}

/// `A OR B`; `AND` binds closer.
fn choice<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut fine, mut rest) = all(words);
    while let ["OR", after @ ..] = rest {
        let (other, after) = all(after);
        (fine, rest) = (fine || other, after);
    }
    (fine, rest)
}

fn all<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut fine, mut rest) = one(words);
    while let ["AND", after @ ..] = rest {
        let (other, after) = one(after);
        (fine, rest) = (fine && other, after);
    }
    (fine, rest)
}

fn one<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inside @ ..] => match choice(inside) {
            (fine, [")", rest @ ..]) => (fine, rest),
            _ => (false, &[]),
        },
        [licence, "WITH", exception, rest @ ..] => {
            (FINE.contains(&format!("{licence} WITH {exception}").as_str()), rest)
        }
        [licence, rest @ ..] => (FINE.contains(licence), rest),
        [] => (false, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_has_them() {
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "MIT AND ISC",
        ] {
            assert!(is_fine(fine), "{fine}");
        }
        for not in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT ISC", "GPL-2.0 WITH LLVM-exception"]
        {
            assert!(!is_fine(not), "{not}");
        }
    }

    #[test]
    fn what_cannot_be_shipped_is_named() {
        let packages = [("a", "MIT"), ("b", "AGPL-3.0"), ("c", ""), ("cfg_block", "")];
        let found = of(packages.into_iter().map(|(name, l)| (name.to_owned(), l.to_owned())));
        let text: Vec<String> = found.findings.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].contains("b is licensed as AGPL-3.0"), "{text:?}");
        assert!(text[1].contains("c names no licence"), "{text:?}");
        assert_eq!(found.counted["Apache-2.0"], 1);
    }
}
