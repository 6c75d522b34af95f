//! How images are prepared for an encoder.

use burn::tensor::Device;
use ocl_data::{EvalView, Geometry, Normalisation};
use ocl_model::{Preprocessing, VitConfig};
use ocl_train::{Backend, Plan};

use super::extract::ExtractConfig;

/// How images are prepared for an encoder: as its run did, or as is usual for weights from
/// elsewhere.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// Mean and deviation of the channels.
    pub normalisation: Normalisation,
    /// The short side is resized to this times the crop's side before the centre is cut.
    pub resize_ratio: f64,
    /// Loader threads.
    pub workers: usize,
    /// Share of unreadable images above which reading stops.
    pub max_bad_share: f64,
    /// Sides where no encoder says them, as for raw pixels.
    pub geometry: Geometry,
}

impl Preparation {
    /// As a pre-training prepares them.
    pub(crate) fn of_plan(plan: &Plan) -> Self {
        Self {
            normalisation: plan.normalisation(),
            resize_ratio: plan.data.resize_ratio,
            workers: plan.data.workers,
            max_bad_share: plan.data.max_bad_share,
            geometry: plan.geometry(),
        }
    }

    /// As torchvision and timm prepare ImageNet: its mean and deviation, 256/224 before the cut.
    pub fn imagenet(geometry: Geometry) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            normalisation: Normalisation::IMAGENET,
            resize_ratio: 256.0 / 224.0,
            workers: (cores - 1).max(1),
            max_bad_share: 0.01,
            geometry,
        }
    }
}

impl Preparation {
    /// As weights from elsewhere want it.
    #[must_use]
    pub fn with(self, own: Preprocessing) -> Self {
        Self {
            normalisation: Normalisation { mean: own.mean, std: own.std },
            resize_ratio: (1.0 / own.crop_ratio).clamp(1.0, 4.0),
            ..self
        }
    }
}

impl Preparation {
    /// How images are read, `batch` encoded at a time.
    pub fn reading(&self, batch: usize) -> ExtractConfig {
        ExtractConfig {
            view: EvalView {
                geometry: self.geometry,
                normalisation: self.normalisation,
                resize_ratio: self.resize_ratio,
            },
            batch,
            workers: self.workers,
            max_bad_share: self.max_bad_share,
        }
    }
}

/// Images encoded at a time unless told otherwise: a GPU needs many to be busy, a CPU is as fast
/// with few and keeps them in its caches.
pub fn default_encode_batch(backend: Backend) -> usize {
    if backend == Backend::Flex { 32 } else { 256 }
}

/// The same by the device.
pub(crate) fn default_encode_batch_of(device: &Device) -> usize {
    if ocl_model::is_host(device) { 32 } else { 256 }
}

/// Sides of an encoder's crop and patches.
///
/// # Panics
/// If a side is beyond 2^32 pixels.
pub fn geometry(shape: &VitConfig) -> Geometry {
    let px =
        |side: usize| u32::try_from(side).expect("an encoder that fits memory has such a side");
    Geometry { image_px: px(shape.image_px), patch_px: px(shape.patch_px) }
}
