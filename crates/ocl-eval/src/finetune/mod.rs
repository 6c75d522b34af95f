//! Fine-tuning: the whole encoder learns the labels (MAE, arXiv 2111.06377, appendix A.1).
//!
//! One seed after the other, each in a folder of its own: augment, mix, forward, backward, AdamW
//! with rates that fall from layer to layer. A seed that was stopped resumes from its checkpoint;
//! every draw is a function of the seed and the step, so that the result is that of an unbroken
//! run. The accuracy is that of the last epoch, not the best one's on the test images.

mod checkpoint;
mod classifier;
mod confusion;
mod journal;
mod measure;
mod plan;
mod recipe;
mod seeds;
mod train;

pub use plan::FinetunePlan;
pub use recipe::FinetuneRecipe;
pub use seeds::{Finetuned, finetune};
