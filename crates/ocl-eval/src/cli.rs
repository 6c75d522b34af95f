//! The command line of `ocl-eval`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ocl_data::SourceKind;
use ocl_eval::{Pool, REPORT_LIMITS};
use ocl_train::Backend;

/// What a frozen representation is worth.
#[derive(Debug, Parser)]
#[command(name = "ocl-eval", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Linear probe: MAE's head (batch norm without affine, linear, LARS) on frozen features.
    ///
    /// The head sees each image's centre view, encoded once; MAE augments, so figures are comparable
    /// among themselves rather than with published ones. Accuracy is the last epoch's.
    Linear(LinearArgs),
    /// Weighted k-NN on L2-normalised frozen features
    Knn(KnnArgs),
    /// Trained encoder against untrained and raw pixels, on the run's own data
    Report(ReportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Backend that computes; it must have been compiled in
    #[arg(long, default_value_t = Backend::DEFAULT)]
    pub(crate) backend: Backend,
    /// Loader threads [default: the run's]
    #[arg(long)]
    pub(crate) workers: Option<usize>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SubjectArgs {
    /// Labelled data: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, IDX or CIFAR files, or
    /// `embedded` [default: the run's]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    /// auto, folder, idx, cifar10, cifar100 or embedded [default: auto with --data]
    #[arg(long, value_name = "KIND")]
    pub(crate) data_kind: Option<SourceKind>,
    /// Weights of the encoder [default: RUN/encoder.safetensors]
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// cls (class token) or mean (of the patch tokens)
    #[arg(long, default_value_t = Pool::Cls)]
    pub(crate) pool: Pool,
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
    #[arg(long, conflicts_with_all = ["weights", "raw_pixels"])]
    pub(crate) untrained: bool,
    /// The pixels of the centre view instead of an encoder, at most 32 a side, for comparison
    #[arg(long, conflicts_with_all = ["weights", "pool"])]
    pub(crate) raw_pixels: bool,
}

#[derive(Args, Debug)]
pub(crate) struct LinearArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    /// Passes over the features
    #[arg(long, default_value_t = 90)]
    pub(crate) epochs: usize,
    /// Epochs of linear warm-up
    #[arg(long, default_value_t = 10)]
    pub(crate) warmup_epochs: usize,
    /// Features a step [default: a power of two, a 64th of the images, 64 to 16384]
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Learning rate of a batch of 256; the peak rate is base_lr x batch / 256 [default: 0.1, or what
    /// gives a peak of 3.2 if that is more, as it is below half a million images]
    #[arg(long)]
    pub(crate) base_lr: Option<f64>,
    /// LARS weight decay of the weight matrix
    #[arg(long, default_value_t = 0.0)]
    pub(crate) weight_decay: f64,
    /// Repetitions with other initial weights and another order
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
}

#[derive(Args, Debug)]
pub(crate) struct KnnArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    /// Neighbours that vote
    #[arg(long, default_value_t = 20)]
    pub(crate) k: usize,
    /// T of a vote's weight exp(cosine / T)
    #[arg(long, default_value_t = 0.07)]
    pub(crate) temperature: f64,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// At most so many training images, drawn at random
    #[arg(long, default_value_t = REPORT_LIMITS[0])]
    pub(crate) max_train: usize,
    /// At most so many test images, drawn at random
    #[arg(long, default_value_t = REPORT_LIMITS[1])]
    pub(crate) max_test: usize,
}
