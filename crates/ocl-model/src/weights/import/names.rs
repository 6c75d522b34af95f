//! From the names that other programs give to timm's.

use std::collections::BTreeMap;

use super::network::Network;
use crate::weights::layout::HostTensor;

/// Weights under timm's names.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The encoder's and, as `pos_embed`, its positions.
    pub(super) encoder: BTreeMap<String, HostTensor>,
    /// Weight and bias of a linear classifier.
    pub(super) head: Option<[HostTensor; 2]>,
    /// What stands beside the encoder under the same prefix: decoders, mask tokens.
    pub(super) beside: BTreeMap<String, HostTensor>,
    /// Full names of what belongs to no encoder.
    pub(super) ignored: Vec<String>,
}

/// Sorts tensors into the encoder whose names begin with `prefix`, its head and the rest.
pub(super) fn sort(tensors: Vec<(String, HostTensor)>, prefix: &str) -> Named {
    // Other encoders of its training stand beside one without a prefix.
    let networks = tensors.iter().filter_map(|(name, _)| Network::told_by("", name));
    let longer: Vec<_> = networks.filter(|other| other.prefix.len() > prefix.len()).collect();
    let of_another = |name: &str| longer.iter().any(|other| name.starts_with(&other.prefix));
    let mut named = Named::default();
    let mut head = BTreeMap::new();
    let mut distilled = None;
    for (full, tensor) in tensors {
        let name = match full.strip_prefix(prefix) {
            Some(name) if !of_another(&full) => rename(name),
            _ => {
                named.ignored.push(full);
                continue;
            }
        };
        match name.as_str() {
            "head.weight" | "head.bias" => drop(head.insert(name, tensor)),
            "dist_token" => distilled = Some(tensor),
            _ if belongs_to_no_encoder(&name) => {
                named.ignored.push(full);
                named.beside.insert(name, tensor);
            }
            _ => drop(named.encoder.insert(name, tensor)),
        }
    }
    let parts = [head.remove("head.weight"), head.remove("head.bias")];
    match (parts, distilled) {
        ([Some(weight), Some(bias)], None) if weight.shape.len() == 2 => {
            named.head = Some([weight, bias]);
        }
        // DeiT's distillation token takes part like a register, but its logits are the mean of two
        // heads'.
        ([weight, bias], distilled) => {
            let lone = [("head.weight", weight), ("head.bias", bias)];
            let lone = lone.into_iter().filter(|(_, tensor)| tensor.is_some());
            named.ignored.extend(lone.map(|(name, _)| name.to_owned()));
            if let Some(token) = distilled {
                named.encoder.insert("reg_token".to_owned(), token);
            }
        }
    }
    named.ignored.sort();
    named
}

fn rename(name: &str) -> String {
    if name == "register_tokens" {
        return "reg_token".to_owned(); // DINOv2
    }
    let mut words: Vec<&str> = name.split('.').collect();
    // DINOv2's training files number chunks of blocks: blocks.0.11.norm1.
    let number = |word: Option<&&str>| word.is_some_and(|word| word.parse::<usize>().is_ok());
    if words[0] == "blocks" && number(words.get(1)) && number(words.get(2)) {
        words.remove(1);
    }
    let name = words.join(".");
    // DeiT III.
    match name.rsplit_once('.') {
        Some((block, "gamma_1")) => format!("{block}.ls1.gamma"),
        Some((block, "gamma_2")) => format!("{block}.ls2.gamma"),
        _ => name,
    }
}

/// Decoders, mask tokens and projection heads of pre-training, heads of other forms.
fn belongs_to_no_encoder(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    matches!(first, "mask_token" | "head" | "head_dist" | "pre_logits" | "fc" | "projector")
        || first.starts_with("decoder")
        || first.starts_with("predictor")
        || first.ends_with("_head")
}

#[cfg(test)]
mod tests {
    use super::super::network::{KERNEL, take};
    use super::*;

    fn sorted(names: &[&str]) -> Named {
        let tensor = || HostTensor { shape: vec![1, 1], values: vec![0.0] };
        let networks: Vec<_> = names.iter().filter_map(|name| Network::told_by("", name)).collect();
        let prefix = take(&networks, None).unwrap().unwrap().network.prefix;
        sort(names.iter().map(|name| ((*name).to_owned(), tensor())).collect(), &prefix)
    }

    #[test]
    fn prefixes_of_wrappers_go() {
        for prefix in ["", "module.", "model.", "module.backbone.", "_orig_mod.module."] {
            let named = sorted(&[&format!("{prefix}{KERNEL}"), &format!("{prefix}cls_token")]);
            assert_eq!(named.encoder.keys().collect::<Vec<_>>(), ["cls_token", KERNEL], "{prefix}");
        }
        let both = ["module.momentum_encoder.", "module.base_encoder."]
            .map(|prefix| format!("{prefix}{KERNEL}"));
        let named = sorted(&[&both[0], &both[1], "module.predictor.0.weight"]);
        assert_eq!(named.encoder.len(), 1);
        assert_eq!(named.ignored, [both[0].as_str(), "module.predictor.0.weight"]);
    }

    #[test]
    fn other_programs_names_become_timms() {
        let cases = [
            ("register_tokens", "reg_token"),
            ("blocks.0.11.ls1.gamma", "blocks.11.ls1.gamma"),
            ("blocks.3.gamma_2", "blocks.3.ls2.gamma"),
            ("blocks.3.mlp.fc1.weight", "blocks.3.mlp.fc1.weight"),
        ];
        for (theirs, timms) in cases {
            assert_eq!(rename(theirs), timms);
        }
    }

    #[test]
    fn encoders_of_a_training_stand_beside_the_one_without_a_prefix() {
        let names = [KERNEL, "blocks.0.norm1.weight", "encoder.blocks.0.norm1.weight"];
        let other = format!("encoder.{KERNEL}");
        let named = sorted(&[&names[..], &[&other, "predictor_embed.weight"]].concat());
        assert_eq!(named.encoder.keys().collect::<Vec<_>>(), [names[1], KERNEL]);
        assert_eq!(named.ignored, [names[2], &other, "predictor_embed.weight"]);
    }

    #[test]
    fn heads_and_decoders_are_no_encoders() {
        let named = sorted(&[
            KERNEL,
            "mask_token",
            "decoder_blocks.0.norm1.weight",
            "head.weight",
            "head.bias",
        ]);
        assert!(named.head.is_some());
        assert_eq!(named.ignored, ["decoder_blocks.0.norm1.weight", "mask_token"]);
        assert!(named.beside.keys().eq(&named.ignored));
        let distilled =
            sorted(&[KERNEL, "dist_token", "head.weight", "head.bias", "head_dist.bias"]);
        assert!(distilled.head.is_none() && distilled.encoder.contains_key("reg_token"));
        assert_eq!(distilled.ignored, ["head.bias", "head.weight", "head_dist.bias"]);
    }
}
