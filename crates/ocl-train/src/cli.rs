//! The command line of `ocl-train`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ocl_data::SourceKind;
use ocl_model::Precision;

use crate::config::Chunk;
use crate::device::Backend;

/// Pre-trains a Vision Transformer on images without labels.
#[derive(Debug, Parser)]
#[command(name = "ocl-train", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands of `ocl-train`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pre-train an encoder; without options on the embedded data set
    Pretrain(Box<PretrainArgs>),
    /// Run a step again whose loss or gradient was no number, exactly
    Replay(ReplayArgs),
    /// List the built-in recipes, or print one as a start for your own
    Recipes {
        /// The recipe to print
        name: Option<String>,
    },
}

/// Options of `replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// The capture: a folder `captures/step-…` of a run
    pub capture: PathBuf,
    /// Where the data is now [default: where it was]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// flex (CPU), wgpu, vulkan or cuda
    #[arg(long, default_value_t = Backend::DEFAULT)]
    pub backend: Backend,
}

/// Options of `pretrain`.
#[derive(Args, Debug)]
pub struct PretrainArgs {
    /// Folder of images, IDX or CIFAR files, or `embedded`
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// auto, folder, shards, idx, cifar10, cifar100 or embedded
    #[arg(long, value_name = "KIND")]
    pub data_kind: Option<SourceKind>,
    /// Built-in recipe or TOML file [default: by the kind of the data]
    #[arg(long, value_name = "NAME|FILE")]
    pub recipe: Option<String>,
    /// ocl, mae, i-jepa or moco-v3, with the constants that fit the recipe; same as --set
    /// method.name=NAME [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Change one value of the recipe, e.g. --set optim.base_lr=1e-3 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Same as --set train.epochs=N
    #[arg(long)]
    pub epochs: Option<u64>,
    /// Images contrasted with one another; same as --set batch.size=N
    #[arg(long)]
    pub batch: Option<usize>,
    /// Images in memory at once, or `auto`: as many as fit. On the CPU it changes no result
    #[arg(long, value_name = "N|auto")]
    pub chunk: Option<Chunk>,
    /// What matrix products are computed in: f32, or tf32 or bf16 on devices that have it
    #[arg(long)]
    pub precision: Option<Precision>,
    /// Same as --set train.seed=N
    #[arg(long)]
    pub seed: Option<u64>,
    /// Loader threads; batches do not depend on it
    #[arg(long)]
    pub workers: Option<usize>,
    /// Where run folders are made
    #[arg(long, value_name = "FOLDER", default_value = "runs")]
    pub out: PathBuf,
    /// Name of the run folder [default: the recipe's name and a number]
    #[arg(long)]
    pub name: Option<String>,
    /// Continue the run in this folder
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "method", "overrides", "epochs", "batch", "seed", "name", "data_kind", "precision"])]
    pub resume: Option<PathBuf>,
    /// Print the plan with its cost, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// flex (CPU), wgpu, vulkan or cuda
    #[arg(long, default_value_t = Backend::DEFAULT)]
    pub backend: Backend,
    /// Where to write the path of the run folder, for programs
    #[arg(long, value_name = "FILE", hide = true)]
    pub run_folder_to: Option<PathBuf>,
}

impl PretrainArgs {
    /// Overrides of the recipe, the short options among them.
    pub fn all_overrides(&self) -> Vec<String> {
        let mut all = self.overrides.clone();
        let mut add = |key: &str, value: Option<String>| {
            all.extend(value.map(|value| format!("{key}={value}")));
        };
        add("data.path", self.data.as_ref().map(|path| toml_string(path)));
        let kind = self.data_kind.map(|kind| kind.to_string());
        // A new path has a kind of its own, whatever the recipe says.
        let kind = kind.or_else(|| self.data.as_ref().map(|_| "auto".to_owned()));
        add("data.kind", kind);
        add("method.name", self.method.clone());
        add("train.epochs", self.epochs.map(|v| v.to_string()));
        add("batch.size", self.batch.map(|v| v.to_string()));
        add("batch.chunk", self.chunk.map(|v| v.to_string()));
        add("train.seed", self.seed.map(|v| v.to_string()));
        add("train.precision", self.precision.map(|v| v.to_string()));
        add("data.workers", self.workers.map(|v| v.to_string()));
        all
    }
}

/// A path as a TOML string, so that `1` or `true` stays a path.
fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}
