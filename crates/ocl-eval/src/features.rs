//! Frozen features of a data set: each image's centre view, seen once.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::{Batch, EvalView, Loader, LoaderConfig, Order, Source, Split, View};
use ocl_model::{Pooling, Vit};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::pixels::append_pixels;
use crate::progress::Progress;

/// Features `[N, D]` and labels `[N]` on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    rows: Vec<f32>,
    width: usize,
    labels: Vec<u32>,
}

impl Features {
    /// Features from their values, row after row.
    ///
    /// # Panics
    /// If there is not one label for each row of `width` values.
    pub fn new(rows: Vec<f32>, width: usize, labels: Vec<u32>) -> Self {
        assert_eq!(rows.len(), width * labels.len(), "expected a label for each row of {width}");
        Self { rows, width, labels }
    }

    /// Number of rows `N`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of a row, `D`.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The class of each row.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The values of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.width..][..self.width]
    }

    /// All values, row after row.
    pub(crate) fn values(&self) -> &[f32] {
        &self.rows
    }

    /// Keeps the columns that `keep` says yes to.
    pub(crate) fn retain_columns(&mut self, keep: impl Fn(usize) -> bool) {
        let columns: Vec<usize> = (0..self.width).filter(|&column| keep(column)).collect();
        let mut end = 0;
        for start in (0..self.rows.len()).step_by(self.width.max(1)) {
            for column in &columns {
                self.rows[end] = self.rows[start + column];
                end += 1;
            }
        }
        self.rows.truncate(end);
        self.rows.shrink_to_fit();
        self.width = columns.len();
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.chunks_exact(self.width.max(1))
    }

    /// Rows of a range on the device, `[R, D]`.
    pub(crate) fn block(&self, rows: Range<usize>, device: &Device) -> Tensor<2> {
        let values = self.rows[rows.start * self.width..rows.end * self.width].to_vec();
        Tensor::from_data(TensorData::new(values, [rows.len(), self.width]), device)
    }

    /// Chosen rows and their labels on the device, `[R, D]` and `[R]`.
    pub(crate) fn gather(&self, rows: &[u32], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        rows.iter().for_each(|row| values.extend_from_slice(self.row(*row as usize)));
        let labels: Vec<i32> = rows.iter().map(|row| self.labels[*row as usize] as i32).collect();
        let values = TensorData::new(values, [rows.len(), self.width]);
        let labels = TensorData::new(labels, [rows.len()]);
        (Tensor::from_data(values, device), Tensor::from_data(labels, device))
    }
}

/// What of an encoder's output is the feature of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The class token after the final norm: what the contrastive loss was trained on.
    #[default]
    Cls,
    /// The mean of the patch tokens after the final norm.
    Mean,
}

impl Pool {
    /// What weights with such norms are made for.
    pub fn of(vit: &Vit) -> Self {
        match vit.usual_pooling() {
            Pooling::Cls => Self::Cls,
            Pooling::Mean => Self::Mean,
        }
    }

    fn pooling(self) -> Pooling {
        match self {
            Self::Cls => Pooling::Cls,
            Self::Mean => Pooling::Mean,
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
        })
    }
}

impl FromStr for Pool {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        match name {
            "cls" => Ok(Self::Cls),
            "mean" => Ok(Self::Mean),
            _ => {
                let reason = format!("`{name}` is neither cls nor mean");
                Err(EvalError::Setting { setting: "pool", reason })
            }
        }
    }
}

/// Where features come from.
#[derive(Clone, Copy, Debug)]
pub enum Extractor<'a> {
    /// A frozen encoder.
    Encoder(&'a Vit, Pool),
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

/// Features of the images of `source` (or of the `subset` of it) under each extractor, in one pass over
/// the images.
///
/// # Errors
/// When the data has no labels, the loader stops, the device fails, or a feature is not finite.
pub fn extract(
    extractors: &[Extractor<'_>],
    source: &Arc<Source>,
    split: Split,
    subset: Option<Vec<u32>>,
    config: &ExtractConfig,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<Features>, EvalError> {
    if source.labels().is_none() {
        return Err(EvalError::NoLabels { data: source.describe() });
    }
    let total = subset.as_ref().map_or(source.len(), Vec::len);
    let loader = LoaderConfig {
        batch: config.batch,
        workers: config.workers,
        order: Order::Sequential,
        max_bad_share: config.max_bad_share,
        subset,
        ..LoaderConfig::default()
    };
    let failed = |source| EvalError::Loader { split, source };
    let view = View::Eval(config.view);
    let mut rows = vec![Vec::new(); extractors.len()];
    let mut labels = Vec::with_capacity(total);
    progress.begin();
    for batch in Loader::start(Arc::clone(source), view, loader).map_err(failed)? {
        let mut batch = batch.map_err(failed)?;
        for (extractor, rows) in extractors.iter().zip(&mut rows) {
            append_features(extractor, &batch, config, source, device, rows)?;
        }
        labels.append(&mut batch.labels);
        progress.images(&format!("features of the {split} split"), labels.len(), total);
    }
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
    let (vit, pool) = match extractor {
        Extractor::Encoder(vit, pool) => (vit, *pool),
        Extractor::RawPixels => {
            append_pixels(batch, config.view.geometry, rows);
            return Ok(());
        }
    };
    for start in (0..batch.images).step_by(config.batch.max(1)) {
        let images = start..batch.images.min(start + config.batch.max(1));
        let tokens = tokens(vit, batch, images.clone(), device);
        let d = vit.config().width;
        let pooled = vit.pooled(tokens, pool.pooling()); // [N, D]
        let features: Vec<f32> = pooled.try_into_vec_as().map_err(EvalError::Device)?;
        if let Some(at) = features.iter().position(|value| !value.is_finite()) {
            let sample = batch.samples[images.start + at / d];
            return Err(EvalError::NotFinite { image: source.name_of(sample as usize) });
        }
        rows.extend(features);
    }
    Ok(())
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
