//! `cargo xtask bench-gpu`: what a GPU makes of a training step, in one command.
//!
//! First the golden tests and those of the kernels there: a fast wrong step is worth nothing. Then
//! the step of ViT-B and ViT-L on synthetic patches, a line each with the memory in use at most;
//! then the same of a PyTorch program, if one is given. A process each, so that one that does not
//! fit ends no other.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backend::{self, Backend};
use crate::command::{self, Failure};
use crate::own_help;

const SIZES: [&str; 2] = ["base", "large"];
const BATCHES: [&str; 2] = ["512", "1800"];
const MASK_RATIOS: [&str; 2] = ["0.9", "0.75"];
const PRECISIONS: [&str; 3] = ["f32", "tf32", "bf16"];

/// Golden tests, then step times.
pub(crate) fn command(args: Vec<OsString>) -> Result<(), Failure> {
    let options = "  --backend NAME  cuda (the default), vulkan or wgpu\n  \
                   --peer FILE     a PyTorch program to time beside it, called as\n                  \
                   python3 FILE SIZE BATCH MASK_RATIO --device cuda [--compile] [--amp bf16]\n";
    if own_help("bench-gpu", &args, options) {
        return Ok(());
    }
    let (backend, mut args) = backend::take(args)?;
    let backend = if backend == Backend::Flex { Backend::Cuda } else { backend };
    let peer = take_peer(&mut args)?;
    if let Some(other) = args.first() {
        return Err(Failure::usage(format!("bench-gpu knows no `{}`", other.to_string_lossy())));
    }
    let features = ["--no-default-features", "--features", backend.name()];
    let test = |package: &str, which: &[&str]| {
        let mut cargo = command::cargo(&["test", "--release", "-p", package]);
        command::run(cargo.args(features).args(which).env("BURN_DEVICE", backend.name()))
    };
    println!("golden tests on {}", backend.name());
    test("ocl-train", &["--test", "golden", "--", "--nocapture"])?;
    test("ocl-model", &["--lib", "--", "gpu::tests::"])?;

    for size in SIZES {
        for batch in BATCHES {
            for mask_ratio in MASK_RATIOS {
                for precision in PRECISIONS {
                    let mut step = command::cargo(&["bench", "-q", "-p", "ocl-train"]);
                    step.args(["--bench", "step"]).args(features);
                    step.args(["--", "--model", size, "--batch", batch]);
                    step.args(["--mask-ratio", mask_ratio, "--backend", backend.name()]);
                    timed(step.args(["--precision", precision]));
                }
                for way in peer.iter().flat_map(|_| PEER_WAYS) {
                    let mut torch = Command::new("python3");
                    torch.args(&peer).args([size, batch, mask_ratio, "--device", "cuda"]);
                    timed(torch.args(way));
                }
            }
        }
    }
    Ok(())
}

/// Eager, compiled, and compiled in bf16.
const PEER_WAYS: [&[&str]; 3] = [&[], &["--compile"], &["--compile", "--amp", "bf16"]];

fn take_peer(args: &mut Vec<OsString>) -> Result<Option<PathBuf>, Failure> {
    let Some(at) = args.iter().position(|arg| arg == "--peer") else { return Ok(None) };
    args.remove(at);
    if at == args.len() {
        return Err(Failure::usage("--peer needs a file"));
    }
    Ok(Some(args.remove(at).into()))
}

/// Runs a program that prints its own line, and prints the GPU memory in use at most meanwhile. One
/// that fails (a batch too large for the memory, say) does not end the others.
fn timed(program: &mut Command) {
    let done = Arc::new(AtomicBool::new(false));
    let watch = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut most = None;
            while !done.load(Ordering::Relaxed) {
                most = most.max(memory_in_use());
                std::thread::sleep(Duration::from_millis(200));
            }
            most
        }
    });
    let result = command::run(program);
    done.store(true, Ordering::Relaxed);
    let most = watch.join().ok().flatten();
    match (result, most) {
        (Err(failure), _) => println!("  failed: {failure}"),
        (Ok(()), Some(mib)) => println!("  at most {mib} MiB of GPU memory in use"),
        (Ok(()), None) => println!("  GPU memory unknown: nvidia-smi does not answer"),
    }
}

/// MiB in use on the first GPU.
fn memory_in_use() -> Option<u64> {
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_taken_out() {
        let mut args: Vec<OsString> = ["--peer", "step.py", "x"].map(OsString::from).into();
        assert_eq!(take_peer(&mut args).expect("a file"), Some(PathBuf::from("step.py")));
        assert_eq!(args, ["x"]);
        assert!(take_peer(&mut vec!["--peer".into()]).is_err());
    }
}
