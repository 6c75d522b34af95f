//! Learned positions of another grid.

/// A table of positions `[from * from, width]` resampled to `[to * to, width]`: antialiased
/// bicubic, one axis after the other, as timm's `resample_abs_pos_embed`, which is PyTorch's
/// `interpolate(mode="bicubic", antialias=True)`.
///
/// Output `i` of an axis is the mean of the inputs `j` weighted with `k((j + 0.5 - c) / s)`, where
/// `c = (i + 0.5) from / to`, `s = max(1, from / to)`, and `k` is the cubic kernel with `a = -0.5`
/// (Keys 1981) on `|x| < 2`; weights outside of the table are left out and the rest made to sum to
/// 1.
///
/// # Panics
/// If the table has not `from * from` rows of `width` values.
pub(crate) fn resample_positions(table: &[f32], width: usize, from: usize, to: usize) -> Vec<f32> {
    assert_eq!(table.len(), from * from * width, "positions: expected a square of {from}");
    let axis: Vec<Vec<(usize, f64)>> = (0..to).map(|i| weights(i, from, to)).collect();
    let sum = |terms: &[(usize, f64)], value: &dyn Fn(usize) -> f64| -> f64 {
        terms.iter().map(|&(j, weight)| weight * value(j)).sum()
    };
    let mut rows = Vec::with_capacity(from * to * width); // [from, to, width]
    for y in 0..from {
        for terms in &axis {
            let at = |d: usize| move |x: usize| f64::from(table[(y * from + x) * width + d]);
            rows.extend((0..width).map(|d| sum(terms, &at(d))));
        }
    }
    let mut out = Vec::with_capacity(to * to * width); // [to, to, width]
    for terms in &axis {
        for x in 0..to {
            let at = |d: usize| {
                let rows = &rows;
                move |y: usize| rows[(y * to + x) * width + d]
            };
            out.extend((0..width).map(|d| sum(terms, &at(d)) as f32));
        }
    }
    out
}

/// Inputs of output `i` and their weights.
fn weights(i: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    let scale = from as f64 / to as f64;
    let (centre, stretch) = ((i as f64 + 0.5) * scale, scale.max(1.0));
    let terms = (0..from).map(|j| (j, kernel((j as f64 + 0.5 - centre) / stretch)));
    let terms: Vec<_> = terms.filter(|(_, weight)| *weight != 0.0).collect();
    let total: f64 = terms.iter().map(|(_, weight)| weight).sum();
    terms.into_iter().map(|(j, weight)| (j, weight / total)).collect()
}

/// Keys' cubic convolution kernel with `a = -0.5`.
fn kernel(x: f64) -> f64 {
    let (a, x) = (-0.5, x.abs());
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resampled_positions_are_timms() {
        // t = torch.sin(torch.arange(16) * 0.7).reshape(1, 16, 1)
        // timm.layers.resample_abs_pos_embed(t, [n, n], num_prefix_tokens=0)
        let table: Vec<f32> = (0..16).map(|i| (i as f32 * 0.7).sin()).collect();
        let smaller = [0.092156, 0.123784, 0.108581, -0.044251];
        let uneven = [
            0.193653, 0.421687, 0.333638, -0.198931, -0.180426, -0.02668, 0.407588, 0.123626,
            -0.253002,
        ];
        let larger = [
            -0.070178, 0.29889, 0.801347, 1.075308, 1.06592, 0.976543, 0.218435, 0.193995,
            0.136558, 0.045189, -0.061818, -0.130657, 0.259584, -0.031619, -0.451149, -0.737256,
            -0.832657, -0.833546, -0.632636, -0.37602, 0.039329, 0.429793, 0.717192, 0.859207,
            0.091955, 0.145173, 0.206088, 0.210629, 0.157888, 0.109307, 0.992707, 0.709169,
            0.217051, -0.314975, -0.780385, -1.040001,
        ];
        for (to, expected) in [(2, &smaller[..]), (3, &uneven[..]), (6, &larger[..])] {
            let ours = resample_positions(&table, 1, 4, to);
            assert_eq!(ours.len(), expected.len());
            for (ours, timm) in ours.iter().zip(expected) {
                assert!((ours - timm).abs() < 2e-6, "to {to}: {ours}, timm {timm}");
            }
        }
        assert_eq!(resample_positions(&table, 1, 4, 4), table);
    }
}
