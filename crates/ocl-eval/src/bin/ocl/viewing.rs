//! The command `views`: what a method sees of images.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use ocl_data::{SourceKind, Split};
use ocl_eval::write_views;
use ocl_train::{Backend, Method, Plan, Recipe, saved_learner};

use crate::options::{SplitArgs, tell_passed_over};
use crate::planning::recipe_for;
use crate::pretraining::data_overrides;

/// Images that are shown where nothing else is asked for.
pub(crate) const VIEWS: u16 = 8;

/// Options of `views`.
#[derive(Args, Debug)]
pub(crate) struct ViewsArgs {
    /// Images: a folder, ZIP or tar archives, Parquet, a CSV of paths, IDX or CIFAR files, or `embedded`
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND")]
    data_kind: Option<SourceKind>,
    #[command(flatten)]
    splits: SplitArgs,
    /// Built-in recipe or TOML file [default: by the kind of the data]
    #[arg(long, value_name = "NAME|FILE")]
    recipe: Option<String>,
    /// ocl, mae, i-jepa or moco-v3 [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Change one value of the recipe, e.g. --set method.mask_ratio=0.9 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The images as this run sees them in its first batch; of MAE also what its decoder makes of
    /// them
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "method", "overrides", "data_kind", "train_split", "test_split"])]
    run: Option<PathBuf>,
    /// Images that are shown: the first of the first batch
    #[arg(long, value_name = "N", default_value_t = VIEWS, value_parser = clap::value_parser!(u16).range(1..))]
    images: u16,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "views.png")]
    out: PathBuf,
}

/// Draws the picture.
pub(crate) fn run(args: &ViewsArgs) -> Result<()> {
    let plan = match &args.run {
        Some(run) => {
            let mut plan = Plan::load(run)?;
            if let Some(path) = &args.data {
                plan.data.path.clone_from(path);
            }
            plan
        }
        None => planned(args)?,
    };
    let source = plan.data.open(Split::Train)?;
    tell_passed_over(&source);
    let learner = match (&args.run, &plan.method) {
        (Some(run), Method::Mae(_)) => Some(
            saved_learner(run, &plan, &Backend::DEFAULT.device()?)
                .with_context(|| format!("cannot read the decoder of {}", run.display()))?,
        ),
        _ => None,
    };
    write_views(&plan, &Arc::new(source), learner.as_ref(), args.images.into(), &args.out)?;
    ocl_train::print_line!("picture in {}", args.out.display());
    Ok(())
}

/// The plan of a run that these options would begin.
fn planned(args: &ViewsArgs) -> Result<Plan> {
    let name = recipe_for(args.recipe.as_deref(), args.data.as_deref(), args.data_kind);
    let mut overrides = args.overrides.clone();
    overrides.extend(data_overrides(args.data.as_deref(), args.data_kind, &args.splits));
    overrides.extend(args.method.iter().map(|method| format!("method.name={method}")));
    let recipe = Recipe::load(name, &overrides)?;
    let source = recipe.data.open(Split::Train)?;
    Ok(Plan::resolve(name, &recipe, &source)?)
}
