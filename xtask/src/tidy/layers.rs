//! Dependencies point downward only, and the methods do not know each other.

use super::{File, Finding, Package};

/// What a crate of the workspace may depend on, for whatever purpose: tests and examples of a
/// lower crate that need a higher one belong to the higher one.
struct Layer {
    name: &'static str,
    ours: &'static [&'static str],
    burn: bool,
}

const LAYERS: [Layer; 6] = [
    Layer { name: "ocl-data", ours: &[], burn: false },
    Layer { name: "ocl-model", ours: &[], burn: true },
    Layer { name: "ocl-loss", ours: &[], burn: true },
    Layer { name: "ocl-train", ours: &["ocl-data", "ocl-model", "ocl-loss"], burn: true },
    Layer {
        name: "ocl-eval",
        ours: &["ocl-data", "ocl-model", "ocl-loss", "ocl-train"],
        burn: true,
    },
    Layer { name: "xtask", ours: &[], burn: false },
];

const TABLE: &str = "the table in xtask/src/tidy/layers.rs";

/// Checks the direct dependencies of every crate against its layer.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let is_ours = |name: &str| packages.iter().any(|package| package.name == name);
    let mut findings = Vec::new();
    for package in packages {
        let path = &package.manifest.path;
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == package.name) else {
            let what = format!("{} belongs to no layer", package.name);
            findings.push(Finding::error(path, 1, what, format!("give it a row in {TABLE}")));
            continue;
        };
        for (name, kind) in &package.dependencies {
            let line = line_of(&package.manifest.text, name);
            if is_ours(name) && !layer.ours.contains(&name.as_str()) {
                let may = match layer.ours {
                    [] => "none of ours".to_owned(),
                    ours => ours.join(", "),
                };
                let what = format!("{} ({kind}) depends on {name}, which is not below", layer.name);
                let remedy = format!("move what needs it up; {} may use {may}", layer.name);
                findings.push(Finding::error(path, line, what, remedy));
            }
            if is_burn(name) && !layer.burn {
                let what = format!("{} ({kind}) depends on {name}", layer.name);
                let remedy = "keep tensors out of it: it works on plain arrays and files";
                findings.push(Finding::error(path, line, what, remedy));
            }
        }
    }
    findings
}

fn is_burn(name: &str) -> bool {
    name == "burn" || name.starts_with("burn-") || name.starts_with("cubecl")
}

/// The line that names a dependency in a manifest, or the first.
fn line_of(manifest: &str, name: &str) -> usize {
    let names_it = |line: &str| {
        line.trim_start()
            .strip_prefix(name)
            .is_some_and(|rest| rest.trim_start().starts_with(['.', '=']))
    };
    manifest.lines().position(names_it).map_or(1, |index| index + 1)
}

const METHODS: &str = "crates/ocl-train/src/methods/";

/// What the methods share, beside `mod.rs`.
const SHARED: [&str; 3] = ["mod", "learner", "figures"];

/// Checks that no file of `methods/` imports another method.
pub(super) fn check_rooms(sources: &[File]) -> Vec<Finding> {
    let rooms: Vec<(&str, &File)> = sources
        .iter()
        .filter_map(|file| {
            let room = file.path.strip_prefix(METHODS)?.strip_suffix(".rs")?;
            (!SHARED.contains(&room) && !room.contains('/')).then_some((room, file))
        })
        .collect();
    let mut findings = Vec::new();
    for (_, file) in &rooms {
        for (index, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let others = rooms.iter().filter(|(_, other)| other.path != file.path);
            for (other, _) in others.filter(|(other, _)| enters(code, other)) {
                let what = format!("a method uses another method, `{other}`");
                let remedy = "copy the few lines, or move what both need out of methods/";
                findings.push(Finding::error(&file.path, index + 1, what, remedy));
            }
        }
    }
    findings
}

fn enters(code: &str, room: &str) -> bool {
    ["super::", "methods::"].iter().any(|door| {
        code.match_indices(door).any(|(at, _)| {
            code[at + door.len()..].strip_prefix(room).is_some_and(|rest| {
                !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, manifest: &str, dependencies: &[(&str, &str)]) -> Package {
        Package {
            name: name.to_owned(),
            manifest: File::synthetic(&format!("crates/{name}/Cargo.toml"), manifest),
            dependencies: dependencies.iter().map(|(n, k)| ((*n).into(), (*k).into())).collect(),
        }
    }

    #[test]
    fn downward_is_fine() {
        let packages = [
            package("ocl-data", "", &[("serde", "normal")]),
            package("ocl-model", "", &[("burn", "normal")]),
            package("ocl-loss", "", &[("burn-flex", "dev")]),
            package("ocl-train", "", &[("ocl-data", "normal"), ("ocl-loss", "normal")]),
            package("ocl-eval", "", &[("ocl-train", "normal"), ("ocl-loss", "dev")]),
            package("xtask", "", &[("serde_json", "normal")]),
        ];
        assert_eq!(check(&packages), []);
    }

    #[test]
    fn upward_and_sideways_are_found_at_their_line() {
        let manifest = "[dependencies]\nburn.workspace = true\nocl-loss = { workspace = true }\n";
        let packages = [
            package("ocl-model", manifest, &[("burn", "normal"), ("ocl-loss", "dev")]),
            package("ocl-loss", "", &[("ocl-data", "dev")]),
            package("ocl-data", "", &[]),
        ];
        let findings = check(&packages);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(findings[0].line, 3);
        assert!(findings[0].what.contains("(dev)"), "{}", findings[0]);
        assert!(findings[1].what.contains("ocl-data"), "{}", findings[1]);
    }

    #[test]
    fn burn_stays_out_of_data_and_xtask() {
        let packages = [
            package("ocl-data", "", &[("burn-tensor", "dev")]),
            package("xtask", "", &[("burn", "normal"), ("ocl-data", "normal")]),
        ];
        assert_eq!(check(&packages).len(), 3);
    }

    #[test]
    fn a_new_crate_must_be_given_a_layer() {
        assert!(check(&[package("ocl-zoo", "", &[])])[0].remedy.contains("layers.rs"));
    }

    #[test]
    fn methods_do_not_import_each_other() {
        let file = |name: &str, text| File::synthetic(&format!("{METHODS}{name}.rs"), text);
        let sources = [
            file("mod", "mod mae;\nmod ocl;\nuse self::mae::Mae;\n"),
            file("ocl", "//! Unlike super::mae.\nuse super::ocl_a;\nuse super::Batch;\n"),
            file("mae", "use crate::plan::Plan;\nuse crate::methods::ocl::crop;\n"),
        ];
        let findings = check_rooms(&sources);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].path.as_str(), findings[0].line), (sources[2].path.as_str(), 2));
    }
}
