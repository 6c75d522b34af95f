//! Every kind of image file against Pillow's reading of it, and files that are no images.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress, compress_progressive};
use ocl_data::{Draws, ImageError, ImageHeader, Purpose, RgbImage, decode};
use safetensors::SafeTensors;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn equals_pillow() {
    let expect = std::fs::read(fixtures().join("expect.safetensors")).unwrap();
    let expect = SafeTensors::deserialize(&expect).unwrap();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (name, tensor) in expect.tensors() {
        let name = name.strip_prefix("expect.").unwrap().to_string();
        let image = decode(&std::fs::read(fixtures().join(&name)).unwrap()).unwrap();
        let shape = [image.height_px as usize, image.width_px as usize, 3];
        assert_eq!(shape, tensor.shape(), "{name}");
        assert_eq!(image.pixels.len(), tensor.data().len(), "{name}");
        compared += 1;
        let worst = image.pixels.iter().zip(tensor.data()).map(|(a, b)| a.abs_diff(*b)).max();
        if worst > Some(0) {
            wrong.push((name, worst));
        }
    }
    assert!(compared >= 20, "only {compared} pictures of Pillow's");
    assert!(wrong.is_empty(), "differ from Pillow by so many levels: {wrong:?}");
}

fn photo(width: usize, height: usize) -> Vec<u8> {
    let mut draws = Draws::new(8, 0, 0, Purpose::Test);
    (0..width * height)
        .flat_map(|at| {
            let (x, y) = (at % width, at / width);
            let noise = draws.below(30) as usize;
            [(x * 5 + noise) as u8, (y * 3 + noise) as u8, ((x + y) * 2 + noise) as u8]
        })
        .collect()
}

#[test]
fn upper_rows_alone_are_the_upper_rows_of_all() {
    let (width, height) = (70, 93);
    let pixels = photo(width, height);
    for subsampling in [Subsampling::S444, Subsampling::S422, Subsampling::S420, Subsampling::S440]
    {
        let format = PixelFormat::Rgb;
        let jpeg = compress(&pixels, width, height, format, 85, subsampling).unwrap();
        let scans = compress_progressive(&pixels, width, height, format, 85, subsampling).unwrap();
        let png = {
            let image = image::RgbImage::from_raw(70, 93, pixels.clone()).unwrap();
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        for (kind, file) in [("jpeg", &jpeg), ("progressive", &scans), ("png", &png)] {
            let all = decode(file).unwrap();
            let header = ImageHeader::read(file).unwrap();
            let mut image = RgbImage::default();
            for rows in 1..=height {
                header.decode(&mut file.clone(), rows as u32, &mut image).unwrap();
                assert_eq!(image.width_px as usize, width);
                let upper = rows * width * 3;
                assert!(
                    image.pixels[..upper] == all.pixels[..upper],
                    "{kind}, {subsampling:?}, {rows} rows"
                );
                let saved = kind != "jpeg" || image.height_px as usize <= rows + 8;
                assert!(saved, "{rows} rows wanted, {} decoded", image.height_px);
            }
        }
    }
}

#[test]
fn files_that_are_no_images() {
    assert!(matches!(decode(b""), Err(ImageError::Empty)));
    assert!(matches!(decode(b"dear diary, today"), Err(ImageError::UnknownFormat)));
    assert!(matches!(decode(&[0xFF, 0xD8, 0xFF]), Err(ImageError::Jpeg(_))));
    assert!(matches!(decode(b"\x89PNG\r\n\x1a\n"), Err(ImageError::Container(_))));
}

/// Files cut short or damaged anywhere give an error or a picture of the header's size, and never a
/// panic or a hang.
#[test]
fn damaged_files() {
    let mut draws = Draws::new(9, 0, 0, Purpose::Test);
    let (mut read, mut refused) = (0, 0);
    let mut count = |made: Result<RgbImage, ImageError>, header: Option<(u32, u32)>| match made {
        Ok(image) => {
            let size = (image.width_px, image.height_px);
            assert_eq!(Some(size.0), header.map(|header| header.0), "a width that nobody promised");
            assert!(image.pixels.len() >= size.0 as usize * size.1 as usize * 3);
            read += 1;
        }
        Err(_) => refused += 1,
    };
    let size = |bytes: &[u8]| {
        let header = ImageHeader::read(bytes).ok()?;
        Some((header.width_px, header.height_px))
    };
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        if decode(&whole).is_err() {
            continue;
        }
        for len in (0..whole.len()).step_by(1 + whole.len() / 60) {
            count(decode(&whole[..len]), size(&whole[..len]));
        }
        for _ in 0..200 {
            let mut damaged = whole.clone();
            for _ in 0..1 + draws.below(4) {
                let at = draws.below(damaged.len() as u32) as usize;
                damaged[at] = draws.below(256) as u8;
            }
            if let Ok(header) = ImageHeader::read(&damaged) {
                let rows = 1 + draws.below(header.height_px);
                let (size, mut image) = (size(&damaged), RgbImage::default());
                let made = header.decode(&mut damaged, rows, &mut image);
                count(made.map(|()| image), size);
            }
        }
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
}

/// A file cut short is refused wherever a crop lies: how far down it reaches must not decide.
#[test]
fn a_jpeg_cut_short_is_refused_for_any_rows() {
    let jpeg = compress(&photo(64, 64), 64, 64, PixelFormat::Rgb, 90, Subsampling::S420).unwrap();
    let mut cut = jpeg[..jpeg.len() * 3 / 4].to_vec();
    let header = ImageHeader::read(&cut).unwrap();
    for rows in [1, 64] {
        let read = header.decode(&mut cut, rows, &mut RgbImage::default());
        assert!(matches!(read, Err(ImageError::Jpeg(_))), "{rows} rows");
    }
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
    let mut jpeg =
        compress(&photo(16, 16), 16, 16, PixelFormat::Rgb, 90, Subsampling::S444).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xFF);
    let mut png = std::fs::read(fixtures().join("rgb.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut gif = std::fs::read(fixtures().join("two_frames.gif")).unwrap();
    gif[6..10].fill(0xFF);
    for (name, file) in [("jpeg", jpeg), ("png", png), ("gif", gif)] {
        let error = decode(&file).unwrap_err();
        assert!(matches!(error, ImageError::Dimensions { .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_very_wide_png_is_read() {
    let wide = image::RgbImage::from_fn(20_000, 40, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let mut bytes = Cursor::new(Vec::new());
    wide.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let image = decode(bytes.get_ref()).unwrap();
    assert_eq!((image.width_px, image.height_px), (20_000, 40));
    assert_eq!(image.pixels, wide.into_raw());
}

/// PNG's checksum.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
