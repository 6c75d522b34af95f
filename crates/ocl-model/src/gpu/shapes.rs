//! Lengths of a block, and tensors of given shapes.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::{numeric::empty_device_contiguous_dtype, reshape};
use burn_cubecl::tensor::CubeTensor;

/// The lengths of a block.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    pub(super) queries: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
}

impl Lengths {
    pub(super) fn of(x: &CubeTensor, heads: usize, queries: usize) -> Self {
        let dims = x.shape();
        Self { sequences: dims[0], tokens: dims[1], queries, width: dims[2], heads }
    }

    pub(super) fn rows(self) -> usize {
        self.sequences * self.tokens
    }

    pub(super) fn asked(self) -> usize {
        self.sequences * self.queries
    }
}

/// A tensor as a matrix of that many rows. Burn's own results may have padded rows on CUDA; ours
/// have none.
pub(super) fn matrix(tensor: CubeTensor, rows: usize) -> CubeTensor {
    let columns = tensor.shape().num_elements() / rows;
    reshape(into_contiguous(tensor), Shape::new([rows, columns]))
}

/// A matrix in the type of a product's factors.
pub(super) fn as_factor(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    into_contiguous(burn_cubecl::kernel::cast(tensor, dtype))
}

/// Memory for a tensor, on the device of another.
pub(super) fn empty<const N: usize>(
    like: &CubeTensor,
    dims: [usize; N],
    dtype: DType,
) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::new(dims), dtype)
}
