//! The real program, killed at random moments and resumed, again and again, by every method: nothing
//! is lost.
//!
//! `OCL_CRASH_KILLS=1000 cargo test --release --workspace --test crash` kills it that often by each.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]
#![cfg(all(feature = "flex", unix))]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Kills when nothing else is asked for: of a run by OCL, and of one by each other method.
const KILLS: [usize; 2] = [100, 20];

/// A run of 60 steps of a nano encoder, with a checkpoint after every second. What its method is,
/// and whether it keeps an average, stands in place of METHOD and of AVERAGE.
const RECIPE: &str = r#"
data = { path = "embedded", kind = "embedded", image_px = 28, crop_scale = [0.5, 1.0], crop_ratio = [0.75, 1.333], flip = 0.5, resize_ratio = 1.0, mean = [0.286, 0.286, 0.286], std = [0.353, 0.353, 0.353], max_bad_share = 0.01, workers = 1 }
model = { width = 16, depth = 1, heads = 2, patch_px = 7 }
method = { METHOD }
optim = { base_lr = 1e-3, min_lr = 0.0, warmup_epochs = 0.5, weight_decay = 0.05, beta1 = 0.9, beta2 = 0.95, eps = 1e-8AVERAGE }
batch = { size = 400, grain = 128 }
train = { epochs = 3, seed = 7, checkpoint_every_epochs = 0.1, keep_checkpoints = 2 }
monitor = { every_steps = 7, knn_every_epochs = 1.5 }
"#;

/// The methods with small networks.
const METHODS: [(&str, &str); 4] = [
    ("ocl", "mask_ratio = 0.5, kappa = 0.015625, temperature = 0.07"),
    (
        "mae",
        "mask_ratio = 0.75, norm_pix = true, decoder_width = 8, decoder_depth = 1, decoder_heads = 2",
    ),
    (
        "i-jepa",
        "targets = 4, target_scale = [0.15, 0.2], target_ratio = [0.75, 1.5], context_scale = [0.85, \
         1.0], min_keep = 2, predictor_width = 8, predictor_depth = 1, predictor_heads = 2, momentum = \
         [0.9, 1.0], start_lr = 2e-4, final_weight_decay = 0.4, schedule_stretch = 1.25",
    ),
    ("moco-v3", "temperature = 0.2, momentum = 0.9, hidden_width = 32, output_width = 8"),
];

/// A folder for runs by this method, with their recipe.
fn folder_for(method: &str) -> tempfile::TempDir {
    let (name, constants) = METHODS.iter().find(|(name, _)| *name == method).unwrap();
    // I-JEPA has an average of its own, which is what it leaves.
    let average = if method == "i-jepa" { "" } else { ", ema_decay = 0.9" };
    let recipe = RECIPE
        .replace("METHOD", &format!("name = \"{name}\", {constants}"))
        .replace("AVERAGE", average);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nano.toml"), recipe).unwrap();
    folder
}

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
        program
            .arg("--recipe")
            .arg(folder.join("nano.toml"))
            .arg("--out")
            .arg(folder)
            .args(["--name", name]);
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

/// What the log says of each step, as it is written, but for what depends on time.
fn figures(run: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    let timed =
        |field: &&str| ["images_per_sec", "data_wait"].iter().any(|key| field.contains(key));
    let lasting = |line: &str| -> Vec<String> {
        line.split(',').filter(|field| !timed(field)).map(str::to_owned).collect()
    };
    log.lines().map(|line| lasting(line).join(",")).collect()
}

/// The weights that a run has left: the encoder, its average where there is one, and all networks
/// as the last checkpoint has them.
fn weights(run: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["encoder.safetensors", "encoder-average.safetensors"]
        .into_iter()
        .map(|name| run.join(name))
        .filter(|file| file.exists())
        .collect();
    assert!(!files.is_empty(), "{} has no encoder", run.display());
    files.push(run.join("checkpoints/step-00000060/weights.safetensors"));
    files
}

fn assert_equal(folder: &Path, name: &str) {
    let (whole, other) = (folder.join("whole"), folder.join(name));
    assert!(figures(&other) == figures(&whole), "{name}: figures differ");
    let (expected, found) = (weights(&whole), weights(&other));
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(&found) {
        let [expected, bytes] = [expected, found].map(|file| std::fs::read(file).unwrap());
        assert!(bytes == expected, "{} differs", found.display());
    }
}

#[test]
fn killed_at_any_moment_and_resumed_it_is_the_unbroken_run() {
    kill_and_resume("ocl", KILLS[0]);
}

/// Decoders, predictors, averages and statistics of batch norms are as lasting as encoders.
#[test]
fn so_it_is_by_every_other_method() {
    for (method, _) in &METHODS[1..] {
        kill_and_resume(method, KILLS[1]);
    }
}

fn kill_and_resume(method: &str, kills: usize) {
    let kills = std::env::var("OCL_CRASH_KILLS").map_or(kills, |text| text.parse().unwrap());
    let folder = folder_for(method);
    let folder = folder.path();
    let began = Instant::now();
    complete(folder, "whole");
    let unbroken = began.elapsed().as_millis() as u64;
    let whole = figures(&folder.join("whole"));
    assert_eq!(whole.len(), 60);
    assert!(whole.windows(2).all(|pair| pair[0] != pair[1]) && whole[20].contains("rank"));

    let mut draws = Draws(std::process::id().into());
    println!("{method}: seed {}", draws.0);
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
    println!("{method}: {killed} kills in {runs} runs, none lost anything");
}

#[test]
fn signals_end_in_a_checkpoint_and_a_second_one_at_once() {
    let folder = folder_for("ocl");
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
    let folder = folder_for("ocl");
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
