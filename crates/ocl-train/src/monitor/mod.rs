//! What tells a collapsing or diverging run from a healthy one, besides its loss.

mod gpu;
mod probe;
mod spectrum;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub(crate) use gpu::peak_tflops;
pub(crate) use probe::Probe;
pub use spectrum::{Spectrum, spectrum};

use crate::plan::Plan;
use crate::trainer::StepOutput;

/// Embeddings that effective rank and uniformity are told from.
const SAMPLE: usize = 256;
/// Share of a run's multiply-adds that k-NN may take.
const PROBE_SHARE: f64 = 0.005;

/// When a run is looked at more closely than at every step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorPlan {
    /// Effective rank and uniformity every so many steps; never if 0.
    #[serde(default)]
    pub every_steps: u64,
    /// k-NN on held-out labelled images every so many steps; never if 0.
    #[serde(default)]
    pub knn_every_steps: u64,
    /// What the device can do, in TFLOP a second; the share of it that is used is shown if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_tflops: Option<f64>,
}

/// Steps between two k-NN probes so that they take a small share of the run, but at least [`LOOKS`] in all.
pub(crate) fn probe_interval(plan: &Plan) -> u64 {
    let model = &plan.model;
    let (sequences, tokens) = plan.method.sequences(model.patches());
    let step = 3 * plan.batch as u64 * sequences as u64 * model.cls_macs(tokens);
    let probe = probe::IMAGES as u64 * model.forward_macs(1 + model.patches());
    let affordable = (probe as f64 / step as f64 / PROBE_SHARE).ceil() as u64;
    affordable.min(plan.steps / LOOKS).max(1)
}

/// Looks that even a short run gets, whatever they cost.
const LOOKS: u64 = 5;

/// Figures of a step that are on the device yet: loss, gradient norm, alignment, positive and negative cosine,
/// in one tensor, so that reading them waits once.
///
/// # Shapes
/// Result `[5]`.
pub(crate) fn figures(output: &StepOutput) -> Tensor<1> {
    let StepOutput { loss, gradient_norm, agreement, .. } = output;
    Tensor::cat(vec![loss.clone(), gradient_norm.clone(), agreement.clone()], 0)
}

/// The first embeddings of view 1, `[S, D]`, when step `step` is to be looked at more closely.
pub(crate) fn sample(plan: &Plan, step: u64, output: &StepOutput) -> Option<Tensor<2>> {
    let every = plan.monitor.every_steps;
    if every == 0 || !step.is_multiple_of(every) {
        return None;
    }
    let [n, _, d] = output.embeddings.dims();
    let some = n.min(SAMPLE);
    Some(output.embeddings.clone().slice([0..some, 0..1, 0..d]).reshape([some, d])) // [S, D]
}
