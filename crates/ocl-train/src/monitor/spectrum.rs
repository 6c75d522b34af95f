//! Effective rank and uniformity of a few hundred embeddings, on the host.

/// What a set of embeddings looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spectrum {
    /// RankMe: the exponential of the entropy of the singular values, scaled to sum to 1; from 1
    /// (collapsed onto a line) to the number of embeddings or their width. Source: arXiv
    /// 2210.02885.
    pub rank: f64,
    /// The logarithm of the mean of `exp(-2 |x - y|^2)` over pairs of embeddings at length 1; 0
    /// when all are one, about -4 when they are spread. Source: arXiv 2005.10242.
    pub uniformity: f64,
}

/// The spectrum of embeddings `[S, width]`; none of fewer than two, or where one is not finite.
pub fn spectrum(rows: &[f32], width: usize) -> Option<Spectrum> {
    let n = rows.len() / width.max(1);
    let row = |i: usize| &rows[i * width..][..width];
    let mut gram = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let product = dot(row(i), row(j));
            gram[i * n + j] = product;
            gram[j * n + i] = product;
        }
    }
    if n < 2 || gram.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut sum = 0.0;
    for i in 0..n {
        for j in 0..i {
            let cosine = gram[i * n + j] / (gram[i * n + i] * gram[j * n + j]).sqrt();
            sum += (-4.0 * (1.0 - cosine)).exp();
        }
    }
    let uniformity = (sum / (n * (n - 1) / 2) as f64).ln();
    let singular: Vec<f64> =
        eigenvalues(gram, n).into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let whole: f64 = singular.iter().sum();
    let entropy: f64 = singular
        .iter()
        .map(|value| value / whole)
        .filter(|share| *share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    Some(Spectrum { rank: entropy.exp(), uniformity })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_rows, b_rows) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_rows.remainder().iter().zip(b_rows.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_rows.zip(b_rows) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + f64::from(rest)
}

/// Eigenvalues of a symmetric `n x n` matrix: Householder reflections to three diagonals, then
/// bisection by Sturm's counts (Golub and Van Loan, sections 8.3 and 8.4).
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    let mut beside = vec![0.0; n.saturating_sub(1)];
    let negligible = f64::EPSILON * a.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    for k in 0..n.saturating_sub(1) {
        let m = n - k - 1;
        let (v, w) = (&mut v[..m], &mut w[..m]);
        for (i, v) in v.iter_mut().enumerate() {
            *v = a[(k + 1 + i) * n + k];
        }
        let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        if length <= negligible {
            // Rounding is all there is: its square would underflow.
            continue;
        }
        let alpha = if v[0] > 0.0 { -length } else { length };
        beside[k] = if m > 1 { alpha } else { v[0] };
        v[0] -= alpha;
        let square: f64 = v.iter().map(|v| v * v).sum();
        if m == 1 {
            continue;
        }
        // B <- B - v w^T - w v^T with w = p - (p . v) v / |v|^2, p = 2 B v / |v|^2.
        for (i, w) in w.iter_mut().enumerate() {
            let row = &a[(k + 1 + i) * n + k + 1..][..m];
            *w = 2.0 / square * row.iter().zip(&*v).map(|(b, v)| b * v).sum::<f64>();
        }
        let along = w.iter().zip(&*v).map(|(w, v)| w * v).sum::<f64>() / square;
        w.iter_mut().zip(&*v).for_each(|(w, v)| *w -= along * v);
        for i in 0..m {
            let row = &mut a[(k + 1 + i) * n + k + 1..][..m];
            let (vi, wi) = (v[i], w[i]);
            for (b, (v, w)) in row.iter_mut().zip(v.iter().zip(&*w)) {
                *b -= vi * w + wi * v;
            }
        }
    }
    let diagonal: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    let at = |i: usize| beside.get(i).map_or(0.0, |value: &f64| value.abs());
    let reach = (0..n)
        .map(|i| diagonal[i].abs() + at(i) + if i > 0 { at(i - 1) } else { 0.0 })
        .fold(0.0, f64::max);
    (0..n).map(|rank| bisect(&diagonal, &beside, rank, reach)).collect()
}

/// The eigenvalue that has `rank` others below it.
fn bisect(diagonal: &[f64], beside: &[f64], rank: usize, reach: f64) -> f64 {
    let below = |x: f64| {
        let mut pivot = diagonal[0] - x;
        let mut count = usize::from(pivot < 0.0);
        for (d, e) in diagonal[1..].iter().zip(beside) {
            let safe = if pivot == 0.0 { f64::MIN_POSITIVE } else { pivot };
            pivot = d - x - e * e / safe;
            count += usize::from(pivot < 0.0);
        }
        count
    };
    let (mut low, mut high) = (-reach, reach);
    while high - low > 1e-11 * reach {
        let middle = 0.5 * (low + high);
        *(if below(middle) > rank { &mut high } else { &mut low }) = middle;
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_are_known_ones() {
        // The second difference has 2 - 2 cos(i pi / (n + 1)); mixed here by a reflection.
        let n = 12;
        let u: Vec<f64> = (0..n).map(|i| (i as f64 * 1.3).sin()).collect();
        let square: f64 = u.iter().map(|u| u * u).sum();
        let h = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * u[i] * u[j] / square;
        let t = |i: usize, j: usize| match i.abs_diff(j) {
            0 => 2.0,
            1 => -1.0,
            _ => 0.0,
        };
        let mut a = vec![0.0; n * n];
        for (i, a) in a.iter_mut().enumerate() {
            let (r, c) = (i / n, i % n);
            *a = (0..n * n).map(|i| h(r, i / n) * t(i / n, i % n) * h(i % n, c)).sum();
        }
        for (i, found) in eigenvalues(a, n).iter().enumerate() {
            let angle = (i + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
            assert!((found - (2.0 - 2.0 * angle.cos())).abs() < 1e-8, "{i}: {found}");
        }
    }

    #[test]
    fn rank_and_uniformity_of_known_sets() {
        let (n, d) = (24, 40);
        // One direction for all, then one of its own for each, then two directions.
        let set = |of: fn(usize) -> usize| -> Vec<f32> {
            (0..n * d).map(|i| if i % d == of(i / d) { 2.0 } else { 0.0 }).collect()
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-3, "{a} {b}");
        let collapsed = spectrum(&set(|_| 3), d).unwrap();
        near(collapsed.rank, 1.0);
        near(collapsed.uniformity, 0.0);
        let spread = spectrum(&set(|i| i), d).unwrap();
        near(spread.rank, n as f64);
        near(spread.uniformity, -4.0);
        near(spectrum(&set(|i| i % 2), d).unwrap().rank, 2.0);
        assert_eq!(spectrum(&[f32::NAN; 80], d), None);
    }
}
