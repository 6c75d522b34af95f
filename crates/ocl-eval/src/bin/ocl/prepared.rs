//! Everything up to the features: whose they are, of what data, read how.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use ocl_data::{SourceKind, Split};
use ocl_eval::{
    Circumstances, Encoder, EvalError, EvalRecipe, ExtractConfig, Extraction, Labelled, Material,
    Preparation, Progress, Protocol, ResultRecord, Run, Splits, Subject, WeightsRecord,
    choose_encoder, default_encode_batch, features, prepare_results,
};
use ocl_model::{OpenOptions, Pooling, Vit};
use ocl_train::{World, check_alike};

use crate::options::{Common, SubjectArgs, tell_network, tell_passed_over};
use crate::ranks::{self, in_words};

/// A subject with the features of both splits.
pub(crate) struct Prepared {
    /// Where results go.
    pub(crate) folder: PathBuf,
    subject: Subject,
    how: Extraction,
    data: Labelled,
    splits: Splits,
    reading: ExtractConfig,
    at: Circumstances,
    device: Device,
    /// Areas and ratios of the crops that a run's encoder was pre-trained on.
    crops: Option<[[f64; 2]; 2]>,
}

/// Whose features, and how images are prepared for it.
pub(crate) struct Chosen {
    pub(crate) subject: Subject,
    pub(crate) preparation: Preparation,
    /// The pooling that the weights want.
    pool: Option<Pooling>,
    pub(crate) weights: Option<PathBuf>,
    /// The run, if one was named.
    pub(crate) run: Option<Run>,
}

impl Chosen {
    /// The subject that the options name.
    pub(crate) fn new(
        world: &World,
        common: &Common,
        args: &SubjectArgs,
        device: &Device,
    ) -> Result<Self> {
        let run = || args.run.as_deref().map(Run::open).transpose()?.context("--run is not given");
        let mut chosen = if args.raw_pixels || args.untrained {
            let run = run()?;
            let subject = if args.raw_pixels { Subject::RawPixels } else { run.untrained(device)? };
            let preparation = run.preparation();
            Self { subject, preparation, pool: None, weights: None, run: Some(run) }
        } else {
            let (heads, image_px, prefix) = (args.heads, args.image_px, args.prefix.clone());
            let options = OpenOptions { heads, image_px, prefix };
            let (run, weights) = (args.run.as_deref(), args.weights.as_deref());
            let encoder = choose_encoder(run, weights, &options, device)?;
            if world.is_root() {
                tell_network(&encoder);
            }
            let Encoder { vit, pooling, preparation, weights, run, .. } = encoder;
            let subject = Subject::Trained(Box::new(vit));
            Self { subject, preparation, pool: Some(pooling), weights: Some(weights), run }
        };
        common.adjust(&mut chosen.preparation)?;
        Ok(chosen)
    }
}

impl Prepared {
    /// Opens everything and makes the features; the root alone has them in the end.
    pub(crate) fn new(world: &World, common: &Common, args: &SubjectArgs) -> Result<Option<Self>> {
        let device = ranks::device(world, args.ranks.ranks, common.backend)?;
        let chosen = world.together(Chosen::new(world, common, args, &device), in_words)?;
        let Chosen { subject, preparation, pool, weights, run } = chosen;
        let plan = run.as_ref().map(|run| &run.plan.data);
        let trained = matches!(subject, Subject::Trained(_));
        let crops = plan.filter(|_| trained).map(|plan| [plan.crop_scale, plan.crop_ratio]);
        let kind = match (&args.data, args.data_kind, plan) {
            (_, Some(kind), _) => kind,
            (None, None, Some(plan)) => plan.kind,
            _ => SourceKind::Auto,
        };
        let path = args.data.as_deref().or(plan.map(|plan| plan.path.as_str()));
        let planned = plan.filter(|_| args.data.is_none()).map(|plan| &plan.splits);
        let names = args.splits.names(planned);
        let path = path.context("--data is not given")?;
        let data = Labelled::open(path, kind, &names).map_err(anyhow::Error::from);
        let data = world.together(data, in_words)?;
        for split in [Split::Train, Split::Test] {
            check_alike(world, path, data.split(split))?;
            if world.is_root() {
                tell_passed_over(data.split(split));
            }
        }
        let folder = match (&args.results, &run, &weights) {
            (Some(folder), ..) => folder.clone(),
            (None, Some(run), _) => run.folder.clone(),
            (None, None, weights) => {
                let beside = weights.as_deref().and_then(Path::parent);
                beside.unwrap_or(Path::new(".")).to_owned()
            }
        };
        world.on_root(|| Ok(prepare_results(&folder)?), in_words)?;
        let how = Extraction {
            pool: args.pool.or(pool).or(subject.vit().map(Vit::usual_pooling)).unwrap_or_default(),
            encode_batch: args.encode_batch.unwrap_or_else(|| default_encode_batch(common.backend)),
            limits: [args.max_train, args.max_test],
        };
        let subjects = [subject];
        let mut progress = Progress::of(world);
        let (made, reading, features_secs) =
            features(world, &preparation, &subjects, &data, &how, &device, &mut progress)?;
        if !world.is_root() {
            return Ok(None);
        }
        let [subject] = subjects;
        let splits = made.into_iter().next().context("one subject has one set of features")?;
        let at = Circumstances {
            weights: weights.as_deref().map(WeightsRecord::of).transpose()?,
            data: data.record(splits.train.len(), splits.test.len()),
            features_secs,
            backend: common.backend.to_string(),
        };
        Ok(Some(Self { folder, subject, how, data, splits, reading, at, device, crops }))
    }

    /// What is worth knowing before a protocol takes its time.
    pub(crate) fn note(&self, protocol: Protocol, recipe: &EvalRecipe) -> Option<String> {
        let [scale, ratio] = self.crops.filter(|_| protocol == Protocol::LinearMae)?;
        let low = recipe.linear_mae.crop_scale[0];
        (low < scale[0]).then(|| {
            let [low, own] = [low, scale[0]].map(|share| share * 100.0);
            format!(
                "note: linear-mae crops to {low:.0} % of an image's area, pre-training to no less than {own:.0} %. A \
                 head trained on crops that its encoder never saw can lose several points. To crop as in \
                 pre-training: --set 'linear-mae.crop_scale={scale:?}' --set 'linear-mae.crop_ratio={ratio:?}'"
            )
        })
    }

    /// Runs one protocol.
    pub(crate) fn measure(
        &self,
        protocol: Protocol,
        recipe: &EvalRecipe,
        seeds: u64,
        progress: &mut Progress,
    ) -> Result<ResultRecord, EvalError> {
        let material = Material {
            subject: &self.subject,
            pool: self.how.pool,
            splits: &self.splits,
            data: &self.data,
            reading: &self.reading,
            limits: self.how.limits,
        };
        self.at.measure(protocol, recipe, &material, seeds, &self.device, progress)
    }
}
