//! What kind of device tensors are on, as far as it decides who computes.

use std::sync::OnceLock;

use burn::tensor::Device;

/// Whether a device computes in the host's memory, where slices can be worked on and our own passes
/// and products are the faster ones.
pub fn is_host(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    {
        use burn::backend::DispatchDevice;
        matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
    }
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Whether a GPU runs blocks of this shape in kernels of its own, where attention needs no matrix
/// of scores in memory: up to 64 tokens a sequence, heads in whole vectors of four channels, a
/// width that a cube of units holds. `OCL_PLAIN_BLOCK` in the environment forbids it: a way to tell
/// a fault of these kernels from another.
pub fn fits_gpu_block(tokens: usize, width: usize, heads: usize) -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    let allowed = ALLOWED.get_or_init(|| std::env::var_os("OCL_PLAIN_BLOCK").is_none());
    *allowed && tokens <= 64 && (width / heads).is_multiple_of(4) && width <= 4096
}
