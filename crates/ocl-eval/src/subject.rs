//! What is measured: the encoder of a run or of a file, the same encoder untrained, or raw pixels.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use ocl_data::{EvalView, Geometry, Normalisation, Split};
use ocl_model::{OpenOptions, Preprocessing, Vit, VitConfig, open_weights};
use ocl_train::{Backend, Plan};

use crate::error::EvalError;
use crate::features::{ExtractConfig, Extractor, Features, Pool, extract};
use crate::labelled::Labelled;
use crate::pixels::drop_copied_channels;
use crate::progress::Progress;
use crate::table::shell_word;

/// A run folder and its plan.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its `plan.toml`.
    pub plan: Plan,
}

/// A source of features.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An encoder with the weights of a file.
    Trained(Box<Vit>),
    /// The run's encoder as it was before its first step.
    Untrained(Box<Vit>),
    /// No encoder.
    RawPixels,
}

/// How images are prepared for an encoder: as its run did, or as is usual for weights from elsewhere.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// Mean and deviation of the channels.
    pub normalisation: Normalisation,
    /// The short side is resized to this times the crop's side before the centre is cut.
    pub resize_ratio: f64,
    /// Loader threads.
    pub workers: usize,
    /// Share of unreadable images above which reading stops.
    pub max_bad_share: f64,
    /// Sides where no encoder says them, as for raw pixels.
    pub geometry: Geometry,
}

impl Preparation {
    /// As torchvision and timm prepare ImageNet: its mean and deviation, 256/224 before the cut.
    pub fn imagenet(geometry: Geometry) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            normalisation: Normalisation::IMAGENET,
            resize_ratio: 256.0 / 224.0,
            workers: (cores - 1).max(1),
            max_bad_share: 0.01,
            geometry,
        }
    }
}

impl Preparation {
    /// As weights from elsewhere want it.
    #[must_use]
    pub fn with(self, own: Preprocessing) -> Self {
        Self {
            normalisation: Normalisation { mean: own.mean, std: own.std },
            resize_ratio: (1.0 / own.crop_ratio).clamp(1.0, 4.0),
            ..self
        }
    }
}

/// Everything that a protocol may look at.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// Whose features.
    pub subject: &'a Subject,
    /// What of the encoder's output is the feature.
    pub pool: Pool,
    /// Features of both splits' centre views.
    pub splits: &'a Splits,
    /// The images.
    pub data: &'a Labelled,
    /// How they are read.
    pub reading: &'a ExtractConfig,
    /// At most so many training and test images.
    pub limits: [Option<usize>; 2],
}

impl Material<'_> {
    pub(crate) fn extractor(&self) -> Extractor<'_> {
        self.subject.extractor(self.pool)
    }
}

/// How images are encoded.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// What of the encoder's output is the feature.
    pub pool: Pool,
    /// Images encoded at a time.
    pub encode_batch: usize,
    /// At most so many training and test images.
    pub limits: [Option<usize>; 2],
}

/// Images encoded at a time unless told otherwise: a GPU needs many to be busy, a CPU is as fast with
/// few and keeps them in its caches.
pub fn default_encode_batch(backend: Backend) -> usize {
    if backend == Backend::Flex { 32 } else { 256 }
}

/// The same by the device.
pub(crate) fn default_encode_batch_of(device: &Device) -> usize {
    if ocl_model::is_host(device) { 32 } else { 256 }
}

/// Features of both splits under one subject.
#[derive(Clone, Debug)]
pub struct Splits {
    /// The bank, or what the probe is trained on.
    pub train: Features,
    /// What is measured.
    pub test: Features,
}

impl Run {
    /// Opens a run folder.
    ///
    /// # Errors
    /// When its plan cannot be read.
    pub fn open(folder: &Path) -> Result<Self, EvalError> {
        let plan = Plan::load(folder).map_err(EvalError::Plan)?;
        Ok(Self { folder: folder.to_owned(), plan })
    }

    /// How the run's images were prepared.
    pub fn preparation(&self) -> Preparation {
        Preparation {
            normalisation: self.plan.normalisation(),
            resize_ratio: self.plan.data.resize_ratio,
            workers: self.plan.data.workers,
            max_bad_share: self.plan.data.max_bad_share,
            geometry: self.plan.geometry(),
        }
    }

    /// Where the final weights lie.
    pub fn final_weights(&self) -> PathBuf {
        self.folder.join("encoder.safetensors")
    }

    /// The encoder with the weights of `path`.
    ///
    /// # Errors
    /// When there is no such file, or it is damaged.
    pub fn trained(
        &self,
        path: &Path,
        options: &OpenOptions,
        device: &Device,
    ) -> Result<Subject, EvalError> {
        if !path.exists() {
            let advice = if path == self.final_weights() {
                self.unfinished()
            } else {
                "give a file of weights: safetensors or .pth".to_owned()
            };
            return Err(EvalError::NoWeights { path: path.to_owned(), advice });
        }
        Subject::load(path, options, device)
    }

    /// The encoder with the parameters that the run's seed gives.
    ///
    /// # Errors
    /// When the plan's encoder cannot exist.
    pub fn untrained(&self, device: &Device) -> Result<Subject, EvalError> {
        let vit = Vit::new(&self.plan.model, self.plan.seed, device)?;
        Ok(Subject::Untrained(Box::new(vit)))
    }

    /// What to do about a run without final weights.
    fn unfinished(&self) -> String {
        let run = shell_word(&self.folder.to_string_lossy());
        let newest = self.newest_checkpoint().map_or(String::new(), |file| {
            let file = shell_word(&file.to_string_lossy());
            format!(
                "; to measure its newest checkpoint, give eval-linear or eval-knn --weights {file}"
            )
        });
        format!("the run has not ended; finish it with cargo xtask pretrain --resume {run}{newest}")
    }

    fn newest_checkpoint(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("checkpoints")).ok()?;
        let files =
            entries.filter_map(|entry| Some(entry.ok()?.path().join("weights.safetensors")));
        // The step number has leading zeros, so the order of names is that of steps.
        files.filter(|file| file.exists()).max()
    }
}

/// Features of `data` under each subject, in one pass over the images; how they were read; and the seconds
/// it took.
///
/// # Errors
/// As [`extract`](crate::extract).
///
/// # Panics
/// If encoders of different sides are asked for at once.
pub fn features(
    preparation: &Preparation,
    subjects: &[Subject],
    data: &Labelled,
    how: &Extraction,
    device: &Device,
    progress: &mut Progress,
) -> Result<(Vec<Splits>, ExtractConfig, f64), EvalError> {
    for (setting, limit) in ["max-train", "max-test"].into_iter().zip(how.limits) {
        if limit.is_some_and(|limit| limit < 2) {
            let reason = "at least 2 images are needed".to_owned();
            return Err(EvalError::Setting { setting, reason });
        }
    }
    let started = Instant::now();
    let config = preparation.reading(subjects, how.encode_batch);
    let extractors: Vec<_> = subjects.iter().map(|subject| subject.extractor(how.pool)).collect();
    let mut read = |split, limit| {
        let subset = data.sample(split, limit);
        extract(&extractors, data.split(split), split, subset, &config, device, progress)
    };
    let [train_limit, test_limit] = how.limits;
    let (train, test) = (read(Split::Train, train_limit)?, read(Split::Test, test_limit)?);
    let splits = train.into_iter().zip(test).zip(subjects).map(|((train, test), subject)| {
        let mut splits = Splits { train, test };
        if let Subject::RawPixels = subject {
            let norm = config.view.normalisation;
            drop_copied_channels(&mut splits.train, &mut splits.test, norm);
        }
        splits
    });
    let splits = splits.collect();
    progress.clear();
    Ok((splits, config, started.elapsed().as_secs_f64()))
}

impl Preparation {
    /// How images are read for these subjects, `batch` encoded at a time.
    ///
    /// # Panics
    /// If encoders of different sides are asked for at once.
    pub fn reading(&self, subjects: &[Subject], batch: usize) -> ExtractConfig {
        // Weights from elsewhere may be of another size than the run's.
        let mut shapes = subjects.iter().filter_map(Subject::shape);
        let geometry = shapes.next().map_or(self.geometry, geometry);
        for other in shapes {
            assert_eq!(self::geometry(other), geometry, "encoders of different sides");
        }
        ExtractConfig {
            view: EvalView {
                geometry,
                normalisation: self.normalisation,
                resize_ratio: self.resize_ratio,
            },
            batch,
            workers: self.workers,
            max_bad_share: self.max_bad_share,
        }
    }
}

impl Subject {
    /// An encoder with the weights of a file, ours or another program's.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold an encoder.
    pub fn load(path: &Path, options: &OpenOptions, device: &Device) -> Result<Self, EvalError> {
        Ok(Self::Trained(Box::new(open_weights(path, options, device)?.vit)))
    }

    /// What a table calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Trained(_) => "trained encoder",
            Self::Untrained(_) => "untrained encoder",
            Self::RawPixels => "raw pixels",
        }
    }

    /// The encoder, if there is one.
    pub fn vit(&self) -> Option<&Vit> {
        match self {
            Self::Trained(vit) | Self::Untrained(vit) => Some(vit),
            Self::RawPixels => None,
        }
    }

    fn shape(&self) -> Option<&VitConfig> {
        self.vit().map(Vit::config)
    }

    fn extractor(&self, pool: Pool) -> Extractor<'_> {
        match self {
            Self::Trained(vit) | Self::Untrained(vit) => Extractor::Encoder(vit, pool),
            Self::RawPixels => Extractor::RawPixels,
        }
    }
}

/// Sides of an encoder's crop and patches.
///
/// # Panics
/// If a side is beyond 2^32 pixels.
pub fn geometry(shape: &VitConfig) -> Geometry {
    let px =
        |side: usize| u32::try_from(side).expect("an encoder that fits memory has such a side");
    Geometry { image_px: px(shape.image_px), patch_px: px(shape.patch_px) }
}
