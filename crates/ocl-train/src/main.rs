//! `ocl-train`: pre-trains an encoder from a folder of images.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Parser;
use ocl_data::{Source, SourceKind, Split};
use ocl_train::cli::{Cli, Command, PretrainArgs, ReplayArgs};
use ocl_train::{
    Chunk, Estimate, INTERRUPTED, Plan, Progress, Recipe, Start, keep_freed_memory, pretrain,
    replay, stop_on_signals, summary,
};

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Pretrain(args) => run(&args),
        Command::Replay(args) => again(&args),
        Command::Recipes { name } => recipes(name.as_deref()),
    };
    result.unwrap_or_else(|error| {
        let mut text = format!("error: {error}");
        for cause in error.chain().skip(1) {
            let _ = write!(text, "\n  because: {cause}");
        }
        eprintln!("{text}");
        ExitCode::FAILURE
    })
}

fn recipes(name: Option<&str>) -> Result<ExitCode> {
    match name {
        None => {
            for (name, text) in Recipe::built_in() {
                let first = text.lines().next().unwrap_or_default().trim_start_matches("# ");
                println!("{name:16} {first}");
            }
        }
        Some(wanted) => match Recipe::built_in().iter().find(|(name, _)| *name == wanted) {
            Some((_, text)) => print!("{text}"),
            None => {
                bail!("no built-in recipe is called `{wanted}`; `ocl-train recipes` lists them")
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn run(args: &PretrainArgs) -> Result<ExitCode> {
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
        let estimate = estimate.with_time(&plan, &device)?;
        print!("{}\n{}", plan.to_toml(), summary(&plan, &source, &estimate, args.backend, &device));
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{}", summary(&plan, &source, &estimate, args.backend, &device));

    let run = match &args.resume {
        Some(run) => run.clone(),
        None => run_folder(args, &plan),
    };
    let mut progress = Progress::new(&plan);
    let mut told = false;
    let outcome = pretrain(&plan, source, &run, start, &device, &STOP, |event| {
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
            "interrupted after step {} of {}; continue with\n  cargo xtask pretrain --resume {}",
            outcome.step,
            plan.steps,
            run.display()
        );
        return Ok(ExitCode::from(INTERRUPTED));
    }
    eprintln!("encoder {}", run.join("encoder.safetensors").display());
    if let Some(file) = &args.run_folder_to {
        std::fs::write(file, format!("{}\n", run.display()))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn fresh(args: &PretrainArgs, device: &Device) -> Result<(Plan, Arc<Source>, Start)> {
    let name = match &args.recipe {
        Some(name) => name.clone(),
        None => recipe_for(args).to_owned(),
    };
    let recipe = Recipe::load(&name, &args.all_overrides())?;
    let source = Source::open(&recipe.data.path, recipe.data.kind, Split::Train)?;
    let mut plan = Plan::resolve(&name, &recipe, &source)?;
    plan.set_chunk(recipe.batch.chunk.unwrap_or(Chunk::Auto), args.backend);
    plan.find_peak(args.backend, device);
    Ok((plan, Arc::new(source), Start::Fresh))
}

/// Runs a captured step again and says what came of it.
fn again(args: &ReplayArgs) -> Result<ExitCode> {
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
fn recipe_for(args: &PretrainArgs) -> &'static str {
    let kind = match (&args.data, args.data_kind.unwrap_or_default()) {
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
