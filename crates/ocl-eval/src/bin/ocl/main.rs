//! `ocl`: every command of the project that users type. `cargo xtask COMMAND` builds it and runs
//! it.

#![allow(rustdoc::broken_intra_doc_links, reason = "options are documented by their help texts")]

mod comparing;
mod data;
mod embedding;
mod exchange;
mod finetuning;
mod inspecting;
mod launching;
mod measuring;
mod options;
mod planning;
mod predicting;
mod prepared;
mod pretraining;
mod ranks;
mod results;
mod viewing;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ocl_train::{Launched, invocation, keep_freed_memory, lost_output};

use options::{FinetuneArgs, KnnArgs, LinearArgs, ReportArgs, SuiteArgs};

/// Pre-trains Vision Transformers on images without labels, and says what they are worth.
#[derive(Debug, Parser)]
#[command(name = "ocl", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pre-train an encoder, then say what it is worth; without options on the embedded data set
    Pretrain(Box<pretraining::PretrainArgs>),
    /// Pre-training methods against each other: accuracy against time, on your images
    Compare(comparing::CompareArgs),
    /// Say again what the encoder of a run is worth: against untrained and raw pixels, on its data
    Report(ReportArgs),
    /// Every protocol on the frozen encoder of a run or of a weights file
    #[command(alias = "suite")]
    Eval(SuiteArgs),
    /// Linear probe on the frozen encoder, cached or as in MAE
    #[command(alias = "linear")]
    EvalLinear(LinearArgs),
    /// Weighted k-NN on L2-normalised frozen features
    #[command(alias = "knn")]
    EvalKnn(KnnArgs),
    /// Train the whole encoder on labels
    Finetune(FinetuneArgs),
    /// Classes of images with their probabilities, by a fine-tuned encoder
    Predict(predicting::PredictArgs),
    /// Features of any images as .npy or .safetensors, streamed
    Embed(embedding::EmbedArgs),
    /// What a method sees of images, as a picture: crops, kept patches, masks
    Views(viewing::ViewsArgs),
    /// What an encoder sees of images, as pictures: components, attention, similar patches, occlusion
    Inspect(inspecting::InspectArgs),
    /// Nearest neighbours of query images, as a picture
    Neighbours(embedding::NeighboursArgs),
    /// An encoder, fine-tuned or not, as a folder that timm and Hugging Face load
    Export(exchange::ExportArgs),
    /// Weights of timm, MAE, DeiT, DINO and others (.pth, safetensors) as such a folder
    Import(exchange::ImportArgs),
    /// What evaluations of several runs found, side by side
    CompareResults(results::CompareResultsArgs),
    /// Run a step again whose loss or gradient was NaN or infinite, exactly
    Replay(pretraining::ReplayArgs),
    /// List the built-in recipes, or print one as a start for your own
    Recipes(pretraining::RecipesArgs),
    /// Write a data set as tar shards: as it is, resized, or as pixels
    Pack(data::PackArgs),
    /// Images per second of the loader, and the time of each stage
    BenchData(data::BenchDataArgs),
}

fn main() -> ExitCode {
    keep_freed_memory();
    // Usage lines show what was typed.
    let typed = Cli::command().bin_name(invocation()).get_matches();
    let cli = Cli::from_arg_matches(&typed).unwrap_or_else(|error| error.exit());
    let alone = !matches!(
        cli.command,
        Command::Pretrain(_)
            | Command::Eval(_)
            | Command::EvalLinear(_)
            | Command::EvalKnn(_)
            | Command::Embed(_)
            | Command::Finetune(_)
    );
    let result = match cli.command {
        _ if alone && Launched::from_environment().is_some_and(|launched| launched.count > 1) => {
            Err(anyhow!(
                "a launcher started several processes, which only pretrain, finetune, eval, \
                 eval-linear, eval-knn and embed share their work among; start other commands without it"
            ))
        }
        Command::Pretrain(args) => pretraining::run(&args),
        Command::Replay(args) => pretraining::replay_capture(&args),
        Command::Compare(args) => comparing::run(&args),
        Command::Finetune(args) => finetuning::run(&args),
        Command::Recipes(args) => pretraining::recipes(&args).map(done),
        Command::Report(args) => measuring::write_report(&args).map(done),
        Command::Eval(args) => measuring::suite(&args),
        Command::EvalLinear(args) => measuring::linear(&args),
        Command::EvalKnn(args) => measuring::knn(&args),
        Command::Predict(args) => predicting::run(&args).map(done),
        Command::Embed(args) => embedding::run_embed(&args),
        Command::Views(args) => viewing::run(&args).map(done),
        Command::Inspect(args) => inspecting::run(&args).map(done),
        Command::Neighbours(args) => embedding::run_neighbours(&args).map(done),
        Command::Export(args) => exchange::export(&args).map(done),
        Command::Import(args) => exchange::import(&args).map(done),
        Command::CompareResults(args) => results::run(&args).map(done),
        Command::Pack(args) => data::run_pack(&args).map(done),
        Command::BenchData(args) => data::run_bench(&args).map(done),
    };
    let code = result.unwrap_or_else(|error| {
        say(&error);
        ExitCode::FAILURE
    });
    if lost_output() {
        ocl_train::say!("error: not all of the output could be written to stdout");
        return ExitCode::FAILURE;
    }
    code
}

/// An error with its causes, a line each, in one piece.
fn say(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let _ = write!(text, "\n  because: {cause}");
    }
    ocl_train::say!("{text}");
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Prints a text.
fn print(text: &str) {
    ocl_train::print_text(format_args!("{text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
