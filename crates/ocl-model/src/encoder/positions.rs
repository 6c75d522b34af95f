//! Fixed 2-D sine-cosine positions.

/// The table of fixed positions, row-major `[1 + side * side, width]`; row 0, the class token's, is
/// zero.
///
/// The first half of the channels encodes the column, the second half the row; each half is
/// `[sin(p w), cos(p w)]` with `w_i = 10000^(-i / (width / 4))`. Computed in f64, stored in f32.
/// Source: MAE (arXiv 2111.06377, appendix A.1), after "Attention is all you need", section 3.5.
///
/// # Panics
/// If `width` is not a multiple of 4.
pub fn sincos_table(width: usize, side: usize) -> Vec<f32> {
    assert!(width.is_multiple_of(4), "positions need a width that is a multiple of 4, got {width}");
    let quarter = width / 4;
    let omega: Vec<f64> =
        (0..quarter).map(|i| 1.0 / 10000f64.powf(i as f64 / quarter as f64)).collect();
    let mut table = vec![0.0; (1 + side * side) * width];
    for (index, row) in table.chunks_exact_mut(width).skip(1).enumerate() {
        let (y, x) = ((index / side) as f64, (index % side) as f64);
        for (i, w) in omega.iter().enumerate() {
            row[i] = (x * w).sin() as f32;
            row[quarter + i] = (x * w).cos() as f32;
            row[2 * quarter + i] = (y * w).sin() as f32;
            row[3 * quarter + i] = (y * w).cos() as f32;
        }
    }
    table
}

/// [`sincos_table`] with rows and columns exchanged, as MoCo v3 has it (arXiv 2104.02057): the
/// first half of the channels encodes the row. Weights that were trained with the one table and
/// used with the other give no error, only poor features.
pub fn row_first_table(width: usize, side: usize) -> Vec<f32> {
    let table = sincos_table(width, side);
    let row = |index: usize| &table[index * width..(index + 1) * width];
    let mut exchanged = row(0).to_vec();
    for index in 0..side * side {
        exchanged.extend_from_slice(row(1 + index % side * side + index / side));
    }
    exchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_token_is_zero_and_columns_come_first() {
        let table = sincos_table(8, 3);
        assert_eq!(table.len(), 10 * 8);
        assert!(table[..8].iter().all(|&v| v == 0.0));
        // Patch 1 is column 1 of row 0: only the first half moves away from sin 0, cos 0.
        let patch_1 = &table[16..24];
        assert!((patch_1[0] - 1f32.sin()).abs() < 1e-7);
        assert_eq!(&patch_1[4..], &[0.0, 0.0, 1.0, 1.0]);
    }
}
