//! Weights in safetensors under timm's names.
//!
//! `timm.create_model("vit_base_patch16_224", num_classes=0)` loads what [`save_weights`] writes: the
//! fixed positions are written as `pos_embed`, and dropped on the way in if they are the same.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{ConfigError, VitConfig};
use crate::layout::HostTensor;
use crate::positions::sincos_table;
use crate::vit::Vit;

/// Metadata key under which a weights file describes itself: a JSON object with the [`VitConfig`] as
/// `encoder`. One key for all, because safetensors writes several in an order that changes from run to run.
pub const CONFIG_KEY: &str = "ocl";

#[derive(Serialize, Deserialize)]
struct Description {
    encoder: VitConfig,
    #[serde(flatten)]
    more: BTreeMap<String, String>,
}

/// Why weights could not be written or read.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The file could not be read or written.
    #[error("cannot access weights file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not safetensors.
    #[error("{} is not a safetensors file, or is damaged", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// The file has no description of its encoder.
    #[error("{} does not say what encoder it holds (metadata `{CONFIG_KEY}`)", path.display())]
    NoConfig {
        /// The file.
        path: PathBuf,
    },
    /// The description names an encoder that cannot exist.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Names or shapes differ from the encoder's.
    #[error("weights do not fit the encoder:{}", list(missing, unexpected, shapes))]
    Mismatch {
        /// Parameters of the encoder that the weights lack.
        missing: Vec<String>,
        /// Weights that the encoder has no parameter for.
        unexpected: Vec<String>,
        /// Parameters of another shape: name, expected and found.
        shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
}

fn list(
    missing: &[String],
    unexpected: &[String],
    shapes: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    let mut text = String::new();
    for name in missing {
        text += &format!("\n  missing {name}");
    }
    for name in unexpected {
        text += &format!("\n  unexpected {name}");
    }
    for (name, expected, found) in shapes {
        text += &format!("\n  {name}: expected {expected:?}, found {found:?}");
    }
    text
}

/// The encoder's parameters on the host, in timm's names and layout; positions not included.
pub fn state_of(vit: &Vit) -> BTreeMap<String, HostTensor> {
    struct Collect {
        path: Vec<String>,
        patch_px: usize,
        state: BTreeMap<String, HostTensor>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.join(".");
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let values = tensor.into_data().try_into_vec().expect("parameters are f32");
            let host = HostTensor { shape, values }.into_timm(&name, self.patch_px);
            self.state.insert(name, host);
        }
    }
    let mut collect =
        Collect { path: vec![], patch_px: vit.config().patch_px, state: BTreeMap::new() };
    vit.visit(&mut collect);
    collect.state
}

/// Gives the encoder the parameters of `state` (timm's names and layout, positions not included).
///
/// # Errors
/// [`WeightsError::Mismatch`] listing every missing, unexpected and wrong-shaped name.
pub fn apply_state(vit: Vit, mut state: BTreeMap<String, HostTensor>) -> Result<Vit, WeightsError> {
    let expected: BTreeMap<String, Vec<usize>> =
        state_of(&vit).into_iter().map(|(name, tensor)| (name, tensor.shape)).collect();
    let missing: Vec<_> =
        expected.keys().filter(|name| !state.contains_key(*name)).cloned().collect();
    let unexpected: Vec<_> =
        state.keys().filter(|name| !expected.contains_key(*name)).cloned().collect();
    let shapes: Vec<_> = state
        .iter()
        .filter_map(|(name, tensor)| {
            let wanted = expected.get(name).filter(|shape| **shape != tensor.shape)?;
            Some((name.clone(), wanted.clone(), tensor.shape.clone()))
        })
        .collect();
    if !(missing.is_empty() && unexpected.is_empty() && shapes.is_empty()) {
        return Err(WeightsError::Mismatch { missing, unexpected, shapes });
    }
    let patch_px = vit.config().patch_px;
    for (name, tensor) in &mut state {
        let taken = std::mem::replace(tensor, HostTensor { shape: vec![], values: vec![] });
        *tensor = taken.into_ours(name, patch_px);
    }
    Ok(vit.map(&mut Replace { path: vec![], state }))
}

struct Replace {
    path: Vec<String>,
    state: BTreeMap<String, HostTensor>,
}

impl ModuleMapper for Replace {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(host) = self.state.remove(&self.path.join(".")) else { return param };
        param.map(|old| {
            let tracked = old.is_require_grad();
            let new = Tensor::from_data(TensorData::new(host.values, host.shape), &old.device());
            if tracked { new.require_grad() } else { new }
        })
    }
}

/// The encoder as the bytes of a safetensors file: timm's names, `pos_embed` included, the
/// configuration in the metadata, beside `more`. Equal encoders give equal bytes.
pub fn state_bytes(vit: &Vit, more: &[(&str, String)]) -> Vec<u8> {
    let config = vit.config();
    let mut state = state_of(vit);
    let (d, side) = (config.width, config.grid());
    let places = HostTensor { shape: vec![1, 1 + side * side, d], values: sincos_table(d, side) };
    state.insert("pos_embed".to_owned(), places);
    let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let description = Description { encoder: config.clone(), more };
    let json = serde_json::to_string(&description).expect("a description is plain data");
    let meta = HashMap::from([(CONFIG_KEY.to_owned(), json)]);
    let bytes: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = state
        .iter()
        .map(|(name, tensor)| {
            let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name.as_str(), (tensor.shape.clone(), bytes))
        })
        .collect();
    let views = bytes.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (*name, view.expect("the bytes were made from the shape"))
    });
    safetensors::serialize(views, Some(meta)).expect("names and shapes are valid")
}

/// Writes the encoder to `path` as [`state_bytes`] makes it.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn save_weights(vit: &Vit, path: &Path, more: &[(&str, String)]) -> Result<(), WeightsError> {
    std::fs::write(path, state_bytes(vit, more))
        .map_err(|source| WeightsError::Io { path: path.to_owned(), source })
}

/// Reads an encoder that [`save_weights`] wrote, or any file with timm's names and a [`CONFIG_KEY`].
///
/// # Errors
/// When the file cannot be read, is damaged, or does not fit its own description.
pub fn load_weights(path: &Path, device: &Device) -> Result<Vit, WeightsError> {
    let bytes =
        std::fs::read(path).map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
    weights_from(&bytes, path, device)
}

/// The encoder in the bytes of a weights file, for who has read it already; `path` is what errors name.
///
/// # Errors
/// As [`load_weights`], but for reading.
pub fn weights_from(bytes: &[u8], path: &Path, device: &Device) -> Result<Vit, WeightsError> {
    let format = |source| WeightsError::Format { path: path.to_owned(), source };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let Description { encoder: config, .. } = header
        .metadata()
        .as_ref()
        .and_then(|meta| meta.get(CONFIG_KEY))
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| WeightsError::NoConfig { path: path.to_owned() })?;
    let tensors = SafeTensors::deserialize(bytes).map_err(format)?;
    let mut state = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        // Fixed positions follow from the configuration.
        if name == "pos_embed" {
            continue;
        }
        if view.dtype() != Dtype::F32 {
            return Err(WeightsError::Mismatch {
                missing: vec![],
                unexpected: vec![format!("{name} of type {:?} (f32 is read)", view.dtype())],
                shapes: vec![],
            });
        }
        let value = |chunk: &[u8]| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        let values = view.data().chunks_exact(4).map(value).collect();
        state.insert(name, HostTensor { shape: view.shape().to_vec(), values });
    }
    apply_state(Vit::new(&config, 0, device)?, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VitConfig {
        VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 1, heads: 2, mlp_ratio: 4 }
    }

    #[test]
    fn weights_come_back_bit_for_bit() {
        let device = Device::default();
        let vit = Vit::new(&config(), 5, &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encoder.safetensors");
        save_weights(&vit, &path, &[("made_by", "test".to_owned())]).unwrap();
        let back = load_weights(&path, &device).unwrap();
        assert_eq!(back.config(), vit.config());
        assert_eq!(state_of(&back), state_of(&vit));
    }

    #[test]
    fn a_mismatch_lists_everything() {
        let device = Device::default();
        let vit = Vit::new(&config(), 5, &device).unwrap();
        let mut state = state_of(&vit);
        let norm = state.remove("norm.weight").unwrap();
        state.insert("head.weight".to_owned(), norm);
        state.get_mut("cls_token").unwrap().shape = vec![1, 8];
        let text = apply_state(vit, state).unwrap_err().to_string();
        for part in
            ["missing norm.weight", "unexpected head.weight", "cls_token: expected [1, 1, 8]"]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, b"nonsense").unwrap();
        let error = load_weights(&path, &Device::default()).unwrap_err();
        assert!(error.to_string().contains("x.safetensors"));
    }
}
