//! The commands `eval`, `eval-linear`, `eval-knn` and `report`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ocl_eval::{
    EvalRecipe, Findings, Progress, Protocol, ResultRecord, Run, ShiftedSet, append_results,
    report, results_file, results_text,
};
use ocl_train::World;

use crate::launching::Stop;
use crate::options::{Common, KnnArgs, LinearArgs, ReportArgs, SubjectArgs, SuiteArgs};
use crate::prepared::Prepared;
use crate::{print, ranks};

pub(crate) fn suite(args: &SuiteArgs) -> Result<ExitCode> {
    let mut recipe = EvalRecipe::load(args.constants.recipe.as_deref(), &args.constants.overrides)?;
    if let Some(sets) = &args.sets {
        recipe.shifted = ShiftedSet::load(sets)?;
    }
    let raw = args.subject.raw_pixels;
    let mut protocols = Vec::new();
    for name in &args.protocols {
        if name == "all" {
            protocols.extend(Protocol::ALL.into_iter().filter(|protocol| match protocol {
                Protocol::LinearMae => false,
                Protocol::Robustness => !raw,
                Protocol::Shifted => args.sets.is_some(),
                _ => true,
            }));
        } else {
            protocols.push(Protocol::named(name)?);
        }
    }
    protocols.sort_unstable();
    protocols.dedup();
    measure(&args.common, &args.subject, &recipe, &protocols, args.seeds)
}

pub(crate) fn linear(args: &LinearArgs) -> Result<ExitCode> {
    let mut recipe = EvalRecipe::load(args.constants.recipe.as_deref(), &args.constants.overrides)?;
    if let Some(base_lr) = args.base_lr {
        (recipe.linear_mae.base_lr, recipe.linear_mae.least_peak_lr) = (base_lr, 0.0);
    }
    let protocol =
        if args.protocol == "mae" { Protocol::LinearMae } else { Protocol::LinearCached };
    measure(&args.common, &args.subject, &recipe, &[protocol], args.seeds)
}

pub(crate) fn knn(args: &KnnArgs) -> Result<ExitCode> {
    let mut recipe = EvalRecipe::load(args.constants.recipe.as_deref(), &args.constants.overrides)?;
    if !args.k.is_empty() {
        recipe.knn.k.clone_from(&args.k);
    }
    recipe.knn.temperature = args.temperature.unwrap_or(recipe.knn.temperature);
    measure(&args.common, &args.subject, &recipe, &[Protocol::Knn], 1)
}

fn measure(
    common: &Common,
    args: &SubjectArgs,
    recipe: &EvalRecipe,
    protocols: &[Protocol],
    seeds: u64,
) -> Result<ExitCode> {
    // Before the features, which can take long.
    for protocol in protocols {
        protocol.check(recipe)?;
    }
    let features = |world: &World| Prepared::new(world, common, args);
    ranks::run(args.ranks.ranks, Stop::AtOnce, features, |prepared| {
        let prepared = prepared.context("the root has the features")?;
        let mut progress = Progress::stderr();
        let mut records = Vec::new();
        for &protocol in protocols {
            if let Some(note) = prepared.note(protocol, recipe) {
                ocl_train::say!("{note}");
            }
            let record = prepared.measure(protocol, recipe, seeds, &mut progress)?;
            // At once: the next protocol may take hours, or be interrupted.
            let kept = append_results(&prepared.folder, std::slice::from_ref(&record));
            records.push(record);
            if kept.is_err() {
                // A full disk should not cost the figures.
                print(&results_text(&records));
            }
            kept?;
        }
        show(&records, &prepared.folder, common.json).map(|()| 0)
    })
}

pub(crate) fn show(records: &[ResultRecord], folder: &Path, json: bool) -> Result<()> {
    if json {
        for record in records {
            print(&(serde_json::to_string(record)? + "\n"));
        }
    } else {
        print(&results_text(records));
        ocl_train::print_line!("kept in {}", results_file(folder).display());
    }
    Ok(())
}

pub(crate) fn write_report(args: &ReportArgs) -> Result<()> {
    let mut run = Run::open(&args.run)?;
    let limits = [args.max_train, args.max_test];
    let Common { workers, backend, json, .. } = args.common;
    if let Some(share) = args.common.bad_share()? {
        run.plan.data.max_bad_share = share;
    }
    let findings = report(&run, limits, workers, backend, &mut Progress::stderr())?;
    if let Findings::Measured(report) = &findings {
        append_results(&run.folder, &report.results)?;
    }
    match &findings {
        Findings::Measured(report) if json => print(&(serde_json::to_string(report)? + "\n")),
        Findings::Nothing(why) if json => {
            print(&format!("{}\n", serde_json::json!({ "nothing": why })))
        }
        findings => print(&findings.text(&run)),
    }
    Ok(())
}
