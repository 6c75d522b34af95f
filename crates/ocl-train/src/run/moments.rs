//! The optimiser's state as safetensors: both moments of every parameter as `first.NAME` and
//! `second.NAME`, the steps as `steps`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::View;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::optim::AdamWState;

/// What a file's tensors are made of. Bytes are made one tensor at a time, as they are written.
enum Values<'a> {
    Steps([usize; 1], u64),
    Moments([usize; 1], &'a [f32]),
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Steps(..) => Dtype::U64,
            Self::Moments(..) => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Steps(shape, _) | Self::Moments(shape, _) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        match self {
            Self::Steps(_, steps) => bytes.extend(steps.to_le_bytes()),
            Self::Moments(_, values) => {
                values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            }
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Steps(..) => 8,
            Self::Moments(_, values) => size_of_val(*values),
        }
    }
}

pub(super) fn to_bytes(state: &AdamWState) -> Vec<u8> {
    let mut tensors = BTreeMap::from([("steps".to_owned(), Values::Steps([1], state.steps))]);
    for (name, (first, second)) in &state.moments {
        tensors.insert(format!("first.{name}"), Values::Moments([first.len()], first));
        tensors.insert(format!("second.{name}"), Values::Moments([second.len()], second));
    }
    safetensors::serialize(tensors, None).expect("names and shapes are valid")
}

/// # Errors
/// What is wrong with the bytes.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<AdamWState, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let of = |name: &str| tensors.tensor(name).map_err(|error| error.to_string());
    let floats = |view: &TensorView<'_>| {
        let value = |chunk: &[u8]| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        view.data().chunks_exact(4).map(value).collect::<Vec<f32>>()
    };
    let steps = <[u8; 8]>::try_from(of("steps")?.data()).map_err(|error| error.to_string())?;
    let mut moments = BTreeMap::new();
    for name in tensors.names() {
        if let Some(parameter) = name.strip_prefix("first.") {
            let second = of(&format!("second.{parameter}"))?;
            moments.insert(parameter.to_owned(), (floats(&of(name)?), floats(&second)));
        }
    }
    Ok(AdamWState { steps: u64::from_le_bytes(steps), moments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_and_half_of_one_does_not() {
        let moments = [("norm.bias", (vec![1.0, -2.0], vec![0.5, 1e-40])), ("b", (vec![], vec![]))];
        let moments = moments.map(|(name, both)| (name.to_owned(), both)).into();
        let state = AdamWState { steps: u64::MAX, moments };
        assert_eq!(from_bytes(&to_bytes(&state)).unwrap(), state);

        let half = [("steps", Values::Steps([1], 3)), ("first.b", Values::Moments([1], &[1.0]))];
        let error = from_bytes(&safetensors::serialize(half, None).unwrap()).unwrap_err();
        assert!(error.contains("second.b"), "{error}");
    }
}
