//! PNG, WebP, BMP, GIF and TIFF through the `image` crate.

use std::borrow::Cow;
use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{MAX_DECODER_BYTES, MAX_PIXELS};
use crate::error::ImageError;
use crate::picture::RgbImage;

/// Size of the upright image, from the header.
pub(super) fn size(bytes: &[u8], format: ImageFormat) -> Result<(u32, u32), ImageError> {
    let file = mended(bytes, format)?;
    let mut decoder = open(&file, format)?;
    let (width, height) = decoder.dimensions();
    Ok(if orientation(&mut decoder, bytes, format).to_exif() >= 5 {
        (height, width)
    } else {
        (width, height)
    })
}

/// The upright pixels.
pub(super) fn decode(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, ImageError> {
    let file = mended(bytes, format)?;
    let mut decoder = open(&file, format)?;
    let orientation = orientation(&mut decoder, bytes, format);
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

/// Where EXIF says which way is up; a damaged block costs the orientation, not the image.
fn orientation(decoder: &mut impl ImageDecoder, bytes: &[u8], format: ImageFormat) -> Orientation {
    if format == ImageFormat::Tiff {
        return decoder.orientation().unwrap_or(Orientation::NoTransforms);
    }
    let exif = decoder.exif_metadata().ok().flatten().map(Cow::Owned);
    let late = || png_exif(bytes).filter(|_| format == ImageFormat::Png).map(Cow::Borrowed);
    let upright = Orientation::NoTransforms;
    let Some(exif) = exif.or_else(late) else { return upright };
    // Many programs write the prefix that only JPEG asks for.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
    Orientation::from_exif_chunk(exif).unwrap_or(upright)
}

/// The EXIF chunk of a PNG, which may stand behind the pixels.
fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 8usize;
    loop {
        let head: [u8; 8] = bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let content = bytes.get(at + 8..(at + 8).checked_add(len)?)?;
        if head[4..] == *b"eXIf" {
            return Some(content);
        }
        // Behind the content stands its checksum.
        at = at + 8 + len + 4;
    }
}

/// A file as it was meant. Old writers of BMP give as the pixels' place the end of the header,
/// where the palette stands; like Pillow we then look behind the palette.
///
/// # Errors
/// If the pixels of a BMP would begin elsewhere in its palette.
fn mended(bytes: &[u8], format: ImageFormat) -> Result<Cow<'_, [u8]>, ImageError> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    };
    let bits = bytes.get(28..30).map(|bits| u16::from_le_bytes([bits[0], bits[1]]));
    let (Some(offset), Some(header), Some(bits @ 1..=8), Some(colours)) =
        (word(10), word(14), bits, word(46))
    else {
        return Ok(Cow::Borrowed(bytes));
    };
    let colours = if colours == 0 { 1 << bits } else { colours };
    let palette = header.saturating_add(14);
    let end = palette.saturating_add(colours.saturating_mul(4));
    if format != ImageFormat::Bmp || header < 40 || offset == 0 || offset >= end {
        return Ok(Cow::Borrowed(bytes));
    }
    if offset != palette {
        let told = format!("the pixels of the BMP begin at byte {offset}, within its palette");
        return Err(ImageError::Decoder(told));
    }
    let mut file = bytes.to_vec();
    file[10..14].copy_from_slice(&end.to_le_bytes());
    Ok(Cow::Owned(file))
}
