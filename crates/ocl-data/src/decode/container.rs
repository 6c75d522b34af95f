//! PNG, WebP, BMP and GIF through the `image` crate.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{MAX_DECODER_BYTES, MAX_PIXELS};
use crate::error::ImageError;
use crate::picture::RgbImage;

/// Size of the upright image, from the header.
pub(super) fn size(bytes: &[u8], format: ImageFormat) -> Result<(u32, u32), ImageError> {
    let mut decoder = open(bytes, format)?;
    let (width, height) = decoder.dimensions();
    Ok(if orientation(&mut decoder).to_exif() >= 5 { (height, width) } else { (width, height) })
}

/// The upright pixels.
pub(super) fn decode(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, ImageError> {
    let mut decoder = open(bytes, format)?;
    let orientation = orientation(&mut decoder);
    // The header may have been read under another limit than the pixels: ask again.
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let (width_px, height_px) = (width, height);
        return Err(ImageError::Dimensions { width_px, height_px, max_pixels: MAX_PIXELS });
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(ImageError::Container)?;
    let rgb = decoded.into_rgb8();
    let (width, height) = rgb.dimensions();
    Ok(RgbImage::new(width, height, rgb.into_raw()).upright(orientation.to_exif()))
}

fn open(bytes: &[u8], format: ImageFormat) -> Result<impl ImageDecoder + '_, ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    reader.into_decoder().map_err(ImageError::Container)
}

/// A damaged EXIF block costs the orientation, not the image.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}
