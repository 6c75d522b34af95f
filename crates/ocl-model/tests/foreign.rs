//! Weights that timm and PyTorch wrote, in each form that is read, against timm's features and logits.
//!
//! `tests/golden/foreign` was made so, with torch 2.15 and timm 1.0.31 (`m` always in eval mode, every
//! parameter drawn from a normal distribution):
//!
//! ```python
//! args = dict(img_size=24, patch_size=4, embed_dim=32, depth=2, num_heads=4)
//! # class_token.pth; class_token_16 and _32: the same through timm's checkpoint_filter_fn at img_size 16, 32
//! m = VisionTransformer(**args, num_classes=5)
//! torch.save({"model": m.state_dict(), "args": argparse.Namespace(output_dir=Path("o")), "epoch": 3,
//!             "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, "class_token.pth")
//! # mean_pooled/
//! m = timm.create_model("vit_base_patch16_224", **args, num_classes=5, global_pool="avg")
//! timm.models.save_for_hf(m, "mean_pooled", safe_serialization=True)
//! # registers.pth: half precision, the names of DINOv2, the class token with a position, one matrix
//! # stored transposed, the form of torch.save before PyTorch 1.6
//! m = VisionTransformer(**args, num_classes=0, reg_tokens=3, init_values=0.1, no_embed_class=True)
//! torch.save({"teacher": {f"module.backbone.{k}": v for k, v in theirs.items()}}, "registers.pth",
//!            _use_new_zipfile_serialization=False)
//! # expect.safetensors
//! t = m.forward_features(images); features = m.forward_head(t, pre_logits=True); logits = m(images)
//! ```

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_model::{
    OpenOptions, OpenedWeights, Pooling, Preprocessing, Vit, WeightsError, export_folder,
    open_weights, state_of,
};
use safetensors::SafeTensors;

const HEADS: OpenOptions = OpenOptions { heads: Some(4), image_px: None };

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/foreign").join(name)
}

fn open(name: &str, options: &OpenOptions) -> OpenedWeights {
    open_weights(&golden(name), options, &Device::default()).unwrap()
}

/// Features of the golden images, `[2, D]`.
fn features(vit: &Vit, pooling: Pooling) -> Tensor<2> {
    let (side, p) = (vit.config().image_px, vit.config().patch_px);
    let (grid, device) = (side / p, vit.device());
    let values = expected(&format!("images_{side}"));
    let images = Tensor::<1>::from_data(TensorData::new(values, [2 * 3 * side * side]), &device);
    let images = images.reshape([2, 3, grid, p, grid, p]).permute([0, 2, 4, 3, 5, 1]);
    let patches = images.reshape([2, grid * grid, p * p * 3]); // [N, L, P*P*3], channels last
    let positions = Tensor::<1, Int>::arange(0..(grid * grid) as i64, &device);
    let positions = positions.reshape([1, grid * grid]).expand([2, grid * grid]);
    vit.pooled(vit.tokens(patches, positions), pooling)
}

fn expected(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden("expect.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    file.tensor(name).unwrap().data().chunks_exact(4).map(value).collect()
}

fn assert_close(ours: Tensor<2>, name: &str) {
    let (ours, timms) = (ours.into_data().try_into_vec::<f32>().unwrap(), expected(name));
    assert_eq!(ours.len(), timms.len(), "{name}");
    for (ours, timm) in ours.iter().zip(timms) {
        // The weights are far larger than trained ones, and so are the logits.
        assert!((ours - timm).abs() < 1e-4 * timm.abs().max(1.0), "{name}: {ours}, timm {timm}");
    }
}

fn assert_as_in_timm(opened: &OpenedWeights, name: &str) {
    let features = features(&opened.vit, opened.pooling);
    assert_close(features.clone(), &format!("{name}.features"));
    if let Some(head) = &opened.head {
        assert_close(head.forward(features), &format!("{name}.logits"));
    }
}

#[test]
fn a_training_checkpoint_with_class_token_and_learned_positions() {
    let opened = open("class_token.pth", &HEADS);
    assert_eq!((opened.pooling, opened.head.is_some()), (Pooling::Cls, true));
    assert!(opened.ignored.is_empty() && opened.preprocessing.is_none());
    assert_as_in_timm(&opened, "class_token");
}

#[test]
fn learned_positions_are_resampled_for_other_image_sizes() {
    for side in [16, 32] {
        let options = OpenOptions { image_px: Some(side), ..HEADS };
        assert_as_in_timm(&open("class_token.pth", &options), &format!("class_token_{side}"));
    }
}

#[test]
fn a_folder_of_timm_with_mean_pooling_and_its_norm() {
    // Heads, pooling and normalisation are in config.json.
    let opened = open("mean_pooled", &OpenOptions::default());
    assert_eq!((opened.pooling, opened.vit.config().heads), (Pooling::Mean, 4));
    assert_eq!(opened.preprocessing.unwrap().mean, [0.5; 3]);
    assert_as_in_timm(&opened, "mean_pooled");
}

#[test]
fn registers_and_layer_scale_under_the_names_of_dinov2() {
    let opened = open("registers.pth", &HEADS);
    assert_eq!(opened.ignored, ["module.backbone.mask_token"]);
    assert_as_in_timm(&opened, "registers");
}

#[test]
fn an_export_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let how = Preprocessing { mean: [0.1, 0.2, 0.3], std: [0.5; 3], crop_ratio: 0.875 };
    for name in ["class_token.pth", "mean_pooled", "registers.pth"] {
        let first = open(name, &HEADS);
        let OpenedWeights { vit, pooling, head, .. } = &first;
        export_folder(folder.path(), vit, head.as_ref(), *pooling, &how).unwrap();
        let again = open_weights(folder.path(), &OpenOptions::default(), &vit.device()).unwrap();
        assert_eq!(state_of(&again.vit), state_of(vit), "{name}");
        assert_eq!((again.vit.config(), again.pooling), (vit.config(), *pooling));
        assert_eq!(again.preprocessing, Some(how));
        assert_as_in_timm(&again, name.trim_end_matches(".pth"));
    }
}

#[test]
fn without_a_hint_the_heads_of_an_odd_width_are_asked_for() {
    let path = golden("class_token.pth");
    let error = open_weights(&path, &OpenOptions::default(), &Device::default()).unwrap_err();
    assert!(chain(&error).contains("give heads"), "{}", chain(&error));
}

#[test]
fn a_file_that_wants_a_function_of_python_is_refused_by_its_name() {
    // torch.save({"model": {"a.weight": torch.zeros(2)}, "hook": eval}, "refused.pth")
    let error = open_weights(&golden("refused.pth"), &HEADS, &Device::default()).unwrap_err();
    assert!(chain(&error).contains("builtins.eval") || chain(&error).contains("__builtin__.eval"));
}

#[test]
fn a_mismatch_lists_all_names() {
    let whole = std::fs::read(golden("mean_pooled/model.safetensors")).unwrap();
    let name = b"blocks.1.attn.proj.bias";
    let at = whole.windows(name.len()).position(|window| window == name).unwrap();
    let mut renamed = whole.clone();
    renamed[at..at + name.len()].copy_from_slice(b"blocks.1.attn.prox.bias");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, renamed).unwrap();
    let text = chain(&open_weights(&path, &HEADS, &Device::default()).unwrap_err());
    let both = ["missing blocks.1.attn.proj.bias", "unexpected blocks.1.attn.prox.bias"];
    assert!(both.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn damaged_files_are_errors_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["class_token.pth", "registers.pth", "mean_pooled/model.safetensors"] {
        let whole = std::fs::read(golden(name)).unwrap();
        let path = folder.path().join("damaged");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            open_weights(&path, &HEADS, &Device::default())
        };
        for len in [0, 1, 4, 9, 30, 100, 5_000, whole.len() / 2, whole.len() - 23, whole.len() - 1]
        {
            let error = read(&whole[..len]).unwrap_err();
            let text = chain(&error);
            let clear = ["damaged", "truncated", "neither"].iter().any(|word| text.contains(word));
            assert!(clear, "{name} cut at {len}: {text}");
        }
        // Each of these may go unnoticed in a name or a value; none may bring the program down.
        for at in (0..whole.len()).step_by(whole.len() / 200) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x5a;
            let _: Result<OpenedWeights, WeightsError> = read(&bytes);
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
