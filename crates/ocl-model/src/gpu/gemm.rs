//! Matrix products on a GPU: cuBLASLt where CUDA has it, else burn's own.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric::add;
use burn_cubecl::tensor::CubeTensor;

#[cfg(feature = "cuda")]
use super::{cublas, shapes::empty};
use crate::precision::Precision;

/// `lhs rhs`, plus a bias of each column, plus a matrix.
///
/// Factors are contiguous matrices, `[rows, columns]` as stored; a transposed one is read the other
/// way round.
pub(super) struct Gemm<'a> {
    pub(super) lhs: &'a CubeTensor,
    pub(super) lhs_transposed: bool,
    pub(super) rhs: &'a CubeTensor,
    pub(super) rhs_transposed: bool,
    /// `[columns]`, f32; the result must be f32 too.
    pub(super) bias: Option<&'a CubeTensor>,
    /// `[rows, columns]`, of the result's type.
    pub(super) plus: Option<&'a CubeTensor>,
    pub(super) out: DType,
    /// Read by cuBLASLt alone: burn's products choose for themselves.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(super) precision: Precision,
}

impl<'a> Gemm<'a> {
    /// `lhs rhs` alone.
    pub(super) fn of(
        lhs: &'a CubeTensor,
        rhs: &'a CubeTensor,
        out: DType,
        precision: Precision,
    ) -> Self {
        let (lhs_transposed, rhs_transposed) = (false, false);
        Self { lhs, lhs_transposed, rhs, rhs_transposed, bias: None, plus: None, out, precision }
    }

    /// `lhs^T rhs`.
    pub(super) fn lhs_transposed(self) -> Self {
        Self { lhs_transposed: true, ..self }
    }

    /// `lhs rhs^T`.
    pub(super) fn rhs_transposed(self) -> Self {
        Self { rhs_transposed: true, ..self }
    }

    /// Rows, inner dimension and columns.
    ///
    /// # Panics
    /// If the factors do not fit or differ in type: GPUs compute garbage from mixed ones without a
    /// word.
    pub(super) fn dims(&self) -> [usize; 3] {
        let dims = |x: &CubeTensor, transposed: bool| {
            let shape = x.shape();
            assert!(shape.num_dims() == 2 && x.is_contiguous(), "a factor is a matrix, got {x:?}");
            if transposed { [shape[1], shape[0]] } else { [shape[0], shape[1]] }
        };
        let [rows, inner] = dims(self.lhs, self.lhs_transposed);
        let [other, columns] = dims(self.rhs, self.rhs_transposed);
        assert_eq!(inner, other, "factors of a product");
        assert_eq!(self.lhs.dtype, self.rhs.dtype, "types of a product's factors");
        if let Some(bias) = self.bias {
            let fits = bias.shape().num_elements() == columns && bias.is_contiguous();
            assert!(fits && bias.dtype == DType::F32, "a bias of {columns} columns, got {bias:?}");
        }
        if let Some(plus) = self.plus {
            let fits = plus.shape().num_elements() == rows * columns && plus.is_contiguous();
            assert!(fits && plus.dtype == self.out, "a matrix of {rows} rows to add, got {plus:?}");
        }
        [rows, inner, columns]
    }

    /// Computes it: `[rows, columns]`.
    pub(super) fn run(self) -> CubeTensor {
        #[cfg(feature = "cuda")]
        if cublas::serves(self.lhs) {
            let [rows, _, columns] = self.dims();
            let out = empty(self.lhs, [rows, columns], self.out);
            cublas::launch(&self, &out);
            return out;
        }
        self.run_plain()
    }

    /// The same by burn's kernels.
    fn run_plain(&self) -> CubeTensor {
        let [rows, _, columns] = self.dims();
        let view = |x: &CubeTensor, transposed: bool| {
            let mut x = x.clone();
            if transposed {
                x.meta.swap(0, 1);
            }
            x
        };
        let (lhs, rhs) = (view(self.lhs, self.lhs_transposed), view(self.rhs, self.rhs_transposed));
        let out = matmul(lhs, rhs, None, MatmulStrategy::default(), self.out);
        let mut out =
            out.unwrap_or_else(|error| panic!("a product of [{rows}, {columns}]: {error:?}"));
        if let Some(plus) = self.plus {
            out = add(out, plus.clone());
        }
        if let Some(bias) = self.bias {
            let bias = burn_cubecl::ops::reshape(bias.clone(), Shape::new([1, columns]));
            out = add(out, bias);
        }
        out
    }
}
