//! A Vision Transformer encoder that is fed kept patches, on [burn].
//!
//! The crate knows neither images nor losses: it takes patches `[N, K, P*P*3]` with their positions
//! `[N, K]`, and gives tokens `[N, 1+K, D]`. Which backend runs is the caller's `Device`.
//!
//! Read in this order: [`VitConfig`] (the shape of an encoder), [`sincos_table`] (fixed positions),
//! [`Vit`] (patches to tokens to features), [`load_weights`] and [`save_weights`] (safetensors with
//! timm's names).

mod block;
mod config;
#[cfg(feature = "flex")]
mod fused;
mod init;
mod layers;
mod layout;
mod positions;
mod vit;
mod weights;

pub use block::{Attention, Block, Mlp};
pub use config::{ConfigError, ENCODER_SIZES, VitConfig};
pub use layers::{LayerNorm, Linear};
pub use layout::HostTensor;
pub use positions::sincos_table;
pub use vit::{PatchEmbed, Vit};
pub use weights::{
    CONFIG_KEY, WeightsError, apply_state, load_weights, save_weights, state_bytes, state_of,
    weights_from,
};
