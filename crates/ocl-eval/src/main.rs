//! `ocl-eval`: linear probe, weighted k-NN, and the report that ends a pre-training.

mod cli;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::Parser;
use ocl_data::SourceKind;
use ocl_eval::{
    Circumstances, Extraction, Findings, KnnConfig, Labelled, Lars, LinearConfig, Progress,
    ResultRecord, Run, Splits, Subject, append_results, default_encode_batch, measure_knn,
    measure_linear, report, result_text, results_file,
};
use ocl_train::keep_freed_memory;

use cli::{Cli, Command, Common, KnnArgs, LinearArgs, ReportArgs, SubjectArgs};

fn main() -> ExitCode {
    keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Linear(args) => linear(&args),
        Command::Knn(args) => knn(&args),
        Command::Report(args) => write_report(&args),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let _ = write!(text, "\n  because: {cause}");
    }
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn linear(args: &LinearArgs) -> Result<()> {
    let config = LinearConfig {
        epochs: args.epochs,
        warmup_epochs: args.warmup_epochs,
        batch: args.batch,
        base_lr: args.base_lr,
        lars: Lars { weight_decay: args.weight_decay, ..Lars::default() },
        ..LinearConfig::default()
    };
    // Before the features, which can take long.
    config.check()?;
    let Prepared { run, subject, splits, at, device } = Prepared::new(&args.common, &args.subject)?;
    let mut progress = Progress::stderr();
    let record =
        measure_linear(&subject, &splits, &config, args.seeds, &at, &device, &mut progress)?;
    finish(&run, record, args.common.json)
}

fn knn(args: &KnnArgs) -> Result<()> {
    let config = KnnConfig { k: args.k, temperature: args.temperature };
    config.check()?;
    let Prepared { run, subject, splits, at, device } = Prepared::new(&args.common, &args.subject)?;
    let mut progress = Progress::stderr();
    let record = measure_knn(&subject, &splits, &config, &at, &device, &mut progress)?;
    finish(&run, record, args.common.json)
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
            encode_batch: args.encode_batch.unwrap_or_else(|| default_encode_batch(common.backend)),
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
    let run = Run::open(&args.common.run)?;
    let limits = [args.max_train, args.max_test];
    let Common { workers, backend, json, .. } = args.common;
    let findings = report(&run, limits, workers, backend, &mut Progress::stderr())?;
    if let Findings::Measured(report) = &findings {
        append_results(&run.folder, &report.results)?;
    }
    match &findings {
        Findings::Measured(report) if json => println!("{}", serde_json::to_string(report)?),
        Findings::Nothing(why) if json => println!("{}", serde_json::json!({ "nothing": why })),
        findings => print!("{}", findings.text(&run)),
    }
    Ok(())
}
