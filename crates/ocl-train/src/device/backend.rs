//! Which of the compiled backends computes.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use thiserror::Error;

/// A tensor backend. All are known by name; a cargo feature of the same name compiles each in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Pure Rust on the CPU.
    Flex,
    /// Any GPU through wgpu.
    Wgpu,
    /// A GPU through Vulkan and SPIR-V.
    Vulkan,
    /// An NVIDIA GPU.
    Cuda,
}

/// A backend that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BackendError {
    /// Not a backend's name.
    #[error("no backend is called `{0}`; there are flex, wgpu, vulkan, cuda")]
    Unknown(String),
    /// The program was built without it.
    #[error(
        "this program was built without {0}; build with `--no-default-features --features {0}`, or \
         start it as `cargo xtask COMMAND --backend {0}`"
    )]
    NotCompiled(Backend),
}

impl Backend {
    /// The CPU, which every machine has.
    pub const DEFAULT: Self = Self::Flex;

    /// The backend's first device, without autodiff.
    ///
    /// # Errors
    /// [`BackendError::NotCompiled`] when its cargo feature is off.
    pub fn device(self) -> Result<Device, BackendError> {
        self.device_number(0)
    }

    /// The backend's device of this number, without autodiff: one for each process on a machine.
    /// Where there are fewer, several processes share one; what is no CUDA device has one for all.
    ///
    /// # Errors
    /// [`BackendError::NotCompiled`] when its cargo feature is off.
    pub fn device_number(self, number: usize) -> Result<Device, BackendError> {
        let _ = number;
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(Device::cuda(number % cuda_devices())),
            #[allow(unreachable_patterns, reason = "with every feature on, nothing is left")]
            other => Err(BackendError::NotCompiled(other)),
        }
    }
}

/// CUDA devices that this process sees; where the driver does not say, one.
#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    let count = cudarc::driver::CudaContext::device_count();
    count.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(1).max(1)
}

/// Whether a device is a GPU: one of cubecl's with cubes of 256 units, which its CPU runtime has
/// not.
#[cfg(feature = "gpu")]
pub(crate) fn is_gpu(device: &Device) -> bool {
    use burn::backend::DispatchDevice;
    let device = device.clone().without_autodiff();
    let DispatchDevice::Cube(device) = device.as_dispatch() else { return false };
    device.client().properties().hardware.max_units_per_cube >= 256
}

/// Whether a device is a GPU: this program knows none.
#[cfg(not(feature = "gpu"))]
pub(crate) fn is_gpu(_: &Device) -> bool {
    false
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(name: &str) -> Result<Self, BackendError> {
        [Self::Flex, Self::Wgpu, Self::Vulkan, Self::Cuda]
            .into_iter()
            .find(|backend| backend.to_string() == name)
            .ok_or_else(|| BackendError::Unknown(name.to_owned()))
    }
}
