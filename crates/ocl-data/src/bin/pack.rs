//! Writes any data set as tar shards.

mod args;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use args::Args;
use ocl_data::{PackOptions, Source, SourceError, SourceKind, Split, pack};

const HELP: &str = "pack SOURCE OUT: write a data set as tar shards into the folder OUT

  --short-side N   shrink images to this short side first, in pixels
  --quality N      of the JPEGs that are then written (90)
  --restart N      a restart marker every N blocks of 16 x 16 pixels, for faster skipping (1; 0: none)
  --raw            pixels in place of JPEGs: large, and nothing to decode
  --shard-mb N     megabytes of a shard (256)";

fn main() -> ExitCode {
    args::program(HELP, run)
}

fn run(mut args: Args) -> Result<(), Box<dyn Error>> {
    let usual = PackOptions::default();
    let options = PackOptions {
        short_side_px: args.value("--short-side")?,
        quality: args.value("--quality")?.unwrap_or(usual.quality),
        restart_units: args.value("--restart")?.unwrap_or(usual.restart_units),
        raw: args.flag("--raw"),
        shard_bytes: args.value::<u64>("--shard-mb")?.map_or(usual.shard_bytes, |mb| mb << 20),
    };
    if options.short_side_px == Some(0) || !(1..=100).contains(&options.quality) {
        return Err("--short-side must be at least 1, --quality 1 to 100".into());
    }
    let [from, to] = args.words(["the SOURCE", "the folder OUT"])?;
    for split in [Split::Train, Split::Test] {
        let source = match Source::open(&from, SourceKind::Auto, split) {
            Ok(source) => source,
            // Many sets have no test part.
            Err(SourceError::NotFound { .. }) if split == Split::Test => continue,
            Err(error) => return Err(error.into()),
        };
        println!("{}", source.describe());
        let packed = pack(&source, split, Path::new(&to), &options, |done| {
            if done > 0 && done.is_multiple_of(10_000) {
                println!("  {done} of {}", source.len());
            }
        })?;
        let (count, images, mb) = (packed.shards.len(), packed.images, packed.bytes >> 20);
        println!("{images} images, {mb} MiB, {count} shards in {to}");
        for (name, reason) in &packed.skipped {
            eprintln!("left out: {name}: {reason}");
        }
    }
    Ok(())
}
