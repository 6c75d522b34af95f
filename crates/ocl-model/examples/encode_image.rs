//! Encodes one image with an untrained encoder: pixels to patches to a feature vector.
//!
//! `cargo run --release -p ocl-model --example encode_image`

use burn::tensor::{Device, Int, Tensor};
use ocl_model::{Vit, VitConfig};

fn main() -> Result<(), ocl_model::ConfigError> {
    let device = Device::default();
    let config = VitConfig::named("tiny")?;
    let vit = Vit::new(&config, 0, &device)?;

    // A colour gradient, cut into patches of (row, column, channel).
    let (grid, side) = (config.grid(), config.patch_px);
    let mut patches = Vec::with_capacity(config.patches() * config.patch_len());
    for patch in 0..config.patches() {
        let (top, left) = (patch / grid * side, patch % grid * side);
        for pixel in 0..side * side {
            let (y, x) = (top + pixel / side, left + pixel % side);
            patches.extend([y as f32 / 224.0, x as f32 / 224.0, 0.5]);
        }
    }
    let patches = Tensor::<1>::from_floats(patches.as_slice(), &device).reshape([
        1,
        config.patches(),
        config.patch_len(),
    ]);
    let positions = Tensor::<1, Int>::arange(0..config.patches() as i64, &device).unsqueeze();

    let features = vit.encode(vit.tokens(patches, positions)); // [1, 1+L, D]
    let class_token = features.slice([0..1, 0..1]).reshape([config.width]);
    println!("{} parameters, class token {:.3}", config.parameters(), class_token);
    Ok(())
}
