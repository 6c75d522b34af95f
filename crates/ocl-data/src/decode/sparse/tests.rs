//! Parts against the full decoder: over crops, qualities, samplings, restart intervals, sizes.

use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};

use super::SparseDecoder;
use crate::decode::{ImageHeader, PartDecoder, decode};
use crate::picture::Crop;
use crate::picture::RgbImage;
use crate::random::{Draws, Purpose};

const SAMPLINGS: [Subsampling; 4] =
    [Subsampling::S444, Subsampling::S422, Subsampling::S420, Subsampling::S440];

/// Waves, edges and as much noise as asked for.
fn picture(draws: &mut Draws, width: usize, height: usize, channels: usize) -> Vec<u8> {
    let noise = draws.below(120);
    let slope = [1 + draws.below(9) as usize, 1 + draws.below(9) as usize];
    let mut pixels = Vec::with_capacity(width * height * channels);
    for at in 0..width * height {
        let (x, y) = (at % width, at / width);
        for channel in 0..channels {
            let shape = (x * slope[0] + y * slope[1] * (channel + 1)) as u32 / 2 % 200;
            pixels.push((shape + draws.below(noise + 1)) as u8);
        }
    }
    pixels
}

fn random_part(draws: &mut Draws, width: u32, height: u32) -> Crop {
    let (x_px, y_px) = (draws.below(width), draws.below(height));
    let (width_px, height_px) = (1 + draws.below(width - x_px), 1 + draws.below(height - y_px));
    Crop { x_px, y_px, width_px, height_px }
}

/// The largest difference of levels within the parts.
fn difference(made: &RgbImage, whole: &RgbImage, parts: &[Crop]) -> u8 {
    assert_eq!((made.width_px, made.height_px), (whole.width_px, whole.height_px));
    let mut worst = 0;
    for part in parts {
        for y in part.y_px..part.y_px + part.height_px {
            let xs = part.x_px as usize * 3..(part.x_px + part.width_px) as usize * 3;
            let rows = made.row(y)[xs.clone()].iter().zip(&whole.row(y)[xs]);
            worst = rows.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0).max(worst);
        }
    }
    worst
}

#[test]
fn parts_equal_the_full_decoder() {
    let (mut decoder, mut image) = (SparseDecoder::default(), RgbImage::default());
    for case in 0..400 {
        let mut draws = Draws::new(6, 0, case, Purpose::Test);
        let (width, height) = (5 + draws.below(90), 1 + draws.below(90));
        let grey = draws.below(8) == 0;
        let (channels, format) =
            if grey { (1, PixelFormat::Grayscale) } else { (3, PixelFormat::Rgb) };
        let pixels = picture(&mut draws, width as usize, height as usize, channels);
        let mut encoder = Encoder::new(&pixels, width as usize, height as usize, format)
            .quality(1 + draws.below(100) as u8)
            .subsampling(SAMPLINGS[draws.below(4) as usize])
            .optimize_huffman(draws.below(2) == 0);
        match draws.below(4) {
            0 => encoder = encoder.restart_rows(1 + draws.below(2) as u16),
            1 => encoder = encoder.restart_blocks(1 + draws.below(9) as u16),
            _ => {}
        }
        let file = encoder.encode().unwrap();
        let whole = decode(&file).unwrap();
        let parts: Vec<Crop> =
            (0..1 + draws.below(5)).map(|_| random_part(&mut draws, width, height)).collect();
        // What an earlier picture has left must not show.
        image.pixels.fill(99);
        decoder.decode(&file, 1, &parts, &mut image).expect("a file that it serves");
        assert_eq!(difference(&image, &whole, &parts), 0, "case {case}: {parts:?}");
    }
}

/// Of any kind of file, upright or not, served by either decoder.
#[test]
fn parts_of_every_fixture() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (mut decoder, mut image, mut sparse) = (PartDecoder::new(), RgbImage::default(), 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = std::fs::read(&path).unwrap();
        let Ok(whole) = decode(&file) else { continue };
        let header = ImageHeader::read(&file).unwrap();
        for case in 0..40 {
            let mut draws = Draws::new(7, 0, case, Purpose::Test);
            let parts: Vec<Crop> = (0..1 + draws.below(3))
                .map(|_| random_part(&mut draws, whole.width_px, whole.height_px))
                .collect();
            image.pixels.fill(99);
            decoder.decode(&header, &mut file.clone(), &parts, &mut image).unwrap();
            let (width, rows) = (image.width_px, image.height_px);
            assert!(width == whole.width_px && rows <= whole.height_px);
            image.height_px = whole.height_px;
            assert_eq!(difference(&image, &whole, &parts), 0, "{path:?} {parts:?}");
            let mut again = RgbImage::default();
            if file.starts_with(&[0xFF, 0xD8])
                && decoder.sparse.decode(&file, 1, &[], &mut again).is_some()
            {
                sparse += 1;
            }
        }
    }
    assert!(sparse >= 12 * 40, "only {sparse} were served by the sparse decoder");
}

/// Optimised tables differ from file to file: more of them than are kept.
#[test]
fn tables_are_replaced() {
    let mut decoder = SparseDecoder::default();
    for round in 0..12 {
        let mut draws = Draws::new(8, 0, round % 6, Purpose::Test);
        let pixels = picture(&mut draws, 40, 40, 3);
        let encoder = Encoder::new(&pixels, 40, 40, PixelFormat::Rgb).quality(95);
        let file = encoder.optimize_huffman(true).encode().unwrap();
        let all = Crop { x_px: 0, y_px: 0, width_px: 40, height_px: 40 };
        let mut image = RgbImage::default();
        decoder.decode(&file, 1, &[all], &mut image).expect("a file that it serves");
        assert!(image == decode(&file).unwrap(), "round {round}");
    }
}

#[test]
fn a_damaged_file_is_left_to_the_full_decoder() {
    let mut draws = Draws::new(9, 0, 0, Purpose::Test);
    let pixels = picture(&mut draws, 64, 64, 3);
    let file = Encoder::new(&pixels, 64, 64, PixelFormat::Rgb).quality(90).encode().unwrap();
    let part = Crop { x_px: 40, y_px: 50, width_px: 9, height_px: 9 };
    let (mut decoder, mut image) = (SparseDecoder::default(), RgbImage::default());
    assert!(decoder.decode(&file, 1, &[part], &mut image).is_some());
    let cut = &file[..file.len() - 40];
    assert!(decoder.decode(cut, 1, &[part], &mut image).is_none(), "no end-of-image");
    let ended = [cut, &[0xFF, 0xD9]].concat();
    let lower = Crop { y_px: 60, height_px: 4, ..part };
    assert!(decoder.decode(&ended, 1, &[lower], &mut image).is_none(), "too few bits");
}
