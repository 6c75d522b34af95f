//! From image files to the kept patches of a masked crop.
//!
//! The path of one sample, a file per arrow: bytes ([`Source`]) -> the crop is drawn
//! ([`sample_crop`]) -> the kept patches are drawn ([`Keep`]) -> only the blocks they need are
//! decoded ([`PartDecoder`]) -> only they are resampled ([`Resampler`], Pillow's antialiased
//! bicubic bit for bit) -> normalised floats -> [`Batch`].
//!
//! Nothing random comes from the order in which threads run: every draw is a function of
//! `(seed, epoch, sample)`, so any number of workers, and a run resumed in the middle, gives the
//! same batches. This crate knows no tensors: a batch is plain vectors.
//!
//! ```
//! use std::sync::Arc;
//! use ocl_data::*;
//!
//! # #[cfg(feature = "embedded")] {
//! let source = Arc::new(Source::open("embedded", SourceKind::Auto, Split::Train)?);
//! let view = View::Train(TrainView {
//!     geometry: Geometry { image_px: 32, patch_px: 4 },
//!     normalisation: Normalisation::IMAGENET,
//!     crop: TrainCrop {
//!         scale: (0.2, 1.0),
//!         ratio: (3.0 / 4.0, 4.0 / 3.0),
//!         flip: 0.5,
//!         filter: Filter::Bicubic,
//!     },
//!     augment: Augment::None,
//!     keep: Keep::Random { kept: 16 },
//! });
//! let config = LoaderConfig { batch: 64, workers: 1, seed: 1, ..LoaderConfig::default() };
//! let batch = Loader::start(source, view, config)?.next().expect("an epoch holds 125 batches")?;
//! assert_eq!((batch.images, batch.kept, batch.patch_len), (64, 16, 48));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// The example of the README is tested.
#[cfg(all(doctest, feature = "embedded"))]
#[doc = include_str!("../README.md")]
struct Readme;

mod augment;
mod decode;
mod error;
mod loader;
mod pack;
mod picture;
mod random;
mod resample;
mod source;
mod view;

pub use augment::{Augmentation, Augmenter, Jitter, Mix, SupervisedAugment};
pub use decode::{ImageHeader, MAX_PIXELS, PartDecoder, decode};
pub use error::{ImageError, LoaderError, SourceError, in_words};
pub use loader::{
    BadImage, Findings, Loader, LoaderConfig, Order, StageTimes, SupervisedBatch, SupervisedConfig,
    SupervisedLoader,
};
pub use pack::{PackOptions, Packed, first_shard, pack};
pub use picture::{Crop, Geometry, MOST_CROP_PX, Normalisation, RgbImage, patchify, sample_crop};
pub use random::{Draws, Purpose};
pub use resample::{Filter, Resampler, Window};
pub use source::{Source, SourceKind, Split, SplitNames};
pub use view::{
    Augment, Batch, BlockMasks, Blocks, EvalView, Keep, TrainCrop, TrainView, View, centre_crop,
};
