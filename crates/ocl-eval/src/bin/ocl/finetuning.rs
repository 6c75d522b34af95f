//! The command `finetune`: from options to a plan, Ctrl-C, the result.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use ocl_data::SourceKind;
use ocl_eval::{
    FinetunePlan, FinetuneRecipe, Finetuned, Progress, Run, WeightsRecord, append_results,
    choose_encoder, finetune,
};
use ocl_model::OpenOptions;
use ocl_train::{INTERRUPTED, World, command_line};

use crate::launching::Stop;
use crate::options::{FinetuneArgs, tell_network, word};
use crate::ranks::in_words;
use crate::{print, ranks};

static STOP: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub(crate) fn run(args: &FinetuneArgs) -> Result<ExitCode> {
    let shared = |world: &World| train(world, args);
    ranks::run(args.ranks.ranks, Stop::AfterStep(&STOP), shared, |(done, folder)| {
        let Some(done) = done else {
            ocl_train::say!(
                "interrupted; continue with\n  {}",
                command_line(&format!("finetune --resume {}", word(&folder)))
            );
            return Ok(INTERRUPTED);
        };
        append_results(&folder, std::slice::from_ref(&done.record))?;
        crate::measuring::show(std::slice::from_ref(&done.record), &folder, args.common.json)?;
        if !args.common.json {
            print(&done.text());
        }
        Ok(0)
    })
}

/// Trains as one of the processes; nothing comes of it when it was interrupted.
fn train(world: &World, args: &FinetuneArgs) -> Result<(Option<Finetuned>, PathBuf)> {
    // It says whether `--ranks` and the launcher agree.
    ranks::device(world, args.ranks.ranks, args.common.backend)?;
    let planned = || match &args.resume {
        Some(folder) => Ok((FinetunePlan::load(folder)?, folder.clone())),
        None => fresh(args, world.size()),
    };
    let told = world.told(world.on_root(planned, in_words)?);
    let (plan, folder) = told.context("the root has the plan")?;
    world.together(check_weights(&plan), in_words)?;
    let workers = args.common.workers.unwrap_or((rayon::current_num_threads() - 1).max(1));
    let mut progress = Progress::of(world);
    let backend = args.common.backend;
    let done = finetune(world, &plan, &folder, workers, backend, &STOP, &mut progress)?;
    Ok((done, folder))
}

/// Whether the weights are those that the fine-tuning began from.
fn check_weights(plan: &FinetunePlan) -> Result<()> {
    if let (Some(path), Some(sha256)) = (&plan.from, &plan.from_sha256)
        && WeightsRecord::of(path)?.sha256 != *sha256
    {
        bail!("{} is not the file that the fine-tuning began from", path.display());
    }
    Ok(())
}

fn fresh(args: &FinetuneArgs, processes: usize) -> Result<(FinetunePlan, PathBuf)> {
    let recipe = FinetuneRecipe::load(&args.recipe, &args.overrides)?.for_processes(processes);
    let device = args.common.backend.device()?;
    let (run, weights) = (args.run.as_deref(), args.weights.as_deref());
    let (from, model, mut preparation, run) = if args.scratch {
        let run = Run::open(run.context("--scratch needs --run, which says what encoder")?)?;
        (None, run.plan.model.clone(), run.preparation(), Some(run))
    } else {
        let options = OpenOptions { prefix: args.prefix.clone(), ..OpenOptions::default() };
        let encoder = choose_encoder(run, weights, &options, &device)?;
        tell_network(&encoder);
        let model = encoder.vit.config().clone();
        (Some(encoder.weights), model, encoder.preparation, encoder.run)
    };
    args.common.adjust(&mut preparation)?;
    let plan = run.as_ref().map(|run| &run.plan.data);
    let kind = match (&args.data, args.data_kind, plan) {
        (_, Some(kind), _) => kind,
        (None, None, Some(plan)) => plan.kind,
        _ => SourceKind::Auto,
    };
    let data = args.data.clone().or(plan.map(|plan| plan.path.clone()));
    let name = Path::new(&args.recipe).file_stem().unwrap_or_default().to_string_lossy();
    let folder = args.out.clone().unwrap_or_else(|| {
        let beside = from.as_deref().and_then(Path::parent).map(Path::to_owned);
        let parent = run.as_ref().map(|run| run.folder.clone()).or(beside).unwrap_or_default();
        parent.join(format!("finetune-{name}{}", if args.scratch { "-scratch" } else { "" }))
    });
    let from_sha256 =
        from.as_deref().map(WeightsRecord::of).transpose()?.map(|record| record.sha256);
    let plan = FinetunePlan {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recipe_name: args.recipe.clone(),
        seeds: (0..args.seeds.max(1)).collect(),
        from,
        from_sha256,
        from_prefix: args.prefix.clone(),
        data: data.context("--data is not given")?,
        data_kind: kind,
        splits: args.splits.names(plan.filter(|_| args.data.is_none()).map(|plan| &plan.splits)),
        max_train: args.max_train,
        max_test: args.max_test,
        mean: preparation.normalisation.mean,
        std: preparation.normalisation.std,
        resize_ratio: preparation.resize_ratio,
        max_bad_share: preparation.max_bad_share,
        model,
        recipe,
    };
    FinetunePlan::check_folder(&folder)?;
    Ok((plan, folder))
}
