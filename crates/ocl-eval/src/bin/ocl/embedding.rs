//! The commands `embed` and `neighbours`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use ocl_data::{Source, SourceKind, Split, decode};
use ocl_eval::{
    Embedding, Encoder, Features, Progress, WeightsRecord, choose_encoder, default_encode_batch,
    embed, feature_of, nearest, read_features, write_grid,
};
use ocl_model::{OpenOptions, Pooling};
use ocl_train::{World, check_alike};

use crate::launching::Stop;
use crate::options::{Common, SplitArgs, tell_network, tell_passed_over};
use crate::ranks::{self, RanksArgs, in_words};

#[derive(Args, Debug)]
pub(crate) struct EncoderArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Run folder that pretrain made
    #[arg(long, value_name = "RUN", required_unless_present = "weights")]
    run: Option<PathBuf>,
    /// Weights of the encoder, of any program [default: RUN/encoder.safetensors]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Attention heads of weights that do not say [default: what is usual for their width]
    #[arg(long)]
    heads: Option<usize>,
    /// Of several networks in the weights the one whose names begin so [default: the one meant for
    /// use: a teacher, a target, an average]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND", default_value_t = SourceKind::Auto)]
    data_kind: SourceKind,
    #[command(flatten)]
    splits: SplitArgs,
    /// Embed the test part of the data instead of the training part; a flat folder has only one
    #[arg(long)]
    test: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// Folder of images, labelled or not, IDX or CIFAR files, or `embedded`
    #[arg(value_name = "PATH")]
    data: String,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The file, .npy, .safetensors or .parquet; an interrupted one is resumed
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// cls (class token), mean (of the patch tokens) or patches (all of them) [default: cls, or
    /// mean for weights that want it]
    #[arg(long)]
    what: Option<Embedding>,
    #[command(flatten)]
    ranks: RanksArgs,
}

#[derive(Args, Debug)]
pub(crate) struct NeighboursArgs {
    /// Images among which neighbours are looked for
    #[arg(value_name = "PATH")]
    data: String,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Query: an image file, or the number of an image of PATH (repeatable)
    #[arg(long, value_name = "FILE|NUMBER", required = true)]
    query: Vec<String>,
    /// Neighbours shown
    #[arg(long, default_value_t = 8)]
    k: usize,
    /// cls or mean [default: cls, or mean for weights that want it]
    #[arg(long)]
    pool: Option<Pooling>,
    /// Features of PATH that embed wrote, of the same encoder and pool [default: made now]
    #[arg(long, value_name = "FILE.npy")]
    features: Option<PathBuf>,
    /// The picture
    #[arg(long, value_name = "FILE.png", default_value = "neighbours.png")]
    grid: PathBuf,
}

/// An encoder and the images it is shown.
pub(crate) fn open(
    world: &World,
    args: &EncoderArgs,
    data: &str,
    device: &Device,
) -> Result<(Encoder, Arc<Source>)> {
    let (run, weights) = (args.run.as_deref(), args.weights.as_deref());
    let (heads, prefix) = (args.heads, args.prefix.clone());
    let options = OpenOptions { heads, image_px: None, prefix };
    let mut encoder = choose_encoder(run, weights, &options, device)?;
    args.common.adjust(&mut encoder.preparation)?;
    let split = if args.test { Split::Test } else { Split::Train };
    let source = Source::open_named(data, args.data_kind, split, &args.splits.names(None))?;
    if world.is_root() {
        tell_network(&encoder);
        tell_passed_over(&source);
    }
    Ok((encoder, Arc::new(source)))
}

/// Runs `embed`.
pub(crate) fn run_embed(args: &EmbedArgs) -> Result<ExitCode> {
    let shared = |world: &World| embed_shared(world, args);
    ranks::run(args.ranks.ranks, Stop::AtOnce, shared, |(done, images)| {
        if done > 0 {
            ocl_train::print_line!("{done} images were there already");
        }
        ocl_train::print_line!("{images} images in {}, with their names", args.out.display());
        Ok(0)
    })
}

/// Embeds as one of several processes; the images that were there already, and all.
fn embed_shared(world: &World, args: &EmbedArgs) -> Result<(usize, usize)> {
    let backend = args.encoder.common.backend;
    let device = ranks::device(world, args.ranks.ranks, backend)?;
    let opened = open(world, &args.encoder, &args.data, &device);
    let (Encoder { vit, pooling, weights, preparation, .. }, source) =
        world.together(opened, in_words)?;
    check_alike(world, &args.data, &source)?;
    let reading = preparation.reading(default_encode_batch(backend));
    let digest = world.together(WeightsRecord::of(&weights), ocl_data::in_words)?;
    world.alike(vec![("weights".to_owned(), digest.sha256.clone())])?;
    let (what, key) = (args.what.unwrap_or(Embedding::Pooled(pooling)), &digest.sha256);
    let mut progress = Progress::of(world);
    let done = embed(world, &vit, what, &source, &reading, key, &args.out, &device, &mut progress)?;
    Ok((done, source.len()))
}

/// Runs `neighbours`.
pub(crate) fn run_neighbours(args: &NeighboursArgs) -> Result<()> {
    let device = args.encoder.common.backend.device()?;
    let (Encoder { vit, pooling, weights, preparation, .. }, source) =
        open(&World::One, &args.encoder, &args.data, &device)?;
    let reading = preparation.reading(default_encode_batch(args.encoder.common.backend));
    let pooling = args.pool.unwrap_or(pooling);
    let mut progress = Progress::stderr();
    let bank = match &args.features {
        Some(file) => read_features(file)?,
        None => {
            let folder =
                std::env::temp_dir().join(format!("ocl-neighbours-{}", std::process::id()));
            std::fs::create_dir_all(&folder)?;
            let file = folder.join("features.npy");
            let what = Embedding::Pooled(pooling);
            let key = weights.display().to_string();
            embed(&World::One, &vit, what, &source, &reading, &key, &file, &device, &mut progress)?;
            let bank = read_features(&file);
            std::fs::remove_dir_all(&folder)?;
            bank?
        }
    };
    if (bank.len(), bank.width()) != (source.len(), vit.config().width) {
        bail!(
            "the features are {} rows of {}; {} has {} images and the encoder gives {} values",
            bank.len(),
            bank.width(),
            args.data,
            source.len(),
            vit.config().width
        );
    }
    let (mut rows, mut queries, mut own) = (vec![], vec![], vec![]);
    for query in &args.query {
        let number = query.parse::<usize>().ok().filter(|_| !Path::new(query).exists());
        let image = match number {
            Some(number) if number < source.len() => source.image(number)?,
            Some(number) => {
                bail!("{} has no image {number}, the last is {}", args.data, source.len() - 1)
            }
            None => {
                let bytes = std::fs::read(query).with_context(|| format!("cannot read {query}"))?;
                decode(&bytes).with_context(|| format!("cannot decode {query}"))?
            }
        };
        queries.extend(feature_of(&vit, pooling, &image, &reading, &source, &device)?);
        own.push(number);
        rows.push(vec![image]);
    }
    let queries = Features::new(queries, vit.config().width, vec![0; rows.len()]);
    // One more, for a query that finds itself.
    let found = nearest(&bank, &queries, (args.k + 1).min(bank.len()), &device, &mut progress)?;
    let shown = args.k.min(bank.len() - 1);
    for (number, (row, neighbours)) in rows.iter_mut().zip(&found).enumerate() {
        ocl_train::print_line!("{}", args.query[number]);
        let others = neighbours.iter().filter(|other| own[number] != Some(other.row as usize));
        for neighbour in others.take(shown) {
            let index = neighbour.row as usize;
            ocl_train::print_line!("  {:.4}  {}", neighbour.similarity, source.name_of(index));
            row.push(source.image(index)?);
        }
    }
    write_grid(&rows, &args.grid)?;
    ocl_train::print_line!("picture in {}", args.grid.display());
    Ok(())
}
