//! From a recipe and the data to a plan.

use ocl_data::{MOST_CROP_PX, Source};
use ocl_model::VitConfig;

use super::chunk::micro_batch;
use super::monitor::probe_interval;
use super::plan::PATIENCE_SECS;
use super::{Chunk, DataPlan, MonitorPlan, Plan, PlanError, Recipe};
use crate::device::Backend;
use crate::methods::Method;
use crate::optim::{AdamWConfig, WarmupCosine};

/// Steps between closer looks when nothing else is asked for: 30 ms each, well under 1 % of the
/// time.
const MONITOR_STEPS: u64 = 100;

impl Plan {
    /// Resolves a recipe against its data.
    ///
    /// # Errors
    /// [`PlanError::Value`] naming the first key that cannot work.
    pub fn resolve(name: &str, recipe: &Recipe, source: &Source) -> Result<Self, PlanError> {
        let Recipe { data, method, optim, batch, train, monitor, .. } = recipe;
        let model = model(recipe)?;
        check(recipe, &model, source.len())?;
        let workers = match data.workers {
            0 => {
                std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1)).max(1)
            }
            workers => workers,
        };
        let steps_per_epoch = (source.len() / batch.size) as u64;
        let chunk = batch.chunk.unwrap_or(Chunk::Auto);
        let rows = method.rows_per_image(&model);
        let micro_batch = micro_batch(batch.size, rows, batch.micro_batch, chunk);
        let steps = |epochs: f64| ((epochs * steps_per_epoch as f64).round() as u64).max(1);
        let mut plan = Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: name.to_owned(),
            seed: train.seed,
            epochs: train.epochs,
            batch: batch.size,
            chunk: batch.size,
            micro_batch,
            parts: 1,
            patience_secs: train.patience_secs.unwrap_or(PATIENCE_SECS),
            steps_per_epoch,
            steps: steps_per_epoch * train.epochs,
            checkpoint_every_steps: steps(train.checkpoint_every_epochs),
            keep_checkpoints: train.keep_checkpoints,
            keep_every_steps: train.keep_every_epochs.map(steps),
            clip_norm: optim.clip_norm,
            precision: train.precision.unwrap_or_default(),
            ema_decay: optim.ema_decay,
            data: DataPlan {
                path: data.path.clone(),
                kind: data.kind,
                splits: data.splits.clone(),
                images: source.len(),
                crop_scale: data.crop_scale,
                crop_ratio: data.crop_ratio,
                flip: data.flip,
                resize_ratio: data.resize_ratio,
                mean: data.mean,
                std: data.std,
                max_bad_share: data.max_bad_share,
                workers,
            },
            model,
            init: None,
            method: method.clone(),
            adamw: AdamWConfig {
                beta1: optim.beta1,
                beta2: optim.beta2,
                eps: optim.eps,
                weight_decay: optim.weight_decay,
            },
            schedule: WarmupCosine {
                lr: optim.base_lr * batch.size as f64 / 256.0,
                min_lr: optim.min_lr,
                warmup_epochs: optim.warmup_epochs,
                epochs: train.epochs as f64,
            },
            warmup_written: recipe.warmup_written,
            monitor: MonitorPlan::default(),
            changes: vec![],
        };
        plan.set_parts(batch.parts, 1)?;
        plan.set_chunk(chunk, Backend::Flex);
        plan.monitor = MonitorPlan {
            every_steps: monitor.every_steps.unwrap_or(MONITOR_STEPS),
            knn_every_steps: match monitor.knn_every_epochs {
                None => probe_interval(&plan),
                Some(never) if never <= 0.0 => 0,
                Some(epochs) => steps(epochs),
            },
            peak_tflops: monitor.peak_tflops,
        };
        Ok(plan)
    }
}

fn model(recipe: &Recipe) -> Result<VitConfig, PlanError> {
    let written = &recipe.model;
    let wrong = |key: &str, problem: String| PlanError::Value { key: key.to_owned(), problem };
    let named = match &written.size {
        Some(size) => {
            Some(VitConfig::named(size).map_err(|error| wrong("model.size", error.to_string()))?)
        }
        None => None,
    };
    let part = |key: &str, own: Option<usize>, of: fn(&VitConfig) -> usize| {
        own.or(named.as_ref().map(of))
            .ok_or_else(|| wrong(key, "is missing; give it, or model.size".to_owned()))
    };
    let config = VitConfig {
        image_px: recipe.data.image_px,
        patch_px: written.patch_px,
        width: part("model.width", written.width, |v| v.width)?,
        depth: part("model.depth", written.depth, |v| v.depth)?,
        heads: part("model.heads", written.heads, |v| v.heads)?,
        mlp_ratio: written.mlp_ratio.unwrap_or(4),
    };
    config.validate().map_err(|error| wrong("model", error.to_string()))?;
    if config.image_px > MOST_CROP_PX as usize {
        return Err(wrong("data.image_px", format!("{} is above {MOST_CROP_PX}", config.image_px)));
    }
    Ok(config)
}

/// The first value of a recipe that cannot work.
fn check(recipe: &Recipe, model: &VitConfig, images: usize) -> Result<(), PlanError> {
    let Recipe { data, method, optim, batch, train, monitor, .. } = recipe;
    let range = |low_high: [f64; 2], top: f64| {
        let [low, high] = low_high;
        low > 0.0 && low <= high && high <= top
    };
    let positive = |value: f64| value > 0.0 && value.is_finite();
    let least = method.least_images();
    let at_least_0 = |value: f64| value >= 0.0 && value.is_finite();
    let checks: [(&str, bool, String); 24] = [
        ("data.crop_scale", range(data.crop_scale, 1.0), "needs 0 < low <= high <= 1".into()),
        ("data.crop_ratio", range(data.crop_ratio, f64::MAX), "needs 0 < low <= high".into()),
        ("data.flip", (0.0..=1.0).contains(&data.flip), "is a probability, 0..1".into()),
        ("data.resize_ratio", (1.0..=4.0).contains(&data.resize_ratio), "is 1 to 4".into()),
        (
            "data.mean",
            data.mean.iter().all(|v| v.is_finite()),
            "is a number for each channel".into(),
        ),
        (
            "data.std",
            data.std.iter().all(|v| *v > 0.0 && v.is_finite()),
            "is above 0 for each channel".into(),
        ),
        (
            "data.max_bad_share",
            (0.0..=1.0).contains(&data.max_bad_share),
            "is a share, 0..1".into(),
        ),
        (
            "batch.size",
            batch.size >= least,
            format!(
                "{} is too small: {} needs batches of at least {least}",
                batch.size,
                method.name()
            ),
        ),
        (
            "batch.size",
            batch.size <= images,
            format!("{} is more than the {images} images there are", batch.size),
        ),
        ("batch.micro_batch", batch.micro_batch != Some(0), "is at least 1 image".into()),
        ("train.epochs", train.epochs >= 1, "is at least 1".into()),
        ("optim.clip_norm", optim.clip_norm.is_none_or(positive), "is above 0".into()),
        (
            "optim.ema_decay",
            optim.ema_decay.is_none_or(|decay| (0.0..1.0).contains(&decay)),
            "is a share, 0..1".into(),
        ),
        (
            "train.keep_every_epochs",
            train.keep_every_epochs.is_none_or(positive),
            "is above 0".into(),
        ),
        ("train.keep_checkpoints", train.keep_checkpoints >= 1, "is at least 1".into()),
        (
            "train.checkpoint_every_epochs",
            positive(train.checkpoint_every_epochs),
            "is above 0".into(),
        ),
        ("optim.base_lr", positive(optim.base_lr), "is above 0".into()),
        ("optim.min_lr", at_least_0(optim.min_lr), "is at least 0".into()),
        ("optim.weight_decay", at_least_0(optim.weight_decay), "is at least 0".into()),
        (
            "optim.warmup_epochs",
            optim.warmup_epochs >= 0.0 && optim.warmup_epochs < train.epochs as f64,
            format!(
                "{0} is not below train.epochs, {1}; a run of {1} wants --set optim.warmup_epochs={2}",
                optim.warmup_epochs,
                train.epochs,
                train.epochs as f64 / 10.0
            ),
        ),
        (
            "monitor.knn_every_epochs",
            monitor.knn_every_epochs.is_none_or(at_least_0),
            "is at least 0, which is never".into(),
        ),
        ("monitor.peak_tflops", monitor.peak_tflops.is_none_or(positive), "is above 0".into()),
        (
            "train.epochs",
            train.epochs < 1 << 40,
            format!("{} is more than any run has", train.epochs),
        ),
        (
            "optim.beta1, beta2, eps",
            (0.0..1.0).contains(&optim.beta1)
                && (0.0..1.0).contains(&optim.beta2)
                && positive(optim.eps),
            "need 0 <= beta < 1 and eps > 0".into(),
        ),
    ];
    if let Some((key, _, problem)) = checks.into_iter().find(|(_, fine, _)| !fine) {
        return Err(PlanError::Value { key: key.to_owned(), problem });
    }
    if let (Some(_), Method::IJepa(_)) = (optim.ema_decay, method) {
        let problem = "i-jepa keeps an average of its own, which is what a run leaves".to_owned();
        return Err(PlanError::Value { key: "optim.ema_decay".to_owned(), problem });
    }
    match method.problem(model.patches()).or_else(|| method.batch_problem(batch.size)) {
        Some((key, problem)) => Err(PlanError::Value { key: format!("method.{key}"), problem }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_data::{SourceKind, Split};

    fn resolve(overrides: &[&str]) -> Result<Plan, PlanError> {
        let overrides: Vec<String> = overrides.iter().map(|pair| (*pair).to_owned()).collect();
        let recipe = Recipe::load("embedded", &overrides).unwrap();
        let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
        Plan::resolve("embedded", &recipe, &source)
    }

    #[test]
    fn a_plan_is_absolute_and_survives_its_file() {
        let plan = resolve(&["batch.size=512", "optim.base_lr=1e-3", "train.epochs=10"]).unwrap();
        assert_eq!(plan.schedule.lr, 2e-3);
        assert_eq!(plan.steps_per_epoch, 8000 / 512);
        assert_eq!(plan.steps, 150);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plan.toml"), plan.to_toml()).unwrap();
        assert_eq!(Plan::load(folder.path()).unwrap(), plan);
    }

    #[test]
    fn the_folder_of_runs_is_answered_with_the_latest_run() {
        let folder = tempfile::tempdir().unwrap();
        let error = Plan::load(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("cannot be read"), "{error}");
        let run = folder.path().join("embedded-001");
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("plan.toml"), "").unwrap();
        let error = Plan::load(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("did you mean {}?", run.display())), "{error}");
    }

    #[test]
    fn impossible_values_are_named() {
        for (pair, key) in [
            ("batch.size=1", "batch.size"),
            ("train.batch=8001", "batch.size"),
            ("data.crop_scale=[0.5, 0.2]", "data.crop_scale"),
            ("model.patch_px=5", "model"),
            ("model.size=enormous", "model.size"),
            ("data.image_px=8176", "data.image_px"),
            ("optim.warmup_epochs=1e6", "optim.warmup_epochs"),
            ("optim.weight_decay=nan", "optim.weight_decay"),
            ("optim.min_lr=-1e-3", "optim.min_lr"),
            ("optim.base_lr=inf", "optim.base_lr"),
            ("optim.base_lr=-1", "optim.base_lr"),
            ("optim.warmup_epochs=nan", "optim.warmup_epochs"),
            ("optim.eps=inf", "optim.beta1, beta2, eps"),
            ("data.mean=[nan, 0, 0]", "data.mean"),
            ("data.std=[inf, 1, 1]", "data.std"),
            ("data.resize_ratio=inf", "data.resize_ratio"),
            ("data.flip=nan", "data.flip"),
            ("data.max_bad_share=-0.1", "data.max_bad_share"),
            ("train.checkpoint_every_epochs=inf", "train.checkpoint_every_epochs"),
            ("train.checkpoint_every_epochs=-1", "train.checkpoint_every_epochs"),
            ("monitor.knn_every_epochs=nan", "monitor.knn_every_epochs"),
            ("monitor.knn_every_epochs=-1", "monitor.knn_every_epochs"),
            ("monitor.peak_tflops=-1", "monitor.peak_tflops"),
        ] {
            let text = resolve(&[pair]).unwrap_err().to_string();
            assert!(text.starts_with(key), "{pair}: {text}");
        }
    }

    /// The key is named, and what is wrong with its value.
    #[test]
    fn impossible_constants_of_each_method_are_named() {
        for (method, pair, says) in [
            ("ocl", "mask_ratio=1.0", "1 is not a share"),
            ("ocl", "mask_ratio=0.95", "0.95 of 16 patches leaves fewer than the 2"),
            ("ocl", "mask_ratio=-0.1", "-0.1 is not a share"),
            ("ocl", "mask_ratio=nan", "NaN is not a share"),
            ("ocl", "temperature=0", "0 is not above 0"),
            ("ocl", "temperature=inf", "inf is not above 0"),
            ("ocl", "group=1", "1 is too small"),
            (
                "ocl",
                "group=100",
                "100 do not divide a batch of 256; give a batch.size of 200 or 300",
            ),
            ("ocl", "kappa=-1", "-1 is not a number of at least 0"),
            ("mae", "mask_ratio=1.0", "1 is not a share"),
            ("mae", "mask_ratio=0.99", "0.99 leaves 0 of 16 patches to be seen"),
            ("mae", "mask_ratio=0", "0 leaves 16 of 16 patches to be seen"),
            ("mae", "mask_ratio=-0.1", "-0.1 is not a share"),
            ("mae", "mask_ratio=nan", "NaN is not a share"),
            ("mae", "decoder_heads=7", "7 heads do not divide decoder_width, 96"),
            ("mae", "decoder_heads=0", "0 heads do not divide"),
            ("mae", "decoder_width=90", "90 is not a multiple of 4"),
            ("mae", "decoder_depth=0", "is at least 1"),
            ("i-jepa", "min_keep=9", "4 x 4 patches a context may be as small as 3 x 3"),
            ("i-jepa", "targets=0", "at least 1"),
            ("i-jepa", "target_scale=[0.01, 0.02]", "which is none"),
            ("i-jepa", "target_scale=[0.2, 0.1]", "low <= high"),
            ("i-jepa", "target_ratio=[0.0, 1.0]", "low <= high"),
            ("i-jepa", "context_scale=[0.85, 1.5]", "low <= high <= 1"),
            ("i-jepa", "momentum=[0.99, 1.1]", "[0.99, 1.1] is not two shares"),
            ("i-jepa", "momentum=[nan, 1.0]", "is not two shares"),
            ("i-jepa", "predictor_heads=5", "5 heads do not divide predictor_width, 96"),
            ("i-jepa", "predictor_width=90", "90 is not a multiple of 4"),
            ("i-jepa", "predictor_depth=0", "is at least 1"),
            ("i-jepa", "start_lr=nan", "NaN is not a number of at least 0"),
            ("i-jepa", "final_weight_decay=-1", "-1 is not a number of at least 0"),
            ("i-jepa", "schedule_stretch=0.5", "0.5 is below 1"),
            ("moco-v3", "temperature=0", "0 is not above 0"),
            ("moco-v3", "momentum=1.5", "1.5 is not a share"),
            ("moco-v3", "momentum=nan", "NaN is not a share"),
            ("moco-v3", "hidden_width=0", "is at least 1"),
            ("moco-v3", "output_width=0", "is at least 1"),
        ] {
            let name = format!("method.name={method}");
            let text = resolve(&[&name, &format!("method.{pair}")]).unwrap_err().to_string();
            let key = pair.split('=').next().unwrap();
            assert!(text.starts_with(&format!("method.{key}: ")), "{method}, {pair}: {text}");
            assert!(text.contains(says), "{method}, {pair}: {text}");
        }
    }

    #[test]
    fn a_grid_and_a_batch_must_suit_the_method() {
        let text = |pairs: &[&str]| resolve(pairs).unwrap_err().to_string();
        for pair in ["model.patch_px=14", "data.image_px=14"] {
            let error = text(&["method.name=i-jepa", pair]);
            assert!(
                error.contains("grid of 2 x 2") && error.contains("smaller patches"),
                "{error}"
            );
        }
        let error = text(&["method.name=i-jepa", "model.patch_px=28"]);
        assert!(error.starts_with("method.context_scale: on a grid of 1 x 1"), "{error}");
        for (method, least) in [("ocl", 2), ("mae", 1), ("i-jepa", 1), ("moco-v3", 2)] {
            let name = format!("method.name={method}");
            let error = text(&[&name, &format!("batch.size={}", least - 1)]);
            assert!(error.contains(&format!("batches of at least {least}")), "{error}");
            assert!(resolve(&[&name, &format!("batch.size={least}")]).is_ok(), "{method}");
        }
    }
}
