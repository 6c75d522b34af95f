//! The encoder: its shape, its layers, its block as plain tensor operations, and the whole.

mod block;
mod config;
mod grid;
mod init;
mod layers;
mod parts;
mod pooling;
mod positions;
mod vit;

pub use block::Block;
pub use config::{BlockShape, ConfigError, ENCODER_SIZES, VitConfig};
pub use init::{Draw, Init, redraw};
pub use layers::{LayerNorm, Linear};
pub use pooling::{Pooling, UnknownPooling};
pub use positions::{row_first_table, sincos_table};
pub use vit::Vit;

pub(crate) use parts::Parts;
