//! The commands `pretrain`, `replay` and `recipes`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use ocl_data::{Source, SourceKind, Split};
use ocl_eval::open_encoder;
use ocl_model::{OpenOptions, Precision};
use ocl_train::{
    Backend, Chunk, Estimate, INTERRUPTED, InitPlan, ModelRecipe, Plan, Progress, Recipe, Start,
    Until, command_line, pretrain, replay, stop_on_signals, summary,
};

use crate::options::{ReportArgs, word};
use crate::{measuring, print};

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
    /// Folder of images, IDX or CIFAR files, or `embedded`
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// auto, folder, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND")]
    pub(crate) data_kind: Option<SourceKind>,
    /// Built-in recipe or TOML file [default: by the kind of the data]
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) recipe: Option<String>,
    /// ocl, mae, i-jepa or moco-v3, with the constants that fit the recipe; same as --set
    /// method.name=NAME [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    pub(crate) method: Option<String>,
    /// Begin from this encoder and not from random weights: a run, a fine-tuning, or weights of any
    /// program; its size goes before the recipe's
    #[arg(long, value_name = "RUN|FILE")]
    pub(crate) init: Option<PathBuf>,
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
    /// Loader threads; batches do not depend on it
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// Where run folders are made
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    pub(crate) out: PathBuf,
    /// Name of the run folder [default: the recipe's name and a number]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Continue the run in this folder
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "init", "overrides", "epochs", "batch", "seed", "name", "data_kind", "precision"])]
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
        let mut add = |key: &str, value: Option<String>| {
            all.extend(value.map(|value| format!("{key}={value}")));
        };
        add("data.path", self.data.as_ref().map(|path| toml_string(path)));
        let kind = self.data_kind.map(|kind| kind.to_string());
        // A new path has a kind of its own, whatever the recipe says.
        let kind = kind.or_else(|| self.data.as_ref().map(|_| "auto".to_owned()));
        add("data.kind", kind);
        add("method.name", self.method.clone());
        add("train.epochs", self.epochs.map(|v| v.to_string()));
        add("batch.size", self.batch.map(|v| v.to_string()));
        add("batch.chunk", self.chunk.map(|v| v.to_string()));
        add("train.seed", self.seed.map(|v| v.to_string()));
        add("train.precision", self.precision.map(|v| v.to_string()));
        add("data.workers", self.workers.map(|v| v.to_string()));
        all
    }
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
    if !args.dry_run {
        // Before anything is loaded: stopping is then a matter of the loop, at any moment.
        stop_on_signals(&STOP).context("cannot listen for Ctrl-C")?;
    }
    let device = args.backend.device()?;
    let (plan, source, start) = match &args.resume {
        Some(run) => resumed(run, args)?,
        None => fresh(args, &device)?,
    };
    let estimate = Estimate::count(&plan, args.backend);
    if args.dry_run {
        let estimate = estimate.with_time(&plan, args.backend, &device)?;
        print(&format!(
            "{}\n{}",
            plan.to_toml(),
            summary(&plan, &source, &estimate, args.backend, &device)
        ));
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{}", summary(&plan, &source, &estimate, args.backend, &device));

    let run = match &args.resume {
        Some(run) => run.clone(),
        None => run_folder(args, &plan),
    };
    let mut progress = Progress::new(&plan);
    let mut told = false;
    let outcome = pretrain(&plan, source, &run, start, &device, Until::end_or(&STOP), |event| {
        if !told {
            progress.say(&format!("run folder {}", run.display()));
            told = true;
        }
        progress.observe(event);
    });
    progress.finish();
    let outcome = outcome?;
    if outcome.skipped > 0 {
        let list = run.join("quarantine.jsonl");
        eprintln!("{} images could not be read; {} names them", outcome.skipped, list.display());
    }
    if !outcome.finished {
        eprintln!(
            "interrupted after step {} of {}; continue with\n  {}",
            outcome.step,
            plan.steps,
            command_line(&format!("pretrain --resume {}", word(&run)))
        );
        return Ok(ExitCode::from(INTERRUPTED));
    }
    eprintln!("encoder {}", run.join("encoder.safetensors").display());
    evaluate(args, &run)
}

/// The report that ends a run. What it lacks does not undo the run.
fn evaluate(args: &PretrainArgs, run: &Path) -> Result<ExitCode> {
    let mut again = command_line(&format!("report --run {}", word(run)));
    if args.backend != Backend::DEFAULT {
        let _ = write!(again, " --backend {}", args.backend);
    }
    if args.no_eval {
        eprintln!("Not evaluated (--no-eval). To do so: {again}");
        return Ok(ExitCode::SUCCESS);
    }
    measuring::write_report(&ReportArgs::of_run(run, args.backend))
        .with_context(|| format!("the run is complete, its evaluation is not. Again: {again}"))?;
    Ok(ExitCode::SUCCESS)
}

fn fresh(args: &PretrainArgs, device: &Device) -> Result<(Plan, Arc<Source>, Start)> {
    let name = match &args.recipe {
        Some(name) => name.clone(),
        None => recipe_for(args.data.as_deref(), args.data_kind).to_owned(),
    };
    let overrides = args.all_overrides();
    let mut recipe = Recipe::load(&name, &overrides)?;
    let init = args.init.as_deref().map(|path| begin_from(path, &mut recipe, &overrides, device));
    let init = init.transpose()?;
    let source = Source::open(&recipe.data.path, recipe.data.kind, Split::Train)?;
    let mut plan = Plan::resolve(&name, &recipe, &source)?;
    plan.init = init;
    plan.set_chunk(recipe.batch.chunk.unwrap_or(Chunk::Auto), args.backend);
    plan.find_peak(args.backend, device);
    Ok((plan, Arc::new(source), Start::Fresh))
}

/// The weights that a run begins from; the recipe's encoder becomes theirs.
fn begin_from(
    path: &Path,
    recipe: &mut Recipe,
    overrides: &[String],
    device: &Device,
) -> Result<InitPlan> {
    if let Some(pair) = overrides.iter().find(|pair| pair.trim_start().starts_with("model.")) {
        bail!("--init says what the encoder is like; leave out {pair}");
    }
    let options = OpenOptions { heads: None, image_px: Some(recipe.data.image_px) };
    let encoder = open_encoder(path, &options, device)?;
    let config = encoder.vit.config();
    recipe.model = ModelRecipe {
        size: None,
        patch_px: config.patch_px,
        width: Some(config.width),
        depth: Some(config.depth),
        heads: Some(config.heads),
        mlp_ratio: Some(config.mlp_ratio),
    };
    let path = std::path::absolute(&encoder.weights)?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(InitPlan { crc32: crc32fast::hash(&bytes), path })
}

/// Runs a captured step again and says what came of it.
pub(crate) fn replay_capture(args: &ReplayArgs) -> Result<ExitCode> {
    let device = args.backend.device()?;
    let mut plan = Plan::load(&args.capture)?;
    if let Some(path) = &args.data {
        plan.data.path.clone_from(path);
    }
    let source = Arc::new(Source::open(&plan.data.path, plan.data.kind, Split::Train)?);
    let found = replay(&args.capture, &plan, source, &device, |step, loss| {
        eprintln!("step {step}  loss {loss}");
    })?;
    let capture = &found.capture;
    println!("step {}  loss {}  (captured: {})", capture.step, found.loss, capture.loss);
    for (name, norm) in &found.gradient_norms {
        println!("  gradient {norm:12.4e}  {name}");
    }
    if !found.same {
        println!("not what was captured: other data, another backend or another version?");
        return Ok(ExitCode::FAILURE);
    }
    println!("samples and loss are those of the capture");
    Ok(ExitCode::SUCCESS)
}

/// The built-in recipe that fits the data when none was named.
pub(crate) fn recipe_for(data: Option<&str>, kind: Option<SourceKind>) -> &'static str {
    let kind = match (data, kind.unwrap_or_default()) {
        (None, _) => SourceKind::Embedded,
        (Some(path), SourceKind::Auto) => SourceKind::detect(path),
        (Some(_), kind) => kind,
    };
    match kind {
        SourceKind::Embedded => "embedded",
        SourceKind::Idx => "fashion-mnist",
        SourceKind::Cifar10 | SourceKind::Cifar100 => "cifar-10",
        SourceKind::Folder | SourceKind::Shards | SourceKind::Auto => "folder",
    }
}

fn resumed(run: &Path, args: &PretrainArgs) -> Result<(Plan, Arc<Source>, Start)> {
    let mut plan = Plan::load(run)?;
    let own = plan.method.name();
    if let Some(other) = args.method.as_deref().filter(|asked| *asked != own) {
        let begin = command_line(&format!("pretrain --method {other} --init {}", word(run)));
        bail!(
            "{} is a run of {own} and goes on as one, not as one of {other}; leave out --method, or, \
             to train its encoder by another method when it has ended: {begin}",
            run.display()
        );
    }
    if let Some(path) = &args.data {
        plan.data.path.clone_from(path);
    }
    if let Some(workers) = args.workers {
        plan.data.workers = workers.max(1);
    }
    if let Some(chunk) = args.chunk {
        plan.set_chunk(chunk, args.backend);
    }
    let source = Source::open(&plan.data.path, plan.data.kind, Split::Train)?;
    if source.len() != plan.data.images {
        bail!(
            "{} holds {} images now, the run began with {}: resuming would not continue it",
            plan.data.path,
            source.len(),
            plan.data.images
        );
    }
    Ok((plan, Arc::new(source), Start::Resume))
}

/// `OUT/NAME`, or the first free `OUT/RECIPE-NNN`.
fn run_folder(args: &PretrainArgs, plan: &Plan) -> PathBuf {
    if let Some(name) = &args.name {
        return args.out.join(name);
    }
    let recipe = Path::new(&plan.recipe).file_stem().unwrap_or_default().to_string_lossy();
    let method = plan.method.name();
    let recipe = match method == "ocl" || recipe.contains(method) {
        true => recipe.into_owned(),
        false => format!("{recipe}-{method}"),
    };
    let mut number = 1;
    loop {
        let folder = args.out.join(format!("{recipe}-{number:03}"));
        if !folder.exists() {
            return folder;
        }
        number += 1;
    }
}
