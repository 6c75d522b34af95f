//! The project's commands: `cargo xtask pretrain`, `eval-linear`, `test`, `tidy` and so on.
//!
//! Thin on purpose. It knows which package, which features and which order; everything else is
//! the programs' own. It depends on neither burn nor our crates, so it builds in seconds.

mod backend;
mod bench_data;
mod bench_gpu;
mod checks;
mod command;
mod compare;
mod embed;
mod exchange;
mod pack;
mod programs;
mod replay;
mod signals;
mod tidy;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use command::Failure;

/// What the user can type after `cargo xtask`, in the order in which `help` shows it.
const COMMANDS: &[Entry] = &[
    Entry {
        name: "pretrain",
        does: "pre-train an encoder, then say what it is worth (--no-eval: only train)",
        example: "cargo xtask pretrain --data photos/ --backend cuda",
        run: programs::pretrain,
    },
    Entry {
        name: "report",
        does: "say again what the encoder of a run is worth",
        example: "cargo xtask report --run runs/NAME",
        run: programs::report,
    },
    Entry {
        name: "eval",
        does: "every protocol on the frozen encoder of a run or of a weights file",
        example: "cargo xtask eval --run runs/NAME --data photos/ --protocols linear,knn",
        run: programs::eval,
    },
    Entry {
        name: "eval-linear",
        does: "linear probe, cached or as in MAE (--protocol mae)",
        example: "cargo xtask eval-linear --run runs/NAME --data photos/",
        run: programs::eval_linear,
    },
    Entry {
        name: "eval-knn",
        does: "weighted k-nearest-neighbour accuracy of a run",
        example: "cargo xtask eval-knn --run runs/NAME",
        run: programs::eval_knn,
    },
    Entry {
        name: "export",
        does: "an encoder, fine-tuned or not, as a folder that timm and Hugging Face load",
        example: "cargo xtask export --run runs/NAME --out encoder/",
        run: exchange::export,
    },
    Entry {
        name: "import",
        does: "weights of timm, MAE, DeiT, DINO (.pth, safetensors) as such a folder",
        example: "cargo xtask import mae_pretrain_vit_base.pth --out mae/",
        run: exchange::import,
    },
    Entry {
        name: "compare-results",
        does: "what evaluations of several runs found, side by side",
        example: "cargo xtask compare-results runs/a runs/b",
        run: compare::command,
    },
    Entry {
        name: "embed",
        does: "features of any images as .npy, .safetensors or .parquet, with their names",
        example: "cargo xtask embed photos/ --run runs/NAME --out features.npy",
        run: embed::command,
    },
    Entry {
        name: "neighbours",
        does: "the images nearest to a query, as a picture",
        example: "cargo xtask neighbours photos/ --run runs/NAME --query cat.jpg",
        run: programs::neighbours,
    },
    Entry {
        name: "finetune",
        does: "train the whole encoder of a run on labels; --resume goes on",
        example: "cargo xtask finetune --run runs/NAME --data photos/ --seeds 3",
        run: programs::finetune,
    },
    Entry {
        name: "predict",
        does: "classes of images with their probabilities, by a fine-tuned encoder",
        example: "cargo xtask predict photos/ --weights finetuned.safetensors --format csv",
        run: programs::predict,
    },
    Entry {
        name: "replay",
        does: "run a step again whose loss or gradient was no number, exactly",
        example: "cargo xtask replay runs/NAME/captures/step-00000120",
        run: replay::command,
    },
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
        name: "bench-data",
        does: "images per second from a folder or shards, and the time of each stage",
        example: "cargo xtask bench-data photos/ --mask-ratio 0.9 --workers 1",
        run: bench_data::bench_data,
    },
    Entry {
        name: "pack",
        does: "write a data set as tar shards, as it is, resized or as pixels",
        example: "cargo xtask pack photos/ shards/ --short-side 256 --quality 90",
        run: pack::pack,
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
        name: "ci",
        does: "what CI does: format, tidy, clippy, docs, tests (and wgpu's with --with-wgpu)",
        example: "cargo xtask ci --with-wgpu",
        run: checks::ci,
    },
    Entry {
        name: "tidy",
        does: "the house rules: layers, file lengths, manifests, code map, recipe headers",
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
    if args.is_empty() {
        return help();
    }
    let name = args.remove(0).to_string_lossy().into_owned();
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        return help();
    }
    let result = match COMMANDS.iter().find(|entry| entry.name == name) {
        Some(entry) => {
            signals::listen();
            (entry.run)(args)
        }
        None => Err(unknown(&name)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn unknown(name: &str) -> Failure {
    let nearest = nearest(name, COMMANDS.iter().map(|entry| entry.name))
        .map_or_else(String::new, |near| format!(" Did you mean `{near}`?"));
    Failure::usage(format!(
        "there is no command `{name}`.{nearest} `cargo xtask help` lists all of them."
    ))
}

/// The candidate with the least edits from `word`, if it is near enough to be what was meant.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(2))
        .map(|(_, candidate)| candidate)
}

fn help() -> ExitCode {
    let mut text = String::from("Usage: cargo xtask COMMAND [arguments]\n\n");
    for Entry { name, does, example, .. } in COMMANDS {
        text.push_str(&format!("  {name:<15} {does}\n                  e.g. {example}\n"));
    }
    text.push_str("\nBackends, for all but ci and tidy (`--backend NAME`):\n");
    text.push_str(&backend::list());
    text.push_str("\nThe options of one command: cargo xtask COMMAND --help\n");
    // A reader that closes early (`| head`) is no error of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
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
    fn a_slip_of_the_finger_finds_the_command() {
        let names = || COMMANDS.iter().map(|entry| entry.name);
        assert_eq!(nearest("pretrian", names()), Some("pretrain"));
        assert_eq!(nearest("eval_knn", names()), Some("eval-knn"));
        assert_eq!(nearest("evallinear", names()), Some("eval-linear"));
        assert_eq!(nearest("xyzzyxyzzy", names()), None);
    }

    #[test]
    fn commands_are_named_once() {
        for (i, entry) in COMMANDS.iter().enumerate() {
            assert!(COMMANDS[..i].iter().all(|other| other.name != entry.name), "{}", entry.name);
            assert!(entry.example.contains(entry.name), "{}", entry.name);
        }
    }
}
