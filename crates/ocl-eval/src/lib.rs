//! What a frozen representation is worth: linear probe and weighted k-NN.
//!
//! One path: images -> centre views -> [`Features`] ([`extract`]) -> [`linear_probe`] or [`knn`] ->
//! [`Accuracy`]. Those take plain features and need no run folder. Around them: [`Run`] opens what
//! pre-training left, [`measure_linear`] and [`measure_knn`] make a [`ResultRecord`] of `results.jsonl`,
//! [`report()`] compares with the untrained encoder and with raw pixels.
//!
//! The encoder is frozen and nothing here needs gradients through it: everything runs on the plain
//! device, in f32.

mod error;
mod features;
mod head;
mod knn;
mod labelled;
mod lars;
mod linear;
mod measure;
mod metrics;
mod pixels;
mod progress;
mod report;
mod results;
mod subject;
mod table;

pub use error::EvalError;
pub use features::{ExtractConfig, Extractor, Features, Pool, extract};
pub use head::{BatchNorm, Head};
pub use knn::{KnnConfig, Neighbour, knn, nearest};
pub use labelled::{DataRecord, Labelled};
pub use lars::Lars;
pub use linear::{LinearConfig, LinearOutcome, default_batch, linear_probe};
pub use measure::{measure_knn, measure_linear};
pub use metrics::{Accuracy, mean_and_deviation, rank_of};
pub use progress::Progress;
pub use report::{Findings, REPORT_LIMITS, Report, report};
pub use results::{
    Circumstances, Outcome, Protocol, ResultRecord, SeedRecord, append_results, results_file,
};
pub use subject::{Extraction, Run, Splits, Subject, default_encode_batch};
pub use table::result_text;
