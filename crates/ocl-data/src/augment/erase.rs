//! Random erasing (arXiv 1708.04896).

use crate::random::Draws;

/// Turns a box of a picture `[side, side, 3]` into noise from `Normal(0, 1)`: 2 % to a third of the
/// area, width over height 0.3 to 3.3.
pub(super) fn erase(values: &mut [f32], side: usize, probability: f64, draws: &mut Draws) {
    if draws.unit() >= probability {
        return;
    }
    for _ in 0..10 {
        let area = (side * side) as f64 * draws.between(0.02, 1.0 / 3.0);
        let aspect = draws.between(0.3f64.ln(), 3.3f64.ln()).exp();
        let (width, height) = ((area * aspect).sqrt().round(), (area / aspect).sqrt().round());
        let (width, height) = (width as usize, height as usize);
        if width == 0 || height == 0 || width >= side || height >= side {
            continue;
        }
        let left = draws.below((side - width + 1) as u32) as usize;
        let top = draws.below((side - height + 1) as u32) as usize;
        for y in top..top + height {
            let row = &mut values[(y * side + left) * 3..][..width * 3];
            row.iter_mut().for_each(|v| *v = draws.normal() as f32);
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn a_box_is_erased_and_no_more() {
        let mut hit = 0;
        for sample in 0..200 {
            let mut values = vec![7.0f32; 32 * 32 * 3];
            erase(&mut values, 32, 0.5, &mut Draws::new(0, 0, sample, Purpose::Erase));
            let share = values.iter().filter(|v| **v != 7.0).count() as f64 / values.len() as f64;
            assert!(share == 0.0 || (0.01..0.36).contains(&share), "{share}");
            hit += u32::from(share > 0.0);
        }
        assert!((70..130).contains(&hit), "{hit} of 200 at a probability of a half");
    }
}
