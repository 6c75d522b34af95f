//! JPEG, as far down as the rows that are needed.
//!
//! Entropy decoding is most of the cost of a JPEG and can only go from the top down, so the saving
//! is at the bottom: in a sequential file of one scan the height in the frame header is lowered to
//! the last row wanted, and the decoder stops there.

use image::metadata::Orientation;
use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};

use super::markers::Markers;
use super::{MAX_DECODER_BYTES, MAX_PIXELS};
use crate::error::ImageError;
use crate::picture::RgbImage;

/// Rows decoded beyond the last one wanted. Chroma is stored at up to a quarter of the rows and
/// smoothed between neighbours, so a pixel depends on up to 7 rows below it.
const MARGIN_PX: u32 = 8;

/// What the markers before the first scan say.
#[derive(Clone, Debug)]
pub(super) struct JpegHeader {
    /// Size as stored.
    width_px: u32,
    height_px: u32,
    /// EXIF orientation, 1 to 8.
    orientation: u8,
    components: u8,
    /// Whether it is whole and of one sequential scan. Of such a file a damaged part is filled in,
    /// since what lies above it is shown in any case.
    one_scan: bool,
    /// Where the frame's height is written, if lowering it makes the decoder stop early.
    height_at: Option<usize>,
}

impl JpegHeader {
    /// Walks the markers up to the first scan.
    pub(super) fn read(bytes: &[u8]) -> Result<JpegHeader, ImageError> {
        let damaged = |what: &str| {
            ImageError::Jpeg(libjpeg_turbo_rs::JpegError::CorruptData(what.to_string()))
        };
        let mut markers = Markers::new(bytes);
        let mut orientation = None;
        let mut frame: Option<(u8, usize)> = None;
        loop {
            let segment = markers.next().map_err(damaged)?;
            match segment.marker {
                _ if segment.is_frame() => {
                    if segment.content.len() < 6 {
                        return Err(damaged("the frame header is cut short"));
                    }
                    frame = Some((segment.marker, segment.at));
                }
                0xE1 if orientation.is_none() => {
                    orientation = segment
                        .content
                        .strip_prefix(b"Exif\0\0")
                        .and_then(Orientation::from_exif_chunk)
                        .map(Orientation::to_exif);
                }
                0xDA => {
                    let (kind, frame_at) = frame.ok_or_else(|| damaged("a scan before a frame"))?;
                    let frame = &bytes[frame_at..];
                    let components = frame[5];
                    // Huffman-coded, sequential, 8 bits, every component in this one scan, and
                    // whole.
                    let one_scan = matches!(kind, 0xC0 | 0xC1)
                        && frame[0] == 8
                        && segment.content.first() == Some(&components)
                        && ends_properly(&bytes[segment.at..]);
                    return Ok(JpegHeader {
                        height_px: u32::from(u16::from_be_bytes([frame[1], frame[2]])),
                        width_px: u32::from(u16::from_be_bytes([frame[3], frame[4]])),
                        orientation: orientation.unwrap_or(1),
                        components,
                        one_scan,
                        height_at: (one_scan && components > 1).then_some(frame_at + 1),
                    });
                }
                _ => {}
            }
        }
    }

    /// What the EXIF block says: 1 to 8.
    pub(super) fn orientation(&self) -> u8 {
        self.orientation
    }

    /// Width and height once the orientation is applied.
    pub(super) fn upright_size(&self) -> (u32, u32) {
        if self.orientation >= 5 {
            (self.height_px, self.width_px)
        } else {
            (self.width_px, self.height_px)
        }
    }

    /// Decodes the first `rows` rows into `image`, which may then be lower than the file says.
    pub(super) fn decode(
        &self,
        bytes: &mut [u8],
        rows: u32,
        image: &mut RgbImage,
    ) -> Result<(), ImageError> {
        if let Some(at) = self.height_at
            && self.orientation == 1
        {
            let height = rows.saturating_add(MARGIN_PX).min(self.height_px) as u16;
            bytes[at..at + 2].copy_from_slice(&height.to_be_bytes());
        }
        let strict = self.decode_stored(bytes, false, image);
        if strict.is_err() && self.one_scan {
            // Whether an image can be read must not depend on how far down a crop reaches, and to
            // look for damage below each crop would cost more than crops do. So damage is no error
            // here: as with libjpeg and Pillow, the image is shown, its rest filled in.
            self.decode_stored(bytes, true, image)?;
        } else {
            strict?;
        }
        if self.orientation > 1 {
            *image = std::mem::take(image).upright(self.orientation);
        }
        Ok(())
    }

    /// Decodes all rows that the frame header promises, as they are stored.
    fn decode_stored(
        &self,
        bytes: &[u8],
        lenient: bool,
        image: &mut RgbImage,
    ) -> Result<(), ImageError> {
        let limits = DecodeLimits {
            max_pixels: MAX_PIXELS,
            max_memory: Some(MAX_DECODER_BYTES),
            // A progressive file has about ten scans; thousands are an attack on our time.
            max_scans: 200,
            ..DecodeLimits::default()
        };
        let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(ImageError::Jpeg)?;
        decoder.set_lenient(lenient);
        let (width, height) = (decoder.header().width(), decoder.header().height());
        if self.components == 4 {
            decoder.set_output_format(PixelFormat::Cmyk);
            let cmyk = decoder.decode_image().map_err(ImageError::Jpeg)?.into_vec();
            cmyk_to_rgb(&cmyk, image.reshape(width as u32, height as u32));
        } else {
            decoder.set_output_format(PixelFormat::Rgb);
            let pixels = image.reshape(width as u32, height as u32);
            decoder.decode_image_into(pixels).map_err(ImageError::Jpeg)?;
        }
        Ok(())
    }
}

/// Whether the end-of-image marker is there. Without it the file may have been cut short, and then
/// whether it can be read must not depend on how far down a crop reaches.
fn ends_properly(bytes: &[u8]) -> bool {
    bytes.windows(2).rev().any(|pair| pair == [0xFF, 0xD9])
}

/// Adobe stores CMYK inverted, and Pillow takes every CMYK JPEG so: `R = K' - (255 - C') K' / 255`
/// with the stored values primed, which is `C' K' / 255` in Pillow's rounding.
fn cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (from, to) in cmyk.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        let black = u32::from(from[3]);
        for (level, ink) in to.iter_mut().zip(from) {
            // Pillow's MULDIV255: a product of two bytes over 255, rounded.
            let product = u32::from(255 - ink) * black + 128;
            *level = (black - (((product >> 8) + product) >> 8)) as u8;
        }
    }
}
