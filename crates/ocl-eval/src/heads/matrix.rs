//! Gemm on host matrices, and the two scalings that protocols share.

use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix in host memory, or its transpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// `[rows, columns]`, row after row.
    ///
    /// # Panics
    /// If `values` is no whole number of rows.
    pub(crate) fn new(values: &'a [f32], columns: usize) -> Self {
        assert!(columns > 0 && values.len().is_multiple_of(columns), "rows of {columns} values");
        Self { values, rows: values.len() / columns, columns, transposed: false }
    }

    /// `[columns, rows]`.
    pub(crate) fn transpose(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            transposed: !self.transposed,
            values: self.values,
        }
    }

    /// Steps in memory to the next row and to the next column.
    fn strides(&self) -> (isize, isize) {
        if self.transposed { (1, self.rows as isize) } else { (self.columns as isize, 1) }
    }
}

/// Which threads compute a gemm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread alone, which is one of several that each have a gemm of their own.
    One,
    /// All cores.
    All,
}

/// `out = a b`.
///
/// # Shapes
/// `a` `[M, K]`, `b` `[K, N]`, `out` `[M, N]`, row after row.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn gemm(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], threads: Threads) {
    assert_eq!(a.columns, b.rows, "columns of the left and rows of the right factor");
    assert_eq!(out.len(), a.rows * b.columns, "values of the result");
    let threads = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
    // SAFETY: the strides reach exactly the values of each factor, whose number `Matrix::new` has
    // checked, and those of `out`, checked above; `out` is borrowed mutably, so it overlaps
    // neither.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            false,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

/// `x / max(|x|, 1e-12)` row by row.
pub(crate) fn unit_rows(values: &[f32], columns: usize) -> Vec<f32> {
    let mut unit = values.to_vec();
    unit.par_chunks_exact_mut(columns.max(1)).for_each(|row| {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|v| *v /= length);
    });
    unit
}

/// Mean and deviation of each column: what standardises features.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standard {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Standard {
    /// Of the columns of `values`. A column that never changes is left at zero.
    pub(crate) fn of(values: &[f32], columns: usize) -> Self {
        let rows = (values.len() / columns.max(1)).max(1) as f64;
        let mut sums = vec![(0.0f64, 0.0f64); columns];
        for row in values.chunks_exact(columns.max(1)) {
            for ((sum, squares), value) in sums.iter_mut().zip(row) {
                let value = f64::from(*value);
                *sum += value;
                *squares += value * value;
            }
        }
        let scale = |(sum, squares): &(f64, f64)| {
            let mean = sum / rows;
            let deviation = (squares / rows - mean * mean).max(0.0).sqrt();
            if deviation > 1e-6 * mean.abs().max(1e-6) { 1.0 / deviation } else { 0.0 }
        };
        Self {
            mean: sums.iter().map(|(sum, _)| (sum / rows) as f32).collect(),
            scale: sums.iter().map(|sums| scale(sums) as f32).collect(),
        }
    }

    /// `x - mean`.
    pub(crate) fn centre(&self, values: &[f32]) -> Vec<f32> {
        let rows = values.chunks_exact(self.mean.len().max(1));
        rows.flat_map(|row| row.iter().zip(&self.mean).map(|(value, mean)| value - mean)).collect()
    }

    /// `(x - mean) / deviation`.
    pub(crate) fn apply(&self, values: &[f32]) -> Vec<f32> {
        let mut out = values.to_vec();
        out.par_chunks_exact_mut(self.mean.len().max(1)).for_each(|row| {
            for ((value, mean), scale) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                *value = (*value - mean) * scale;
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_both_orientations() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let b = [1.0, 0.0, 2.0, -1.0, 1.0, 0.5]; // [2, 3]
        let mut out = [0.0; 4];
        gemm(Matrix::new(&a, 3), Matrix::new(&b, 3).transpose(), &mut out, Threads::One);
        assert_eq!(out, [7.0, 2.5, 16.0, 4.0]);
        let mut out = [0.0; 9];
        gemm(Matrix::new(&a, 3).transpose(), Matrix::new(&b, 3), &mut out, Threads::All);
        assert_eq!(out, [-3.0, 4.0, 4.0, -3.0, 5.0, 6.5, -3.0, 6.0, 9.0]);
    }

    #[test]
    fn standardised_columns_have_no_mean_and_unit_deviation() {
        let values = [1.0, 7.0, 10.0, 3.0, 7.0, 30.0];
        let standard = Standard::of(&values, 3);
        // The second column says nothing, and must not become a division by zero.
        assert_eq!(standard.apply(&values), [-1.0, 0.0, -1.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn unit_rows_survive_zeros() {
        assert_eq!(unit_rows(&[3.0, 4.0, 0.0, 0.0], 2), [0.6, 0.8, 0.0, 0.0]);
    }
}
