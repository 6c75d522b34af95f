//! A Vision Transformer encoder that is fed kept patches, on [burn].
//!
//! The crate knows neither images nor losses: it takes patches `[N, K, P*P*3]` with their positions
//! `[N, K]`, and gives tokens `[N, 1+K, D]`. Which backend runs is the caller's `Device`.
//!
//! Read in this order: [`VitConfig`] (the shape of an encoder), [`sincos_table`] (fixed positions),
//! [`Vit`] (patches to tokens to features), [`load_weights`] and [`save_weights`] (safetensors with
//! timm's names), [`open_weights`] and [`export_folder`] (weights of other programs, and for them).

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "flex")]
mod cpu;
mod device;
mod encoder;
#[cfg(feature = "gpu")]
mod gpu;
mod named;
mod precision;
#[cfg(all(test, any(feature = "flex", feature = "gpu")))]
mod testing;
mod weights;

pub use device::{fits_gpu_block, is_host};
pub use encoder::{
    Block, BlockShape, ConfigError, Draw, ENCODER_SIZES, Init, LayerNorm, Linear, Pooling,
    UnknownPooling, Vit, VitConfig, redraw, row_first_table, sincos_table,
};
pub use named::{NamedMapper, NamedVisitor, map_named, visit_named};
pub use precision::{Precision, UnknownPrecision};
pub use weights::{
    ArchiveError, HostTensor, ImportError, OpenOptions, OpenedWeights, PickleError, PrefixError,
    Preprocessing, ShapeError, TorchError, WeightsError, apply_module_state, apply_state,
    classifier_bytes, export_folder, load_weights, module_state, open_weights, save_weights,
    state_bytes, state_bytes_with, state_of, tensor_bytes, tensors_from, weights_file,
    weights_from, weights_with_others_from,
};
