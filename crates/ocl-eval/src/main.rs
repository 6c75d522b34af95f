//! `ocl-eval`: linear probe, weighted k-NN, and the report that ends a pre-training.

use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::{Args, Parser, Subcommand};
use ocl_data::SourceKind;
use ocl_eval::{
    Circumstances, DEFAULT_ENCODE_BATCH, Extraction, Findings, KnnConfig, Labelled, Lars,
    LinearConfig, Pool, Progress, REPORT_LIMITS, ResultRecord, Run, Splits, Subject,
    append_results, measure_knn, measure_linear, report, result_text, results_file,
};
use ocl_train::Backend;

/// What a frozen representation is worth.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Linear probe: MAE's head (batch norm without affine, linear, LARS) on frozen features.
    ///
    /// The head sees each image's centre view, encoded once; MAE augments, so figures are comparable
    /// among themselves rather than with published ones. Accuracy is the last epoch's.
    Linear(LinearArgs),
    /// Weighted k-NN on L2-normalised frozen features.
    Knn(KnnArgs),
    /// Trained encoder against untrained and raw pixels, on the run's own data.
    Report(ReportArgs),
}

#[derive(Args)]
struct Common {
    /// Run folder that pretrain made.
    #[arg(long)]
    run: PathBuf,
    /// Backend that computes; it must have been compiled in.
    #[arg(long, default_value_t = Backend::DEFAULT)]
    backend: Backend,
    /// Loader threads [default: the run's].
    #[arg(long)]
    workers: Option<usize>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SubjectArgs {
    /// Labelled data: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, IDX or CIFAR files, or
    /// `embedded` [default: the run's].
    #[arg(long)]
    data: Option<String>,
    /// auto, folder, idx, cifar10, cifar100 or embedded [default: auto with --data].
    #[arg(long)]
    data_kind: Option<SourceKind>,
    /// Weights of the encoder [default: RUN/encoder.safetensors].
    #[arg(long)]
    weights: Option<PathBuf>,
    /// cls (class token) or mean (of the patch tokens).
    #[arg(long, default_value_t = Pool::Cls)]
    pool: Pool,
    /// Images encoded at a time.
    #[arg(long, default_value_t = DEFAULT_ENCODE_BATCH)]
    encode_batch: usize,
    /// At most so many training images, drawn at random [default: all].
    #[arg(long)]
    max_train: Option<usize>,
    /// At most so many test images, drawn at random [default: all].
    #[arg(long)]
    max_test: Option<usize>,
    /// The run's encoder as it was before its first step, for comparison.
    #[arg(long, conflicts_with_all = ["weights", "raw_pixels"])]
    untrained: bool,
    /// The pixels of the centre view instead of an encoder, at most 32 a side, for comparison.
    #[arg(long, conflicts_with_all = ["weights", "pool"])]
    raw_pixels: bool,
}

#[derive(Args)]
struct LinearArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    subject: SubjectArgs,
    /// Passes over the features.
    #[arg(long, default_value_t = 90)]
    epochs: usize,
    /// Epochs of linear warm-up.
    #[arg(long, default_value_t = 10)]
    warmup_epochs: usize,
    /// Features a step [default: a power of two, a 64th of the images, 64 to 16384].
    #[arg(long)]
    batch: Option<usize>,
    /// Learning rate of a batch of 256; the peak rate is base_lr x batch / 256.
    #[arg(long, default_value_t = 0.1)]
    base_lr: f64,
    /// LARS weight decay of the weight matrix.
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// Repetitions with other initial weights and another order.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
}

#[derive(Args)]
struct KnnArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    subject: SubjectArgs,
    /// Neighbours that vote.
    #[arg(long, default_value_t = 20)]
    k: usize,
    /// T of a vote's weight exp(cosine / T).
    #[arg(long, default_value_t = 0.07)]
    temperature: f64,
}

#[derive(Args)]
struct ReportArgs {
    #[command(flatten)]
    common: Common,
    /// At most so many training images, drawn at random.
    #[arg(long, default_value_t = REPORT_LIMITS[0])]
    max_train: usize,
    /// At most so many test images, drawn at random.
    #[arg(long, default_value_t = REPORT_LIMITS[1])]
    max_test: usize,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Linear(args) => {
            let prepared = Prepared::new(&args.common, &args.subject)?;
            let config = LinearConfig {
                epochs: args.epochs,
                warmup_epochs: args.warmup_epochs,
                batch: args.batch,
                base_lr: args.base_lr,
                lars: Lars { weight_decay: args.weight_decay, ..Lars::default() },
                ..LinearConfig::default()
            };
            let Prepared { subject, splits, at, device, .. } = &prepared;
            let mut progress = Progress::stderr();
            let record =
                measure_linear(subject, splits, &config, args.seeds, at, device, &mut progress)?;
            finish(&prepared.run, record, args.common.json)
        }
        Command::Knn(args) => {
            let prepared = Prepared::new(&args.common, &args.subject)?;
            let config = KnnConfig { k: args.k, temperature: args.temperature };
            let Prepared { subject, splits, at, device, .. } = &prepared;
            let mut progress = Progress::stderr();
            let record = measure_knn(subject, splits, &config, at, device, &mut progress)?;
            finish(&prepared.run, record, args.common.json)
        }
        Command::Report(args) => write_report(&args),
    }
}

/// Everything up to the features.
struct Prepared {
    run: Run,
    subject: Subject,
    splits: Splits,
    at: Circumstances,
    device: Device,
}

impl Prepared {
    fn new(common: &Common, args: &SubjectArgs) -> Result<Self> {
        let run = Run::open(&common.run)?;
        let device = common.backend.device()?;
        let plan = &run.plan.data;
        let kind = match (&args.data, args.data_kind) {
            (_, Some(kind)) => kind,
            (Some(_), None) => SourceKind::Auto,
            (None, None) => plan.kind,
        };
        let data = Labelled::open(args.data.as_deref().unwrap_or(&plan.path), kind)?;
        let weights = args.weights.clone().unwrap_or_else(|| run.final_weights());
        let subject = match (args.raw_pixels, args.untrained) {
            (true, _) => Subject::RawPixels,
            (_, true) => run.untrained(&device)?,
            _ => run.trained(&weights, &device)?,
        };
        let how = Extraction {
            pool: args.pool,
            encode_batch: args.encode_batch,
            workers: common.workers,
            limits: [args.max_train, args.max_test],
        };
        let subjects = [subject];
        let (features, features_secs) =
            run.features(&subjects, &data, &how, &device, &mut Progress::stderr())?;
        let [subject] = subjects;
        let splits = features.into_iter().next().context("one subject has one set of features")?;
        let at = Circumstances {
            weights: Some(weights),
            pool: args.pool,
            data: data.record(splits.train.len(), splits.test.len()),
            features_secs,
            backend: common.backend.to_string(),
        };
        Ok(Self { run, subject, splits, at, device })
    }
}

fn finish(run: &Run, record: ResultRecord, json: bool) -> Result<()> {
    append_results(&run.folder, std::slice::from_ref(&record))?;
    if json {
        println!("{}", serde_json::to_string(&record)?);
    } else {
        print!("{}", result_text(&record));
        println!("  {:<9}{}", "kept in", results_file(&run.folder).display());
    }
    Ok(())
}

fn write_report(args: &ReportArgs) -> Result<()> {
    let Common { run, backend, workers, json } = &args.common;
    let run = Run::open(run)?;
    let (device, limits) = (backend.device()?, [args.max_train, args.max_test]);
    let name = backend.to_string();
    let findings = report(&run, limits, *workers, &name, &device, &mut Progress::stderr())?;
    if let Findings::Measured(report) = &findings {
        append_results(&run.folder, &report.results)?;
    }
    match &findings {
        Findings::Measured(report) if *json => println!("{}", serde_json::to_string(report)?),
        Findings::Nothing(why) if *json => println!("{}", serde_json::json!({ "nothing": why })),
        findings => print!("{}", findings.text(&run)),
    }
    Ok(())
}
