//! What tells a collapsing or diverging run from a healthy one, besides its loss.

mod probe;
mod spectrum;

use burn::tensor::Tensor;

pub(crate) use probe::Probe;
pub use spectrum::{Spectrum, spectrum};

use crate::config::Plan;
use crate::step::StepOutput;

/// Embeddings that effective rank and uniformity are told from.
const SAMPLE: usize = 256;

/// The first embeddings of the first row, `[S, D]`, when step `step` is to be looked at more
/// closely.
pub(crate) fn sample(plan: &Plan, step: u64, output: &StepOutput) -> Option<Tensor<2>> {
    let every = plan.monitor.every_steps;
    if every == 0 || !step.is_multiple_of(every) {
        return None;
    }
    let [n, _, d] = output.watched.dims();
    let some = n.min(SAMPLE);
    Some(output.watched.clone().slice([0..some, 0..1, 0..d]).reshape([some, d])) // [S, D]
}
