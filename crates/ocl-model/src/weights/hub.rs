//! Folders that timm and Hugging Face's programs load: `model.safetensors` and `config.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::file::state_bytes_with;
use super::layout::HostTensor;
use super::state::WeightsError;
use crate::encoder::{Linear, Pooling, Vit};

/// Key of the pooling in a file's description of itself.
pub(crate) const POOLING_KEY: &str = "pooling";

/// Key of the [`Preprocessing`] in a file's description of itself.
pub(crate) const PREPROCESSING_KEY: &str = "preprocessing";
/// Key of the classes' names, a list, in a file's description of itself.
pub(crate) const CLASSES_KEY: &str = "classes";

/// How an image becomes what the encoder wants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    /// Subtracted from each channel of values in 0 to 1.
    pub mean: [f32; 3],
    /// What each channel is divided by afterwards.
    pub std: [f32; 3],
    /// Side of the centre crop over the short side of the resized image.
    pub crop_ratio: f64,
}

/// What `config.json` says beyond the weights.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Hints {
    pub(crate) heads: Option<usize>,
    pub(crate) pooling: Option<Pooling>,
    pub(crate) preprocessing: Option<Preprocessing>,
    pub(crate) classes: Vec<String>,
}

impl Pooling {
    /// The pooling that timm calls so.
    pub(crate) fn named(name: impl AsRef<str>) -> Option<Self> {
        match name.as_ref() {
            "token" => Some(Self::Cls),
            "avg" => Some(Self::Mean),
            _ => None,
        }
    }

    /// timm's name.
    fn timm(self) -> &'static str {
        match self {
            Self::Cls => "token",
            Self::Mean => "avg",
        }
    }
}

/// Names of weights in a folder, best first.
pub(crate) const FILES: [&str; 3] =
    ["model.safetensors", "encoder.safetensors", "pytorch_model.bin"];

/// The file of weights at `path`, which may be the folder that holds it.
pub fn weights_file(path: &Path) -> PathBuf {
    let inside = FILES.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
    inside.unwrap_or_else(|| path.to_owned())
}

/// The folder whose `config.json` is about this file; beside a file of another name it may be about
/// something else.
pub(crate) fn folder_of(file: &Path) -> Option<&Path> {
    let named = file.file_name().is_some_and(|name| FILES.iter().any(|known| name == *known));
    file.parent().filter(|_| named)
}

/// Reads the `config.json` of a folder; says nothing when there is none, or one of another kind.
pub(crate) fn hints(folder: &Path) -> Hints {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let (args, trained) = (&config["model_args"], &config["pretrained_cfg"]);
    let pooling = args["global_pool"].as_str().or(config["global_pool"].as_str());
    let heads = args["num_heads"].as_u64().and_then(|heads| usize::try_from(heads).ok());
    // Folders of timm before 0.9 have these at the top.
    let of = |key: &str| if trained[key].is_null() { &config[key] } else { &trained[key] };
    let channels = |key: &str| -> Option<[f32; 3]> {
        let values = of(key).as_array()?.iter().map(|value| Some(value.as_f64()? as f32));
        values.collect::<Option<Vec<_>>>()?.try_into().ok()
    };
    let preprocessing = || {
        let crop_ratio = of("crop_pct").as_f64().filter(|&ratio| ratio > 0.0).unwrap_or(1.0);
        Some(Preprocessing { mean: channels("mean")?, std: channels("std")?, crop_ratio })
    };
    Hints {
        heads: heads.filter(|&heads| heads > 0),
        pooling: pooling.and_then(Pooling::named),
        preprocessing: preprocessing(),
        classes: serde_json::from_value(config["label_names"].clone()).unwrap_or_default(),
    }
}

/// Writes `model.safetensors` and `config.json` into a folder, made if need be, from which
/// `timm.create_model("local-dir:FOLDER", pretrained=True)` makes the same encoder; uploaded to
/// Hugging Face's hub, `hf-hub:NAME` does so.
///
/// `classes` are the names of the head's outputs, none if they have none.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn export_folder(
    folder: &Path,
    vit: &Vit,
    head: Option<&Linear>,
    pooling: Pooling,
    preprocessing: &Preprocessing,
    classes: &[String],
) -> Result<(), WeightsError> {
    let outputs = head.map_or(0, |head| head.bias.val().dims()[0]);
    let mut config = config_json(vit, outputs, pooling, preprocessing);
    if head.is_some() && !classes.is_empty() {
        config["label_names"] = json!(classes);
    }
    let text = serde_json::to_string_pretty(&config).expect("plain data") + "\n";
    let more = [(POOLING_KEY, pooling.timm().to_owned())];
    let weights = state_bytes_with(vit, head.map(head_tensors).unwrap_or_default(), &more);
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("model.safetensors"), weights)?;
        std::fs::write(folder.join("config.json"), text)
    };
    write().map_err(|source| WeightsError::Io { path: folder.to_owned(), source })
}

/// A classifier as the bytes of a safetensors file that stands alone: timm's names, and in the
/// metadata the encoder's configuration, the pooling, how images are prepared, and the classes'
/// names. [`open_weights`](crate::open_weights) reads all of it.
pub fn classifier_bytes(
    vit: &Vit,
    head: &Linear,
    pooling: Pooling,
    preprocessing: &Preprocessing,
    classes: &[String],
) -> Vec<u8> {
    let preprocessing = json!({
        "mean": preprocessing.mean.map(decimal),
        "std": preprocessing.std.map(decimal),
        "crop_ratio": preprocessing.crop_ratio,
    });
    let more = [
        (POOLING_KEY, pooling.timm().to_owned()),
        (PREPROCESSING_KEY, preprocessing.to_string()),
        (CLASSES_KEY, json!(classes).to_string()),
    ];
    state_bytes_with(vit, head_tensors(head), &more)
}

fn head_tensors(head: &Linear) -> BTreeMap<String, HostTensor> {
    let host = |values: Vec<f32>, shape: &[usize]| HostTensor { shape: shape.to_vec(), values };
    let (weight, bias) = (head.weight.val(), head.bias.val());
    let (inputs_outputs, outputs) = (weight.dims(), bias.dims());
    let read = "parameters are f32";
    let weight = host(weight.into_data().try_into_vec().expect(read), &inputs_outputs);
    let bias = host(bias.into_data().try_into_vec().expect(read), &outputs);
    BTreeMap::from([
        ("head.weight".to_owned(), weight.into_timm("head.weight")),
        ("head.bias".to_owned(), bias),
    ])
}

/// timm's models of these widths, depths and patch sides. The arguments say everything again, so
/// that any of them stands in for an encoder that timm has no name for.
const ARCHITECTURES: [(usize, usize, usize, &str); 5] = [
    (192, 12, 16, "vit_tiny_patch16_224"),
    (384, 12, 16, "vit_small_patch16_224"),
    (768, 12, 16, "vit_base_patch16_224"),
    (1024, 24, 16, "vit_large_patch16_224"),
    (1280, 32, 14, "vit_huge_patch14_224"),
];

fn config_json(vit: &Vit, classes: usize, pooling: Pooling, how: &Preprocessing) -> Value {
    let (config, parts) = (vit.config(), vit.parts());
    let known = ARCHITECTURES
        .iter()
        .find(|known| (known.0, known.1, known.2) == (config.width, config.depth, config.patch_px));
    let mut args = json!({
        "img_size": config.image_px,
        "patch_size": config.patch_px,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "reg_tokens": parts.registers,
        "global_pool": pooling.timm(),
        "fc_norm": parts.fc_norm,
    });
    if !parts.class_token {
        args["class_token"] = json!(false);
    }
    if parts.layer_scale {
        // Any number will do: the factors are loaded.
        args["init_values"] = json!(1e-5);
    }
    json!({
        "architecture": known.map_or("vit_base_patch16_224", |known| known.3),
        "num_classes": classes,
        "num_features": config.width,
        "global_pool": pooling.timm(),
        "model_args": args,
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [3, config.image_px, config.image_px],
            "fixed_input_size": true,
            "pool_size": null,
            "interpolation": "bicubic",
            "crop_pct": how.crop_ratio,
            "crop_mode": "center",
            "mean": how.mean.map(decimal),
            "std": how.std.map(decimal),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    })
}

/// The f64 that is written as this f32 is: 0.485, not 0.48500001430511475.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().expect("a number as it was just written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_says_all_that_timm_needs() {
        let shape = crate::VitConfig { image_px: 64, ..crate::VitConfig::named("tiny").unwrap() };
        let vit = Vit::new(&shape, 0, &burn::tensor::Device::default()).unwrap();
        let how = Preprocessing { mean: [0.485; 3], std: [0.1; 3], crop_ratio: 0.875 };
        let config = config_json(&vit, 7, Pooling::Mean, &how);
        assert_eq!(config["architecture"], "vit_tiny_patch16_224");
        let args = &config["model_args"];
        assert_eq!((&args["img_size"], &args["num_heads"]), (&json!(64), &json!(3)));
        // Mean pooling of tokens that are normed already; timm's default would be to norm their
        // mean.
        assert_eq!((&args["global_pool"], &args["fc_norm"]), (&json!("avg"), &json!(false)));
        assert_eq!(args["init_values"], Value::Null);
        assert_eq!(config["pretrained_cfg"]["mean"], json!([0.485, 0.485, 0.485]));
        assert_eq!(config["num_classes"], 7);
    }

    #[test]
    fn timms_own_config_is_understood() {
        // The form of
        // https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k/raw/main/config.json
        let text = r#"{"architecture": "vit_base_patch16_224", "num_classes": 21843, "global_pool": "token",
            "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9}}"#;
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(hints(folder.path()), Hints::default());
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        let half = [0.5; 3];
        let preprocessing = Some(Preprocessing { mean: half, std: half, crop_ratio: 0.9 });
        let pooling = Some(Pooling::Cls);
        let expected = Hints { pooling, preprocessing, ..Hints::default() };
        assert_eq!(hints(folder.path()), expected);
    }
}
