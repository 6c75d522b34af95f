//! Pixels, sides and boxes, and how pixels become normalised patches.

mod crop;
mod geometry;
mod normalise;
mod patchify;
mod pixels;

pub use crop::{Crop, sample_crop};
pub use geometry::{Geometry, MOST_CROP_PX, Normalisation};
pub(crate) use normalise::Normaliser;
pub use patchify::patchify;
pub(crate) use patchify::{PatchCut, cut};
pub use pixels::RgbImage;
