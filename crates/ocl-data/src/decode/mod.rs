//! From the bytes of a file to upright 8-bit RGB pixels.

mod container;
mod jpeg;
mod markers;
mod sparse;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::error::ImageError;
use crate::picture::Crop;
use crate::picture::RgbImage;

/// The most pixels an image may have: 200 million, 600 MB of RGB. A header that promises more is
/// refused before memory is taken.
pub const MAX_PIXELS: u64 = 200_000_000;

/// Bytes that a decoder may take for itself beside the pixels.
const MAX_DECODER_BYTES: u64 = 2 << 30;

/// Decodes a JPEG, PNG, WebP, BMP, GIF or TIFF (the first frame), told apart by the first bytes.
///
/// Grey becomes RGB, alpha is dropped, 16 bits are scaled to 8, CMYK is taken as Adobe stores it,
/// and the EXIF orientation is applied.
///
/// # Errors
/// [`ImageError`] when the bytes are no image, damaged, cut short, or an image above
/// [`MAX_PIXELS`].
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let mut image = RgbImage::default();
    let header = ImageHeader::read(bytes)?;
    header.decode(&mut bytes.to_vec(), header.height_px, &mut image)?;
    Ok(image)
}

/// What is known of an image before its pixels are decoded.
#[derive(Clone, Debug)]
pub struct ImageHeader {
    /// Width of the upright image.
    pub width_px: u32,
    /// Height of the upright image.
    pub height_px: u32,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Jpeg(jpeg::JpegHeader),
    Container(image::ImageFormat),
}

impl ImageHeader {
    /// Reads the size and what decoding needs to know; the format is told by the first bytes.
    ///
    /// # Errors
    /// [`ImageError`] when the bytes are no image or one that is empty or above [`MAX_PIXELS`].
    pub fn read(bytes: &[u8]) -> Result<ImageHeader, ImageError> {
        use image::ImageFormat;
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        let format = match bytes {
            [0xFF, 0xD8, 0xFF, ..] => None,
            [0x89, b'P', b'N', b'G', ..] => Some(ImageFormat::Png),
            [b'G', b'I', b'F', b'8', ..] => Some(ImageFormat::Gif),
            [b'B', b'M', ..] => Some(ImageFormat::Bmp),
            // In either order of bytes; 43 where places have eight bytes.
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(ImageFormat::Tiff),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                Some(ImageFormat::WebP)
            }
            _ => return Err(ImageError::UnknownFormat),
        };
        let (kind, (width_px, height_px)) = match format {
            None => {
                let header = jpeg::JpegHeader::read(bytes)?;
                let size = header.upright_size();
                (Kind::Jpeg(header), size)
            }
            Some(format) => {
                let size = guarded(|| container::size(bytes, format))?;
                (Kind::Container(format), size)
            }
        };
        if width_px == 0
            || height_px == 0
            || u64::from(width_px) * u64::from(height_px) > MAX_PIXELS
        {
            return Err(ImageError::Dimensions { width_px, height_px, max_pixels: MAX_PIXELS });
        }
        Ok(ImageHeader { width_px, height_px, kind })
    }

    /// Decodes the first `rows` rows into `image`, which may end anywhere below them. The bytes
    /// must be those that the header was read from; they are altered when not all rows are wanted.
    ///
    /// # Errors
    /// [`ImageError`] when the data are damaged or cut short.
    pub fn decode(
        &self,
        bytes: &mut [u8],
        rows: u32,
        image: &mut RgbImage,
    ) -> Result<(), ImageError> {
        match &self.kind {
            Kind::Jpeg(header) => guarded(|| header.decode(bytes, rows, image)),
            Kind::Container(format) => {
                *image = guarded(|| container::decode(bytes, *format))?;
                // An EXIF rotation is applied by now, so the size is compared upright.
                if (image.width_px, image.height_px) != (self.width_px, self.height_px) {
                    return Err(ImageError::Decoder("the size differs from the header's".into()));
                }
                Ok(())
            }
        }
    }
}

/// Decodes parts of images: of a baseline JPEG only the blocks that they need, of other files all
/// there is down to the last row of them. Memory and tables are kept from one image to the next.
#[derive(Default)]
pub struct PartDecoder {
    sparse: sparse::SparseDecoder,
    colour: Duration,
}

impl PartDecoder {
    /// An empty one.
    pub fn new() -> PartDecoder {
        PartDecoder::default()
    }

    /// Decodes the boxes `parts` of the upright image. `image` then is as wide as the upright
    /// image; what of it lies in no part is unspecified, and its vector may be longer than its
    /// pixels. The bytes must be those that the header was read from; they may be altered.
    ///
    /// # Errors
    /// [`ImageError`] when the data are damaged or cut short.
    ///
    /// # Panics
    /// If a part reaches beyond the image.
    pub fn decode(
        &mut self,
        header: &ImageHeader,
        bytes: &mut [u8],
        parts: &[Crop],
        image: &mut RgbImage,
    ) -> Result<(), ImageError> {
        let inside = |part: &Crop| {
            part.x_px + part.width_px <= header.width_px
                && part.y_px + part.height_px <= header.height_px
        };
        assert!(parts.iter().all(inside), "parts of {header:?}: {parts:?}");
        self.colour = Duration::ZERO;
        if let Kind::Jpeg(jpeg) = &header.kind {
            let orientation = jpeg.orientation();
            let sparse = &mut self.sparse;
            let done = guarded(|| Ok(sparse.decode(bytes, orientation, parts, image)));
            if let Ok(Some(colour)) = done {
                self.colour = colour;
                return Ok(());
            }
        }
        let rows = parts.iter().map(|part| part.y_px + part.height_px).max().unwrap_or(1);
        header.decode(bytes, rows, image)
    }
}

impl PartDecoder {
    /// How much of the last image's time went into smoothing and colours.
    pub(crate) fn colour_time(&self) -> Duration {
        self.colour
    }
}

/// Runs a decoder; its panic is a fault of the image as far as a run is concerned.
fn guarded<T>(decoder: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    catch_unwind(AssertUnwindSafe(decoder))
        .unwrap_or_else(|panic| Err(ImageError::Decoder(panic_message(panic.as_ref()))))
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".into()
    }
}
