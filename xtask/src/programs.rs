//! The two programs: build them for a backend, run them, pass their exit code on.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::backend::{self, Backend, ON_BACKEND};
use crate::command::{self, Failure};
use crate::signals;

const PROGRAMS: [&str; 2] = ["ocl-train", "ocl-eval"];

/// `cargo xtask pretrain`: train, then report what the representation is worth.
pub(crate) fn pretrain(args: Vec<OsString>) -> Result<(), Failure> {
    let (backend, mut args) = backend::take(args)?;
    let given = args.len();
    args.retain(|arg| arg != "--no-eval");
    let evaluate = args.len() == given;
    let help = args.iter().any(|arg| arg == "--help" || arg == "-h");

    let programs = Programs::build(backend)?;
    let note = programs.folder.join("run-folder.txt");
    let mut train = programs.start("ocl-train", "pretrain", backend);
    command::run(train.arg("--run-folder-to").arg(&note).args(args))?;
    if signals::was_interrupted() {
        return Err(Failure::interrupted());
    }
    // `--help` and `--dry-run` make no run, so there is nothing to report on.
    let Some(run) = read_note(&note) else {
        if help {
            eprintln!(
                "\nOf cargo xtask:\n  --no-eval  Only train; `cargo xtask report` evaluates later"
            );
        }
        return Ok(());
    };
    let again = format!(
        "cargo xtask report --run {} --backend {}",
        command::word(&run.to_string_lossy()),
        backend.name()
    );
    if !evaluate {
        eprintln!("Not evaluated (--no-eval). To do so: {again}");
        return Ok(());
    }
    let mut report = programs.start("ocl-eval", "report", backend);
    command::run(report.arg("--run").arg(&run)).map_err(|failure| {
        failure.with_message(format!("the run is complete, its evaluation is not. Again: {again}"))
    })
}

/// `cargo xtask report`: the evaluation that ends `pretrain`, for a run that is already there.
pub(crate) fn report(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("report", args)
}

/// `cargo xtask finetune`.
pub(crate) fn finetune(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("finetune", args)
}

/// `cargo xtask predict`.
pub(crate) fn predict(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("predict", args)
}

/// `cargo xtask neighbours`.
pub(crate) fn neighbours(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("neighbours", args)
}

/// `cargo xtask eval-linear`.
pub(crate) fn eval_linear(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("linear", args)
}

/// `cargo xtask eval-knn`.
pub(crate) fn eval_knn(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("knn", args)
}

/// `cargo xtask eval`.
pub(crate) fn eval(args: Vec<OsString>) -> Result<(), Failure> {
    evaluate("suite", args)
}

/// Runs a subcommand of `ocl-eval`.
pub(crate) fn evaluate(subcommand: &str, args: Vec<OsString>) -> Result<(), Failure> {
    let (backend, args) = backend::take(args)?;
    let programs = Programs::build(backend)?;
    command::run(programs.start("ocl-eval", subcommand, backend).args(args))
}

/// The programs, compiled for one backend, in a folder that is ours until the end.
///
/// Hard links, because `target/release` is overwritten by the next build: a run that took days on
/// cuda must not be reported on by an `ocl-eval` that was meanwhile built for flex.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub(crate) fn build(backend: Backend) -> Result<Self, Failure> {
        let name = backend.name();
        eprintln!(
            "Building {} with feature `{name}` (some minutes the first time)",
            PROGRAMS.join(" and ")
        );
        let mut cargo = command::cargo(&["build", "--release"]);
        // One call, and the libraries named too: features are resolved for all packages named
        // together, so this way `cargo test` finds every one of its dependencies built.
        for package in ON_BACKEND {
            cargo.args(["-p", package]);
        }
        cargo.args(backend.features());
        // Cargo's own word on where the programs are holds for any target folder or triple.
        cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
        let mut child = cargo.spawn().map_err(|error| command::cannot_start(&cargo, &error))?;
        signals::follow(&child);
        let output = child.stdout.take().map(BufReader::new);
        let messages = output.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
        let built: Vec<PathBuf> = messages.filter_map(|line| executable(&line)).collect();
        let status =
            signals::wait(&mut child).map_err(|error| command::cannot_start(&cargo, &error))?;
        command::finish(status).map_err(|failure| match backend {
            Backend::Cuda => failure.with_message(
                "the build for cuda failed. If it could not download LLVM: \
                 CONTRIBUTING.md, \"Build for a GPU\", has another way.",
            ),
            _ => failure,
        })?;
        Self::keep(&built)
    }

    fn keep(built: &[PathBuf]) -> Result<Self, Failure> {
        let parent = built.first().and_then(|program| program.parent());
        let parent = parent.ok_or_else(|| Failure::new("cargo built no program"))?;
        let folder = parent.join(format!("xtask-{}", std::process::id()));
        let failed = |path: &Path, error| Failure::new(format!("{}: {error}", path.display()));
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        let programs = Self { folder };
        for program in built {
            let Some(name) = program.file_name() else { continue };
            let kept = programs.folder.join(name);
            // Left over from a process of our number that was killed.
            let _ = fs::remove_file(&kept);
            fs::hard_link(program, &kept)
                .or_else(|_| fs::copy(program, &kept).map(|_| ()))
                .map_err(|error| failed(&kept, error))?;
        }
        Ok(programs)
    }

    pub(crate) fn start(&self, program: &str, subcommand: &str, backend: Backend) -> Command {
        let path = self.folder.join(program).with_extension(std::env::consts::EXE_EXTENSION);
        let mut command = Command::new(path);
        command.args([subcommand, "--backend", backend.name()]);
        if let Some(commit) = command::commit() {
            command.env("OCL_COMMIT", commit);
        }
        command
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // At worst some links stay in the target folder until `cargo clean`.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The program that a line of `cargo build --message-format=json` says was built, if one was.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?;
    if !PROGRAMS.contains(&name) {
        return None;
    }
    message["executable"].as_str().map(PathBuf::from)
}

/// The run folder that the trainer has noted, if it has made one.
fn read_note(note: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(note).ok()?;
    let path = text.trim_end_matches(['\r', '\n']);
    (!path.is_empty()).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"ocl-train"},
            "executable":"/t/release/ocl-train","fresh":true}"#;
        assert_eq!(executable(line), Some(PathBuf::from("/t/release/ocl-train")));
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"ocl-train"},
            "executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("warning: not JSON"), None);
    }

    #[test]
    fn programs_are_kept_and_then_removed() {
        let folder = std::env::temp_dir().join(format!("xtask-test-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let built = folder.join("ocl-train");
        fs::write(&built, "first").expect("a file");
        let programs = Programs::keep(std::slice::from_ref(&built)).expect("kept");
        // What cargo does on the next build: a new file under the old name.
        fs::remove_file(&built).expect("removed");
        fs::write(&built, "second").expect("a file");
        let kept = programs.folder.join("ocl-train");
        assert_eq!(fs::read_to_string(&kept).expect("still there"), "first");
        drop(programs);
        assert!(!kept.exists());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn no_note_means_no_run() {
        let note = std::env::temp_dir().join(format!("xtask-note-{}", std::process::id()));
        assert_eq!(read_note(&note), None);
        fs::write(&note, "").expect("a file");
        assert_eq!(read_note(&note), None);
        fs::write(&note, "runs/a b\n").expect("a file");
        assert_eq!(read_note(&note), Some(PathBuf::from("runs/a b")));
        fs::remove_file(&note).expect("removed");
    }
}
