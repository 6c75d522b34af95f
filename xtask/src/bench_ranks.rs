//! `cargo xtask bench-ranks`: what several processes make of a run, in one command.
//!
//! First the tests of exactness and of faults: a fast wrong run is worth nothing. Then a short run
//! of one process on all of the cores beside one of several processes that divide them, for each
//! number of processes: images a second, the share of the time that goes into exchanges, and
//! whether both left the same encoder.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::backend::{self, Backend};
use crate::command::{self, Failure};
use crate::{own_help, program};

/// A run of some seconds: ViT-S with half its depth on the embedded images.
const RUN: [&str; 9] = [
    "model.width=384",
    "model.heads=6",
    "model.depth=6",
    "batch.parts=8",
    "batch.micro_batch=32",
    "train.epochs=1",
    "train.checkpoint_every_epochs=100",
    "monitor.knn_every_epochs=0",
    "monitor.every_steps=0",
];
/// The first steps of a run are not timed: buffers are made, kernels tuned.
const WARM_UP: usize = 5;

/// Tests, then the table.
pub(crate) fn command(args: Vec<OsString>) -> Result<(), Failure> {
    let options = "  --backend NAME    flex (the default), cuda, vulkan or wgpu\n  \
                   --ranks N         most processes [default: as many as cores, at most 8]\n  \
                   --no-tests        only the table\n  \
                   anything else     goes to `pretrain`, e.g. --set batch.size=512\n";
    if own_help("bench-ranks", &args, options) {
        return Ok(());
    }
    let (backend, mut args) = backend::take(args)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = take_ranks(&mut args)?.unwrap_or(cores.min(8));
    let untested = args.iter().position(|arg| arg == "--no-tests").map(|at| args.remove(at));
    program::build(backend, true)?;
    if untested.is_none() && backend == Backend::Flex {
        let mut tests = command::cargo(&["test", "--release", "--workspace", "--features"]);
        command::run(tests.args([backend::MPI, "--test", "ranks"]))?;
    }
    let folder = std::env::temp_dir().join(format!("ocl-bench-ranks-{}", std::process::id()));
    let table = table(backend, most, cores, &args, &folder);
    // What it leaves is of no use to anyone.
    let _ = std::fs::remove_dir_all(&folder);
    table
}

fn table(
    backend: Backend,
    most: usize,
    cores: usize,
    args: &[OsString],
    folder: &Path,
) -> Result<(), Failure> {
    println!("ranks  threads each   img/s   of one process   exchanges   same encoder");
    let mut ranks = 1;
    while ranks <= most {
        let threads = if backend == Backend::Flex { (cores / ranks).max(1) } else { cores };
        let one = run(backend, 1, threads * ranks, args, folder)?;
        let all = run(backend, ranks, threads, args, folder)?;
        let same = if one.encoder == all.encoder { "yes" } else { "no" };
        println!(
            "{ranks:>5}  {threads:>12}  {:>6.0}  {:>15.2}  {:>8.1} %   {same}",
            all.images_per_sec,
            all.images_per_sec / one.images_per_sec,
            100.0 * all.comm
        );
        ranks *= 2;
    }
    Ok(())
}

/// What a run came to.
struct Measured {
    images_per_sec: f64,
    comm: f64,
    encoder: Vec<u8>,
}

fn run(
    backend: Backend,
    ranks: usize,
    threads: usize,
    args: &[OsString],
    folder: &Path,
) -> Result<Measured, Failure> {
    let mut ocl = program::start();
    ocl.args(["pretrain", "--no-eval", "--name", "run", "--backend", backend.name(), "--out"]);
    ocl.arg(folder).args(["--ranks", &ranks.to_string()]);
    ocl.args(RUN.iter().flat_map(|pair| ["--set", pair])).args(args);
    ocl.env("RAYON_NUM_THREADS", threads.to_string()).stderr(Stdio::null());
    command::run(&mut ocl)
        .map_err(|failure| failure.with_message(format!("the run failed; by itself: {ocl:?}")))?;
    let run = folder.join("run");
    let read = |name: &str| {
        let path = run.join(name);
        std::fs::read(&path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
    };
    let log = String::from_utf8_lossy(&read("log.jsonl")?).into_owned();
    let measured = Measured {
        images_per_sec: median(&log, "images_per_sec"),
        comm: median(&log, "comm"),
        encoder: read("encoder.safetensors")?,
    };
    std::fs::remove_dir_all(&run)
        .map_err(|error| Failure::new(format!("cannot remove {}: {error}", run.display())))?;
    Ok(measured)
}

/// The median of a figure over a log's steps; 0 for one that is not there.
fn median(log: &str, figure: &str) -> f64 {
    let of = |line: &str| serde_json::from_str::<Value>(line).ok()?.get(figure)?.as_f64();
    let mut values: Vec<f64> = log.lines().skip(WARM_UP).filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn take_ranks(args: &mut Vec<OsString>) -> Result<Option<usize>, Failure> {
    let Some(at) = args.iter().position(|arg| arg == "--ranks") else { return Ok(None) };
    args.remove(at);
    let number = (at < args.len()).then(|| args.remove(at).to_string_lossy().parse().ok());
    match number.flatten() {
        Some(ranks) if ranks > 0 => Ok(Some(ranks)),
        _ => Err(Failure::usage("--ranks needs a number of at least 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_after_the_warm_up() {
        let log: String = [9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 3.0, 2.0]
            .iter()
            .map(|value| format!("{{\"images_per_sec\":{value}}}\n"))
            .collect();
        assert_eq!((median(&log, "images_per_sec"), median(&log, "comm")), (2.0, 0.0));
    }

    #[test]
    fn the_number_of_ranks_is_taken_out() {
        let mut args: Vec<OsString> = ["--ranks", "4", "--set"].map(OsString::from).into();
        assert_eq!(take_ranks(&mut args).expect("a number"), Some(4));
        assert_eq!(args, ["--set"]);
        assert!(take_ranks(&mut vec!["--ranks".into(), "none".into()]).is_err());
        assert!(take_ranks(&mut vec!["--ranks".into()]).is_err());
    }
}
