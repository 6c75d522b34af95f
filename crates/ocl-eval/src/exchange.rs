//! `export` and `import`: weights between programs.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use ocl_eval::Run;
use ocl_model::{
    OpenOptions, OpenedWeights, Pooling, Preprocessing, export_folder, open_weights, weights_file,
};
use ocl_train::Backend;

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Weights of the encoder [default: RUN/encoder.safetensors]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// What features are to be for who loads the folder: cls or mean
    #[arg(long, default_value_t = Pooling::Cls)]
    pool: Pooling,
    #[command(flatten)]
    to: Target,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Weights: safetensors, .pth, or a folder that timm wrote
    #[arg(value_name = "FILE")]
    weights: PathBuf,
    /// Attention heads of weights that do not say [default: what is usual for their width]
    #[arg(long)]
    heads: Option<usize>,
    #[command(flatten)]
    to: Target,
}

#[derive(Args, Debug)]
struct Target {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Side of the images that the encoder is to see [default: the weights'; positions are adapted]
    #[arg(long)]
    image_px: Option<usize>,
    /// Backend; it must have been compiled in
    #[arg(long, default_value_t = Backend::DEFAULT)]
    backend: Backend,
}

/// ImageNet's, as torchvision states them, and the usual 256 px before the cut of 224.
const IMAGENET: Preprocessing = Preprocessing {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    crop_ratio: 224.0 / 256.0,
};

/// Writes a run's encoder for other programs.
pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    let run = Run::open(&args.run)?;
    let preparation = run.preparation();
    let how = Preprocessing {
        mean: preparation.normalisation.mean,
        std: preparation.normalisation.std,
        crop_ratio: 1.0 / preparation.resize_ratio,
    };
    let weights = args.weights.clone().unwrap_or_else(|| run.final_weights());
    let mut opened = open(&weights, None, &args.to)?;
    opened.pooling = args.pool;
    write(&opened, &args.to, &how)
}

/// Writes any program's weights as ours and timm's.
pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    let opened = open(&weights_file(&args.weights), args.heads, &args.to)?;
    if opened.preprocessing.is_none() {
        eprintln!(
            "note: nothing says how images were prepared; ImageNet's mean and deviation are written"
        );
    }
    write(&opened, &args.to, &opened.preprocessing.unwrap_or(IMAGENET))
}

fn open(weights: &Path, heads: Option<usize>, to: &Target) -> Result<OpenedWeights> {
    let options = OpenOptions { heads, image_px: to.image_px };
    Ok(open_weights(weights, &options, &to.backend.device()?)?)
}

fn write(opened: &OpenedWeights, to: &Target, how: &Preprocessing) -> Result<()> {
    let OpenedWeights { vit, pooling, head, classes, ignored, .. } = opened;
    export_folder(&to.out, vit, head.as_ref(), *pooling, how, classes)?;
    let folder = std::path::absolute(&to.out).context("the folder has no absolute path")?;
    let shape = vit.config();
    let mut text = format!(
        "encoder     width {}, depth {}, {} heads, patches of {} px, images of {} px\n",
        shape.width, shape.depth, shape.heads, shape.patch_px, shape.image_px
    );
    let pooled = match pooling {
        Pooling::Cls => "class token",
        Pooling::Mean => "mean of the patch tokens",
    };
    let outputs = head.as_ref().map_or(0, |head| head.bias.val().dims()[0]);
    text += &format!("features    {pooled}; classifier of {outputs} classes\n");
    if !ignored.is_empty() {
        text += &format!("left out    {} tensors: {}\n", ignored.len(), short_list(ignored));
    }
    let at = folder.display();
    text += &format!("written to  {at}\n");
    text += &format!("load with   timm.create_model(\"local-dir:{at}\", pretrained=True)\n");
    // A reader that closes early (`| head`) is no error of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn short_list(names: &[String]) -> String {
    let rest = if names.len() > 4 { ", ..." } else { "" };
    names[..names.len().min(4)].join(", ") + rest
}
