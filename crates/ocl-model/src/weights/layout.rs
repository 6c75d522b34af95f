//! From a parameter in memory to the same parameter in a timm weights file, and back.
//!
//! Names are equal by construction; two layouts differ. Matrices are transposed, and the patch
//! projection is a convolution kernel `[D, 3, P, P]` there, a matrix of (row, column, channel)
//! here.

/// A tensor on the host: f32 values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Lengths of the dimensions.
    pub shape: Vec<usize>,
    /// Values, as many as the product of `shape`.
    pub values: Vec<f32>,
}

const PATCH_KERNEL: &str = "patch_embed.proj.weight";

impl HostTensor {
    /// Turns parameter `name` from this crate's layout into timm's.
    pub(crate) fn into_timm(self, name: &str) -> Self {
        if name.ends_with(PATCH_KERNEL) {
            let (patch_px, width) = ((self.shape[0] / 3).isqrt(), self.shape[1]);
            let values = permute_kernel(&self.values, patch_px, width, true);
            return Self { shape: vec![width, 3, patch_px, patch_px], values };
        }
        self.transposed_if_matrix()
    }

    /// Turns parameter `name` from timm's layout into this crate's.
    pub(crate) fn into_ours(self, name: &str) -> Self {
        if name.ends_with(PATCH_KERNEL) && self.shape.len() == 4 {
            let (patch_px, width) = (self.shape[3], self.shape[0]);
            let values = permute_kernel(&self.values, patch_px, width, false);
            return Self { shape: vec![patch_px * patch_px * 3, width], values };
        }
        self.transposed_if_matrix()
    }

    fn transposed_if_matrix(self) -> Self {
        let &[rows, columns] = self.shape.as_slice() else { return self };
        let mut values = vec![0.0; self.values.len()];
        for r in 0..rows {
            for c in 0..columns {
                values[c * rows + r] = self.values[r * columns + c];
            }
        }
        Self { shape: vec![columns, rows], values }
    }
}

/// Moves values between `[P, P, 3, D]` (ours) and `[D, 3, P, P]` (timm's).
fn permute_kernel(values: &[f32], patch_px: usize, width: usize, to_timm: bool) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for pixel in 0..patch_px * patch_px {
        for channel in 0..3 {
            for d in 0..width {
                let ours = (pixel * 3 + channel) * width + d;
                let timm = (d * 3 + channel) * patch_px * patch_px + pixel;
                if to_timm {
                    out[timm] = values[ours];
                } else {
                    out[ours] = values[timm];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_matrix_is_transposed_and_comes_back() {
        let ours = HostTensor { shape: vec![2, 2], values: vec![1.0, 2.0, 3.0, 4.0] };
        let timm = ours.clone().into_timm("blocks.0.attn.proj.weight");
        assert_eq!(timm.values, [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(timm.into_ours("blocks.0.attn.proj.weight"), ours);
    }

    #[test]
    fn the_kernel_goes_channel_first_and_comes_back() {
        let values: Vec<f32> = (0..2 * 2 * 3 * 2).map(|v| v as f32).collect();
        let ours = HostTensor { shape: vec![12, 2], values };
        let timm = ours.clone().into_timm(PATCH_KERNEL);
        assert_eq!(timm.shape, [2, 3, 2, 2]);
        // Output 0, channel 0: pixels 0 to 3 stand at rows 0, 3, 6, 9 of our matrix.
        assert_eq!(timm.values[..4], [0.0, 6.0, 12.0, 18.0]);
        assert_eq!(timm.into_ours(PATCH_KERNEL), ours);
    }
}
