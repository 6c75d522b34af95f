//! The first three principal components of tokens, as colours.

/// Rounds of the orthogonal iteration: what differs after them cannot be seen in 8 bits.
const ROUNDS: usize = 60;

/// A colour for each row of `rows`, `[M, width]`: its first three principal components, each from its
/// 2nd to its 98th percentile, as red, green and blue.
pub(super) fn components(rows: &[f32], width: usize) -> Vec<[u8; 3]> {
    let count = rows.len() / width.max(1);
    let mut mean = vec![0.0f32; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count as f32);
    }
    let centred: Vec<f32> = rows
        .chunks_exact(width)
        .flat_map(|row| row.iter().zip(&mean).map(|(a, b)| a - b))
        .collect();
    // Any three that are no multiples of each other begin it.
    let start =
        |axis: usize| (0..width).map(move |i| ((i * (axis + 1)) as f32 * 0.7).sin()).collect();
    let mut axes: Vec<Vec<f32>> = (0..3).map(start).collect();
    for _ in 0..ROUNDS {
        axes = axes.iter().map(|axis| times_covariance(&centred, axis)).collect();
        orthonormalise(&mut axes);
    }
    let along: Vec<Vec<f32>> = axes
        .iter()
        .map(|axis| centred.chunks_exact(width).map(|row| dot(row, axis)).collect())
        .collect();
    let ranges: Vec<(f32, f32)> = along.iter().map(|values| percentiles(values)).collect();
    let level = |axis: usize, row: usize| {
        let (low, high) = ranges[axis];
        let share = (along[axis][row] - low) / (high - low).max(f32::MIN_POSITIVE);
        (share * 255.0).round().clamp(0.0, 255.0) as u8
    };
    (0..count).map(|row| [0, 1, 2].map(|axis| level(axis, row))).collect()
}

fn times_covariance(centred: &[f32], axis: &[f32]) -> Vec<f32> {
    let mut product = vec![0.0; axis.len()];
    for row in centred.chunks_exact(axis.len()) {
        let along = dot(row, axis);
        product.iter_mut().zip(row).for_each(|(sum, value)| *sum += along * value);
    }
    product
}

/// Gram and Schmidt's; an axis of nothing stays nothing.
fn orthonormalise(axes: &mut [Vec<f32>]) {
    for i in 0..axes.len() {
        let (before, rest) = axes.split_at_mut(i);
        let axis = &mut rest[0];
        for other in before {
            let along = dot(axis, other);
            axis.iter_mut().zip(&*other).for_each(|(value, other)| *value -= along * other);
        }
        let length = dot(axis, axis).sqrt().max(f32::MIN_POSITIVE);
        axis.iter_mut().for_each(|value| *value /= length);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn percentiles(values: &[f32]) -> (f32, f32) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| sorted.get((share * (sorted.len().max(1) - 1) as f64).round() as usize);
    (at(0.02).copied().unwrap_or_default(), at(0.98).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_colour_is_a_direction_of_its_own() {
        // Three directions of falling spread, in coordinates that are none of them.
        let row = |i: usize| {
            let [a, b, c] =
                [7, 11, 13].map(|period| (i % period) as f32 / (period - 1) as f32 - 0.5);
            [9.0 * a + 3.0 * b, 9.0 * a - 3.0 * b, c, 5.0]
        };
        let count = 7 * 11 * 13;
        let rows: Vec<f32> = (0..count).flat_map(row).collect();
        let colours = components(&rows, 4);
        for (axis, period) in [7, 11, 13].into_iter().enumerate() {
            // Equal steps make equal colours, rising or falling, whatever the other two do.
            let of = |i: usize| f32::from(colours[i][axis]);
            let rising = of(period - 1) > of(0);
            for i in 0..count {
                let share = (i % period) as f32 / (period - 1) as f32;
                let expected = 255.0 * if rising { share } else { 1.0 - share };
                assert!((of(i) - expected).abs() < 3.0, "{axis} {i}: {} {expected}", of(i));
            }
        }
        assert_eq!(components(&[2.0; 8], 4), [[0; 3]; 2], "of one colour there is no direction");
    }
}
