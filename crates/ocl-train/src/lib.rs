//! Pre-training: a [`Recipe`] and a data set give a [`Plan`]; [`pretrain`] runs it and leaves an
//! encoder.
//!
//! Read in this order: [`Recipe`] (what a user writes), [`Plan`] (every number resolved),
//! [`pretrain`] (the loop), [`Trainer`] (one step), [`Method`] and [`Learner`] (what is learnt),
//! [`AdamW`] (how).
//!
//! Folders import downward only: `device`, `world`, `optim`, `methods`, `step`, `config`, then `monitor` and
//! `log`, then `run`.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod config;
mod device;
mod invocation;
mod log;
mod methods;
mod monitor;
mod optim;
mod run;
mod step;
mod world;

pub use config::{
    BatchRecipe, Change, Chunk, DataPlan, DataRecipe, Estimate, InitPlan, Known, Layers,
    ModelRecipe, MonitorPlan, MonitorRecipe, OptimRecipe, Plan, PlanError, Recipe, RecipeError,
    SetKeys, TrainRecipe, synthetic_batch,
};
pub use device::{Backend, BackendError, batch_tensors, keep_freed_memory};
pub use invocation::{command_line, invocation};
pub use log::{
    Event, JournalError, Progress, StepRecord, lost_output, print_text, say_line, summary,
};
pub use methods::{
    Embedded, Figures, IJepa, IJepaLearner, IJepaPredictor, Learner, Mae, MaeDecoder, MaeLearner,
    Method, MocoHead, MocoV3, MocoV3Learner, Objective, Ocl, OclLearner, Pass, PendingFigures,
    Statistics,
};
pub use monitor::{Spectrum, spectrum};
pub use optim::{
    AdamW, AdamWConfig, AdamWState, Clock, LayerDecay, NamedGradients, Rates, WarmupCosine,
    WeightAverage,
};
pub use run::{
    Capture, CheckpointError, INTERRUPTED, Outcome, Replay, RunLock, Start, TrainError, Until,
    check_alike, on_stop_signals, pretrain, pretrain_in, replace_file, replay, saved_learner,
    saved_step, stop_on_signals,
};
pub use step::{MicroBatches, Readback, Reading, StepOutput, Trainer, parts_of, sum_of_parts};
pub use world::{Elsewhere, Launched, Place, World, WorldError};
