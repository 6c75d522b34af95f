//! Writing any source as tar shards, as it is, resized, or as pixels.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};

use crate::decode::decode;
use crate::error::ImageError;
use crate::picture::Crop;
use crate::picture::RgbImage;
use crate::resample::{Filter, Resampler, Window};
use crate::source::{Room, Source, Split, Stored, append, finish};

/// How a source is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackOptions {
    /// Shrink images whose short side is longer to this one; `None` leaves files as they are.
    pub short_side_px: Option<u32>,
    /// Quality of JPEGs that are written, 1 to 100.
    pub quality: u8,
    /// Write a restart marker after so many minimum coded units (16 x 16 pixels), so that a reader
    /// can leave out what lies between; 0 for none. A marker costs about three bytes.
    pub restart_units: u16,
    /// Write pixels (PPM) in place of JPEGs: three bytes each, and nothing to decode.
    pub raw: bool,
    /// Bytes after which a shard is full.
    pub shard_bytes: u64,
}

impl Default for PackOptions {
    /// Files as they are; JPEGs, where they are written, of quality 90 with a marker every unit;
    /// 256 MiB.
    fn default() -> PackOptions {
        PackOptions {
            short_side_px: None,
            quality: 90,
            restart_units: 1,
            raw: false,
            shard_bytes: 256 << 20,
        }
    }
}

/// What was packed.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// The archives, in order.
    pub shards: Vec<PathBuf>,
    /// Images in them.
    pub images: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Name and reason of each image that could not be read and is left out.
    pub skipped: Vec<(String, String)>,
}

/// The first shard in a folder, of any part; `None` where there is none, or no folder.
///
/// # Errors
/// If the folder cannot be read.
pub fn first_shard(folder: &Path) -> io::Result<Option<PathBuf>> {
    shards_in(folder, "")
}

fn shards_in(folder: &Path, prefix: &str) -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if name.starts_with(prefix) && name.ends_with(".tar") {
            found.push(entry.path());
        }
    }
    Ok(found.into_iter().min())
}

/// Writes a source to `folder` as `train-000000.tar` and so on, in the source's order.
///
/// # Errors
/// If the folder holds shards of the part already, so that two sets never mix, or an archive cannot
/// be written; unreadable images are left out and named.
pub fn pack(
    source: &Source,
    split: Split,
    folder: &Path,
    options: &PackOptions,
    mut progress: impl FnMut(u64),
) -> io::Result<Packed> {
    std::fs::create_dir_all(folder)?;
    let word = if split == Split::Train { "train" } else { "val" };
    if let Some(there) = shards_in(folder, &format!("{word}-"))? {
        let (folder, there) = (folder.display(), there.display());
        let told = format!("{folder} holds shards ({there}); give an empty folder or remove them");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, told));
    }
    let mut packed = Packed::default();
    let mut packer = Packer { options: *options, resampler: Resampler::new() };
    let mut shard: Option<(BufWriter<File>, u64)> = None;
    for index in 0..source.len() {
        progress(index as u64);
        let (extension, bytes) = match packer.image(source, index) {
            Ok(made) => made,
            Err(error) => {
                packed.skipped.push((source.name_of(index), error.to_string()));
                continue;
            }
        };
        if shard.as_ref().is_none_or(|(_, len)| *len >= options.shard_bytes) {
            if let Some((mut full, _)) = shard.take() {
                finish(&mut full)?;
            }
            let path = folder.join(format!("{word}-{:06}.tar", packed.shards.len()));
            shard = Some((BufWriter::with_capacity(1 << 20, File::create_new(&path)?), 0));
            packed.shards.push(path);
        }
        let Some((file, len)) = &mut shard else { continue };
        append(file, &format!("{index:09}.{extension}"), &bytes)?;
        if let Some(labels) = source.labels() {
            append(file, &format!("{index:09}.cls"), labels[index].to_string().as_bytes())?;
        }
        *len += bytes.len() as u64;
        packed.images += 1;
        packed.bytes += bytes.len() as u64;
    }
    if let Some((mut last, _)) = shard {
        finish(&mut last)?;
    }
    Ok(packed)
}

struct Packer {
    options: PackOptions,
    resampler: Resampler,
}

impl Packer {
    /// A sample's file, and the extension for it.
    fn image(
        &mut self,
        source: &Source,
        index: usize,
    ) -> Result<(&'static str, Vec<u8>), ImageError> {
        let (mut path, mut bytes, mut image) = (PathBuf::new(), Vec::new(), RgbImage::default());
        let room = Room { path: &mut path, bytes: &mut bytes, image: &mut image };
        let encoded = match source.fetch(index, room)? {
            Stored::Encoded => true,
            Stored::Pixels => false,
            Stored::Raw(raw) => {
                image = RgbImage::new(raw.width_px, raw.height_px, raw.pixels.to_vec());
                false
            }
        };
        if encoded {
            // Read even where the file stays as it is: what is packed can be used.
            image = decode(&bytes)?;
            if self.options.short_side_px.is_none() && !self.options.raw {
                return Ok((extension(&bytes), bytes));
            }
        }
        if let Some(short_px) = self.options.short_side_px {
            image = self.shrink(image, short_px);
        }
        if self.options.raw || !encoded {
            let mut file =
                format!("P6\n{} {}\n255\n", image.width_px, image.height_px).into_bytes();
            file.extend_from_slice(&image.pixels);
            return Ok(("ppm", file));
        }
        let size = (image.width_px as usize, image.height_px as usize);
        let encoder = Encoder::new(&image.pixels, size.0, size.1, PixelFormat::Rgb)
            .quality(self.options.quality)
            .subsampling(Subsampling::S420)
            .restart_blocks(self.options.restart_units);
        Ok(("jpg", encoder.encode().map_err(ImageError::Jpeg)?))
    }

    fn shrink(&mut self, image: RgbImage, short_px: u32) -> RgbImage {
        let (width, height) = (image.width_px, image.height_px);
        let short = width.min(height);
        if short <= short_px {
            return image;
        }
        let side = |px: u32| (u64::from(px) * u64::from(short_px) / u64::from(short)).max(1) as u32;
        let (width_px, height_px) = (side(width), side(height));
        let source = Crop { x_px: 0, y_px: 0, width_px: width, height_px: height };
        let part = Crop { x_px: 0, y_px: 0, width_px, height_px };
        let mut pixels = vec![0; width_px as usize * height_px as usize * 3];
        let window = Window { source, width_px, height_px, filter: Filter::Bicubic };
        self.resampler.part(&image, &window, &part, &mut pixels);
        RgbImage::new(width_px, height_px, pixels)
    }
}

/// By the first bytes.
fn extension(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xFF, 0xD8, ..] => "jpg",
        [0x89, b'P', ..] => "png",
        [b'G', b'I', ..] => "gif",
        [b'I', b'I', ..] | [b'M', b'M', ..] => "tiff",
        [b'B', b'M', ..] => "bmp",
        _ => "webp",
    }
}
