//! Features of a timm model's weights against timm's own, on whole images.
//!
//! ```python
//! m = VisionTransformer(img_size=24, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=0)
//! m.pos_embed.copy_(sincos); m.forward_features(x)
//! ```

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_model::{HostTensor, Vit, VitConfig, apply_state};
use safetensors::SafeTensors;

#[test]
fn timm_weights_give_timm_features() {
    let named = std::env::var_os("OCL_GOLDEN_DIR").map(PathBuf::from);
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut checked = 0;
    for entry in std::fs::read_dir(named.as_ref().unwrap_or(&own)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        if file.tensor("expect.timm_features").is_ok() {
            check(&bytes, &file);
            checked += 1;
        }
    }
    assert!(checked > 0 || named.is_some(), "no golden features of timm");
}

fn check(bytes: &[u8], file: &SafeTensors<'_>) {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let meta = header.metadata().clone().unwrap();
    let count = |key: &str| meta[key].parse::<usize>().unwrap();
    let config = VitConfig {
        image_px: count("image"),
        patch_px: count("patch"),
        width: count("dim"),
        depth: count("depth"),
        heads: count("heads"),
        mlp_ratio: count("mlp_ratio"),
    };
    let mut state = BTreeMap::new();
    for (name, view) in file.tensors() {
        if let Some(name) = name.strip_prefix("weight.").filter(|name| *name != "pos_embed") {
            let tensor = HostTensor { shape: view.shape().to_vec(), values: floats(view.data()) };
            state.insert(name.to_owned(), tensor);
        }
    }
    let device = Device::default();
    let vit = apply_state(Vit::new(&config, 0, &device).unwrap(), state).unwrap();

    let images = file.tensor("input.images").unwrap();
    let (n, grid, p) = (images.shape()[0], config.grid(), config.patch_px);
    let images = Tensor::<1>::from_data(
        TensorData::new(floats(images.data()), [n * 3 * config.image_px * config.image_px]),
        &device,
    );
    let patches = images.reshape([n, 3, grid, p, grid, p]).permute([0, 2, 4, 3, 5, 1]).reshape([
        n,
        grid * grid,
        p * p * 3,
    ]); // [N, L, P*P*3], channels last
    let positions = Tensor::<1, Int>::arange(0..(grid * grid) as i64, &device);
    let positions = positions.reshape([1, grid * grid]).expand([n, grid * grid]);
    let features = vit.encode(vit.tokens(patches, positions)); // [N, 1+L, D]
    let ours = features.into_data().try_into_vec::<f32>().unwrap();
    let expected = floats(file.tensor("expect.timm_features").unwrap().data());
    for (ours, expected) in ours.iter().zip(&expected) {
        assert!((ours - expected).abs() < 1e-4, "{ours}, timm {expected}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
