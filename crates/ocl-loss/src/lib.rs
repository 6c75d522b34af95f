//! The contrastive objective of OCL on [burn]: a T-distributed spherical similarity between the
//! views of a batch, and the symmetric InfoNCE over it.
//!
//! The crate knows neither images nor encoders: it takes embeddings `[N, D]` and gives a scalar.
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

mod agreement;
mod contrastive;
mod similarity;
mod tiles;

pub use agreement::agreement;
pub use contrastive::{chance_loss, contrastive_loss, symmetric_info_nce};
pub use similarity::TspSimilarity;
pub use tiles::{ContrastiveGradient, TILE, contrastive_gradient};
