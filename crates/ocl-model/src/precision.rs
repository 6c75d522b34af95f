//! The numbers that matrix products are computed in.
//!
//! Backends do not check that the factors of a product are of one type: on a GPU a mixed product
//! gives garbage without a word. So types change in the functions below and nowhere else, and every
//! block asserts at its borders what it was given.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What matrix products are computed in. Parameters, their gradients, the residual stream, norms,
/// softmax and GELU are f32 whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32, to the last bit on CPUs and by cuBLASLt; products of burn's own kernels on GPUs with
    /// tensor cores are TF32 all the same.
    #[default]
    F32,
    /// f32 whose products round their factors to 11 bits, where the device's tensor cores do that
    /// faster.
    Tf32,
    /// bfloat16: the range of f32 with 8 bits of precision, sums in f32.
    Bf16,
}

/// Not the name of a [`Precision`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no precision is called `{0}`; there are f32, tf32 and bf16")]
pub struct UnknownPrecision(String);

impl Precision {
    /// What a device computes in when this is asked for: f32 where it has no bf16, and on the CPU,
    /// whose own block knows nothing else and is faster for it.
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        #[cfg(feature = "flex")]
        if crate::device::is_host(device) {
            return Self::F32;
        }
        if self.exists_on(device) { self } else { Self::F32 }
    }

    /// Whether tensors of this type can be computed with on a device at all.
    pub(crate) fn exists_on(self, device: &Device) -> bool {
        self != Self::Bf16 || device.supports_dtype(FloatDType::BF16)
    }

    /// The type of a product's factors.
    #[cfg(feature = "gpu")]
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// A factor of a product, from f32.
    pub(crate) fn factor<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Tf32 => x,
            Self::Bf16 => x.cast(FloatDType::BF16),
        }
    }

    /// The result of a product as f32.
    pub(crate) fn result<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Tf32 => x,
            Self::Bf16 => x.cast(FloatDType::F32),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        [Self::F32, Self::Tf32, Self::Bf16]
            .into_iter()
            .find(|precision| precision.to_string() == name)
            .ok_or_else(|| UnknownPrecision(name.to_owned()))
    }
}

/// Epsilon of every layer norm, as in ViT; burn's and PyTorch's default is 1e-5.
pub(crate) const NORM_EPSILON: f64 = 1e-6;

/// Stops where something is not f32. Also without debug assertions: computing on would be garbage.
///
/// # Panics
/// Naming the place and the type that was there.
pub(crate) fn assert_f32(found: DType, place: fmt::Arguments<'_>) {
    assert!(found == DType::F32, "{place}: expected F32, got {found:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert_eq!("fp8".parse::<Precision>(), Err(UnknownPrecision("fp8".to_owned())));
    }

    #[test]
    #[cfg(feature = "flex")]
    fn the_cpu_computes_in_f32_whatever_is_asked_for() {
        let device = Device::flex();
        assert!(Precision::Bf16.exists_on(&device));
        assert_eq!(Precision::Bf16.on(&device), Precision::F32);
        assert_eq!(Precision::Bf16.on(&device.autodiff()), Precision::F32);
    }
}
