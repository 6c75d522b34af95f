//! The commands `pretrain`, `replay` and `recipes`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use ocl_data::{Source, SourceKind, Split};
use ocl_eval::write_views;
use ocl_model::Precision;
use ocl_train::{
    Backend, Chunk, Estimate, INTERRUPTED, Outcome, Place, Plan, Progress, Recipe, Start, Until,
    World, check_alike, command_line, pretrain_in, replay, summary,
};

use crate::launching::Stop;
use crate::options::{ReportArgs, SplitArgs, word};
use crate::planning::{fresh, resumed, run_folder};
use crate::ranks::{RanksArgs, in_words};
use crate::viewing::VIEWS;
use crate::{measuring, print, ranks};

static STOP: AtomicBool = AtomicBool::new(false);

/// Options of `recipes`.
#[derive(Args, Debug)]
pub(crate) struct RecipesArgs {
    /// The recipe to print
    name: Option<String>,
}

/// Options of `replay`.
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// The capture: a folder `captures/step-…` of a run
    pub(crate) capture: PathBuf,
    /// Where the data is now [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// flex (CPU), wgpu, vulkan or cuda
    #[arg(long, default_value_t = Backend::DEFAULT)]
    pub(crate) backend: Backend,
}

/// Options of `pretrain`.
#[derive(Args, Debug)]
pub(crate) struct PretrainArgs {
    /// Images: a folder, ZIP or tar archives, Parquet, a CSV of paths, IDX or CIFAR files, or `embedded`
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND")]
    pub(crate) data_kind: Option<SourceKind>,
    #[command(flatten)]
    pub(crate) splits: SplitArgs,
    /// Built-in recipe or TOML file [default: by the kind of the data]
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) recipe: Option<String>,
    /// ocl, mae, i-jepa or moco-v3, with the constants that fit the recipe; same as --set
    /// method.name=NAME [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    pub(crate) method: Option<String>,
    /// Begin from this encoder and not from random weights: a run, a fine-tuning, or weights of any
    /// program; its size goes before the recipe's. With --method mae, from its decoder too where the
    /// file has one (--set method.decoder_depth=N draws one anew)
    #[arg(long, value_name = "RUN|FILE")]
    pub(crate) init: Option<PathBuf>,
    /// Of several networks in --init's file the one whose names begin so [default: the one meant for
    /// use: a teacher, a target, an average]
    #[arg(long, value_name = "PREFIX", requires = "init")]
    pub(crate) prefix: Option<String>,
    /// Change one value of the recipe, e.g. --set optim.base_lr=1e-3 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Same as --set train.epochs=N
    #[arg(long)]
    pub(crate) epochs: Option<u64>,
    /// Images contrasted with one another; same as --set batch.size=N
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Images in memory at once, or `auto`: as many as fit. On the CPU it changes no result
    #[arg(long, value_name = "N|auto")]
    pub(crate) chunk: Option<Chunk>,
    /// What matrix products are computed in: f32, or tf32 or bf16 on devices that have it
    #[arg(long)]
    pub(crate) precision: Option<Precision>,
    /// Same as --set train.seed=N
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Share of the images that may be unreadable, 0 to 1; same as --set data.max_bad_share=SHARE
    #[arg(long, value_name = "SHARE")]
    pub(crate) max_bad_share: Option<f64>,
    /// Loader threads; batches do not depend on it
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    #[command(flatten)]
    pub(crate) ranks: RanksArgs,
    /// Where run folders are made
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    pub(crate) out: PathBuf,
    /// Name of the run folder [default: the recipe's name and a number]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Continue the run in this folder; --set and --epochs may change what does not decide what was
    /// learnt so far: rates, length, checkpoints, loading, monitors
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "init", "batch", "seed", "name", "data_kind", "train_split", "test_split", "precision"])]
    pub(crate) resume: Option<PathBuf>,
    /// Print the plan with its cost, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// flex (CPU), wgpu, vulkan or cuda
    #[arg(long, default_value_t = Backend::DEFAULT)]
    pub(crate) backend: Backend,
    /// Only train; `report` evaluates later
    #[arg(long)]
    pub(crate) no_eval: bool,
}

impl PretrainArgs {
    /// Overrides of the recipe, the short options among them.
    pub(crate) fn all_overrides(&self) -> Vec<String> {
        let mut all = self.overrides.clone();
        all.extend(data_overrides(self.data.as_deref(), self.data_kind, &self.splits));
        let mut add = |key: &str, value: Option<String>| {
            all.extend(value.map(|value| format!("{key}={value}")));
        };
        add("method.name", self.method.clone());
        add("train.epochs", self.epochs.map(|v| v.to_string()));
        add("batch.size", self.batch.map(|v| v.to_string()));
        add("batch.chunk", self.chunk.map(|v| v.to_string()));
        add("train.seed", self.seed.map(|v| v.to_string()));
        add("train.precision", self.precision.map(|v| v.to_string()));
        add("data.max_bad_share", self.max_bad_share.map(|v| v.to_string()));
        add("data.workers", self.workers.map(|v| v.to_string()));
        all
    }
}

/// What options say of the data, as overrides of a recipe.
pub(crate) fn data_overrides(
    path: Option<&str>,
    kind: Option<SourceKind>,
    splits: &SplitArgs,
) -> Vec<String> {
    let kind = kind.map(|kind| kind.to_string());
    // A new path has a kind of its own, whatever the recipe says.
    let kind = kind.or_else(|| path.map(|_| "auto".to_owned()));
    let pairs = [
        ("path", path.map(toml_string)),
        ("kind", kind),
        ("train_split", splits.train_split.as_deref().map(toml_string)),
        ("test_split", splits.test_split.as_deref().map(toml_string)),
    ];
    let pair = |(key, value): (&str, Option<String>)| Some(format!("data.{key}={}", value?));
    pairs.into_iter().filter_map(pair).collect()
}

/// A path as a TOML string, so that `1` or `true` stays a path.
pub(crate) fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Lists the built-in recipes, or prints one.
pub(crate) fn recipes(args: &RecipesArgs) -> Result<()> {
    match args.name.as_deref() {
        None => {
            for (name, text) in Recipe::built_in() {
                let first = text.lines().next().unwrap_or_default().trim_start_matches("# ");
                print(&format!("{name:16} {first}\n"));
            }
        }
        Some(wanted) => match Recipe::built_in().iter().find(|(name, _)| *name == wanted) {
            Some((_, text)) => print(text),
            None => {
                let list = command_line("recipes");
                bail!("no built-in recipe is called `{wanted}`; {list} lists them")
            }
        },
    }
    Ok(())
}

/// Trains, then reports what the representation is worth.
pub(crate) fn run(args: &PretrainArgs) -> Result<ExitCode> {
    // A dry run has no step that could be waited for.
    let stop = if args.dry_run { Stop::AtOnce } else { Stop::AfterStep(&STOP) };
    ranks::run(
        args.ranks.ranks,
        stop,
        |world| train(world, args),
        |trained| match trained {
            Some(Trained { run, finished: true }) => evaluate(args, &run).map(|()| 0),
            Some(Trained { finished: false, .. }) => Ok(INTERRUPTED),
            None => Ok(0),
        },
    )
}

/// A run that came to its end, or was interrupted.
struct Trained {
    run: PathBuf,
    finished: bool,
}

/// Trains as one of the processes; nothing comes of a dry run.
fn train(world: &World, args: &PretrainArgs) -> Result<Option<Trained>> {
    let device = ranks::device(world, args.ranks.ranks, args.backend)?;
    let (plan, source, start) = agreed(world, args, &device)?;
    world.join_devices(&device)?;
    let (root, plan, backend) = (world.is_root(), &plan, args.backend);
    if root {
        let mut estimate = Estimate::count(plan, backend);
        if args.dry_run {
            estimate = estimate.with_time(plan, backend, &device)?;
            print(&format!("{}\n", plan.to_toml()));
        }
        let mut text = summary(plan, &source, &estimate, backend, &device);
        if world.size() > 1 {
            let _ = writeln!(text, "{:10}{}", "ranks", who_shares(world, plan));
        }
        if args.dry_run { print(&text) } else { ocl_train::say!("{}", text.trim_end()) }
    }
    if args.dry_run {
        return Ok(None);
    }
    world.set_patience(Duration::from_secs(plan.patience_secs));
    let run = match &args.resume {
        Some(run) => run.clone(),
        None => run_folder(args, plan),
    };
    let mut progress = root.then(|| Progress::new(plan));
    let mut told = false;
    let until = Until::end_or(&STOP);
    let images = Arc::clone(&source);
    let outcome = pretrain_in(world, plan, source, &run, start, &device, until, |event| {
        let Some(progress) = &mut progress else { return };
        if !told {
            progress.say(&format!("run folder {}", run.display()));
            show_views(plan, &images, &run, progress);
            told = true;
        }
        progress.observe(event);
    });
    if let Some(progress) = &progress {
        progress.finish();
    }
    let outcome = outcome?;
    if root {
        say_outcome(plan, &run, &outcome);
    }
    Ok(Some(Trained { run, finished: outcome.finished }))
}

/// Leaves a picture of what the method sees in a new run's folder: a wrong normalisation or a crop
/// that cuts everything off is seen there before a day is lost.
fn show_views(plan: &Plan, source: &Arc<Source>, run: &Path, progress: &mut Progress) {
    let picture = run.join("views.png");
    if picture.exists() {
        return;
    }
    if let Err(error) = write_views(plan, source, None, VIEWS.into(), &picture) {
        // A run goes on without it.
        progress.say(&format!("no picture of the views: {}", ocl_data::in_words(&error)));
    }
}

/// The root's plan, told to all processes, with the data that each of them sees.
fn agreed(
    world: &World,
    args: &PretrainArgs,
    device: &Device,
) -> Result<(Plan, Arc<Source>, Start)> {
    let own = world.on_root(
        || match &args.resume {
            Some(run) => resumed(run, args, world.size()),
            None => fresh(args, device, world.size()),
        },
        in_words,
    )?;
    let told = world
        .from_root(own.as_ref().map_or_else(Vec::new, |(plan, ..)| plan.to_toml().into_bytes()));
    let own = match own {
        Some(own) => Ok(own),
        None => elsewhere(&told),
    };
    let (plan, source, start) = world.together(own, in_words)?;
    check_alike(world, &plan.data.path, &source)?;
    Ok((plan, source, start))
}

/// What a process other than the root makes of the root's plan.
fn elsewhere(told: &[u8]) -> Result<(Plan, Arc<Source>, Start)> {
    let plan: Plan = toml::from_str(std::str::from_utf8(told)?)?;
    let source = plan.data.open(Split::Train)?;
    // The root alone looks at the run folder.
    Ok((plan, Arc::new(source), Start::Fresh))
}

/// Who shares a batch, for the summary.
fn who_shares(world: &World, plan: &Plan) -> String {
    let Place { host, on_host, .. } = world.place();
    let threads = rayon::current_num_threads();
    let elsewhere = match world.size() - on_host {
        0 => String::new(),
        others => format!(", {others} on other machines"),
    };
    format!(
        "{on_host} on {host}{elsewhere}; threads of each: {threads}; a batch has {} parts, so at most \
         as many ranks",
        plan.parts
    )
}

fn say_outcome(plan: &Plan, run: &Path, outcome: &Outcome) {
    if outcome.skipped > 0 {
        let list = run.join("quarantine.jsonl");
        ocl_train::say!(
            "{} images could not be read; {} names them",
            outcome.skipped,
            list.display()
        );
    }
    if outcome.finished {
        ocl_train::say!("encoder {}", run.join("encoder.safetensors").display());
        return;
    }
    ocl_train::say!(
        "interrupted after step {} of {}; continue with\n  {}",
        outcome.step,
        plan.steps,
        command_line(&format!("pretrain --resume {}", word(run)))
    );
}

/// The report that ends a run. What it lacks does not undo the run.
fn evaluate(args: &PretrainArgs, run: &Path) -> Result<()> {
    let mut again = command_line(&format!("report --run {}", word(run)));
    if args.backend != Backend::DEFAULT {
        let _ = write!(again, " --backend {}", args.backend);
    }
    if args.no_eval {
        ocl_train::say!("Not evaluated (--no-eval). To do so: {again}");
        return Ok(());
    }
    measuring::write_report(&ReportArgs::of_run(run, args.backend))
        .with_context(|| format!("the run is complete, its evaluation is not. Again: {again}"))?;
    Ok(())
}

/// Runs a captured step again and says what came of it.
pub(crate) fn replay_capture(args: &ReplayArgs) -> Result<ExitCode> {
    let device = args.backend.device()?;
    let mut plan = Plan::load(&args.capture)?;
    if let Some(path) = &args.data {
        plan.data.path.clone_from(path);
    }
    let source = Arc::new(plan.data.open(Split::Train)?);
    let found = replay(&args.capture, &plan, source, &device, |step, loss| {
        ocl_train::say!("step {step}  loss {loss}");
    })?;
    let capture = &found.capture;
    ocl_train::print_line!(
        "step {}  loss {}  (captured: {})",
        capture.step,
        found.loss,
        capture.loss
    );
    for (name, norm) in &found.gradient_norms {
        ocl_train::print_line!("  gradient {norm:12.4e}  {name}");
    }
    if !found.same {
        ocl_train::print_line!(
            "not what was captured: other data, another backend or another version?"
        );
        return Ok(ExitCode::FAILURE);
    }
    ocl_train::print_line!("samples and loss are those of the capture");
    Ok(ExitCode::SUCCESS)
}
