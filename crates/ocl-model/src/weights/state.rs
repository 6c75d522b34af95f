//! An encoder's parameters as tensors on the host, under timm's names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

use super::expected::{expected_shapes, parts_of, take_positions};
use super::layout::HostTensor;
use crate::encoder::{ConfigError, Parts, Vit, VitConfig};
use crate::named::{NamedMapper, NamedVisitor, map_named, visit_named};

/// Metadata key under which a weights file describes itself: a JSON object with the [`VitConfig`]
/// as `encoder`.
pub(super) const CONFIG_KEY: &str = "ocl";

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
    /// Weights of another program do not become an encoder.
    #[error("cannot take the weights of {}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
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
    module_state(vit, "")
}

/// The parameters of any network on the host, by name under `prefix`, in timm's layout: matrices
/// `[outputs, inputs]`, the patch projection as a convolution kernel.
pub fn module_state(module: &impl Module, prefix: &str) -> BTreeMap<String, HostTensor> {
    struct Collect(BTreeMap<String, HostTensor>);
    impl NamedVisitor for Collect {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let values = tensor.into_data().try_into_vec().expect("parameters are f32");
            self.0.insert(name.to_owned(), HostTensor { shape, values }.into_timm(name));
        }
    }
    let mut collect = Collect(BTreeMap::new());
    visit_named(module, prefix, &mut collect);
    collect.0
}

/// Gives the encoder the parameters of `state` (timm's names and layout, positions not included).
///
/// # Errors
/// [`WeightsError::Mismatch`] listing every missing, unexpected and wrong-shaped name.
pub fn apply_state(vit: Vit, mut state: BTreeMap<String, HostTensor>) -> Result<Vit, WeightsError> {
    check(vit.config(), vit.parts(), &state)?;
    Ok(map_named(vit, "", &mut Replace { state: &mut state, wrong: vec![], missing: vec![] }))
}

/// Gives any network the parameters that [`module_state`] would give, and takes them out of
/// `state`. What else is there stays there.
///
/// # Errors
/// [`WeightsError::Mismatch`] listing every missing and wrong-shaped name.
pub fn apply_module_state<M: Module>(
    module: M,
    prefix: &str,
    state: &mut BTreeMap<String, HostTensor>,
) -> Result<M, WeightsError> {
    let mut replace = Replace { state, wrong: vec![], missing: vec![] };
    let module = map_named(module, prefix, &mut replace);
    let Replace { wrong: shapes, missing, .. } = replace;
    if missing.is_empty() && shapes.is_empty() {
        return Ok(module);
    }
    Err(WeightsError::Mismatch { missing, unexpected: vec![], shapes })
}

/// A new encoder from weights under timm's names, positions included, and with the optional parts
/// that they are for. Nothing is allocated for an encoder that the weights do not fill.
pub(crate) fn assemble(
    config: &VitConfig,
    mut state: BTreeMap<String, HostTensor>,
    device: &Device,
) -> Result<Vit, WeightsError> {
    config.validate()?;
    let positions = take_positions(&mut state, config);
    let parts = parts_of(&state);
    check(config, parts, &state)?;
    let vit = Vit::new(config, 0, device)?.with_parts(parts);
    apply_state(positions.into_iter().fold(vit, Vit::with_positions), state)
}

fn check(
    config: &VitConfig,
    parts: Parts,
    state: &BTreeMap<String, HostTensor>,
) -> Result<(), WeightsError> {
    // More blocks than tensors cannot be, and would only make a long list.
    let config = VitConfig { depth: config.depth.min(state.len() + 1), ..config.clone() };
    let mut expected = expected_shapes(&config, parts);
    if state.contains_key("pos_embed") {
        // It is there only if it did not fit.
        expected.insert("pos_embed".to_owned(), vec![1, 1 + config.patches(), config.width]);
    }
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
    if missing.is_empty() && unexpected.is_empty() && shapes.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Mismatch { missing, unexpected, shapes })
}

/// Replaces parameters by those of `state`, timm's in layout, and takes them out of it.
struct Replace<'a> {
    state: &'a mut BTreeMap<String, HostTensor>,
    missing: Vec<String>,
    /// Name, expected and found shape.
    wrong: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl NamedMapper for Replace<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(host) = self.state.remove(name) else {
            self.missing.push(name.to_owned());
            return param;
        };
        let host = host.into_ours(name);
        let expected = param.val().dims();
        if host.shape != expected {
            self.wrong.push((name.to_owned(), expected.to_vec(), host.shape));
            return param;
        }
        param.map(|old| {
            let tracked = old.is_require_grad();
            let new = Tensor::from_data(TensorData::new(host.values, host.shape), &old.device());
            if tracked { new.require_grad() } else { new }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VitConfig {
        VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 1, heads: 2, mlp_ratio: 4 }
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
}
