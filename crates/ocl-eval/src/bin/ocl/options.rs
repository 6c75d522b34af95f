//! Options that commands share, and those of evaluation and fine-tuning.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use ocl_data::{Source, SourceKind, SplitNames};
use ocl_eval::{Encoder, Preparation, REPORT_LIMITS};
use ocl_model::Pooling;
use ocl_train::Backend;

use crate::ranks::RanksArgs;

#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Backend that computes; it must have been compiled in
    #[arg(long, default_value_t = Backend::DEFAULT)]
    pub(crate) backend: Backend,
    /// Loader threads [default: the run's]
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// Share of the images that may be unreadable, 0 to 1, though ten always may; they are left out,
    /// counted and named [default: the run's, or 0.01]
    #[arg(long, value_name = "SHARE")]
    pub(crate) max_bad_share: Option<f64>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl Common {
    /// Images are prepared as these options ask.
    pub(crate) fn adjust(&self, preparation: &mut Preparation) -> Result<()> {
        preparation.max_bad_share = self.bad_share()?.unwrap_or(preparation.max_bad_share);
        preparation.workers = self.workers.unwrap_or(preparation.workers);
        Ok(())
    }

    /// The share of `--max-bad-share`, if it is one.
    pub(crate) fn bad_share(&self) -> Result<Option<f64>> {
        match self.max_bad_share {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                bail!("--max-bad-share {share} is no share, 0 to 1")
            }
            share => Ok(share),
        }
    }
}

/// Says which of several networks in a file of weights was taken.
pub(crate) fn tell_network(encoder: &Encoder) {
    if let Some(note) = encoder.network_note() {
        ocl_train::say!("{note}");
    }
}

/// What the parts of a data set are called.
#[derive(Args, Clone, Debug)]
pub(crate) struct SplitArgs {
    /// The training part, where names do not tell: a folder in PATH, `.` for PATH itself, or a word
    /// of the archives' names
    #[arg(long, value_name = "NAME")]
    pub(crate) train_split: Option<String>,
    /// The part to measure on, likewise [default: val or validation, else test]
    #[arg(long, value_name = "NAME")]
    pub(crate) test_split: Option<String>,
}

impl SplitArgs {
    /// What was typed; for data that was not named here, what the run's plan says.
    pub(crate) fn names(&self, planned: Option<&SplitNames>) -> SplitNames {
        let SplitNames { train, test } = planned.cloned().unwrap_or_default();
        SplitNames {
            train: self.train_split.clone().or(train),
            test: self.test_split.clone().or(test),
        }
    }
}

/// Says on stderr what of a data set is not used.
pub(crate) fn tell_passed_over(source: &Source) {
    if let Some(passed) = source.passed_over() {
        ocl_train::say!("{}: {passed}", source.describe());
    }
}

#[derive(Args, Debug)]
pub(crate) struct SubjectArgs {
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN", required_unless_present = "weights")]
    pub(crate) run: Option<PathBuf>,
    /// Weights of the encoder, of any program: safetensors, .pth, or a folder that timm wrote
    /// [default: RUN/encoder.safetensors]; without a run, images are prepared as the folder's
    /// config.json says, or as is usual for ImageNet
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Labelled data: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, IDX or CIFAR files, or
    /// `embedded` [default: the run's]
    #[arg(long, value_name = "PATH", required_unless_present = "run")]
    pub(crate) data: Option<String>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded [default: auto with --data]
    #[arg(long, value_name = "KIND")]
    pub(crate) data_kind: Option<SourceKind>,
    #[command(flatten)]
    pub(crate) splits: SplitArgs,
    /// Attention heads of weights that do not say [default: what is usual for their width]
    #[arg(long, conflicts_with_all = ["untrained", "raw_pixels"])]
    pub(crate) heads: Option<usize>,
    /// Of several networks in the weights the one whose names begin so [default: the one meant for
    /// use: a teacher, a target, an average]
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["untrained", "raw_pixels"])]
    pub(crate) prefix: Option<String>,
    /// Side of the images that the encoder sees [default: the weights'; positions are adapted]
    #[arg(long, conflicts_with_all = ["untrained", "raw_pixels"])]
    pub(crate) image_px: Option<usize>,
    /// cls (class token) or mean (of the patch tokens) [default: cls, but mean for weights whose
    /// norm stands after pooling]
    #[arg(long)]
    pub(crate) pool: Option<Pooling>,
    /// Images encoded at a time [default: 32 on flex, else 256]
    #[arg(long)]
    pub(crate) encode_batch: Option<usize>,
    /// At most so many training images, drawn at random [default: all]
    #[arg(long)]
    pub(crate) max_train: Option<usize>,
    /// At most so many test images, drawn at random [default: all]
    #[arg(long)]
    pub(crate) max_test: Option<usize>,
    /// The run's encoder as it was before its first step, for comparison
    #[arg(long, requires = "run", conflicts_with_all = ["weights", "raw_pixels"])]
    pub(crate) untrained: bool,
    /// The pixels of the centre view instead of an encoder, at most 32 a side, for comparison
    #[arg(long, requires = "run", conflicts_with_all = ["weights", "pool"])]
    pub(crate) raw_pixels: bool,
    /// Where results.jsonl is [default: the run folder, or beside the weights]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) results: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ranks: RanksArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ConstantsArgs {
    /// Recipe of evaluation [default: the built-in one]
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Change one constant, e.g. --set knn.k=[20] (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct SuiteArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) constants: ConstantsArgs,
    /// Protocols by name, or `all`; `all` leaves out linear-mae, which encodes every image 90
    /// times, and shifted, which needs --sets
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub(crate) protocols: Vec<String>,
    /// Mapping file of shifted data for the protocol `shifted`: [[set]] with name, path, classes
    #[arg(long, value_name = "FILE")]
    pub(crate) sets: Option<PathBuf>,
    /// Repetitions where a protocol trains or draws
    #[arg(long, default_value_t = 3)]
    pub(crate) seeds: u64,
}

#[derive(Args, Debug)]
pub(crate) struct LinearArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) constants: ConstantsArgs,
    /// cached: centre views encoded once, rates and decays swept (minutes). mae: augmented, batch
    /// norm, LARS, every image encoded 90 times
    #[arg(long, default_value = "cached", value_parser = ["cached", "mae"])]
    pub(crate) protocol: String,
    /// With --protocol mae, the rate of a batch of 256 to the letter: 0.1 is MAE's own [default:
    /// 0.1, raised where that is too little for the data to converge]
    #[arg(long)]
    pub(crate) base_lr: Option<f64>,
    /// Repetitions with another order and other held-out images
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
}

#[derive(Args, Debug)]
pub(crate) struct KnnArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) constants: ConstantsArgs,
    /// Neighbours that vote, one or several numbers [default: 20,1,5,10,100,200]
    #[arg(long, value_delimiter = ',')]
    pub(crate) k: Vec<usize>,
    /// T of a vote's weight exp(cosine / T) [default: 0.07]
    #[arg(long)]
    pub(crate) temperature: Option<f64>,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// At most so many training images, drawn at random
    #[arg(long, default_value_t = REPORT_LIMITS[0])]
    pub(crate) max_train: usize,
    /// At most so many test images, drawn at random
    #[arg(long, default_value_t = REPORT_LIMITS[1])]
    pub(crate) max_test: usize,
}

impl ReportArgs {
    /// The report that ends a run.
    pub(crate) fn of_run(run: &Path, backend: Backend) -> Self {
        let [max_train, max_test] = REPORT_LIMITS;
        let common = Common { backend, workers: None, max_bad_share: None, json: false };
        Self { common, run: run.to_owned(), max_train, max_test }
    }
}

/// A path as one would type it in a shell.
pub(crate) fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./\\:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[derive(Args, Debug)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN", required_unless_present_any = ["weights", "resume"])]
    pub(crate) run: Option<PathBuf>,
    /// Weights to begin from [default: RUN/encoder.safetensors]
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Of several networks in the weights the one whose names begin so [default: the one meant for
    /// use: a teacher, a target, an average]
    #[arg(long, value_name = "PREFIX", conflicts_with = "scratch")]
    pub(crate) prefix: Option<String>,
    /// Begin from the run's encoder as it was before its first step, for comparison
    #[arg(long, requires = "run", conflicts_with = "weights")]
    pub(crate) scratch: bool,
    /// Labelled data [default: the run's]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded [default: auto with --data]
    #[arg(long, value_name = "KIND")]
    pub(crate) data_kind: Option<SourceKind>,
    #[command(flatten)]
    pub(crate) splits: SplitArgs,
    /// small, vit-b, vit-l, vit-h, or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "small")]
    pub(crate) recipe: String,
    /// Change one value of the recipe, e.g. --set train.epochs=10 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Trainings, each with a seed of its own
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
    /// At most so many training images, drawn at random [default: all]
    #[arg(long)]
    pub(crate) max_train: Option<usize>,
    /// At most so many test images, drawn at random [default: all]
    #[arg(long)]
    pub(crate) max_test: Option<usize>,
    /// Folder of the fine-tuning [default: RUN/finetune-RECIPE, or beside the weights]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the fine-tuning in this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["FOLDER", "run", "weights", "prefix", "scratch", "data", "overrides", "out", "train_split", "test_split"])]
    pub(crate) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ranks: RanksArgs,
}
