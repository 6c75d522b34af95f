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

    /// As weights from elsewhere want it: the short side is `floor(image_px / crop_ratio)`, rounded
    /// as timm's Python rounds it.
    #[must_use]
    pub fn with(self, own: Preprocessing) -> Self {
        let px = f64::from(self.geometry.image_px);
        let normalisation = Normalisation { mean: own.mean, std: own.std };
        let ratio = (1.0 / own.crop_ratio).clamp(1.0, 4.0);
        let made = Self { normalisation, resize_ratio: ratio, ..self };
        let short = (px / own.crop_ratio).floor().clamp(px, 4.0 * px);
        if f64::from(made.view().short_px()) == short {
            return made;
        }
        Self { resize_ratio: short / px, ..made }
    }

    /// The same in the words of files of weights.
    pub(crate) fn preprocessing(&self) -> Preprocessing {
        let Normalisation { mean, std } = self.normalisation;
        let (px, short) = (f64::from(self.geometry.image_px), f64::from(self.view().short_px()));
        let mut crop_ratio = 1.0 / self.resize_ratio;
        // Who divides by it must not come out a pixel short.
        while (px / crop_ratio).floor() < short {
            crop_ratio = crop_ratio.next_down();
        }
        Preprocessing { mean, std, crop_ratio }
    }

    /// The centre view of images so prepared.
    pub fn view(&self) -> EvalView {
        let Self { normalisation, resize_ratio, geometry, .. } = *self;
        EvalView { geometry, normalisation, resize_ratio }
    }

    /// How images are read, `batch` encoded at a time.
    pub fn reading(&self, batch: usize) -> ExtractConfig {
        ExtractConfig {
            view: self.view(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn timms(image_px: u32, crop_ratio: f64) -> Preparation {
        let own = Preprocessing { mean: [0.5; 3], std: [0.5; 3], crop_ratio };
        Preparation::imagenet(Geometry { image_px, patch_px: 1 }).with(own)
    }

    #[test]
    fn the_short_side_is_timms() {
        for (image_px, crop_ratio, short_px) in [
            (224, 0.9, 248),
            (224, 0.875, 256),
            (384, 1.0, 384),
            (32, 0.9, 35),
            (240, 0.95, 252),
            (224, 0.7, 320),
            // math.floor(66 / 0.55), by Python: the quotient is a little below 120.
            (66, 0.55, 119),
        ] {
            let preparation = timms(image_px, crop_ratio);
            assert_eq!(preparation.view().short_px(), short_px, "{image_px} / {crop_ratio}");
        }
        assert_eq!(Preparation::imagenet(timms(224, 1.0).geometry).view().short_px(), 256);
    }

    #[test]
    fn what_is_exported_gives_the_same_short_side() {
        for image_px in [28, 32, 66, 96, 224, 384, 518] {
            for thousandths in 400..=1000 {
                let preparation = timms(image_px, f64::from(thousandths) / 1000.0);
                let short = f64::from(preparation.view().short_px());
                let written = preparation.preprocessing().crop_ratio;
                assert_eq!((f64::from(image_px) / written).floor(), short, "{image_px}, {written}");
                let again = timms(image_px, written);
                assert_eq!(again.view().short_px(), preparation.view().short_px());
            }
        }
        assert_eq!(timms(224, 0.875).preprocessing().crop_ratio, 0.875);
        assert!((timms(224, 0.9).preprocessing().crop_ratio - 0.9).abs() < 1e-12);
    }
}
