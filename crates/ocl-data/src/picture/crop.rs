//! A box of an image, and how one is drawn.

use crate::random::Draws;

/// A box inside an image, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Left edge.
    pub x_px: u32,
    /// Upper edge.
    pub y_px: u32,
    /// Width, at least 1.
    pub width_px: u32,
    /// Height, at least 1.
    pub height_px: u32,
}

/// Draws a box as torchvision's `RandomResizedCrop.get_params` does.
///
/// Up to ten tries of an area uniform in `scale` and a width over height log-uniform in `ratio`;
/// the first box that fits the image is placed uniformly. If none fits: the largest centred box
/// whose ratio lies in `ratio`.
///
/// # Panics
/// If the image is empty.
pub fn sample_crop(
    width_px: u32,
    height_px: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    draws: &mut Draws,
) -> Crop {
    assert!(width_px > 0 && height_px > 0, "a crop of an empty image");
    let area = f64::from(width_px) * f64::from(height_px);
    let log_ratio = (ratio.0.ln(), ratio.1.ln());
    for _ in 0..10 {
        let target = area * draws.between(scale.0, scale.1);
        let aspect = draws.between(log_ratio.0, log_ratio.1).exp();
        // Python's `round` ties to even.
        let w = (target * aspect).sqrt().round_ties_even();
        let h = (target / aspect).sqrt().round_ties_even();
        if w >= 1.0 && h >= 1.0 && w <= f64::from(width_px) && h <= f64::from(height_px) {
            let (w, h) = (w as u32, h as u32);
            let y_px = draws.below(height_px - h + 1);
            let x_px = draws.below(width_px - w + 1);
            return Crop { x_px, y_px, width_px: w, height_px: h };
        }
    }
    let in_ratio = f64::from(width_px) / f64::from(height_px);
    let (mut w, mut h) = (width_px, height_px);
    if in_ratio < ratio.0 {
        h = ((f64::from(w) / ratio.0).round_ties_even() as u32).clamp(1, height_px);
    } else if in_ratio > ratio.1 {
        w = ((f64::from(h) * ratio.1).round_ties_even() as u32).clamp(1, width_px);
    }
    Crop { x_px: (width_px - w) / 2, y_px: (height_px - h) / 2, width_px: w, height_px: h }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn crops_lie_inside_and_cover_the_scales() {
        let mut areas = Vec::new();
        for sample in 0..2000 {
            let mut draws = Draws::new(1, 0, sample, Purpose::Test);
            let crop = sample_crop(500, 375, (0.2, 1.0), (0.75, 4.0 / 3.0), &mut draws);
            assert!(crop.x_px + crop.width_px <= 500 && crop.y_px + crop.height_px <= 375);
            let ratio = f64::from(crop.width_px) / f64::from(crop.height_px);
            assert!((0.74..1.35).contains(&ratio), "{crop:?}");
            areas.push(f64::from(crop.width_px * crop.height_px) / (500.0 * 375.0));
        }
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!(areas.iter().all(|a| (0.19..=1.0).contains(a)));
        assert!((0.47..0.53).contains(&mean), "mean area {mean}, torchvision has 0.50");
    }

    #[test]
    fn a_whole_image_and_extreme_shapes() {
        let whole = |w, h, ratio| {
            sample_crop(w, h, (1.0, 1.0), ratio, &mut Draws::new(0, 0, 0, Purpose::Test))
        };
        let side = Crop { x_px: 0, y_px: 0, width_px: 28, height_px: 28 };
        assert_eq!(whole(28, 28, (1.0, 1.0)), side);
        let strip = whole(20_000, 10, (0.75, 4.0 / 3.0));
        assert_eq!(strip, Crop { x_px: 9993, y_px: 0, width_px: 13, height_px: 10 });
        let tower = whole(3, 1000, (0.75, 4.0 / 3.0));
        assert_eq!(tower, Crop { x_px: 0, y_px: 498, width_px: 3, height_px: 4 });
        let dot = Crop { x_px: 0, y_px: 0, width_px: 1, height_px: 1 };
        assert_eq!(whole(1, 1, (0.75, 4.0 / 3.0)), dot);
    }
}
