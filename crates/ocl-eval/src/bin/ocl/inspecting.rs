//! The command `inspect`: what an encoder sees of images.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use ocl_data::{Draws, Purpose};
use ocl_eval::{Encoder, Inspection};
use ocl_train::World;

use crate::embedding::{EncoderArgs, open};

/// Images that are shown where none is chosen.
const SHOWN: usize = 8;

/// What each picture shows.
const SAYS: [&str; 4] = [
    "the first three principal components of all patch tokens as red, green and blue",
    "where the class token of the last block looks, from dark to light",
    "patches alike to the white one by cosine, from 0, dark, to 1, light",
    "shares of patches hidden, and how alike the embedding then is to that of the whole image",
];

/// Options of `inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Folder of images, labelled or not, IDX or CIFAR files, or `embedded`
    #[arg(value_name = "PATH")]
    data: String,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Number of an image of PATH (repeatable) [default: eight at random]
    #[arg(long, value_name = "NUMBER")]
    image: Vec<usize>,
    /// Seed of what is drawn at random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder of the pictures: components of the patch tokens as colours, attention, similarity of
    /// patches, and the embedding under occlusion
    #[arg(long, value_name = "FOLDER", default_value = "inspect")]
    out: PathBuf,
}

/// Draws the pictures.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let device = args.encoder.common.backend.device()?;
    let (encoder, source) = open(&World::One, &args.encoder, &args.data, &device)?;
    let Encoder { vit, pooling, preparation, .. } = encoder;
    let mut chosen = args.image.clone();
    if let Some(missing) = chosen.iter().find(|number| **number >= source.len()) {
        bail!("{} has no image {missing}, the last is {}", args.data, source.len() - 1);
    }
    if chosen.is_empty() {
        chosen = (0..source.len()).collect();
        let shown = SHOWN.min(source.len());
        Draws::new(args.seed, 0, 0, Purpose::Inspected).shuffle_front(&mut chosen, shown);
        chosen.truncate(shown);
    }
    let images =
        chosen.iter().map(|&number| source.image(number)).collect::<Result<Vec<_>, _>>()?;
    let view = preparation.view();
    let (seed, device) = (args.seed, &device);
    let inspection = Inspection { vit: &vit, pooling, view, images: &images, seed, device };
    for (path, says) in inspection.write(&args.out)?.iter().zip(SAYS) {
        ocl_train::print_line!("{}: {says}", path.display());
    }
    for (row, number) in chosen.iter().enumerate() {
        ocl_train::print_line!("row {}  {}", row + 1, source.name_of(*number));
    }
    Ok(())
}
