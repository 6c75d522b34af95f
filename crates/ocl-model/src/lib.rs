//! A Vision Transformer encoder that is fed kept patches, on [burn].
//!
//! The crate knows neither images nor losses: it takes patches `[N, K, P*P*3]` with their positions
//! `[N, K]`, and gives tokens `[N, 1+K, D]`. Which backend runs is the caller's `Device`.
//!
//! Read in this order: [`VitConfig`] (the shape of an encoder), [`sincos_table`] (fixed positions),
//! [`Vit`] (patches to tokens to features), [`load_weights`] and [`save_weights`] (safetensors with
//! timm's names), [`open_weights`] and [`export_folder`] (weights of other programs, and for them).

mod block;
mod config;
mod file;
mod foreign;
#[cfg(feature = "flex")]
mod fused;
#[cfg(feature = "gpu")]
mod gpu;
mod hub;
mod init;
mod layers;
mod layout;
mod parts;
mod positions;
mod precision;
mod resample;
#[cfg(all(test, any(feature = "flex", feature = "gpu")))]
mod testing;
mod vit;
mod weights;

pub use block::{Attention, Block, Mlp, fits_gpu_block};
pub use config::{ConfigError, ENCODER_SIZES, VitConfig};
pub use file::{CONFIG_KEY, load_weights, save_weights, state_bytes, weights_from};
pub use foreign::{
    ArchiveError, ForeignError, OpenOptions, OpenedWeights, PickleError, ShapeError, TorchError,
    open_weights,
};
pub use hub::{Preprocessing, export_folder, preprocessing_beside, weights_file};
pub use layers::{LayerNorm, LayerScale, Linear};
pub use layout::HostTensor;
pub use positions::sincos_table;
pub use precision::{Precision, UnknownPrecision};
pub use vit::{PatchEmbed, Pooling, Vit};
pub use weights::{WeightsError, apply_state, state_of};
