//! What weights under timm's names say of their encoder, and what an encoder expects of them.

use std::collections::BTreeMap;

use super::layout::HostTensor;
use crate::encoder::{Parts, VitConfig};

/// The parts that weights under timm's names belong to.
pub(super) fn parts_of(state: &BTreeMap<String, HostTensor>) -> Parts {
    let has = |name: &str| state.contains_key(name);
    let registers = state.get("reg_token").and_then(|tensor| tensor.shape.get(1));
    Parts {
        class_token: has("cls_token"),
        registers: registers.copied().unwrap_or(0),
        layer_scale: state.keys().any(|name| name.ends_with(".gamma")),
        // Weights with neither norm lack the usual one.
        norm: has("norm.weight") || !has("fc_norm.weight"),
        fc_norm: has("fc_norm.weight"),
    }
}

/// Names and shapes of an encoder's parameters in timm's layout.
pub(super) fn expected_shapes(config: &VitConfig, parts: Parts) -> BTreeMap<String, Vec<usize>> {
    let (d, p) = (config.width, config.patch_px);
    let hidden = d * config.mlp_ratio;
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| drop(shapes.insert(name, shape.to_vec()));
    if parts.class_token {
        add("cls_token".to_owned(), &[1, 1, d]);
    }
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

/// How many prefix tokens a table of positions may count, likeliest first: the class token, as
/// usual; none, as in DeiT III; the registers too, as in timm.
pub(in crate::weights) fn prefixes(registers: usize) -> [usize; 3] {
    [1, 0, registers.saturating_add(1)]
}

/// Takes `pos_embed` out of weights: the table `[1+L, D]` with a zero row for the class token, the
/// positions of prefix tokens having been added to these. Puts back what does not fit, to be
/// reported.
pub(super) fn take_positions(
    state: &mut BTreeMap<String, HostTensor>,
    config: &VitConfig,
) -> Option<Vec<f32>> {
    let (d, patches) = (config.width, config.patches());
    let table = state.remove("pos_embed")?;
    let Parts { class_token, registers, .. } = parts_of(state);
    let prefix = match table.shape.as_slice() {
        &[1, rows, width] if width == d => {
            prefixes(registers).into_iter().find(|prefix| prefix.checked_add(patches) == Some(rows))
        }
        _ => None,
    };
    let tokens = [("cls_token", usize::from(class_token)), ("reg_token", registers)];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Vit;
    use crate::weights::state::state_of;
    use burn::tensor::Device;

    fn config() -> VitConfig {
        VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 2, heads: 2, mlp_ratio: 4 }
    }

    #[test]
    fn the_shapes_expected_are_those_of_an_encoder() {
        let device = Device::default();
        let all = Parts {
            class_token: false,
            registers: 3,
            layer_scale: true,
            norm: false,
            fc_norm: true,
        };
        let plain = Parts {
            class_token: true,
            registers: 0,
            layer_scale: false,
            norm: true,
            fc_norm: false,
        };
        for parts in [plain, all] {
            let vit = Vit::new(&config(), 0, &device).unwrap().with_parts(parts);
            assert_eq!(vit.parts(), parts);
            let state = state_of(&vit);
            assert_eq!(parts_of(&state), parts);
            let shapes = state.into_iter().map(|(name, tensor)| (name, tensor.shape));
            assert_eq!(expected_shapes(&config(), parts), shapes.collect());
        }
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
