//! What a representation is worth: every protocol with its source, its constants and its digests.
//!
//! One path: images -> centre views -> [`Features`] ([`extract`]) -> a [`Protocol`] -> a
//! [`ResultRecord`] of `results.jsonl`. [`knn`], [`linear_cached`] and [`nearest`] take plain
//! features and need no run folder. Around them: [`Run`] opens what pre-training left,
//! [`EvalRecipe`] holds the constants, [`report()`] compares with the untrained encoder and with
//! raw pixels, [`finetune`] trains the whole encoder on labels.
//!
//! A frozen encoder needs no gradients: it runs on the plain device, in f32.
//!
//! Folders import downward only: `features`, `heads`, `protocols`, `predict`, `report`, `compare`,
//! `finetune`.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod compare;
mod error;
mod features;
mod files;
mod finetune;
mod heads;
mod predict;
mod progress;
mod protocols;
mod report;
mod settings;
mod text;

pub use compare::{Budget, CompareConfig, Entrant, Mark, Standings, compare, paces};
pub use error::EvalError;
pub use features::{
    Embedding, Encoder, ExtractConfig, Extraction, Extractor, Features, Labelled, Material,
    Preparation, Run, Splits, Subject, WeightsRecord, choose_encoder, default_encode_batch, embed,
    extract, feature_of, features, geometry, open_encoder, read_features,
};
pub use finetune::{FinetunePlan, FinetuneRecipe, Finetuned, finetune};
pub use heads::{BatchNorm, Head, Lars};
pub use predict::{PredictOptions, Predicted, PredictionFormat, predict};
pub use progress::Progress;
pub use protocols::{EvalRecipe, KnnConfig, Protocol, ShiftedSet, knn, linear_cached, nearest};
pub use report::{
    Circumstances, Findings, Inspection, REPORT_LIMITS, ResultRecord, append_results,
    prepare_results, report, results_file, results_text, views, write_grid, write_views,
};
