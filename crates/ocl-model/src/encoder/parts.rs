//! The parts that an encoder may have or lack, and its positions.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use super::config::{ConfigError, VitConfig};
use super::grid::resample_positions;
use super::init::Init;
use super::layers::LayerNorm;
use super::pooling::Pooling;
use super::positions::{row_first_table, sincos_table};
use super::vit::Vit;

/// A table of positions that is nowhere further from the fixed one is the fixed one: bfloat16 keeps
/// 1 with an error of 0.004, while learned tables are another thing altogether.
const FIXED_WITHIN: f32 = 0.01;

/// Which of its optional parts an encoder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) class_token: bool,
    pub(crate) registers: usize,
    pub(crate) layer_scale: bool,
    pub(crate) norm: bool,
    pub(crate) fc_norm: bool,
}

impl Vit {
    /// The encoder with these optional parts, at values without effect.
    pub(crate) fn with_parts(mut self, parts: Parts) -> Self {
        let (d, device) = (self.config.width, self.device());
        let init = Init::new(0, &device);
        if !parts.class_token {
            self.cls_token = None;
        }
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
            class_token: self.has_cls_token(),
            registers: self.registers(),
            layer_scale: self.blocks.iter().any(|block| block.has_layer_scale()),
            norm: self.norm.is_some(),
            fc_norm: self.fc_norm.is_some(),
        }
    }

    /// The pooling that such an encoder is made for: the mean where the norm stands after it, or
    /// where there is no class token.
    pub fn usual_pooling(&self) -> Pooling {
        let norm_after = self.norm.is_none() && self.fc_norm.is_some();
        if norm_after || !self.has_cls_token() { Pooling::Mean } else { Pooling::Cls }
    }

    /// The encoder with `norm` after the pooling, in place of the one before: what fine-tuning of
    /// mean pooled tokens gives.
    #[must_use]
    pub fn with_norm_after_pooling(mut self, norm: LayerNorm) -> Self {
        (self.norm, self.fc_norm) = (None, Some(norm));
        self
    }

    /// The encoder with its norm before the pooling, and the norm that stood after it, if one did.
    #[must_use]
    pub fn split_norm_after_pooling(mut self) -> (Self, Option<LayerNorm>) {
        let after = self.fc_norm.take();
        self.norm = self.norm.or_else(|| after.clone());
        (self, after)
    }

    /// The encoder with another table of positions, `[1+L, D]`, whose first row is zero.
    ///
    /// # Panics
    /// If the table is not of this size.
    #[must_use]
    pub fn with_positions(mut self, table: Vec<f32>) -> Self {
        let shape = [1 + self.config.patches(), self.config.width];
        let device = self.pos_embed.device();
        self.pos_embed = Tensor::from_data(TensorData::new(table, shape), &device);
        self
    }

    /// The table of positions on the host, `[1+L, D]`.
    pub(crate) fn positions(&self) -> Vec<f32> {
        self.pos_embed.to_data().try_into_vec().expect("positions are f32")
    }

    /// The encoder for images of another side: fixed positions are computed anew, learned ones
    /// resampled (antialiased bicubic, as timm does).
    ///
    /// # Errors
    /// When the patches do not tile such an image.
    pub fn resized(mut self, image_px: usize) -> Result<Self, ConfigError> {
        let new = VitConfig { image_px, ..self.config.clone() };
        new.validate()?;
        let (d, from, to) = (self.config.width, self.config.grid(), new.grid());
        let table = self.positions();
        let is = |fixed: &[f32]| table.iter().zip(fixed).all(|(a, b)| (a - b).abs() < FIXED_WITHIN);
        let table = if is(&sincos_table(d, from)) {
            sincos_table(d, to)
        } else if is(&row_first_table(d, from)) {
            row_first_table(d, to)
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
    use burn::tensor::Device;

    #[test]
    fn fixed_positions_of_another_size_are_computed_anew() {
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 2, heads: 2, mlp_ratio: 4 };
        let vit = Vit::new(&config, 0, &Device::default()).unwrap().resized(16).unwrap();
        assert_eq!(vit.positions(), sincos_table(8, 4));
        assert_eq!(vit.config().image_px, 16);
        assert!(vit.resized(15).is_err());
    }
}
