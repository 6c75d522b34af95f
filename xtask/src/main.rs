//! The project's commands: `cargo xtask test`, `tidy`, `ci` are its own; `cargo xtask pretrain` and
//! all other commands of the program `ocl` are built for a backend and handed on.
//!
//! Thin on purpose. It depends on neither burn nor our crates, so it builds in seconds.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

mod backend;
mod bench_gpu;
mod bench_ranks;
mod checks;
mod command;
mod program;
mod signals;
mod tidy;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use command::Failure;

/// What this program does itself. Every other command is `ocl`'s, whose own table is its command
/// line.
const COMMANDS: &[Entry] = &[
    Entry {
        name: "test",
        does: "all tests, on the CPU or on the backend given",
        example: "cargo xtask test --backend wgpu",
        run: checks::test,
    },
    Entry {
        name: "bench",
        does: "the benchmarks; further arguments go to `cargo bench`",
        example: "cargo xtask bench -p ocl-data",
        run: checks::bench,
    },
    Entry {
        name: "bench-step",
        does: "images a second of the training step, on this machine",
        example: "cargo xtask bench-step --model small --batch 64 --mask-ratio 0.9",
        run: checks::bench_step,
    },
    Entry {
        name: "bench-gpu",
        does: "golden tests and step times of ViT-B and ViT-L on a GPU, PyTorch beside it with --peer",
        example: "cargo xtask bench-gpu --backend cuda",
        run: bench_gpu::command,
    },
    Entry {
        name: "bench-ranks",
        does: "several processes beside one: exactness, faults, images a second, time in exchanges",
        example: "cargo xtask bench-ranks --ranks 4",
        run: bench_ranks::command,
    },
    Entry {
        name: "ci",
        does: "what CI does: format, tidy, clippy, docs, tests (and wgpu's with --with-wgpu)",
        example: "cargo xtask ci --with-wgpu",
        run: checks::ci,
    },
    Entry {
        name: "tidy",
        does: "the house rules: layers, file lengths, manifests, code map, recipe headers, licences",
        example: "cargo xtask tidy",
        run: tidy::command,
    },
];

struct Entry {
    name: &'static str,
    does: &'static str,
    example: &'static str,
    run: fn(Vec<OsString>) -> Result<(), Failure>,
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let name = match args.is_empty() {
        true => "help".to_owned(),
        false => args.remove(0).to_string_lossy().into_owned(),
    };
    signals::listen();
    let result = match name.as_str() {
        "help" | "--help" | "-h" => help(args),
        _ => match COMMANDS.iter().find(|entry| entry.name == name) {
            Some(entry) => (entry.run)(args),
            None => program::run(&name, args),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// The candidate with the least edits from `word`, if it is near enough to be what was meant.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(2))
        .map(|(_, candidate)| candidate)
}

/// All commands, or the help of one.
fn help(args: Vec<OsString>) -> Result<(), Failure> {
    if let Some(name) = args.first() {
        return match COMMANDS.iter().find(|entry| entry.name == *name) {
            Some(entry) => (entry.run)(vec!["--help".into()]),
            None => program::help(&args),
        };
    }
    program::help(&[])?;
    let mut text = String::from("\nFor who works on the code:\n");
    for Entry { name, does, example, .. } in COMMANDS {
        text.push_str(&format!("  {name:<15} {does}\n                  e.g. {example}\n"));
    }
    text.push_str("\nBackends, for all but ci and tidy (`--backend NAME`):\n");
    text.push_str(&backend::list());
    text.push_str("\nThe options of one command: cargo xtask COMMAND --help\n");
    // A reader that closes early (`| head`) is no error of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Answers `--help` for a command that no program of ours answers for.
///
/// Returns whether it was asked for.
fn own_help(name: &str, args: &[OsString], options: &str) -> bool {
    let ours = args.iter().take_while(|arg| *arg != "--");
    if !ours.into_iter().any(|arg| arg == "--help" || arg == "-h") {
        return false;
    }
    if let Some(entry) = COMMANDS.iter().find(|entry| entry.name == name) {
        let text = format!("{name}: {}\n\n{options}\nExample: {}\n", entry.does, entry.example);
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_named_once() {
        for (i, entry) in COMMANDS.iter().enumerate() {
            assert!(COMMANDS[..i].iter().all(|other| other.name != entry.name), "{}", entry.name);
            assert!(entry.example.contains(entry.name), "{}", entry.name);
        }
    }
}
