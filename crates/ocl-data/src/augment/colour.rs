//! Brightness, contrast, saturation, grey, solarisation: Pillow's `ImageEnhance` and `ImageOps`.

/// Luminance of a pixel (ITU-R 601-2), rounded, in fixed point.
fn luminance(pixel: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8
}

/// `a + factor (x - a)` in f32, clamped and cut off.
#[inline]
fn blend(a: u8, x: u8, factor: f32) -> u8 {
    // A float-to-integer cast cuts off and saturates.
    (f32::from(a) + factor * (f32::from(x) - f32::from(a))) as u8
}

pub(super) fn brightness(pixels: &mut [u8], factor: f64) {
    let factor = factor as f32;
    pixels.iter_mut().for_each(|value| *value = blend(0, *value, factor));
}

pub(super) fn contrast(pixels: &mut [u8], factor: f64) {
    let count = (pixels.len() / 3).max(1) as f64;
    let sum: u64 = pixels.chunks_exact(3).map(|pixel| u64::from(luminance(pixel))).sum();
    let (mean, factor) = ((sum as f64 / count + 0.5) as u8, factor as f32);
    pixels.iter_mut().for_each(|value| *value = blend(mean, *value, factor));
}

pub(super) fn saturation(pixels: &mut [u8], factor: f64) {
    let factor = factor as f32;
    for pixel in pixels.chunks_exact_mut(3) {
        let grey = luminance(pixel);
        pixel.iter_mut().for_each(|value| *value = blend(grey, *value, factor));
    }
}

pub(super) fn grey(pixels: &mut [u8]) {
    for pixel in pixels.chunks_exact_mut(3) {
        let grey = luminance(pixel);
        pixel.fill(grey);
    }
}

pub(super) fn solarize(pixels: &mut [u8]) {
    pixels.iter_mut().for_each(|value| *value = if *value < 128 { *value } else { 255 - *value });
}
