//! When a run is looked at more closely than at every step.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::Plan;
use crate::device::{Backend, peak_tflops};

/// Training images that vote in a k-NN probe, and held-out images that are classified.
pub(crate) const PROBE_BANK: usize = 2000;
pub(crate) const PROBE_QUERIES: usize = 500;
/// Share of a run's multiply-adds that k-NN may take.
const PROBE_SHARE: f64 = 0.005;
/// Looks that even a short run gets, whatever they cost.
const LOOKS: u64 = 5;

/// When a run is looked at more closely than at every step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorPlan {
    /// Effective rank and uniformity every so many steps; never if 0.
    #[serde(default)]
    pub every_steps: u64,
    /// k-NN on held-out labelled images every so many steps; never if 0.
    #[serde(default)]
    pub knn_every_steps: u64,
    /// What the device can do, in TFLOP a second; the share of it that is used is shown if it is
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_tflops: Option<f64>,
}

impl Plan {
    /// Takes the device's peak from a GPU's name, where the recipe does not say it.
    pub fn find_peak(&mut self, backend: Backend, device: &Device) {
        if backend != Backend::Flex && self.monitor.peak_tflops.is_none() {
            self.monitor.peak_tflops = peak_tflops(self.precision.on(device));
        }
    }
}

/// Steps between two k-NN probes so that they take a small share of the run, but at least [`LOOKS`]
/// in all.
pub(super) fn probe_interval(plan: &Plan) -> u64 {
    let model = &plan.model;
    let step = plan.batch as u64 * plan.method.macs_per_image(model);
    let images = (PROBE_BANK + PROBE_QUERIES) as u64;
    let probe = images * model.forward_macs(1 + model.patches());
    let affordable = (probe as f64 / step as f64 / PROBE_SHARE).ceil() as u64;
    affordable.min(plan.steps / LOOKS).max(1)
}
