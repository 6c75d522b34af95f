//! The resampler against Pillow's, and a patch by itself against the patch cut from the whole.
//!
//! ```python
//! photo.crop((x, y, x + w, y + h)).resize((side, side), Image.BICUBIC)
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;

use ocl_data::{Crop, Draws, Filter, Purpose, Resampler, RgbImage, Window, sample_crop};
use safetensors::{Dtype, SafeTensors};

#[test]
fn equals_pillow() {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let folder = std::env::var_os("OCL_GOLDEN_DIR").map(PathBuf::from);
    let mut checked = 0;
    for entry in std::fs::read_dir(folder.as_ref().unwrap_or(&default)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            if tensors.tensor("input.boxes_xywh").is_ok() {
                check(&tensors, &path.display().to_string());
                checked += 1;
            }
        }
    }
    // A folder of the caller's own may hold other vectors only.
    assert!(checked > 0 || folder.is_some(), "no golden resize vectors in {}", default.display());
}

fn check(tensors: &SafeTensors, name: &str) {
    let rgb = tensors.tensor("input.rgb").unwrap();
    assert_eq!(rgb.dtype(), Dtype::U8);
    let image = RgbImage::new(rgb.shape()[1] as u32, rgb.shape()[0] as u32, rgb.data().to_vec());
    let boxes = tensors.tensor("input.boxes_xywh").unwrap();
    assert_eq!(boxes.dtype(), Dtype::I64);
    let boxes: Vec<u32> = boxes
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as u32)
        .collect();
    let mut resampler = Resampler::new();
    let (mut off_by_more, mut values) = (0, 0);
    for (i, b) in boxes.chunks_exact(4).enumerate() {
        let expect = tensors.tensor(&format!("expect.{i}")).unwrap();
        let (height_px, width_px) = (expect.shape()[0] as u32, expect.shape()[1] as u32);
        let source = Crop { x_px: b[0], y_px: b[1], width_px: b[2], height_px: b[3] };
        let window = Window { source, width_px, height_px, filter: Filter::Bicubic };
        let mut out = vec![0; expect.data().len()];
        let whole = Crop { x_px: 0, y_px: 0, width_px, height_px };
        resampler.part(&image, &window, &whole, &mut out);
        for (got, expected) in out.iter().zip(expect.data()) {
            assert!(got.abs_diff(*expected) <= 2, "{name}, box {i}: {got}, Pillow {expected}");
            off_by_more += usize::from(got.abs_diff(*expected) > 1);
            values += 1;
        }
        let equal = out == expect.data();
        println!("{name}, box {i}: equal bit for bit: {equal}");
    }
    assert!(
        off_by_more * 1000 <= values,
        "{name}: {off_by_more} of {values} are off by more than 1"
    );
}

/// A picture of noise, edges and slopes.
fn picture(width_px: u32, height_px: u32, draws: &mut Draws) -> RgbImage {
    let mut pixels = Vec::new();
    for y in 0..height_px {
        for x in 0..width_px {
            let edge = if (x / 7 + y / 5) % 2 == 0 { 0 } else { 200 };
            pixels.extend([draws.below(256) as u8, edge, (x + y) as u8]);
        }
    }
    RgbImage::new(width_px, height_px, pixels)
}

#[test]
fn a_part_by_itself_is_the_part_cut_from_the_whole() {
    let mut resampler = Resampler::new();
    for case in 0..200 {
        let mut draws = Draws::new(3, 0, case, Purpose::Test);
        let image = picture(1 + draws.below(90), 1 + draws.below(90), &mut draws);
        let (w, h) = (image.width_px, image.height_px);
        let source = sample_crop(w, h, (0.1, 1.0), (0.5, 2.0), &mut draws);
        let window = Window {
            source,
            width_px: 1 + draws.below(70),
            height_px: 1 + draws.below(70),
            filter: if case % 3 == 0 { Filter::Bilinear } else { Filter::Bicubic },
        };
        let (width, height) = (window.width_px, window.height_px);
        let whole = Crop { x_px: 0, y_px: 0, width_px: width, height_px: height };
        let mut all = vec![0; (width * height * 3) as usize];
        resampler.part(&image, &window, &whole, &mut all);

        for _ in 0..5 {
            let (x_px, y_px) = (draws.below(width), draws.below(height));
            let width_px = 1 + draws.below(width - x_px);
            let height_px = 1 + draws.below(height - y_px);
            let part = Crop { x_px, y_px, width_px, height_px };
            let mut out = vec![0; (width_px * height_px * 3) as usize];
            // Rows that are not needed may be anything.
            let mut torn = image.clone();
            let rows = resampler.source_rows(&window, y_px..y_px + height_px);
            torn.pixels[..(rows.start * w * 3) as usize].fill(255);
            torn.pixels[(rows.end * w * 3) as usize..].fill(255);
            resampler.part(&torn, &window, &part, &mut out);
            for (y, row) in out.chunks_exact(width_px as usize * 3).enumerate() {
                let start = ((y_px as usize + y) * width as usize + x_px as usize) * 3;
                assert_eq!(
                    row,
                    &all[start..start + row.len()],
                    "case {case}, {window:?}, {part:?}"
                );
            }
        }
    }
}
