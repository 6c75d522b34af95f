//! A recipe: what a user writes, in TOML. Every key is required or documented as optional; unknown
//! keys are refused. [`Plan`](crate::Plan) is what follows from it.

use ocl_data::{Source, SourceError, SourceKind, Split, SplitNames};
use ocl_model::Precision;
use serde::{Deserialize, Serialize};

use super::Chunk;
use crate::methods::Method;

/// A recipe as written. `file < OCL__SECTION__KEY environment < --set section.key=value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// What is read, and the crop.
    pub data: DataRecipe,
    /// The encoder.
    pub model: ModelRecipe,
    /// The pre-training method and its constants.
    pub method: Method,
    /// The optimiser and its schedule.
    pub optim: OptimRecipe,
    /// What is contrasted, and what is in memory.
    pub batch: BatchRecipe,
    /// Length, seed, checkpoints.
    pub train: TrainRecipe,
    /// How closely the run is watched; it changes no result.
    #[serde(default)]
    pub monitor: MonitorRecipe,
    /// Epochs of warm-up as written, where asking for a shorter run has shortened them too.
    #[serde(skip)]
    pub(crate) warmup_written: Option<f64>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecipe {
    /// A folder, or `embedded`.
    pub path: String,
    /// What the path holds; `auto` tells from the path alone.
    pub kind: SourceKind,
    /// `train_split` and `test_split`: what the parts are called, where names do not tell.
    #[serde(flatten)]
    pub splits: SplitNames,
    /// Side of the crop the encoder sees, in pixels.
    pub image_px: usize,
    /// Area of a random crop, as a share of the image: `[low, high]`.
    pub crop_scale: [f64; 2],
    /// Width over height of a random crop: `[low, high]`.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// For evaluation: the short side is resized to this times `image_px`, then the centre is cut.
    pub resize_ratio: f64,
    /// Mean of each channel, in units of 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, in units of 0..1.
    pub std: [f32; 3],
    /// Share of unreadable images that stops the run.
    pub max_bad_share: f64,
    /// Loader threads; 0 means one for each processor but one.
    pub workers: usize,
}

impl DataRecipe {
    /// Opens a part of the data.
    ///
    /// # Errors
    /// As [`Source::open_named`].
    pub fn open(&self, split: Split) -> Result<Source, SourceError> {
        Source::open_named(&self.path, self.kind, split, &self.splits)
    }
}

/// `[model]`: a named `size`, or `width`, `depth` and `heads`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecipe {
    /// One of [`ocl_model::ENCODER_SIZES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Side of a patch in pixels.
    pub patch_px: usize,
    /// Token width; overrides the size's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Blocks; overrides the size's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Attention heads; overrides the size's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Hidden width of the MLP over `width`; 4 when absent, as in every ViT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_ratio: Option<usize>,
}

/// `[optim]`: AdamW under a warm-up and half a cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimRecipe {
    /// Learning rate for a batch of 256; the rate used is `base_lr * batch / 256`.
    pub base_lr: f64,
    /// Learning rate at the end, absolute.
    pub min_lr: f64,
    /// Length of the linear warm-up.
    pub warmup_epochs: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Epsilon of AdamW.
    pub eps: f64,
    /// Global norm that the gradients of a step are scaled down to where they exceed it; no
    /// clipping when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Decay of a moving average of the weights, left in `encoder-average.safetensors`; none when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
}

/// `[batch]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchRecipe {
    /// Images contrasted with one another in a step.
    pub size: usize,
    /// Images whose intermediate values are in memory at once; the others are encoded twice. As
    /// many as fit when absent. On the CPU it changes no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Chunk>,
    /// Images that are encoded together, and whose gradients are summed together;
    /// the least chunk of a run.
    /// As many as keep the threads busy when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Parts of a batch, a power of two, whose gradients are summed as a binary tree; as many
    /// processes may share the run, and any number of them gives the same bits on the CPU. When
    /// absent 1 for one process, and 8 or more for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<usize>,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRecipe {
    /// Passes over the data.
    pub epochs: u64,
    /// Decides parameters, order, crops and masks.
    pub seed: u64,
    /// What matrix products are computed in, on devices that have it; f32 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// A checkpoint every so many epochs (and at the end, and when interrupted).
    pub checkpoint_every_epochs: f64,
    /// Checkpoints kept; older ones are removed.
    pub keep_checkpoints: usize,
    /// Checkpoints at multiples of so many epochs are written too, and never removed; none when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every_epochs: Option<f64>,
    /// Seconds that one of several processes waits for the others before it ends all of them; 600
    /// when absent, 0 for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_secs: Option<u64>,
}

/// `[monitor]`: every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorRecipe {
    /// Effective rank and uniformity every so many steps, 0 for never; every 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// k-NN on held-out labelled images every so many epochs, 0 for never; when absent as often as
    /// takes less than a hundredth of the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn_every_epochs: Option<f64>,
    /// What the device can do, in TFLOP a second, for the share of it that is used; told from a
    /// GPU's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_tflops: Option<f64>,
}
