//! The command `predict`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ocl_data::{SourceKind, Split};
use ocl_eval::{
    EvalError, PredictOptions, PredictionFormat, Progress, default_encode_batch, open_encoder,
    predict,
};
use ocl_model::OpenOptions;
use ocl_train::Backend;

use crate::options::tell_network;

#[derive(Args, Debug)]
pub(crate) struct PredictArgs {
    /// Images, folders of images, or other data
    #[arg(value_name = "IMAGES", required = true)]
    images: Vec<String>,
    /// Fine-tuned classifier: finetuned.safetensors, the folder of a fine-tuning, or a folder that
    /// export wrote
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Classes told for each image, the most probable first
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// text, csv or json (an object a line)
    #[arg(long, default_value_t = PredictionFormat::Text)]
    format: PredictionFormat,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND", default_value_t = SourceKind::Auto)]
    data_kind: SourceKind,
    /// The training split of the data [default: the test split, or all where there is none]
    #[arg(long)]
    train: bool,
    /// Backend that computes; it must have been compiled in
    #[arg(long, default_value_t = Backend::DEFAULT)]
    backend: Backend,
}

/// Runs the command.
pub(crate) fn run(args: &PredictArgs) -> Result<()> {
    let device = args.backend.device()?;
    let encoder = open_encoder(&args.weights, &OpenOptions::default(), &device)?;
    tell_network(&encoder);
    let options = PredictOptions {
        top: args.top,
        kind: args.data_kind,
        split: args.train.then_some(Split::Train),
        batch: default_encode_batch(args.backend),
    };
    let mut out: Box<dyn io::Write> = match &args.out {
        Some(path) => Box::new(io::BufWriter::new(std::fs::File::create(path)?)),
        None => Box::new(io::stdout().lock()),
    };
    out.write_all(args.format.heading().as_bytes())?;
    let mut progress = Progress::stderr();
    let told = predict(&encoder, &args.images, &options, &device, &mut progress, |predicted| {
        out.write_all(args.format.lines(predicted).as_bytes())
    });
    let unreadable = match told {
        // A reader that closes early (`| head`) is no error of ours.
        Err(EvalError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        told => told?,
    };
    out.flush()?;
    if unreadable > 0 {
        ocl_train::say!("{unreadable} could not be read");
    }
    Ok(())
}
