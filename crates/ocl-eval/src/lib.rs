//! What a representation is worth: every protocol with its source, its constants and its digests.
//!
//! One path: images -> centre views -> [`Features`] ([`extract`]) -> a [`Protocol`] -> [`Measured`] -> a
//! [`ResultRecord`] of `results.jsonl`. Most protocols take plain features and need no run folder: [`knn`],
//! [`linear_cached`], [`few_shot`], [`centroid`], [`retrieval`], [`clustering`]. Around them: [`Run`] opens
//! what pre-training left, [`EvalRecipe`] holds the constants, [`report()`] compares with the untrained
//! encoder and with raw pixels.
//!
//! A frozen encoder needs no gradients: it runs on the plain device, in f32.

mod corruptions;
mod digest;
mod embed;
mod error;
mod feature_file;
mod features;
mod finetune;
mod head;
mod heads;
mod labelled;
mod lars;
mod logistic;
mod matrix;
mod metrics;
mod nearest;
mod neighbours;
mod pixels;
mod progress;
mod protocols;
mod recipe;
mod report;
mod results;
mod subject;
mod table;

pub use digest::{WeightsRecord, digest_of};
pub use embed::{Embedding, embed};
pub use error::EvalError;
pub use features::{ExtractConfig, Extractor, Features, Pool, extract};
pub use finetune::{
    AugmentRecipe, ClassifierRecipe, FinetuneOptim, FinetunePlan, FinetuneRecipe, FinetuneTrain,
    MixRecipe, finetune,
};
pub use head::{BatchNorm, Head};
pub use labelled::{DataRecord, Labelled};
pub use lars::Lars;
pub use metrics::{Accuracy, mean_and_deviation, rank_of};
pub use nearest::{Neighbour, nearest};
pub use neighbours::{feature_of, read_features, write_grid};
pub use progress::Progress;
pub use protocols::{
    CachedConfig, CentroidConfig, ClusteringConfig, FewShotConfig, KnnConfig, MaeConfig, Measured,
    Protocol, RetrievalConfig, RobustnessConfig, Score, ShiftedSet, adjusted_rand, centroid,
    clustering, default_batch, few_shot, knn, linear_cached, linear_mae, normalised_information,
    retrieval, robustness, shifted,
};
pub use recipe::EvalRecipe;
pub use report::{Findings, REPORT_LIMITS, Report, report};
pub use results::{Circumstances, ResultRecord, append_results, prepare_results, results_file};
pub use subject::{
    Extraction, Material, Preparation, Run, Splits, Subject, default_encode_batch, features,
    geometry,
};
pub use table::results_text;
