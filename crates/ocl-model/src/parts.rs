//! The parts that an encoder may have or lack, and its positions: what weights from elsewhere decide.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use crate::config::{ConfigError, VitConfig};
use crate::init::Init;
use crate::layers::LayerNorm;
use crate::layout::HostTensor;
use crate::positions::sincos_table;
use crate::resample::resample_positions;
use crate::vit::{Pooling, Vit};

/// A table of positions that is nowhere further from the fixed one is the fixed one: bfloat16 keeps 1 with
/// an error of 0.004, while learned tables are another thing altogether.
const FIXED_WITHIN: f32 = 0.01;

/// Which of its optional parts an encoder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) registers: usize,
    pub(crate) layer_scale: bool,
    pub(crate) norm: bool,
    pub(crate) fc_norm: bool,
}

impl Parts {
    /// The parts that weights under timm's names belong to.
    pub(crate) fn of(state: &BTreeMap<String, HostTensor>) -> Self {
        let has = |name: &str| state.contains_key(name);
        let registers = state.get("reg_token").and_then(|tensor| tensor.shape.get(1));
        Self {
            registers: registers.copied().unwrap_or(0),
            layer_scale: state.keys().any(|name| name.ends_with(".gamma")),
            // Weights with neither norm lack the usual one.
            norm: has("norm.weight") || !has("fc_norm.weight"),
            fc_norm: has("fc_norm.weight"),
        }
    }
}

/// Names and shapes of an encoder's parameters in timm's layout.
pub(crate) fn expected_shapes(config: &VitConfig, parts: Parts) -> BTreeMap<String, Vec<usize>> {
    let (d, p) = (config.width, config.patch_px);
    let hidden = d * config.mlp_ratio;
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| drop(shapes.insert(name, shape.to_vec()));
    add("cls_token".to_owned(), &[1, 1, d]);
    if parts.registers > 0 {
        add("reg_token".to_owned(), &[1, parts.registers, d]);
    }
    add("patch_embed.proj.weight".to_owned(), &[d, 3, p, p]);
    add("patch_embed.proj.bias".to_owned(), &[d]);
    for (there, norm) in [(parts.norm, "norm"), (parts.fc_norm, "fc_norm")] {
        if there {
            add(format!("{norm}.weight"), &[d]);
            add(format!("{norm}.bias"), &[d]);
        }
    }
    let linear = [
        ("attn.qkv", 3 * d, d),
        ("attn.proj", d, d),
        ("mlp.fc1", hidden, d),
        ("mlp.fc2", d, hidden),
    ];
    for i in 0..config.depth {
        for norm in ["norm1", "norm2"] {
            add(format!("blocks.{i}.{norm}.weight"), &[d]);
            add(format!("blocks.{i}.{norm}.bias"), &[d]);
        }
        for (layer, outputs, inputs) in linear {
            add(format!("blocks.{i}.{layer}.weight"), &[outputs, inputs]);
            add(format!("blocks.{i}.{layer}.bias"), &[outputs]);
        }
        for scale in ["ls1", "ls2"].into_iter().filter(|_| parts.layer_scale) {
            add(format!("blocks.{i}.{scale}.gamma"), &[d]);
        }
    }
    shapes
}

/// How many prefix tokens a table of positions may count, likeliest first: the class token, as usual; none,
/// as in DeiT III; the registers too, as in timm.
pub(crate) fn prefixes(registers: usize) -> [usize; 3] {
    [1, 0, registers.saturating_add(1)]
}

/// Takes `pos_embed` out of weights: the table `[1+L, D]` with a zero row for the class token, the
/// positions of prefix tokens having been added to these. Puts back what does not fit, to be reported.
pub(crate) fn take_positions(
    state: &mut BTreeMap<String, HostTensor>,
    config: &VitConfig,
) -> Option<Vec<f32>> {
    let (d, patches) = (config.width, config.patches());
    let table = state.remove("pos_embed")?;
    let registers = Parts::of(state).registers;
    let prefix = match table.shape.as_slice() {
        &[1, rows, width] if width == d => {
            prefixes(registers).into_iter().find(|prefix| prefix.checked_add(patches) == Some(rows))
        }
        _ => None,
    };
    let tokens = [("cls_token", 1), ("reg_token", registers)];
    let fits = |&(name, count): &(&str, usize)| {
        count == 0 || state.get(name).is_some_and(|token| token.shape == [1, count, d])
    };
    let (Some(prefix), true) = (prefix, tokens.iter().all(fits)) else {
        state.insert("pos_embed".to_owned(), table);
        return None;
    };
    let (mut places, patches) = table.values.split_at(prefix * d);
    for (name, count) in tokens {
        let (own, rest) = places.split_at((count * d).min(places.len()));
        places = rest;
        let token = state.get_mut(name).map(|token| token.values.as_mut_slice());
        for (value, place) in token.unwrap_or_default().iter_mut().zip(own) {
            *value += place;
        }
    }
    let mut whole = vec![0.0; d];
    whole.extend_from_slice(patches);
    Some(whole)
}

impl Vit {
    /// The encoder with these optional parts, at values without effect.
    pub(crate) fn with_parts(mut self, parts: Parts) -> Self {
        let (d, device) = (self.config.width, self.device());
        let init = Init::new(0, &device);
        self.reg_token = (parts.registers > 0)
            .then(|| Param::from_tensor(init.constant([1, parts.registers, d], 0.0)));
        if parts.layer_scale {
            let scaled = self.blocks.into_iter().map(|block| block.with_layer_scale(d, &init));
            self.blocks = scaled.collect();
        }
        self.norm = parts.norm.then(|| LayerNorm::new(d, &init));
        self.fc_norm = parts.fc_norm.then(|| LayerNorm::new(d, &init));
        self
    }

    /// The optional parts that this encoder has.
    pub(crate) fn parts(&self) -> Parts {
        Parts {
            registers: self.registers(),
            layer_scale: self.blocks.iter().any(|block| block.has_layer_scale()),
            norm: self.norm.is_some(),
            fc_norm: self.fc_norm.is_some(),
        }
    }

    /// The pooling that weights with such norms are made for: the mean where the norm stands after it.
    pub fn usual_pooling(&self) -> Pooling {
        if self.norm.is_none() && self.fc_norm.is_some() { Pooling::Mean } else { Pooling::Cls }
    }

    /// The encoder with a table of positions `[1+L, D]`.
    pub(crate) fn with_positions(mut self, table: Vec<f32>) -> Self {
        let shape = [1 + self.config.patches(), self.config.width];
        let device = self.pos_embed.device();
        self.pos_embed = Tensor::from_data(TensorData::new(table, shape), &device);
        self
    }

    /// The table of positions on the host, `[1+L, D]`.
    pub(crate) fn positions(&self) -> Vec<f32> {
        self.pos_embed.to_data().try_into_vec().expect("positions are f32")
    }

    /// The encoder for images of another side: fixed positions are computed anew, learned ones resampled
    /// (antialiased bicubic, as timm does).
    ///
    /// # Errors
    /// When the patches do not tile such an image.
    pub fn resized(mut self, image_px: usize) -> Result<Self, ConfigError> {
        let new = VitConfig { image_px, ..self.config.clone() };
        new.validate()?;
        let (d, from, to) = (self.config.width, self.config.grid(), new.grid());
        let table = self.positions();
        let fixed = sincos_table(d, from);
        let is_fixed = table.iter().zip(&fixed).all(|(a, b)| (a - b).abs() < FIXED_WITHIN);
        let table = if is_fixed {
            sincos_table(d, to)
        } else {
            let mut whole = vec![0.0; d];
            whole.extend(resample_positions(&table[d..], d, from, to));
            whole
        };
        self.config = new;
        Ok(self.with_positions(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::state_of;
    use burn::tensor::Device;

    fn config() -> VitConfig {
        VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 2, heads: 2, mlp_ratio: 4 }
    }

    #[test]
    fn the_shapes_expected_are_those_of_an_encoder() {
        let device = Device::default();
        let all = Parts { registers: 3, layer_scale: true, norm: false, fc_norm: true };
        let plain = Parts { registers: 0, layer_scale: false, norm: true, fc_norm: false };
        for parts in [plain, all] {
            let vit = Vit::new(&config(), 0, &device).unwrap().with_parts(parts);
            assert_eq!(vit.parts(), parts);
            let state = state_of(&vit);
            assert_eq!(Parts::of(&state), parts);
            let shapes = state.into_iter().map(|(name, tensor)| (name, tensor.shape));
            assert_eq!(expected_shapes(&config(), parts), shapes.collect());
        }
    }

    #[test]
    fn fixed_positions_of_another_size_are_computed_anew() {
        let vit = Vit::new(&config(), 0, &Device::default()).unwrap().resized(16).unwrap();
        assert_eq!(vit.positions(), sincos_table(8, 4));
        assert_eq!(vit.config().image_px, 16);
        assert!(vit.resized(15).is_err());
    }

    #[test]
    fn positions_of_prefix_tokens_go_into_these() {
        let tensor = |shape: &[usize], value: f32| {
            let values = vec![value; shape.iter().product()];
            HostTensor { shape: shape.to_vec(), values }
        };
        let state = |rows: usize| {
            BTreeMap::from([
                ("cls_token".to_owned(), tensor(&[1, 1, 8], 1.0)),
                ("reg_token".to_owned(), tensor(&[1, 2, 8], 2.0)),
                ("pos_embed".to_owned(), tensor(&[1, rows, 8], 0.5)),
            ])
        };
        for (rows, cls, registers) in [(5, 1.5, 2.0), (4, 1.0, 2.0), (7, 1.5, 2.5)] {
            let mut state = state(rows);
            let table = take_positions(&mut state, &config()).unwrap();
            assert_eq!((table.len(), table[7], table[8]), (5 * 8, 0.0, 0.5));
            let values = [state["cls_token"].values[0], state["reg_token"].values[15]];
            assert_eq!(values, [cls, registers], "{rows} positions");
        }
        let mut other = state(6);
        assert!(take_positions(&mut other, &config()).is_none());
        assert!(other.contains_key("pos_embed"), "kept, so that the mismatch is reported");
    }
}
