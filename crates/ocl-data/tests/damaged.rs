//! JPEGs that are damaged: the same answer for every crop, and parts equal to the whole.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use ocl_data::{Crop, Draws, ImageHeader, PartDecoder, Purpose, RgbImage, decode};

/// Waves and noise as a JPEG of some kind.
fn jpeg(draws: &mut Draws) -> Vec<u8> {
    let (width, height) = (9 + draws.below(80) as usize, 9 + draws.below(80) as usize);
    let (noise, slope) = (1 + draws.below(90), 1 + draws.below(7) as usize);
    let grey = draws.below(8) == 0;
    let (channels, format) = if grey { (1, PixelFormat::Grayscale) } else { (3, PixelFormat::Rgb) };
    let mut pixels = Vec::new();
    for at in 0..width * height * channels {
        pixels.push(((at * slope / 3 % 160) as u32 + draws.below(noise)) as u8);
    }
    let samplings = [Subsampling::S444, Subsampling::S422, Subsampling::S420, Subsampling::S411];
    let mut encoder = Encoder::new(&pixels, width, height, format)
        .quality(20 + draws.below(80) as u8)
        .subsampling(samplings[draws.below(4) as usize])
        .optimize_huffman(draws.below(2) == 0)
        .progressive(draws.below(10) == 0);
    if draws.below(3) == 0 {
        encoder = encoder.restart_blocks(1 + draws.below(9) as u16);
    }
    encoder.encode().unwrap()
}

/// Changes a few bytes, mostly of the scan, or cuts, doubles or removes some.
fn mutate(draws: &mut Draws, file: &mut Vec<u8>) {
    let scan = file.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap_or(0);
    for _ in 0..1 + draws.below(3) {
        let from = if draws.below(6) == 0 { 2 } else { scan.min(file.len() - 4) };
        let at = from + draws.below((file.len() - from) as u32) as usize;
        match draws.below(6) {
            0 => file[at] = 0xFF,
            1 => file[at] ^= 1 << draws.below(8),
            2 => file[at] = draws.below(256) as u8,
            3 => file.insert(at, draws.below(256) as u8),
            4 => {
                let end = (at + 1 + draws.below(40) as usize).min(file.len());
                file.drain(at..end);
            }
            _ => {
                // Cut, and ended as if nothing had happened.
                file.truncate(at.max(4));
                file.extend([0xFF, 0xD9]);
            }
        }
        if file.len() < 8 {
            return;
        }
    }
}

fn crops(draws: &mut Draws, width: u32, height: u32) -> Vec<Crop> {
    let mut crops = vec![
        Crop { x_px: 0, y_px: 0, width_px: width, height_px: 1 },
        Crop { x_px: 0, y_px: height - 1, width_px: width, height_px: 1 },
        Crop { x_px: 0, y_px: 0, width_px: width, height_px: height },
    ];
    for _ in 0..3 {
        let (x_px, y_px) = (draws.below(width), draws.below(height));
        let (width_px, height_px) = (1 + draws.below(width - x_px), 1 + draws.below(height - y_px));
        crops.push(Crop { x_px, y_px, width_px, height_px });
    }
    crops
}

fn part_of(image: &RgbImage, crop: &Crop) -> Vec<u8> {
    let row = image.width_px as usize * 3;
    let xs = crop.x_px as usize * 3..(crop.x_px + crop.width_px) as usize * 3;
    let rows = crop.y_px as usize..(crop.y_px + crop.height_px) as usize;
    rows.flat_map(|y| image.pixels[y * row..][xs.clone()].to_vec()).collect()
}

/// What differs between a file decoded whole and in parts.
fn difference(decoder: &mut PartDecoder, draws: &mut Draws, file: &[u8]) -> Option<String> {
    let whole = decode(file);
    let Ok(header) = ImageHeader::read(file) else {
        return whole.is_ok().then(|| "the whole has no header".to_owned());
    };
    let mut image = RgbImage::default();
    for crop in crops(draws, header.width_px, header.height_px) {
        let part = decoder.decode(&header, &mut file.to_vec(), &[crop], &mut image);
        match (&whole, part) {
            (Ok(whole), Ok(())) => {
                if part_of(whole, &crop) != part_of(&image, &crop) {
                    return Some(format!("other pixels in {crop:?}"));
                }
            }
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) => return Some(format!("{crop:?} fails: {error:?}")),
            (Err(error), Ok(())) => return Some(format!("{crop:?} alone is read: {error:?}")),
        }
    }
    None
}

/// A few hundred mutants; `OCL_FUZZ=20000` for more.
#[test]
fn parts_of_mutants_equal_the_whole() {
    let count = std::env::var("OCL_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut decoder = PartDecoder::new();
    let (mut read, mut wrong) = (0, Vec::new());
    for case in 0..count {
        let mut draws = Draws::new(17, 0, case, Purpose::Test);
        let mut file = jpeg(&mut draws);
        mutate(&mut draws, &mut file);
        read += u64::from(decode(&file).is_ok());
        let found = catch_unwind(AssertUnwindSafe(|| difference(&mut decoder, &mut draws, &file)));
        match found {
            Ok(None) => {}
            Ok(Some(difference)) => wrong.push((case, difference)),
            Err(_) => wrong.push((case, "panicked".to_owned())),
        }
    }
    assert!(wrong.is_empty(), "{} of {count}: {:#?}", wrong.len(), &wrong[..wrong.len().min(12)]);
    // Else nothing was compared.
    assert!(read * 3 > count && read < count, "{read} of {count} can be read");
}

/// Files as cameras, broken downloads and old programs leave them.
#[test]
fn odd_files_are_read_alike_in_any_part() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/odd");
    let mut decoder = PartDecoder::new();
    for (name, size) in [
        ("jpeg-bytes-between-segments.jpg", (97, 61)),
        ("jpeg-scan-short-but-ended.jpg", (97, 61)),
        ("jpeg-bad-code.jpg", (97, 61)),
        ("jpeg-damaged-fast-and-full-differ.jpg", (97, 61)),
    ] {
        let file = std::fs::read(folder.join(name)).unwrap();
        let image = decode(&file).unwrap();
        assert_eq!((image.width_px, image.height_px), size, "{name}");
        for case in 0..20 {
            let mut draws = Draws::new(18, 0, case, Purpose::Test);
            assert_eq!(difference(&mut decoder, &mut draws, &file), None, "{name}");
        }
    }
}

/// WebP's EXIF chunk with the prefix that only JPEG asks for.
#[test]
fn a_webp_is_turned_as_browsers_turn_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/odd/webp-exif-with-jpeg-prefix.webp");
    let image = decode(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((image.width_px, image.height_px), (61, 97));
}

/// A BMP whose pixels are said to begin where the palette does, as old writers have it.
#[test]
fn pixels_of_a_bmp_begin_behind_its_palette() {
    let mut file = b"BM".to_vec();
    let offset = |offset: u32| offset.to_le_bytes();
    // Size, reserved, offset, header's length, width, height, planes and bits.
    for word in [0, 0, 54, 40, 4, 1, 1 | 8 << 16, 0, 4, 0, 0, 2, 0] {
        file.extend(offset(word));
    }
    file.extend([10, 20, 30, 0, 40, 50, 60, 0]);
    file.extend([0, 1, 1, 0]);
    let pixels = [[30, 20, 10], [60, 50, 40], [60, 50, 40], [30, 20, 10]].concat();
    for (said, right) in [(54, true), (62, true), (58, false)] {
        file[10..14].copy_from_slice(&offset(said));
        match decode(&file) {
            Ok(image) => assert!(right && image.pixels == pixels, "{said}: {:?}", image.pixels),
            Err(error) => assert!(!right && error.to_string().contains("palette"), "{error}"),
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/odd/bmp-offset-ignores-palette.bmp");
    decode(&std::fs::read(path).unwrap()).unwrap();
}
