//! Frozen features of a data set: each image's centre view, seen once.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::{
    Batch, EvalView, LoaderConfig, Order, RgbImage, Source, Split, View, centre_crop, patchify,
};
use ocl_model::{Pooling, Vit};
use ocl_train::World;
use rayon::prelude::*;

use super::pixels::append_pixels;
use super::shared::in_turns;
use super::values::Features;
use crate::error::EvalError;
use crate::progress::Progress;

/// Where features come from.
#[derive(Clone, Copy, Debug)]
pub enum Extractor<'a> {
    /// A frozen encoder.
    Encoder(&'a Vit, Pooling),
    /// The pixels of the centre view, at most 32 px a side.
    RawPixels,
}

/// How the images are read.
#[derive(Clone, Debug)]
pub struct ExtractConfig {
    /// Centre view; its sides are the encoder's.
    pub view: EvalView,
    /// Images encoded at a time.
    pub batch: usize,
    /// Loader threads.
    pub workers: usize,
    /// Share of unreadable images above which the loader stops; up to it they are left out.
    pub max_bad_share: f64,
}

/// Features of the images of `source` (or of the `subset` of it) under each extractor, in one pass
/// over the images that the processes of `world` share. The root alone gets features.
///
/// # Errors
/// When the data has no labels, the loader stops, the device fails, or a feature is NaN or
/// infinite.
#[allow(clippy::too_many_arguments, reason = "what, of which images, read how, by whom")]
pub fn extract(
    world: &World,
    extractors: &[Extractor<'_>],
    source: &Arc<Source>,
    split: Split,
    subset: Option<Vec<u32>>,
    config: &ExtractConfig,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<Features>, EvalError> {
    let Some(of_sample) = source.labels() else {
        return Err(EvalError::NoLabels { data: source.describe() });
    };
    let total = subset.as_ref().map_or(source.len(), Vec::len);
    let loader = LoaderConfig {
        batch: config.batch,
        workers: config.workers,
        order: Order::Sequential,
        max_bad_share: config.max_bad_share,
        subset,
        ..LoaderConfig::default()
    };
    let mut rows = vec![Vec::new(); extractors.len()];
    let mut labels = Vec::with_capacity(if world.is_root() { total } else { 0 });
    let make = |batch: &Batch| {
        let made = extractors.iter().map(|extractor| {
            let mut rows = Vec::new();
            append_features(extractor, batch, config, source, device, &mut rows).map(|()| rows)
        });
        made.collect()
    };
    progress.begin();
    let bad = in_turns(world, source, split, View::Eval(config.view), loader, make, |made| {
        rows.iter_mut().zip(made.rows).for_each(|(all, rows)| all.extend(rows));
        labels.extend(made.samples.iter().map(|&sample| of_sample[sample as usize]));
        progress.images(&format!("features of the {split} split"), labels.len(), total);
        Ok(())
    })?;
    progress.left_out(&bad);
    let images = labels.len().max(1);
    let features = rows.into_iter().map(|rows| {
        let width = rows.len() / images;
        Features::new(rows, width, labels.clone())
    });
    Ok(features.collect())
}

/// Appends what an extractor makes of a batch, `[N, D]`, encoding `config.batch` images at a time.
pub(crate) fn append_features(
    extractor: &Extractor<'_>,
    batch: &Batch,
    config: &ExtractConfig,
    source: &Source,
    device: &Device,
    rows: &mut Vec<f32>,
) -> Result<(), EvalError> {
    let (vit, pooling) = match extractor {
        Extractor::Encoder(vit, pooling) => (vit, *pooling),
        Extractor::RawPixels => {
            append_pixels(batch, config.view.geometry, rows);
            return Ok(());
        }
    };
    check_pooling(vit, pooling)?;
    for start in (0..batch.images).step_by(config.batch.max(1)) {
        let images = start..batch.images.min(start + config.batch.max(1));
        let tokens = tokens(vit, batch, images.clone(), device);
        let d = vit.config().width;
        let pooled = vit.pooled(tokens, pooling); // [N, D]
        let features: Vec<f32> = pooled.try_into_vec_as().map_err(EvalError::Device)?;
        if let Some(at) = features.iter().position(|value| !value.is_finite()) {
            let sample = batch.samples[images.start + at / d];
            return Err(EvalError::NotFinite { image: source.name_of(sample as usize) });
        }
        rows.extend(features);
    }
    Ok(())
}

/// Refuses the class token of an encoder that has none.
pub(crate) fn check_pooling(vit: &Vit, pooling: Pooling) -> Result<(), EvalError> {
    if pooling == Pooling::Mean || vit.has_cls_token() {
        return Ok(());
    }
    let reason =
        "cls asks for the class token, but this encoder has no class token; take mean".to_owned();
    Err(EvalError::Setting { setting: "pool", reason })
}

/// The centre views of some images, samples numbered from 0.
pub(crate) fn batch_of(images: &[RgbImage], view: &EvalView) -> Batch {
    let count = view.geometry.patches();
    let cut =
        |image: &RgbImage| patchify(&centre_crop(image, view), view.geometry, &view.normalisation);
    let patches: Vec<Vec<f32>> = images.par_iter().map(cut).collect();
    Batch {
        patches: patches.concat(),
        positions: (0..images.len()).flat_map(|_| 0..count as u32).collect(),
        samples: (0..images.len() as u64).collect(),
        images: images.len(),
        kept: count,
        patch_len: view.geometry.patch_len(),
        ..Batch::default()
    }
}

/// Tokens of a range of a batch's images on the device, `[R, K, D]`.
pub(crate) fn tokens(vit: &Vit, batch: &Batch, images: Range<usize>, device: &Device) -> Tensor<3> {
    let (n, k, len) = (images.len(), batch.kept, batch.patch_len);
    let patches = batch.patches[images.start * k * len..images.end * k * len].to_vec();
    let patches = Tensor::<3>::from_data(TensorData::new(patches, [n, k, len]), device);
    let places = &batch.positions[images.start * k..images.end * k];
    let places: Vec<i32> = places.iter().map(|&place| place as i32).collect();
    let places = Tensor::<2, Int>::from_data(TensorData::new(places, [n, k]), device);
    vit.tokens(patches, places)
}

/// The feature of one picture.
///
/// # Errors
/// When the feature is NaN or infinite or the device fails.
pub fn feature_of(
    vit: &Vit,
    pool: Pooling,
    image: &RgbImage,
    reading: &ExtractConfig,
    source: &Source,
    device: &Device,
) -> Result<Vec<f32>, EvalError> {
    let batch = batch_of(std::slice::from_ref(image), &reading.view);
    let mut row = Vec::new();
    append_features(&Extractor::Encoder(vit, pool), &batch, reading, source, device, &mut row)?;
    Ok(row)
}
