//! Features on the host, row after row.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Features `[N, D]` and labels `[N]` on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    rows: Vec<f32>,
    width: usize,
    labels: Vec<u32>,
}

impl Features {
    /// Features from their values, row after row.
    ///
    /// # Panics
    /// If there is not one label for each row of `width` values.
    pub fn new(rows: Vec<f32>, width: usize, labels: Vec<u32>) -> Self {
        assert_eq!(rows.len(), width * labels.len(), "expected a label for each row of {width}");
        Self { rows, width, labels }
    }

    /// Number of rows `N`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of a row, `D`.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The class of each row.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The values of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.width..][..self.width]
    }

    /// All values, row after row.
    pub(crate) fn values(&self) -> &[f32] {
        &self.rows
    }

    /// Keeps the columns that `keep` says yes to.
    pub(crate) fn retain_columns(&mut self, keep: impl Fn(usize) -> bool) {
        let columns: Vec<usize> = (0..self.width).filter(|&column| keep(column)).collect();
        let mut end = 0;
        for start in (0..self.rows.len()).step_by(self.width.max(1)) {
            for column in &columns {
                self.rows[end] = self.rows[start + column];
                end += 1;
            }
        }
        self.rows.truncate(end);
        self.rows.shrink_to_fit();
        self.width = columns.len();
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.chunks_exact(self.width.max(1))
    }

    /// Rows of a range on the device, `[R, D]`.
    pub(crate) fn block(&self, rows: Range<usize>, device: &Device) -> Tensor<2> {
        let values = self.rows[rows.start * self.width..rows.end * self.width].to_vec();
        Tensor::from_data(TensorData::new(values, [rows.len(), self.width]), device)
    }

    /// Chosen rows and their labels on the device, `[R, D]` and `[R]`.
    pub(crate) fn gather(&self, rows: &[u32], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        rows.iter().for_each(|row| values.extend_from_slice(self.row(*row as usize)));
        let labels: Vec<i32> = rows.iter().map(|row| self.labels[*row as usize] as i32).collect();
        let values = TensorData::new(values, [rows.len(), self.width]);
        let labels = TensorData::new(labels, [rows.len()]);
        (Tensor::from_data(values, device), Tensor::from_data(labels, device))
    }
}
