//! The plan of `pretrain`: from what was typed, or from the run that goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use ocl_data::{Source, SourceKind, Split};
use ocl_eval::open_encoder;
use ocl_model::OpenOptions;
use ocl_train::{
    Change, Chunk, InitPlan, Method, ModelRecipe, Plan, Recipe, Start, command_line, saved_step,
};

use crate::options::{tell_network, word};
use crate::pretraining::PretrainArgs;

/// The plan of a new run, its data, and that it begins.
pub(crate) fn fresh(
    args: &PretrainArgs,
    device: &Device,
    processes: usize,
) -> Result<(Plan, Arc<Source>, Start)> {
    let name = recipe_for(args.recipe.as_deref(), args.data.as_deref(), args.data_kind);
    let overrides = args.all_overrides();
    let mut recipe = Recipe::load(name, &overrides)?;
    let prefix = args.prefix.as_deref();
    let init = match &args.init {
        Some(path) => Some(begin_from(path, prefix, &mut recipe, &overrides, device)?),
        None => None,
    };
    let source = recipe.data.open(Split::Train)?;
    let mut plan = Plan::resolve(name, &recipe, &source)?;
    plan.init = init;
    plan.set_parts(recipe.batch.parts, processes)?;
    if processes > 1 && recipe.data.workers == 0 {
        plan.data.workers = own_workers();
    }
    plan.set_chunk(recipe.batch.chunk.unwrap_or(Chunk::Auto), args.backend);
    plan.find_peak(args.backend, device);
    Ok((plan, Arc::new(source), Start::Fresh))
}

/// Loader threads of one of several processes: its part of the cores, but for the one that computes.
fn own_workers() -> usize {
    rayon::current_num_threads().saturating_sub(1).max(1)
}

/// The weights that a run begins from; the recipe's encoder becomes theirs.
fn begin_from(
    path: &Path,
    prefix: Option<&str>,
    recipe: &mut Recipe,
    overrides: &[String],
    device: &Device,
) -> Result<InitPlan> {
    if let Some(pair) = overrides.iter().find(|pair| pair.trim_start().starts_with("model.")) {
        bail!("--init says what the encoder is like; leave out {pair}");
    }
    let image_px = Some(recipe.data.image_px);
    let options = OpenOptions { heads: None, image_px, prefix: prefix.map(str::to_owned) };
    let encoder = open_encoder(path, &options, device)?;
    tell_network(&encoder);
    let config = encoder.vit.config();
    recipe.model = ModelRecipe {
        size: None,
        patch_px: config.patch_px,
        width: Some(config.width),
        depth: Some(config.depth),
        heads: Some(config.heads),
        mlp_ratio: Some(config.mlp_ratio),
    };
    let asks = |pair: &String| pair.trim_start().starts_with("method.decoder_");
    let decoder = match &mut recipe.method {
        // A decoder that was asked for is drawn anew.
        Method::Mae(mae) if !overrides.iter().any(asks) => {
            match mae.with_decoder_of(&encoder.beside) {
                Some(own) => {
                    *mae = own;
                    true
                }
                None => false,
            }
        }
        _ => false,
    };
    let path = std::path::absolute(&encoder.weights)?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(InitPlan { crc32: crc32fast::hash(&bytes), path, prefix: options.prefix, decoder })
}

/// The recipe that was named, else the built-in one that fits the data.
pub(crate) fn recipe_for<'a>(
    named: Option<&'a str>,
    data: Option<&str>,
    kind: Option<SourceKind>,
) -> &'a str {
    if let Some(name) = named {
        return name;
    }
    let kind = match (data, kind.unwrap_or_default()) {
        (None, _) => SourceKind::Embedded,
        (Some(path), SourceKind::Auto) => SourceKind::detect(path),
        (Some(_), kind) => kind,
    };
    match kind {
        SourceKind::Embedded => "embedded",
        SourceKind::Idx => "fashion-mnist",
        SourceKind::Cifar10 | SourceKind::Cifar100 => "cifar-10",
        _ => "folder",
    }
}

/// The plan of a run that goes on, its data, and that it does.
pub(crate) fn resumed(
    run: &Path,
    args: &PretrainArgs,
    processes: usize,
) -> Result<(Plan, Arc<Source>, Start)> {
    let mut plan = Plan::load(run)?;
    plan.fits(processes)?;
    let mut changes = args.overrides.clone();
    changes.extend(args.epochs.map(|epochs| format!("train.epochs={epochs}")));
    changes.extend(args.max_bad_share.map(|share| format!("data.max_bad_share={share}")));
    let before = plan.changes.len();
    plan.change(&changes, saved_step(run).unwrap_or(0), args.backend)?;
    for Change { key, from, to, after_step } in &plan.changes[before..] {
        ocl_train::say!("{key} is {to} after step {after_step}, it was {from}");
    }
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
    if processes > 1 && args.workers.is_none() {
        // It may have been planned for a process that had all cores.
        plan.data.workers = plan.data.workers.min(own_workers());
    }
    if let Some(chunk) = args.chunk {
        plan.set_chunk(chunk, args.backend);
    }
    let source = plan.data.open(Split::Train)?;
    Ok((plan, Arc::new(source), Start::Resume))
}

/// `OUT/NAME`, or the first free `OUT/RECIPE-NNN`.
pub(crate) fn run_folder(args: &PretrainArgs, plan: &Plan) -> PathBuf {
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
