//! Pre-training: a [`Recipe`] and a data set give a [`Plan`]; [`pretrain`] runs it and leaves an encoder.
//!
//! Read in this order: [`Recipe`] (what a user writes), [`Plan`] (every number resolved), [`pretrain`]
//! (the loop), [`Trainer`] (one step), [`Method`] (what is learnt), [`AdamW`] (how).

mod adamw;
mod allocator;
mod backend;
mod batching;
mod capture;
mod checkpoint;
#[doc(hidden)]
pub mod cli;
mod durable;
mod ema;
mod error;
mod estimate;
mod gradients;
mod journal;
mod layer_decay;
mod layers;
mod ledger;
mod lock;
mod memory;
mod methods;
mod monitor;
mod plan;
mod pretrain;
mod progress;
mod recipe;
mod schedule;
mod stop;
mod summary;
mod tensorboard;
mod trainer;

pub use adamw::{AdamW, AdamWConfig, AdamWState};
pub use allocator::keep_freed_memory;
pub use backend::{Backend, BackendError};
pub use batching::Chunk;
pub use capture::{Capture, Replay, replay};
pub use checkpoint::CheckpointError;
pub use ema::WeightAverage;
pub use error::TrainError;
pub use estimate::Estimate;
pub use gradients::NamedGradients;
pub use journal::{JournalError, StepRecord};
pub use layer_decay::LayerDecay;
pub use layers::RecipeError;
pub use methods::{Method, Objective, Ocl};
pub use monitor::{MonitorPlan, Spectrum, spectrum};
pub use plan::{DataPlan, Plan, PlanError};
pub use pretrain::{Event, Outcome, Start, pretrain};
pub use progress::Progress;
pub use recipe::{
    BatchRecipe, DataRecipe, ModelRecipe, MonitorRecipe, OptimRecipe, Recipe, TrainRecipe,
};
pub use schedule::WarmupCosine;
pub use stop::{INTERRUPTED, stop_on_signals};
pub use summary::summary;
pub use trainer::{Split, StepOutput, Trainer};
