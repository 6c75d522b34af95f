//! A fine-tuning's state on disk: one file, whole or absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ocl_model::{HostTensor, tensor_bytes, tensors_from};
use ocl_train::AdamWState;

use crate::error::EvalError;
use crate::files::replace;

/// What a run resumes from.
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
        let mut tensors = BTreeMap::new();
        for (name, tensor) in &self.weights {
            tensors.insert(format!("weight.{name}"), tensor.clone());
        }
        for (name, (first, second)) in &self.optimizer.moments {
            tensors.insert(format!("first.{name}"), vector(first.clone()));
            tensors.insert(format!("second.{name}"), vector(second.clone()));
        }
        tensors.insert("steps".to_owned(), halves(self.step));
        tensors.insert("updates".to_owned(), halves(self.optimizer.steps));
        let mut bytes = tensor_bytes(&tensors);
        let check = crc32fast::hash(&bytes).to_le_bytes();
        bytes.extend_from_slice(&check);
        replace(&path(folder), &bytes)
    }

    /// Reads the bytes of a folder's state; none when there is no state yet.
    pub(crate) fn bytes(folder: &Path) -> Result<Vec<u8>, EvalError> {
        let path = path(folder);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
            read => read.map_err(|source| EvalError::File { doing: "read", path, source }),
        }
    }

    /// The state in the bytes of a folder's; `None` when there is none yet.
    pub(crate) fn of(bytes: &[u8], folder: &Path) -> Result<Option<Self>, EvalError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let path = path(folder);
        let damaged = || EvalError::Recipe {
            name: path.display().to_string(),
            reason: "the checkpoint is damaged; remove it to start again".to_owned(),
        };
        let (content, check) = bytes.split_at(bytes.len().saturating_sub(4));
        if check != crc32fast::hash(content).to_le_bytes() {
            return Err(damaged());
        }
        let mut tensors = tensors_from(content, &path)?;
        let mut count = |name| tensors.remove(name).as_ref().and_then(whole).ok_or_else(damaged);
        let (step, steps) = (count("steps")?, count("updates")?);
        let (mut weights, mut moments) = (BTreeMap::new(), BTreeMap::new());
        let mut second = BTreeMap::new();
        for (name, tensor) in tensors {
            match name.split_once('.') {
                Some(("weight", own)) => drop(weights.insert(own.to_owned(), tensor)),
                Some(("first", own)) => {
                    drop(moments.insert(own.to_owned(), (tensor.values, vec![])))
                }
                Some(("second", own)) => drop(second.insert(own.to_owned(), tensor.values)),
                _ => return Err(damaged()),
            }
        }
        for (name, pair) in &mut moments {
            pair.1 = second.remove(name).ok_or_else(damaged)?;
        }
        Ok(Some(Self { step, weights, optimizer: AdamWState { steps, moments } }))
    }
}

fn vector(values: Vec<f32>) -> HostTensor {
    HostTensor { shape: vec![values.len()], values }
}

/// A count as two halves of 24 bits, which f32 holds exactly.
fn halves(count: u64) -> HostTensor {
    vector(vec![(count >> 24) as f32, (count & 0xFF_FFFF) as f32])
}

/// The count in two halves.
fn whole(halves: &HostTensor) -> Option<u64> {
    let &[high, low] = halves.values.as_slice() else { return None };
    Some(((high as u64) << 24) + low as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(folder: &Path) -> Result<Option<Checkpoint>, EvalError> {
        Checkpoint::of(&Checkpoint::bytes(folder)?, folder)
    }

    /// As the program wrote it before it shared its code with files of weights.
    #[test]
    fn a_checkpoint_of_before_loads() {
        use safetensors::tensor::{Dtype, TensorView};
        let folder = tempfile::tempdir().unwrap();
        let le = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let [weight, counts, moment] = [le(&[2.0]), le(&[1.0, 3.0]), le(&[0.5])];
        let tensors = [
            ("weight.head.bias", &weight),
            ("steps", &counts),
            ("updates", &counts),
            ("first.head.bias", &moment),
            ("second.head.bias", &moment),
        ];
        let views = tensors.map(|(name, bytes)| {
            (name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).unwrap())
        });
        let mut bytes = safetensors::serialize(views, None).unwrap();
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        fs::write(path(folder.path()), bytes).unwrap();
        let state = load(folder.path()).unwrap().unwrap();
        assert_eq!((state.step, state.weights["head.bias"].values[0]), ((1 << 24) + 3, 2.0));
        assert_eq!(state.optimizer.moments["head.bias"], (vec![0.5], vec![0.5]));
    }

    #[test]
    fn a_state_comes_back_or_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
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
        assert_eq!(load(folder.path()).unwrap(), Some(state));
        let file = path(folder.path());
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(load(folder.path()).unwrap_err().to_string().contains("damaged"));
    }
}
