//! A fine-tuning's state on disk: one file, whole or absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ocl_model::HostTensor;
use ocl_train::AdamWState;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::EvalError;
use crate::files::replace;

/// What a run goes on from.
#[derive(Debug, PartialEq)]
pub(crate) struct Checkpoint {
    /// Steps done.
    pub(crate) step: u64,
    pub(crate) weights: BTreeMap<String, HostTensor>,
    pub(crate) optimizer: AdamWState,
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("checkpoint.safetensors")
}

impl Checkpoint {
    /// Writes the state beside the one before, then in its place.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), EvalError> {
        let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        for (name, tensor) in &self.weights {
            tensors.insert(format!("weight.{name}"), (tensor.shape.clone(), le(&tensor.values)));
        }
        for (name, (first, second)) in &self.optimizer.moments {
            tensors.insert(format!("first.{name}"), (vec![first.len()], le(first)));
            tensors.insert(format!("second.{name}"), (vec![second.len()], le(second)));
        }
        // Counts as two halves of 24 bits, which f32 holds exactly.
        let halves = |count: u64| le(&[(count >> 24) as f32, (count & 0xFF_FFFF) as f32]);
        tensors.insert("steps".to_owned(), (vec![2], halves(self.step)));
        tensors.insert("updates".to_owned(), (vec![2], halves(self.optimizer.steps)));
        let mut bytes = serialise(&tensors);
        let check = crc32fast::hash(&bytes).to_le_bytes();
        bytes.extend_from_slice(&check);
        replace(&path(folder), &bytes)
    }

    /// Reads the state of a folder; `None` when there is none yet.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, EvalError> {
        let path = path(folder);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EvalError::File { doing: "read", path, source }),
        };
        let damaged =
            |reason: String| EvalError::Recipe { name: path.display().to_string(), reason };
        let (content, check) = bytes.split_at(bytes.len().saturating_sub(4));
        if check != crc32fast::hash(content).to_le_bytes() {
            return Err(damaged("the checkpoint is damaged; remove it to begin again".to_owned()));
        }
        let tensors =
            SafeTensors::deserialize(content).map_err(|error| damaged(error.to_string()))?;
        let of = |name: &str| tensors.tensor(name).map_err(|error| damaged(error.to_string()));
        let count = |name: &str| -> Result<u64, EvalError> {
            let halves = floats(&of(name)?);
            Ok(((halves[0] as u64) << 24) + halves[1] as u64)
        };
        let (mut weights, mut moments) = (BTreeMap::new(), BTreeMap::new());
        for name in tensors.names() {
            if let Some(own) = name.strip_prefix("weight.") {
                let view = of(name)?;
                let tensor = HostTensor { shape: view.shape().to_vec(), values: floats(&view) };
                weights.insert(own.to_owned(), tensor);
            } else if let Some(own) = name.strip_prefix("first.") {
                let second = floats(&of(&format!("second.{own}"))?);
                moments.insert(own.to_owned(), (floats(&of(name)?), second));
            }
        }
        let optimizer = AdamWState { steps: count("updates")?, moments };
        Ok(Some(Self { step: count("steps")?, weights, optimizer }))
    }
}

/// The bytes of a safetensors file of f32.
fn serialise(tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("the bytes were made from the shape"))
    });
    safetensors::serialize(views, None).expect("names and shapes are valid")
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_or_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Checkpoint::load(folder.path()).unwrap(), None);
        let tensor = HostTensor { shape: vec![1, 2], values: vec![1.0, -2.5] };
        let state = Checkpoint {
            step: (1 << 30) + 7,
            weights: [("head.weight".to_owned(), tensor)].into(),
            optimizer: AdamWState {
                steps: 8,
                moments: [("head.weight".to_owned(), (vec![0.5, 1e-20], vec![3.0, 4.0]))].into(),
            },
        };
        state.save(folder.path()).unwrap();
        assert_eq!(Checkpoint::load(folder.path()).unwrap(), Some(state));
        let file = path(folder.path());
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(Checkpoint::load(folder.path()).unwrap_err().to_string().contains("damaged"));
    }
}
