//! Runs of the program as several processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// Images of the data set; two of them cannot be read.
pub(crate) const IMAGES: u8 = 100;

/// One test at a time: processes that wait for each other want the few cores that there are.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder of small images, with two files among them that are none.
pub(crate) fn images(folder: &Path) -> PathBuf {
    let data = folder.join("images");
    fs::create_dir_all(&data).unwrap();
    for number in 0..IMAGES {
        let path = data.join(format!("{number:03}.png"));
        if number == 17 || number == 60 {
            fs::write(path, "not an image").unwrap();
            continue;
        }
        let shade = |x: u32, y: u32| {
            let wave = (x * (1 + u32::from(number) % 7) + y * (1 + u32::from(number) % 5)) * 9;
            image::Rgb([wave as u8, (wave >> 1) as u8, number.wrapping_mul(37)])
        };
        image::RgbImage::from_fn(20, 18, shade).save(path).unwrap();
    }
    data
}

/// A recipe with all that can go wrong between processes: batches that neither micro-batches nor
/// processes divide, chunks, clipping.
pub(crate) fn recipe(method: &str) -> Vec<String> {
    let mut pairs = vec![
        "data.image_px=16",
        "data.max_bad_share=0.05",
        "model.patch_px=4",
        "model.width=16",
        "model.heads=2",
        "model.depth=2",
        "optim.clip_norm=0.5",
        "optim.warmup_epochs=0.5",
        "batch.size=37",
        "batch.micro_batch=3",
        "batch.chunk=4",
        "batch.parts=8",
        "train.epochs=4",
        "train.checkpoint_every_epochs=0.5",
        "monitor.every_steps=2",
        "monitor.knn_every_epochs=0",
    ];
    match method {
        "mae" => pairs.extend(["method.decoder_width=16", "method.decoder_heads=2"]),
        "i-jepa" => pairs.extend([
            "method.predictor_width=16",
            "method.predictor_heads=2",
            "method.min_keep=1",
        ]),
        "moco-v3" => pairs.extend(["method.hidden_width=16", "method.output_width=8"]),
        _ => {}
    }
    if method != "i-jepa" {
        pairs.push("optim.ema_decay=0.9");
    }
    pairs.into_iter().flat_map(|pair| ["--set".to_owned(), pair.to_owned()]).collect()
}

/// What Open MPI needs to start more processes than cores, as root, in a container that does not
/// allow one process to read another's memory, and to end when one of them is killed.
pub(crate) fn for_open_mpi(command: &mut Command) {
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_mpi_yield_when_idle", "1"),
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
        ("PMIX_MCA_gds", "hash"),
    ] {
        command.env(name, value);
    }
}

/// `ocl` as so many processes of a thread each. It sets what else Open MPI needs by itself.
pub(crate) fn ocl(ranks: usize, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocl"));
    command.args(args).env("RAYON_NUM_THREADS", "1").env("OMPI_MCA_mpi_yield_when_idle", "1");
    // Containers seldom allow one process to read another's memory.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command.args(["--ranks", &ranks.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a run in `folder/NAME`.
pub(crate) fn fresh(ranks: usize, folder: &Path, name: &str, method: &str) -> Command {
    let data = folder.join("images");
    let fixed = ["pretrain", "--recipe", "folder", "--no-eval"];
    let mut command = ocl(ranks, &fixed);
    command.args(["--method", method, "--name", name, "--data"]).arg(data);
    command.arg("--out").arg(folder).args(recipe(method));
    command
}

/// Goes on with a run.
pub(crate) fn resume(ranks: usize, run: &Path) -> Command {
    let mut command = ocl(ranks, &["pretrain", "--no-eval"]);
    command.arg("--resume").arg(run);
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    stderr(&output)
}

/// What a run came to: the figures of each step, and all files of the last checkpoint but the plan.
#[derive(PartialEq)]
pub(crate) struct Bits {
    pub(crate) steps: Vec<String>,
    files: BTreeMap<String, Vec<u8>>,
    bad: usize,
}

impl Bits {
    pub(crate) fn of(run: &Path) -> Self {
        let log = fs::read_to_string(run.join("log.jsonl")).unwrap();
        let figures = |line: &str| -> String {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            // All but what the clock says.
            let mut record = record.as_object().unwrap().clone();
            for of_time in ["images_per_sec", "data_wait", "comm"] {
                record.remove(of_time);
            }
            serde_json::to_string(&record).unwrap()
        };
        let mut checkpoints: Vec<PathBuf> =
            fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
        checkpoints.sort();
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(checkpoints.last().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
        for name in ["encoder.safetensors", "encoder-average.safetensors"] {
            if let Ok(bytes) = fs::read(run.join(name)) {
                files.insert(name.to_owned(), bytes);
            }
        }
        let bad = fs::read_to_string(run.join("quarantine.jsonl")).map_or(0, |t| t.lines().count());
        Self { steps: log.lines().map(figures).collect(), files, bad }
    }

    /// Says what differs, if anything does.
    pub(crate) fn assert_same(&self, expected: &Self, what: &str) {
        for (found, expected) in self.steps.iter().zip(&expected.steps) {
            assert_eq!(found, expected, "{what}");
        }
        assert_eq!(self.steps.len(), expected.steps.len(), "{what}");
        assert_eq!(self.bad, expected.bad, "{what}: unreadable images");
        assert!(self.files.keys().eq(expected.files.keys()), "{what}");
        for (name, bytes) in &self.files {
            assert!(*bytes == expected.files[name], "{what}: {name}");
        }
    }

    pub(crate) fn bad(&self) -> usize {
        self.bad
    }
}

/// The processes that a launcher has started, by their ranks; none while they do not all run yet.
pub(crate) fn processes(launcher: &Child, ranks: usize) -> Vec<i32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        let environment = String::from_utf8_lossy(&environment);
        let value = |name: &str| {
            let of = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            environment.split('\0').find_map(of)
        };
        if value("OCL_TEST_LAUNCHER") == Some(launcher_name(launcher))
            && let Some(rank) = value("OMPI_COMM_WORLD_RANK")
        {
            found.insert(rank.parse::<usize>().unwrap(), pid);
        }
    }
    if found.len() == ranks { found.into_values().collect() } else { vec![] }
}

/// Starts a command whose processes [`processes`] finds.
pub(crate) fn start(command: &mut Command, name: &str) -> Child {
    command.env("OCL_TEST_LAUNCHER", name).spawn().unwrap()
}

/// Waits until a run has made so many steps.
pub(crate) fn until_step(launcher: &mut Child, run: &Path, steps: usize) {
    let done = || fs::read_to_string(run.join("log.jsonl")).unwrap_or_default().lines().count();
    while done() < steps {
        assert!(launcher.try_wait().unwrap().is_none(), "it ended after {} steps", done());
        sleep(Duration::from_millis(10));
    }
}

fn launcher_name(launcher: &Child) -> String {
    let environment = fs::read(format!("/proc/{}/environ", launcher.id())).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment);
    let of = |pair: &str| pair.strip_prefix("OCL_TEST_LAUNCHER=").map(str::to_owned);
    environment.split('\0').find_map(of).unwrap_or_default()
}

pub(crate) fn signal(pid: i32, signal: i32) {
    // SAFETY: `kill` has no preconditions.
    unsafe { libc::kill(pid, signal) };
}
