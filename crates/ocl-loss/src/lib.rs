//! The contrastive objective of OCL on [burn]: a T-distributed spherical similarity between the
//! views of a batch, and the symmetric InfoNCE over it.
//!
//! The crate knows neither images nor encoders: it takes embeddings `[N, D]` and gives a scalar.
//! [`contrastive_gradient`] is what trains: the loss and its gradient in tiles, for batches whose
//! matrix of all pairs does not fit; [`ContrastiveShare`] is the same for a batch that several
//! processes share. [`contrastive_loss`] is the definition, held equal by tests.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use ocl_loss::{TspSimilarity, contrastive_loss};
//!
//! let device = Device::default();
//! let view = || Tensor::<2>::random([8, 16], Distribution::Normal(0.0, 1.0), &device);
//! let similarity = TspSimilarity { kappa: 1.0 / 64.0, temperature: 0.07 };
//! let loss = contrastive_loss(&similarity, view(), view()); // [1]
//! # assert!(loss.into_scalar::<f32>() > 0.0);
//! ```

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod agreement;
mod contrastive;
#[cfg(test)]
mod draw;
mod plain;
mod shared;
mod similarity;

pub use agreement::agreement;
pub use contrastive::{ContrastiveGradient, TILE, contrastive_gradient};
pub use plain::{chance_loss, contrastive_loss};
pub use shared::ContrastiveShare;
pub use similarity::TspSimilarity;
