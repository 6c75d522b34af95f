//! From what a user writes to every number that a run depends on.
//!
//! [`Recipe`] is the file as written, with the environment's and the command line's overrides;
//! [`Plan`] is what follows from it and the data: plain data, saved as `plan.toml`.

mod built_in;
mod changes;
mod chunk;
mod estimate;
mod monitor;
mod numbers;
mod overrides;
mod plan;
mod recipe;
mod resolve;

pub use changes::Change;
pub use chunk::Chunk;
pub use estimate::{Estimate, synthetic_batch};
pub use monitor::MonitorPlan;
pub use overrides::{Known, Layers, RecipeError, SetKeys};
pub use plan::{DataPlan, InitPlan, Plan, PlanError};
pub use recipe::{
    BatchRecipe, DataRecipe, ModelRecipe, MonitorRecipe, OptimRecipe, Recipe, TrainRecipe,
};

pub(crate) use monitor::{PROBE_BANK, PROBE_QUERIES};
