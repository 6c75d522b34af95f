//! Learning rates that fall from the last layer to the first, for fine-tuning.

use serde::{Deserialize, Serialize};

/// Layer-wise decay of the learning rate: a parameter's rate is `decay^n` times the base rate, `n`
/// being the number of layers above its own. The layers are the patch projection and the class
/// token (0), the blocks (1 to `depth`), and what follows them: final norm and head (`depth + 1`).
///
/// Source: BEiT (arXiv 2106.08254, appendix H) and MAE (arXiv 2111.06377, table 9).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerDecay {
    /// Rate of a layer over that of the layer above it, `0..=1`; 1 leaves all rates equal.
    pub decay: f64,
    /// Blocks of the encoder.
    pub depth: usize,
}

impl LayerDecay {
    /// What a parameter's rate is multiplied by, told from its dotted name. The encoder may sit
    /// anywhere in a larger module: `vit.blocks.3.norm1.weight` is of layer 4.
    pub fn scale(&self, name: &str) -> f64 {
        self.decay.powi((self.depth + 1 - self.layer(name)) as i32)
    }

    fn layer(&self, name: &str) -> usize {
        let mut parts = name.split('.');
        while let Some(part) = parts.next() {
            match part {
                "cls_token" | "pos_embed" | "patch_embed" => return 0,
                "blocks" => {
                    let block = parts.next().and_then(|number| number.parse::<usize>().ok());
                    return block.map_or(self.depth, |block| block + 1).min(self.depth);
                }
                _ => {}
            }
        }
        self.depth + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_layer_by_layer() {
        let layers = LayerDecay { decay: 0.5, depth: 3 };
        for (name, scale) in [
            ("cls_token", 0.0625),
            ("patch_embed.proj.weight", 0.0625),
            ("blocks.0.norm1.bias", 0.125),
            ("vit.blocks.2.mlp.fc1.weight", 0.5),
            ("vit.norm.weight", 1.0),
            ("head.weight", 1.0),
        ] {
            assert_eq!(layers.scale(name), scale, "{name}");
        }
    }
}
