//! Robustness: a probe trained on clean images, measured on corrupted ones.

use burn::tensor::Device;
use ocl_data::{Batch, EvalView, Geometry, RgbImage, Split, centre_crop, patchify};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::corruptions::{Corruption, kept};
use super::linear_cached::{CachedConfig, CachedProbe};
use super::measured::{Measured, Score};
use crate::error::EvalError;
use crate::features::{Features, Material, Subject, append_features};
use crate::progress::Progress;

/// `[robustness]`: strengths of each corruption, least first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobustnessConfig {
    /// Standard deviations of Gaussian noise, of values in 0..1.
    pub noise: Vec<f64>,
    /// Standard deviations of a Gaussian blur in pixels of a crop of 224 px; smaller crops are
    /// blurred in proportion.
    pub blur_px: Vec<f64>,
    /// What is left of the contrast.
    pub contrast: Vec<f64>,
    /// Qualities of JPEG, 1 to 100.
    pub jpeg: Vec<u8>,
    /// Shares of the patches that are painted over with the mean colour.
    pub occlude: Vec<f64>,
    /// Shares of the patches that the encoder is not shown.
    pub drop: Vec<f64>,
}

impl RobustnessConfig {
    /// Says what is wrong with the settings, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(&self) -> Result<(), EvalError> {
        let wrong =
            |setting, reason: &str| Err(EvalError::Setting { setting, reason: reason.to_owned() });
        let shares = |values: &[f64]| values.iter().all(|v| (0.0..1.0).contains(v));
        if !shares(&self.occlude) || !shares(&self.drop) {
            return wrong("robustness.occlude", "shares of patches are 0 to below 1");
        }
        let positive = |values: &[f64]| values.iter().all(|v| v.is_finite() && *v >= 0.0);
        if !positive(&self.noise) || !positive(&self.blur_px) || !shares(&self.contrast) {
            return wrong("robustness.noise", "strengths are 0 or more, contrasts 0 to below 1");
        }
        if self.jpeg.iter().any(|quality| !(1..=100).contains(quality)) {
            return wrong("robustness.jpeg", "qualities are 1 to 100");
        }
        Ok(())
    }

    /// Every corruption with its name.
    fn all(&self, image_px: u32) -> Vec<(&'static str, String, Corruption)> {
        let scale = f64::from(image_px) / 224.0;
        let mut all = Vec::new();
        let mut add = |kind, strength: String, corruption| all.push((kind, strength, corruption));
        self.noise.iter().for_each(|&v| add("noise", v.to_string(), Corruption::Noise(v)));
        for &v in &self.blur_px {
            add("blur", format!("{v} px of 224"), Corruption::Blur(v * scale));
        }
        self.contrast.iter().for_each(|&v| add("contrast", v.to_string(), Corruption::Contrast(v)));
        self.jpeg.iter().for_each(|&v| add("jpeg", v.to_string(), Corruption::Jpeg(v)));
        let percent = |v: f64| format!("{} %", v * 100.0);
        self.occlude.iter().for_each(|&v| add("occluded", percent(v), Corruption::Occlude(v)));
        self.drop.iter().for_each(|&v| add("not shown", percent(v), Corruption::Drop(v)));
        all
    }
}

/// Trains the cached probe (seed 0) on clean training images and measures it on the test images
/// under each corruption. Noise, blur, contrast and JPEG have the strengths of ImageNet-C (arXiv
/// 1903.12261); occlusion is this method's own question: patches painted over, as in the world, or
/// not shown, as in its training.
///
/// The headline is the mean over the kinds of corruption of the mean over their strengths.
///
/// # Errors
/// When images cannot be read or the device fails; raw pixels cannot be measured so.
pub(super) fn robustness(
    material: &Material<'_>,
    corruptions: &RobustnessConfig,
    config: &CachedConfig,
    device: &Device,
    progress: &mut Progress,
) -> Result<Measured, EvalError> {
    if matches!(material.subject, Subject::RawPixels) {
        let reason = "robustness is measured on an encoder, not on raw pixels".to_owned();
        return Err(EvalError::Setting { setting: "protocols", reason });
    }
    let (train, test) = (&material.splits.train, &material.splits.test);
    let classes = material.data.classes();
    let probe = CachedProbe::fit(train, classes, config, 0, device, progress)?;
    let clean = probe.accuracy(test)?.top1;
    let mut kinds: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut scores = vec![Score::new("clean top-1", vec![clean])];
    for (kind, strength, corruption) in corruptions.all(material.reading.view.geometry.image_px) {
        progress.line(|| format!("robustness: {kind} {strength}"));
        let corrupted = corrupted(material, corruption, device)?;
        let top1 = probe.accuracy(&corrupted)?.top1;
        scores.push(Score::new(format!("{kind} {strength} top-1"), vec![top1]));
        match kinds.last_mut().filter(|last| last.0 == kind) {
            Some(last) => last.1.push(top1),
            None => kinds.push((kind, vec![top1])),
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let means: Vec<f64> = kinds.iter().map(|(_, values)| mean(values)).collect();
    scores.insert(0, Score::new("mean over damages top-1", vec![mean(&means)]));
    let mut constants = serde_json::to_value(corruptions).expect("settings are plain data");
    constants["probe"] = serde_json::to_value(config).expect("settings are plain data");
    Ok(Measured { constants, scores, seeds: vec![0] })
}

/// Features of the test images under a corruption.
fn corrupted(
    material: &Material<'_>,
    corruption: Corruption,
    device: &Device,
) -> Result<Features, EvalError> {
    /// Images that are held at a time.
    const IMAGES: usize = 1024;
    let source = material.data.split(Split::Test);
    let labels = source.labels().unwrap_or_default();
    let view = material.reading.view;
    let samples = material
        .data
        .sample(Split::Test, material.limits[1])
        .unwrap_or_else(|| (0..source.len() as u32).collect());
    let (mut rows, mut own) = (Vec::new(), Vec::new());
    for samples in samples.chunks(IMAGES) {
        let made: Result<Vec<_>, EvalError> = samples
            .par_iter()
            .map(|&sample| {
                // The clean pass has counted and reported what cannot be read.
                let Ok(image) = source.image(sample as usize) else { return Ok(None) };
                let patches = patches(&image, &view, corruption, u64::from(sample))?;
                Ok(Some((sample, patches)))
            })
            .collect();
        let mut batch = Batch { patch_len: view.geometry.patch_len(), ..Batch::default() };
        for (sample, (patches, positions)) in made?.into_iter().flatten() {
            batch.samples.push(u64::from(sample));
            batch.kept = positions.len();
            batch.patches.extend(patches);
            batch.positions.extend(positions);
            own.push(labels[sample as usize]);
        }
        batch.images = batch.samples.len();
        if batch.images > 0 {
            let reading = material.reading;
            append_features(&material.extractor(), &batch, reading, source, device, &mut rows)?;
        }
    }
    let width = rows.len() / own.len().max(1);
    Ok(Features::new(rows, width, own))
}

/// Normalised patches of a corrupted centre crop that are shown, and their positions.
fn patches(
    image: &RgbImage,
    view: &EvalView,
    corruption: Corruption,
    sample: u64,
) -> Result<(Vec<f32>, Vec<u32>), EvalError> {
    let Geometry { patch_px, .. } = view.geometry;
    let mut crop = centre_crop(image, view);
    let mean = view.normalisation.mean;
    let grey = mean.map(|mean| (mean * 255.0).round().clamp(0.0, 255.0) as u8);
    corruption.apply(&mut crop, patch_px as usize, grey, sample)?;
    let all = patchify(&crop, view.geometry, &view.normalisation);
    let count = view.geometry.patches();
    let positions = match corruption {
        Corruption::Drop(share) => kept(count, share, sample),
        _ => (0..count as u32).collect(),
    };
    let len = view.geometry.patch_len();
    let shown = positions.iter().flat_map(|&p| &all[p as usize * len..][..len]).copied();
    Ok((shown.collect(), positions))
}
