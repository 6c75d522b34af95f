//! The real program, killed at random moments and resumed, again and again: nothing is lost.
//!
//! `OCL_CRASH_KILLS=1000 cargo test --release --workspace --test crash` kills it that often.

#![cfg(all(feature = "flex", unix))]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Kills when nothing else is asked for.
const KILLS: usize = 100;

/// A run of 60 steps of a nano encoder, with a checkpoint after every second.
const RECIPE: &str = r#"
data = { path = "embedded", kind = "embedded", image_px = 28, crop_scale = [0.5, 1.0], crop_ratio = [0.75, 1.333], flip = 0.5, resize_ratio = 1.0, mean = [0.286, 0.286, 0.286], std = [0.353, 0.353, 0.353], max_bad_share = 0.01, workers = 1 }
model = { width = 16, depth = 1, heads = 2, patch_px = 7 }
method = { name = "ocl", mask_ratio = 0.5, kappa = 0.015625, temperature = 0.07 }
optim = { base_lr = 1e-3, min_lr = 0.0, warmup_epochs = 0.5, weight_decay = 0.05, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, ema_decay = 0.9 }
batch = { size = 400, grain = 128 }
train = { epochs = 3, seed = 7, checkpoint_every_epochs = 0.1, keep_checkpoints = 2 }
"#;

/// Numbers that look random and can be had again.
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Starts the run, or goes on with it if there is one.
fn start(folder: &Path, name: &str, extra: &[&str]) -> Child {
    let run = folder.join(name);
    let mut program = Command::new(env!("CARGO_BIN_EXE_ocl"));
    program.args(["pretrain", "--no-eval"]).stdout(Stdio::null()).stderr(Stdio::piped());
    if run.join("plan.toml").exists() {
        program.arg("--resume").arg(&run);
    } else {
        let recipe = folder.join("nano.toml");
        std::fs::write(&recipe, RECIPE).unwrap();
        program.arg("--recipe").arg(recipe).arg("--out").arg(folder).args(["--name", name]);
    }
    program.args(extra).spawn().unwrap()
}

fn stderr(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn complete(folder: &Path, name: &str) {
    let (status, text) = stderr(start(folder, name, &[]));
    assert!(status.success(), "{text}");
}

/// Step and loss of each line of the log.
/// What the log says of each step, as it is written, but for what depends on time.
fn losses(run: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    let written = |line: &str| {
        let field = |key: &str| {
            let at = line.find(&format!("\"{key}\":")).unwrap();
            line[at..].split([',', '}']).next().unwrap().to_owned()
        };
        ["step", "loss", "lr", "gradient_norm"].map(field).join(" ")
    };
    log.lines().map(written).collect()
}

fn assert_equal(folder: &Path, name: &str) {
    let (whole, other) = (folder.join("whole"), folder.join(name));
    assert!(losses(&other) == losses(&whole), "{name}: losses differ");
    for file in ["encoder.safetensors", "encoder-average.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&other) == read(&whole), "{name}: {file} differs");
    }
}

#[test]
fn killed_at_any_moment_and_resumed_it_is_the_unbroken_run() {
    let kills: usize =
        std::env::var("OCL_CRASH_KILLS").ok().map_or(KILLS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let began = Instant::now();
    complete(folder, "whole");
    let unbroken = began.elapsed().as_millis() as u64;
    assert_eq!(losses(&folder.join("whole")).len(), 60);

    let mut draws = Draws(std::process::id().into());
    println!("seed {}", draws.0);
    let (mut killed, mut runs) = (0, 0);
    // The machine may become faster than it was: then a run would be over before it is killed.
    let mut longest = (unbroken / 3).max(2);
    while killed < kills {
        let name = format!("run-{runs}");
        // Every other run goes on with other chunks and another number of workers each time.
        while !folder.join(&name).join("encoder.safetensors").exists() {
            let resumes = folder.join(&name).join("plan.toml").exists();
            let other: &[&str] = match (resumes && runs % 2 == 1, killed % 3) {
                (false, _) => &[],
                (true, 0) => &["--chunk", "128", "--workers", "2"],
                (true, 1) => &["--chunk", "256"],
                (true, _) => &["--chunk", "auto"],
            };
            let mut child = start(folder, &name, other);
            // From the first instruction to well into the run.
            std::thread::sleep(Duration::from_millis(draws.below(longest)));
            match child.try_wait().unwrap() {
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    killed += 1;
                    longest = (longest + longest / 16 + 1).min(unbroken);
                }
                Some(_) => {
                    longest = (longest * 3 / 4).max(2);
                    let (status, text) = stderr(child);
                    assert!(status.success(), "{name}: {text}");
                }
            }
        }
        complete(folder, &name);
        assert_equal(folder, &name);
        std::fs::remove_dir_all(folder.join(&name)).unwrap();
        runs += 1;
    }
    println!("{killed} kills in {runs} runs, none lost anything");
}

#[test]
fn signals_end_in_a_checkpoint_and_a_second_one_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    complete(folder, "whole");
    let mut draws = Draws(3);
    let mut interrupted = 0;
    for (i, signal) in [libc::SIGTERM, libc::SIGINT].into_iter().cycle().take(8).enumerate() {
        if folder.join("stopped/encoder.safetensors").exists() {
            break;
        }
        let child = start(folder, "stopped", &[]);
        std::thread::sleep(Duration::from_millis(40 + draws.below(100)));
        send(&child, signal);
        if i % 4 == 3 {
            // Sooner, the two would be taken for one.
            std::thread::sleep(Duration::from_millis(250));
            send(&child, signal);
        }
        let (status, text) = stderr(child);
        assert!(matches!(status.code(), Some(0 | 130)), "{status}: {text}");
        interrupted += usize::from(status.code() == Some(130));
    }
    assert!(interrupted > 0);
    complete(folder, "stopped");
    assert_equal(folder, "stopped");
}

#[test]
fn a_second_run_in_a_folder_is_refused_while_the_first_lives() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = start(folder, "shared", &["--epochs", "1000"]);
    let begun = Instant::now();
    while !folder.join("shared/log.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the run does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (status, text) = stderr(start(folder, "shared", &[]));
    assert!(!status.success());
    assert!(text.contains(&format!("in use by process {}", first.id())), "{text}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock is gone with its owner: the next one may go on.
    let third = start(folder, "shared", &[]);
    std::thread::sleep(Duration::from_millis(300));
    send(&third, libc::SIGTERM);
    let (status, text) = stderr(third);
    assert_eq!(status.code(), Some(130), "{text}");
}

fn send(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the process is our child and has not been waited for.
    unsafe { libc::kill(pid, signal) };
}
