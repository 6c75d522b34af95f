//! Raw pixels as features: the baseline that an encoder has to beat.

use ocl_data::{Batch, Geometry, Normalisation};

use super::values::Features;

/// Sides above this are averaged down: 224 px would be 150,528 values an image.
const SIDE_PX: u32 = 32;

/// Side of the square of pixels that is averaged into one: the smallest divisor of the patch side
/// that leaves at most 32 px a side, or the whole patch.
fn pool_px(geometry: Geometry) -> u32 {
    let fits =
        |pool: &u32| geometry.patch_px.is_multiple_of(*pool) && geometry.image_px / pool <= SIDE_PX;
    (1..geometry.patch_px).find(fits).unwrap_or(geometry.patch_px)
}

/// Appends the pixels of each image, patch by patch, inside a patch row, column, channel.
///
/// The order of values means nothing to k-NN and linear probe; it is the same for every image
/// because the loader gives all patches of a centre view in row-major order.
pub(crate) fn append_pixels(batch: &Batch, geometry: Geometry, rows: &mut Vec<f32>) {
    let pool = pool_px(geometry) as usize;
    if pool == 1 {
        rows.extend_from_slice(&batch.patches);
        return;
    }
    let side = geometry.patch_px as usize;
    let share = 1.0 / (pool * pool) as f32;
    for patch in batch.patches.chunks_exact(batch.patch_len) {
        for top in (0..side).step_by(pool) {
            for left in (0..side).step_by(pool) {
                let mut sum = [0.0; 3];
                for y in top..top + pool {
                    let pixels = &patch[(y * side + left) * 3..][..pool * 3];
                    for (i, value) in pixels.iter().enumerate() {
                        sum[i % 3] += value;
                    }
                }
                rows.extend(sum.map(|sum| sum * share));
            }
        }
    }
}

/// Drops two of three channels if all images are grey: three copies of one value tell nothing more
/// and take three times as long.
pub(crate) fn drop_copied_channels(train: &mut Features, test: &mut Features, norm: Normalisation) {
    // A quarter of one of 255 levels.
    let same = |a: f32, b: f32| (a - b).abs() < 0.25 / 255.0;
    let level =
        |pixel: &[f32], channel: usize| pixel[channel] * norm.std[channel] + norm.mean[channel];
    let grey = |pixel: &[f32]| {
        same(level(pixel, 0), level(pixel, 1)) && same(level(pixel, 0), level(pixel, 2))
    };
    let all_grey = |features: &Features| features.rows().all(|row| row.chunks_exact(3).all(grey));
    if all_grey(train) && all_grey(test) {
        train.retain_columns(|column| column.is_multiple_of(3));
        test.retain_columns(|column| column.is_multiple_of(3));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_averaged_down_to_32_a_side() {
        let pool = |image_px, patch_px| pool_px(Geometry { image_px, patch_px });
        assert_eq!(
            [pool(32, 4), pool(28, 7), pool(64, 8), pool(224, 16), pool(224, 14)],
            [1, 1, 2, 8, 7]
        );
        assert_eq!(pool(4096, 2), 2);
    }

    #[test]
    fn squares_of_pixels_become_their_mean() {
        let geometry = Geometry { image_px: 64, patch_px: 2 };
        let patches = vec![1.0, 10.0, 100.0, 3.0, 30.0, 300.0, 5.0, 50.0, 500.0, 7.0, 70.0, 700.0];
        let batch = Batch { patches, images: 1, kept: 1, patch_len: 12, ..Batch::default() };
        let mut rows = Vec::new();
        append_pixels(&batch, geometry, &mut rows);
        assert_eq!(rows, [4.0, 40.0, 400.0]);
    }

    #[test]
    fn grey_images_keep_one_channel() {
        let norm = Normalisation { mean: [0.5, 0.4, 0.3], std: [0.5, 0.25, 0.2] };
        let pixel = |level: f32| [0, 1, 2].map(|c| (level - norm.mean[c]) / norm.std[c]);
        let grey = Features::new([pixel(0.1), pixel(0.9)].concat(), 6, vec![0]);
        let (mut train, mut test) = (grey.clone(), grey.clone());
        drop_copied_channels(&mut train, &mut test, norm);
        assert_eq!((train.width(), train.row(0)), (2, [pixel(0.1)[0], pixel(0.9)[0]].as_slice()));
        let colour = Features::new([pixel(0.1), [1.0, 0.0, 1.0]].concat(), 6, vec![0]);
        let (mut train, mut test) = (grey, colour);
        drop_copied_channels(&mut train, &mut test, norm);
        assert_eq!((train.width(), test.width()), (6, 6));
    }
}
