//! Weights that timm and PyTorch wrote, in each form that is read, against timm's features and
//! logits.
//!
//! `tests/golden/foreign` was made so, with torch 2.15 and timm 1.0.31 (`m` always in eval mode,
//! every parameter drawn from a normal distribution):
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
//! # foreign_*.safetensors, each naming its weights in the metadata
//! t = m.forward_features(images); features = m.forward_head(t, pre_logits=True); logits = m(images)
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_model::{
    HostTensor, OpenOptions, OpenedWeights, Pooling, Preprocessing, WeightsError, classifier_bytes,
    export_folder, open_weights, state_bytes_with, state_of,
};
use safetensors::SafeTensors;

const HEADS: OpenOptions = OpenOptions { heads: Some(4), image_px: None, prefix: None };

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn weights(name: &str) -> PathBuf {
    golden().join("foreign").join(name)
}

fn open(name: &str, options: &OpenOptions) -> OpenedWeights {
    open_weights(&weights(name), options, &Device::default()).unwrap()
}

/// Images and what timm makes of them.
struct Vectors {
    weights: PathBuf,
    options: OpenOptions,
    images: Vec<f32>,
    features: Vec<f32>,
    logits: Option<Vec<f32>>,
}

impl Vectors {
    fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        let floats = |name: &str| {
            let view = file.tensor(name).ok()?;
            Some(view.data().chunks_exact(4).map(value).collect::<Vec<f32>>())
        };
        let features = floats("expect.foreign_features")?;
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().unwrap();
        Some(Self {
            weights: path.with_file_name(&meta["weights"]),
            options: OpenOptions {
                heads: meta.get("heads").map(|heads| heads.parse().unwrap()),
                image_px: file.tensor("input.images").unwrap().shape().last().copied(),
                prefix: None,
            },
            images: floats("input.images").unwrap(),
            features,
            logits: floats("expect.foreign_logits"),
        })
    }

    /// Worst differences of features and logits from timm's.
    fn check(self, opened: &OpenedWeights) -> [f32; 2] {
        let vit = &opened.vit;
        let (side, p) = (vit.config().image_px, vit.config().patch_px);
        let (grid, n, device) = (side / p, self.images.len() / (3 * side * side), vit.device());
        let images = TensorData::new(self.images, [n, 3, grid, p, grid, p]);
        let images = Tensor::<6>::from_data(images, &device).permute([0, 2, 4, 3, 5, 1]);
        let patches = images.reshape([n, grid * grid, p * p * 3]); // [N, L, P*P*3], channels last
        let positions = Tensor::<1, Int>::arange(0..(grid * grid) as i64, &device);
        let positions = positions.reshape([1, grid * grid]).expand([n, grid * grid]);
        let features = vit.pooled(vit.tokens(patches, positions), opened.pooling);
        let logits = opened.head.as_ref().map(|head| head.forward(features.clone()));
        assert_eq!(logits.is_some(), self.logits.is_some());
        [
            worst(features, &self.features),
            logits.zip(self.logits).map_or(0.0, |(ours, timms)| worst(ours, &timms)),
        ]
    }
}

/// Worst difference, of values above 1 the relative one: the golden weights are far larger than
/// trained ones, and so are the logits.
fn worst(ours: Tensor<2>, timms: &[f32]) -> f32 {
    let ours = ours.into_data().try_into_vec::<f32>().unwrap();
    assert_eq!(ours.len(), timms.len());
    let apart =
        ours.iter().zip(timms).map(|(ours, timm)| (ours - timm).abs() / timm.abs().max(1.0));
    apart.fold(0.0, f32::max)
}

#[test]
fn features_and_logits_are_timms() {
    let named = std::env::var_os("OCL_GOLDEN_DIR").map(PathBuf::from);
    let mut checked = 0;
    for entry in std::fs::read_dir(named.clone().unwrap_or_else(golden)).unwrap() {
        let path = entry.unwrap().path();
        let safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
        let Some(vectors) = safetensors.then(|| Vectors::read(&path)).flatten() else { continue };
        let opened = open_weights(&vectors.weights, &vectors.options, &Device::default()).unwrap();
        let worst = vectors.check(&opened);
        println!("{}: features, logits within {worst:?}", path.display());
        assert!(worst.iter().all(|&worst| worst < 1e-4), "{}: {worst:?}", path.display());
        checked += 1;
    }
    assert!(checked >= 5 || named.is_some(), "{checked} files of foreign vectors");
}

#[test]
fn what_else_a_file_says_is_kept() {
    let plain = open("class_token.pth", &HEADS);
    assert_eq!((plain.pooling, plain.head.is_some()), (Pooling::Cls, true));
    assert!(plain.ignored.is_empty() && plain.preprocessing.is_none());
    // Heads, pooling and normalisation are in config.json.
    let folder = open("mean_pooled", &OpenOptions::default());
    assert_eq!((folder.pooling, folder.vit.config().heads), (Pooling::Mean, 4));
    assert_eq!(folder.preprocessing.unwrap().mean, [0.5; 3]);
    let averaged = open("registers.pth", &HEADS);
    assert_eq!(averaged.ignored, ["module.backbone.mask_token"]);
    assert!(averaged.head.is_none());
}

#[test]
fn an_export_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let how = Preprocessing { mean: [0.1, 0.2, 0.3], std: [0.5; 3], crop_ratio: 0.875 };
    for name in ["class_token", "mean_pooled", "registers"] {
        let vectors = Vectors::read(&golden().join(format!("foreign_{name}.safetensors"))).unwrap();
        let first = open_weights(&vectors.weights, &HEADS, &Device::default()).unwrap();
        let OpenedWeights { vit, pooling, head, .. } = &first;
        let classes: Vec<String> = (0..5).map(|class| format!("class {class}")).collect();
        export_folder(folder.path(), vit, head.as_ref(), *pooling, &how, &classes).unwrap();
        let again = open_weights(folder.path(), &OpenOptions::default(), &vit.device()).unwrap();
        assert_eq!(state_of(&again.vit), state_of(vit), "{name}");
        assert_eq!((again.vit.config(), again.pooling), (vit.config(), *pooling));
        assert_eq!(again.preprocessing, Some(how));
        assert_eq!(again.classes, if head.is_some() { classes } else { vec![] });
        assert!(vectors.check(&again).iter().all(|&worst| worst < 1e-4), "{name}");
    }
}

#[test]
fn a_classifier_alone_says_all_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("finetuned.safetensors");
    let how = Preprocessing { mean: [0.1, 0.2, 0.3], std: [0.5; 3], crop_ratio: 0.875 };
    let first = open("class_token.pth", &HEADS);
    let head = first.head.as_ref().unwrap();
    let classes: Vec<String> = (0..5).map(|class| format!("class {class}")).collect();
    let bytes = classifier_bytes(&first.vit, head, Pooling::Mean, &how, &classes);
    std::fs::write(&path, bytes).unwrap();
    let again = open_weights(&path, &OpenOptions::default(), &Device::default()).unwrap();
    assert_eq!(state_of(&again.vit), state_of(&first.vit));
    assert_eq!((again.vit.config(), again.pooling), (first.vit.config(), Pooling::Mean));
    assert_eq!(again.preprocessing, Some(how));
    assert_eq!((again.classes, again.head.is_some()), (classes, true));
}

#[test]
fn a_classifier_of_an_older_version_is_refused_with_what_to_do() {
    let first = open("class_token.pth", &HEADS);
    let head = HostTensor { shape: vec![5], values: vec![0.0; 5] };
    let matrix = HostTensor { shape: vec![5, 32], values: vec![0.0; 160] };
    let further = [("head.bias".to_owned(), head), ("head.weight".to_owned(), matrix)];
    let bytes = state_bytes_with(&first.vit, further.into(), &[]);
    let mut old = BTreeMap::new();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in tensors.tensors().into_iter().filter(|(name, _)| name != "pos_embed") {
        old.insert(name, view);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("finetuned.safetensors");
    std::fs::write(&path, safetensors::serialize(old, None).unwrap()).unwrap();
    let error = open_weights(&path, &OpenOptions::default(), &Device::default()).unwrap_err();
    assert!(chain(&error).contains("fine-tune again"), "{}", chain(&error));
}

#[test]
fn without_a_hint_the_heads_of_an_odd_width_are_asked_for() {
    let path = weights("class_token.pth");
    let error = open_weights(&path, &OpenOptions::default(), &Device::default()).unwrap_err();
    assert!(chain(&error).contains("give heads"), "{}", chain(&error));
}

#[test]
fn a_file_that_wants_a_function_of_python_is_refused_by_its_name() {
    // torch.save({"model": {"a.weight": torch.zeros(2)}, "hook": eval}, "refused.pth")
    let error = open_weights(&weights("refused.pth"), &HEADS, &Device::default()).unwrap_err();
    assert!(chain(&error).contains("builtins.eval") || chain(&error).contains("__builtin__.eval"));
}

#[test]
fn a_mismatch_lists_all_names() {
    let whole = std::fs::read(weights("mean_pooled/model.safetensors")).unwrap();
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
        let whole = std::fs::read(weights(name)).unwrap();
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

/// Of a file with I-JEPA's networks the averaged encoder is taken: without a class token, pooled by
/// the mean; of one with MoCo v3's the trained one.
#[test]
fn networks_of_pre_training_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::default();
    for (file, network, heads) in
        [("ijepa_a", "target_encoder", 4), ("moco_v3_a", "base_encoder", 4)]
    {
        let bytes = std::fs::read(golden().join(format!("{file}.safetensors"))).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        // The initial state, under the names that the authors' programs save.
        let state = all.iter().filter_map(|(name, view)| {
            let (network, rest) = name.strip_prefix("weight.")?.split_once('.')?;
            Some((format!("{network}.module.{rest}"), view))
        });
        let path = folder.path().join(format!("{file}.safetensors"));
        std::fs::write(&path, safetensors::serialize(state, None).unwrap()).unwrap();
        let options = OpenOptions { heads: Some(heads), ..OpenOptions::default() };
        let opened = open_weights(&path, &options, &device).unwrap();
        let is_jepa = network == "target_encoder";
        assert_eq!(opened.vit.has_cls_token(), !is_jepa);
        assert_eq!(opened.pooling, if is_jepa { Pooling::Mean } else { Pooling::Cls });
        assert!(opened.ignored.iter().any(|name| name.starts_with("predictor.")));
        let expected = all.tensor(&format!("weight.{network}.blocks.1.mlp.fc1.bias")).unwrap();
        let four = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        let expected: Vec<f32> = expected.data().chunks_exact(4).map(four).collect();
        assert_eq!(state_of(&opened.vit)["blocks.1.mlp.fc1.bias"].values, expected, "{file}");
    }
}
