//! Weights files: safetensors with timm's names and a description of the encoder.
//!
//! `timm.create_model("vit_base_patch16_224", num_classes=0)` loads what [`save_weights`] writes;
//! the positions, fixed or not, stand there as `pos_embed`.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::expected::{expected_shapes, parts_of};
use super::layout::HostTensor;
use super::state::{CONFIG_KEY, WeightsError, assemble, state_of};
use crate::encoder::{Vit, VitConfig};

/// What a weights file says of itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) encoder: VitConfig,
    #[serde(flatten)]
    pub(crate) more: BTreeMap<String, String>,
}

impl Description {
    /// What stands under a key in JSON, if it is there and of that form.
    pub(crate) fn json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.more.get(key)?).ok()
    }
}

/// The encoder as the bytes of a safetensors file: timm's names, `pos_embed` included, the
/// configuration in the metadata, beside `more`. Equal encoders give equal bytes.
pub fn state_bytes(vit: &Vit, more: &[(&str, String)]) -> Vec<u8> {
    state_bytes_with(vit, BTreeMap::new(), more)
}

/// [`state_bytes`] with further tensors: of networks beside the encoder.
pub fn state_bytes_with(
    vit: &Vit,
    further: BTreeMap<String, HostTensor>,
    more: &[(&str, String)],
) -> Vec<u8> {
    let config = vit.config();
    let mut state = state_of(vit);
    let (d, r) = (config.width, vit.parts().registers);
    let mut places = vec![0.0; r * d]; // registers have no place, no more than the class token
    places.extend(vit.positions());
    if !vit.has_cls_token() {
        places.drain(..d);
    }
    let shape = vec![1, places.len() / d, d];
    state.insert("pos_embed".to_owned(), HostTensor { shape, values: places });
    state.extend(further);
    let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let description = Description { encoder: config.clone(), more };
    let description = serde_json::to_string(&description).expect("a description is plain data");
    serialize(&state, json!({ "format": "pt", CONFIG_KEY: description }))
}

/// Named tensors as the bytes of a safetensors file. Equal tensors give equal bytes.
pub fn tensor_bytes(tensors: &BTreeMap<String, HostTensor>) -> Vec<u8> {
    serialize(tensors, json!({ "format": "pt" }))
}

/// Written by hand, because the library writes metadata in an order that changes from run to run,
/// and there are two keys: ours, and the one that Hugging Face's programs ask for.
fn serialize(state: &BTreeMap<String, HostTensor>, metadata: Value) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), metadata);
    let mut end = 0;
    for (name, tensor) in state {
        let start = end;
        end += 4 * tensor.values.len();
        let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    let values = state.values().flat_map(|tensor| &tensor.values);
    values.for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

/// Writes the encoder to `path` as [`state_bytes`] makes it.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn save_weights(vit: &Vit, path: &Path, more: &[(&str, String)]) -> Result<(), WeightsError> {
    std::fs::write(path, state_bytes(vit, more))
        .map_err(|source| WeightsError::Io { path: path.to_owned(), source })
}

/// Reads an encoder that [`save_weights`] wrote, or any f32 file with timm's names and a
/// description of its encoder. For all others there is [`crate::open_weights`].
///
/// # Errors
/// When the file cannot be read, is damaged, or does not fit its own description.
pub fn load_weights(path: &Path, device: &Device) -> Result<Vit, WeightsError> {
    let bytes =
        std::fs::read(path).map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
    weights_from(&bytes, path, device)
}

/// The encoder in the bytes of a weights file, for who has read it already; `path` is what errors
/// name.
///
/// # Errors
/// As [`load_weights`], but for reading.
pub fn weights_from(bytes: &[u8], path: &Path, device: &Device) -> Result<Vit, WeightsError> {
    let (config, state) = read(bytes, path)?;
    assemble(&config, state, device)
}

/// [`weights_from`] of bytes that [`state_bytes_with`] made: the encoder, and what is beside it.
///
/// # Errors
/// As [`weights_from`].
pub fn weights_with_others_from(
    bytes: &[u8],
    path: &Path,
    device: &Device,
) -> Result<(Vit, BTreeMap<String, HostTensor>), WeightsError> {
    let (config, state) = read(bytes, path)?;
    let own = expected_shapes(&config, parts_of(&state));
    let is_own = |name: &String| name == "pos_embed" || own.contains_key(name);
    let (state, others) = state.into_iter().partition(|(name, _)| is_own(name));
    Ok((assemble(&config, state, device)?, others))
}

/// The description and the tensors of a weights file.
fn read(
    bytes: &[u8],
    path: &Path,
) -> Result<(VitConfig, BTreeMap<String, HostTensor>), WeightsError> {
    let format = |source| WeightsError::Format { path: path.to_owned(), source };
    let config = description(bytes)
        .map_err(format)?
        .map(|description| description.encoder)
        .ok_or_else(|| WeightsError::NoConfig { path: path.to_owned() })?;
    Ok((config, tensors_from(bytes, path)?))
}

/// The tensors of a safetensors file, all of them f32; `path` is what errors name.
///
/// # Errors
/// When the bytes are damaged, or a tensor is of another type.
pub fn tensors_from(
    bytes: &[u8],
    path: &Path,
) -> Result<BTreeMap<String, HostTensor>, WeightsError> {
    let format = |source| WeightsError::Format { path: path.to_owned(), source };
    let tensors = SafeTensors::deserialize(bytes).map_err(format)?;
    let mut state = BTreeMap::new();
    for (name, view) in tensors.tensors() {
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
    Ok(state)
}

/// What a safetensors file says of itself, if it was written here.
pub(crate) fn description(
    bytes: &[u8],
) -> Result<Option<Description>, safetensors::SafeTensorError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let json = header.metadata().as_ref().and_then(|meta| meta.get(CONFIG_KEY));
    Ok(json.and_then(|json| serde_json::from_str(json).ok()))
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
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, b"nonsense").unwrap();
        let error = load_weights(&path, &Device::default()).unwrap_err();
        assert!(error.to_string().contains("x.safetensors"));
    }
}
