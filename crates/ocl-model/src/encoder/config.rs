//! The shape of an encoder.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Shape of a Vision Transformer encoder for square RGB images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Side of the (square) image in pixels.
    pub image_px: usize,
    /// Side of a (square) patch in pixels; divides `image_px`.
    pub patch_px: usize,
    /// Width `D` of a token.
    pub width: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Number of attention heads; divides `width`.
    pub heads: usize,
    /// Hidden width of the MLP over `width`.
    pub mlp_ratio: usize,
}

/// A shape that no encoder can have.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The name is not in [`ENCODER_SIZES`].
    #[error(
        "no encoder size is called `{0}`; known are nano, micro, tiny, small, base, large, huge"
    )]
    UnknownSize(String),
    /// A dimension is zero.
    #[error("`{0}` of an encoder must be at least 1")]
    Zero(&'static str),
    /// A dimension is beyond all sense; a damaged file may say so.
    #[error("`{0}` of an encoder must be at most {LARGEST}")]
    TooLarge(&'static str),
    /// The patches do not tile the image.
    #[error("patch_px {patch_px} does not divide image_px {image_px}")]
    Patch {
        /// Side of the image.
        image_px: usize,
        /// Side of a patch.
        patch_px: usize,
    },
    /// The heads do not share the width evenly.
    #[error("heads {heads} does not divide width {width}")]
    Heads {
        /// Token width.
        width: usize,
        /// Number of heads.
        heads: usize,
    },
    /// The fixed positions need four equal parts of the width.
    #[error("width {0} is not a multiple of 4, which 2-D sine-cosine positions need")]
    Width(usize),
}

/// Bound of each dimension, so that products of two fit.
const LARGEST: usize = 1 << 20;

/// Named sizes: `(name, width, depth, heads, patch_px at 224 px)`.
///
/// `tiny` to `large` follow DeiT and ViT (arXiv 2010.11929, table 1), `huge` MAE's ViT-H/14; `nano`
/// and `micro` are ours, for CPUs and small images.
pub const ENCODER_SIZES: [(&str, usize, usize, usize, usize); 7] = [
    ("nano", 128, 4, 4, 16),
    ("micro", 192, 6, 3, 16),
    ("tiny", 192, 12, 3, 16),
    ("small", 384, 12, 6, 16),
    ("base", 768, 12, 12, 16),
    ("large", 1024, 24, 16, 16),
    ("huge", 1280, 32, 16, 14),
];

/// The shape of one transformer block: an encoder's, a decoder's, a predictor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// Token width `D`.
    pub width: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Hidden width of the MLP over `width`.
    pub mlp_ratio: usize,
}

impl BlockShape {
    /// Trainable parameters.
    pub fn parameters(&self) -> usize {
        let (d, hidden) = (self.width, self.width * self.mlp_ratio);
        let linear = |inputs: usize, outputs: usize| inputs * outputs + outputs;
        4 * d + linear(d, 3 * d) + linear(d, d) + linear(d, hidden) + linear(hidden, d)
    }

    /// Multiply-adds of one forward pass of a sequence of so many tokens.
    pub fn macs(&self, tokens: usize) -> u64 {
        let (d, t) = (self.width as u64, tokens as u64);
        let hidden = d * self.mlp_ratio as u64;
        t * (4 * d * d + 2 * d * hidden) + 2 * t * t * d
    }
}

impl VitConfig {
    /// The shape of each of the encoder's blocks.
    pub fn block(&self) -> BlockShape {
        BlockShape { width: self.width, heads: self.heads, mlp_ratio: self.mlp_ratio }
    }

    /// A named size at 224 px with its usual patch side.
    ///
    /// # Errors
    /// [`ConfigError::UnknownSize`] when the name is not in [`ENCODER_SIZES`].
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        let &(_, width, depth, heads, patch_px) = ENCODER_SIZES
            .iter()
            .find(|size| size.0 == name)
            .ok_or_else(|| ConfigError::UnknownSize(name.to_owned()))?;
        Ok(Self { image_px: 224, patch_px, width, depth, heads, mlp_ratio: 4 })
    }

    /// Checks that an encoder of this shape can exist.
    ///
    /// # Errors
    /// The first [`ConfigError`] that applies.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let named = [
            ("image_px", self.image_px),
            ("patch_px", self.patch_px),
            ("width", self.width),
            ("depth", self.depth),
            ("heads", self.heads),
            ("mlp_ratio", self.mlp_ratio),
        ];
        if let Some((name, _)) = named.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        if let Some((name, _)) = named.iter().find(|(_, value)| *value > LARGEST) {
            return Err(ConfigError::TooLarge(name));
        }
        if !self.image_px.is_multiple_of(self.patch_px) {
            return Err(ConfigError::Patch { image_px: self.image_px, patch_px: self.patch_px });
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(ConfigError::Heads { width: self.width, heads: self.heads });
        }
        if !self.width.is_multiple_of(4) {
            return Err(ConfigError::Width(self.width));
        }
        Ok(())
    }

    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_px / self.patch_px
    }

    /// Patches `L` of an image.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Values of one patch, `P * P * 3`.
    pub fn patch_len(&self) -> usize {
        self.patch_px * self.patch_px * 3
    }

    /// Trainable parameters.
    pub fn parameters(&self) -> usize {
        let d = self.width;
        let projection = self.patch_len() * d + d;
        projection + d + self.depth * self.block().parameters() + 2 * d
    }

    /// Multiply-adds of one forward pass over `tokens` tokens a sequence (class token included),
    /// from patches to every token: [`Vit::encode`](crate::Vit::encode).
    pub fn forward_macs(&self, tokens: usize) -> u64 {
        self.macs(tokens, tokens)
    }

    /// The same to the class token alone, for which the last block does less:
    /// [`Vit::encode_cls`](crate::Vit::encode_cls).
    pub fn cls_macs(&self, tokens: usize) -> u64 {
        self.macs(tokens, 1)
    }

    /// Multiply-adds to the first `queries` tokens after the last block.
    fn macs(&self, tokens: usize, queries: usize) -> u64 {
        let (d, t) = (self.width as u64, tokens as u64);
        let hidden = d * self.mlp_ratio as u64;
        // Keys and values of all tokens; query, scores, mixture, projection and MLP of those that
        // come out.
        let block = |q: u64| t * 2 * d * d + q * (2 * d * d + 2 * t * d + 2 * d * hidden);
        let blocks = (self.depth as u64 - 1) * block(t) + block(queries as u64);
        (t - 1) * self.patch_len() as u64 * d + blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_has_the_published_parameter_count() {
        // timm: sum(p.numel() for p in create_model('vit_base_patch16_224',
        // num_classes=0).parameters()) is 85,798,656, of which 197 * 768 are learned positions,
        // fixed here.
        let base = VitConfig::named("base").unwrap();
        assert_eq!(base.parameters(), 85_798_656 - 197 * 768);
        assert_eq!(base.patches(), 196);
    }

    #[test]
    fn multiply_adds_are_those_of_the_layers() {
        // ViT-B/16 at 10 tokens: 9 patches of 768 by 768; a block is 10 (4 + 8) 768^2 for its
        // linear layers and 2 * 10 * 10 * 768 for attention; the last one 10 * 2 * 768^2 for keys
        // and values, (2 + 8) 768^2 and 2 * 10 * 768 for its one query.
        let base = VitConfig::named("base").unwrap();
        let (patches, block, last) = (5_308_416, 70_932_480, 17_710_080);
        assert_eq!(base.forward_macs(10), patches + 12 * block);
        assert_eq!(base.cls_macs(10), patches + 11 * block + last);
    }

    #[test]
    fn every_named_size_is_valid() {
        for (name, ..) in ENCODER_SIZES {
            VitConfig::named(name).unwrap().validate().unwrap();
        }
    }

    #[test]
    fn impossible_shapes_are_named() {
        let good = VitConfig::named("tiny").unwrap();
        let with = |change: fn(&mut VitConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(with(|c| c.depth = 0), ConfigError::Zero("depth"));
        assert_eq!(with(|c| c.width = 1 << 40), ConfigError::TooLarge("width"));
        assert_eq!(with(|c| c.patch_px = 15), ConfigError::Patch { image_px: 224, patch_px: 15 });
        assert_eq!(with(|c| c.heads = 5), ConfigError::Heads { width: 192, heads: 5 });
        assert_eq!(with(|c| (c.width, c.heads) = (6, 3)), ConfigError::Width(6));
    }
}
