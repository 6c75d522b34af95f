//! `export` and `import`: weights between programs.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use ocl_eval::{Encoder, choose_encoder, open_encoder};
use ocl_model::{OpenOptions, Pooling, export_folder};
use ocl_train::Backend;

use crate::options::tell_network;

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN", required_unless_present = "weights")]
    run: Option<PathBuf>,
    /// Weights, fine-tuned ones too [default: RUN/encoder.safetensors]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// What features are to be for who loads the folder: cls or mean [default: as the weights say]
    #[arg(long)]
    pool: Option<Pooling>,
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
    /// Of several networks in the weights the one whose names begin so [default: the one meant for
    /// use: a teacher, a target, an average]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
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

/// Writes a run's encoder, or a fine-tuned one, for other programs.
pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    let options = OpenOptions { image_px: args.to.image_px, ..OpenOptions::default() };
    let device = args.to.backend.device()?;
    let (run, weights) = (args.run.as_deref(), args.weights.as_deref());
    let mut encoder = choose_encoder(run, weights, &options, &device)?;
    encoder.pooling = args.pool.unwrap_or(encoder.pooling);
    write(&encoder, &args.to)
}

/// Writes any program's weights as ours and timm's.
pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    let (heads, image_px, prefix) = (args.heads, args.to.image_px, args.prefix.clone());
    let options = OpenOptions { heads, image_px, prefix };
    let encoder = open_encoder(&args.weights, &options, &args.to.backend.device()?)?;
    write(&encoder, &args.to)
}

fn write(encoder: &Encoder, to: &Target) -> Result<()> {
    tell_network(encoder);
    if !encoder.preparation_said {
        ocl_train::say!(
            "note: nothing says how images were prepared; ImageNet's mean and deviation are written"
        );
    }
    let Encoder { vit, pooling, head, classes, ignored, .. } = encoder;
    let how = encoder.preprocessing();
    export_folder(&to.out, vit, head.as_ref(), *pooling, &how, classes)?;
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
