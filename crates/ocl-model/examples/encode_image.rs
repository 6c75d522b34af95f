//! Features of an image: cut into patches, embedded with their positions, encoded.
//!
//! `cargo run --release -p ocl-model --example encode_image -- [IMAGE [WEIGHTS.safetensors]]`
//!
//! Without an image a synthetic one is encoded, without weights an untrained ViT-Ti/16 encodes it.
//! Weights are such as a run leaves in `encoder.safetensors`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::error::Error;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use image::imageops::FilterType;
use image::{Rgb, RgbImage};
use ocl_model::{Pooling, Vit, VitConfig, load_weights};

/// Mean and deviation of ImageNet's channels.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let device = Device::default();
    let image = match arguments.next() {
        Some(path) => image::open(&path).map_err(|error| format!("{path}: {error}"))?.to_rgb8(),
        None => RgbImage::from_fn(320, 240, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8])),
    };
    let vit = match arguments.next() {
        Some(weights) => load_weights(Path::new(&weights), &device)?,
        None => Vit::new(&VitConfig::named("tiny")?, 0, &device)?,
    };
    let config = vit.config();
    let side = config.image_px as u32;
    let image = image::imageops::resize(&image, side, side, FilterType::CatmullRom);

    let patches =
        TensorData::new(cut(&image, config.patch_px), [1, config.patches(), config.patch_len()]);
    let places: Vec<i32> = (0..config.patches() as i32).collect();
    let places = Tensor::<1, Int>::from_ints(places.as_slice(), &device);
    let tokens = vit.tokens(Tensor::from_data(patches, &device), places.unsqueeze()); // [1, L, D]
    for (name, pooling) in [("class token", Pooling::Cls), ("mean of patches", Pooling::Mean)] {
        let feature = vit.pooled(tokens.clone(), pooling); // [1, D]
        let feature: Vec<f32> =
            feature.into_data().try_into_vec().map_err(|error| error.to_string())?;
        let length = feature.iter().map(|v| v * v).sum::<f32>().sqrt();
        println!("{name}: {} values, length {length:.3}, {:.3?} ...", feature.len(), &feature[..4]);
    }
    Ok(())
}

/// Patches row by row, `[L, P*P*3]` flat, normalised; inside a patch row, column, channel.
fn cut(image: &RgbImage, patch_px: usize) -> Vec<f32> {
    let grid = image.width() as usize / patch_px;
    let mut values = Vec::with_capacity(3 * image.width() as usize * image.height() as usize);
    for patch in 0..grid * grid {
        let (top, left) = (patch / grid * patch_px, patch % grid * patch_px);
        for pixel in 0..patch_px * patch_px {
            let (x, y) = (left + pixel % patch_px, top + pixel / patch_px);
            let levels = image.get_pixel(x as u32, y as u32).0;
            let channel = |c: usize| (f32::from(levels[c]) / 255.0 - MEAN[c]) / STD[c];
            values.extend((0..3).map(channel));
        }
    }
    values
}
