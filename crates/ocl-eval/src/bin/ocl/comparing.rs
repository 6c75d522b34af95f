//! The command `compare`: pre-training methods on the same images, with the same encoder, time and
//! seeds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::Args;
use ocl_data::SourceKind;
use ocl_eval::{Budget, CompareConfig, Entrant, REPORT_LIMITS, compare, paces};
use ocl_train::{Backend, Estimate, INTERRUPTED, Method, command_line, stop_on_signals};

use crate::options::word;
use crate::planning::recipe_for;
use crate::pretraining::toml_string;
use crate::print;

static STOP: AtomicBool = AtomicBool::new(false);

/// Options of `compare`.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Methods that take part
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values_t = Method::NAMES.map(str::to_owned))]
    methods: Vec<String>,
    /// Labelled data: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, IDX or CIFAR files, or
    /// `embedded` [default: embedded]
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND")]
    data_kind: Option<SourceKind>,
    /// Built-in recipe or TOML file that each method is put over [default: by the kind of the data]
    #[arg(long, value_name = "NAME|FILE")]
    recipe: Option<String>,
    /// Time of each run: of processor, all threads together, on the CPU; on the clock on a GPU
    #[arg(long, default_value_t = 10.0, conflicts_with = "epochs")]
    minutes: f64,
    /// The same passes over the data for each method, whatever they take
    #[arg(long)]
    epochs: Option<u64>,
    /// Runs of each method, with seeds 0, 1 and so on
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Points of a run at which it is measured, its end among them
    #[arg(long, default_value_t = 8)]
    marks: u64,
    /// Size of the encoder, e.g. vit_small; same as --set model.size=SIZE
    #[arg(long, value_name = "SIZE")]
    model: Option<String>,
    /// Change one value for all methods, or of one: --set mae.optim.base_lr=1e-3 (repeatable)
    #[arg(long = "set", value_name = "[METHOD.]KEY=VALUE")]
    overrides: Vec<String>,
    /// At most so many training images, drawn at random, for a measurement
    #[arg(long, default_value_t = REPORT_LIMITS[0])]
    max_train: usize,
    /// At most so many test images, drawn at random, for a measurement
    #[arg(long, default_value_t = REPORT_LIMITS[1])]
    max_test: usize,
    /// Loader threads; batches do not depend on it
    #[arg(long)]
    workers: Option<usize>,
    /// Folder of the comparison; the same command goes on with what is in it [default:
    /// comparisons/RECIPE]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Measure the time of a step of each method, print what the comparison will take, and stop
    #[arg(long)]
    dry_run: bool,
    /// flex (CPU), wgpu, vulkan or cuda
    #[arg(long, default_value_t = Backend::DEFAULT)]
    backend: Backend,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Compares, or goes on comparing.
pub(crate) fn run(args: &CompareArgs) -> Result<ExitCode> {
    stop_on_signals(&STOP, true).context("cannot listen for Ctrl-C")?;
    let config = args.config()?;
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None => {
            let recipe = Path::new(&config.recipe).file_stem().unwrap_or_default();
            Path::new("comparisons").join(recipe)
        }
    };
    if args.dry_run {
        return dry_run(args, &config, &folder);
    }
    ocl_train::say!("comparison in {}; {}", folder.display(), work(&config, args.backend));
    let (standings, whole) = compare(&config, &folder, &STOP, |line| ocl_train::say!("{line}"))?;
    if args.json {
        print(&format!("{}\n", standings.json()));
    } else if !standings.marks.is_empty() {
        print(&standings.text());
    }
    if !whole {
        ocl_train::say!("interrupted; the same command goes on from here");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let file = |name: &str| folder.join(name).display().to_string();
    ocl_train::say!("pictures {} and .png, figures .csv and .json", file("comparison.svg"));
    let first = folder.join(format!("{}-seed-0", config.entrants[0].method));
    ocl_train::say!(
        "each run is a run folder of its own: {}",
        command_line(&format!("eval --run {}", word(&first)))
    );
    Ok(ExitCode::SUCCESS)
}

impl CompareArgs {
    fn config(&self) -> Result<CompareConfig> {
        let recipe = recipe_for(self.recipe.as_deref(), self.data.as_deref(), self.data_kind);
        let recipe = recipe.to_owned();
        let mut overrides = CompareConfig::common_overrides(&self.overrides);
        let mut add = |key: &str, value: Option<String>| {
            overrides.extend(value.map(|value| format!("{key}={value}")));
        };
        add("data.path", self.data.as_ref().map(|path| toml_string(path)));
        let kind = self.data_kind.map(|kind| kind.to_string());
        add("data.kind", kind.or_else(|| self.data.as_ref().map(|_| "auto".to_owned())));
        add("model.size", self.model.clone());
        add("data.workers", self.workers.map(|workers| workers.to_string()));
        for pair in &overrides {
            for (key, flag) in [
                ("method.name", "--methods"),
                ("train.seed", "--seeds"),
                ("train.epochs", "--minutes or --epochs"),
            ] {
                if pair.trim_start().starts_with(key) {
                    bail!("--set {pair}: a comparison sets that itself; use {flag}");
                }
            }
        }
        let entrants = self.methods.iter().map(|method| Entrant {
            method: method.trim().to_owned(),
            overrides: CompareConfig::split_overrides(&self.overrides, method.trim()),
            step_secs: 0.0,
            steps: 0,
        });
        let entrants: Vec<Entrant> = entrants.collect();
        let absent = Method::NAMES.iter().find(|name| {
            let takes_part = entrants.iter().any(|entrant| entrant.method == **name);
            !takes_part && !CompareConfig::split_overrides(&self.overrides, name).is_empty()
        });
        if let Some(name) = absent {
            bail!("--set {name}.…: {name} takes no part; name it in --methods");
        }
        Ok(CompareConfig {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe,
            overrides,
            backend: self.backend.to_string(),
            budget: self.epochs.map_or(Budget::Minutes(self.minutes), Budget::Epochs),
            seeds: (0..self.seeds).collect(),
            marks: self.marks,
            limits: [self.max_train, self.max_test],
            entrants,
        })
    }
}

/// How much is to be done, in words.
fn work(config: &CompareConfig, backend: Backend) -> String {
    let runs = config.entrants.len() * config.seeds.len();
    let looks = runs as u64 * (config.marks + 1) + 1;
    let each = match config.budget {
        Budget::Minutes(minutes) => format!("{minutes} {}", backend.minutes()),
        Budget::Epochs(1) => "1 epoch".to_owned(),
        Budget::Epochs(epochs) => format!("{epochs} epochs"),
    };
    format!("{runs} runs of {each}, {looks} measurements beside")
}

fn dry_run(args: &CompareArgs, config: &CompareConfig, folder: &Path) -> Result<ExitCode> {
    let scratch = tempfile_beside(folder);
    let found = paces(config, if folder.exists() { folder } else { &scratch }, &STOP);
    let _ = std::fs::remove_dir(&scratch);
    let (config, plans) = found?;
    print(&format!("{}\n\n", work(&config, args.backend)));
    print(&format!(
        "{:<10}{:>12}{:>12}{:>10}{:>10}{:>10}{:>14}\n",
        "", "s a step", "images/s", "steps", "epochs", "minutes", "peak memory"
    ));
    let mut total = 0.0;
    for (entrant, plan) in config.entrants.iter().zip(&plans) {
        let Entrant { method, step_secs, steps, .. } = entrant;
        let minutes = step_secs * *steps as f64 / 60.0;
        total += minutes * config.seeds.len() as f64;
        let memory = Estimate::count(plan, args.backend).peak_bytes as f64 / (1 << 20) as f64;
        print(&format!(
            "{method:<10}{step_secs:>12.3}{:>12.0}{steps:>10}{:>10.1}{minutes:>10.1}{:>14}\n",
            plan.batch as f64 / step_secs,
            plan.epoch_at(*steps),
            format!("{memory:.0} MiB")
        ));
    }
    let minutes = args.backend.minutes();
    print(&format!("\n{total:.0} {minutes} for training in all; measuring comes on top\n"));
    Ok(ExitCode::SUCCESS)
}

/// A folder for what a dry run throws away.
fn tempfile_beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    std::env::temp_dir().join(format!("ocl-{name}-{}", std::process::id()))
}
