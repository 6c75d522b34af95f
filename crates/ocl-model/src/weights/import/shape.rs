//! The configuration that weights imply.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::encoder::{ENCODER_SIZES, VitConfig};
use crate::weights::expected::prefixes;
use crate::weights::layout::HostTensor;

/// Why no encoder could have such weights.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// A tensor that says how large the encoder is.
    #[error("there is no `{0}`, without which the encoder's size is unknown")]
    Missing(&'static str),
    /// A tensor of a form that this encoder's cannot have.
    #[error("`{name}` is {found:?}; expected {expected}")]
    Form {
        /// The tensor.
        name: String,
        /// What would fit.
        expected: &'static str,
        /// Its shape.
        found: Vec<usize>,
    },
    /// The positions are not those of a square.
    #[error("{0} positions are not those of a square image")]
    NotSquare(usize),
    /// The number of heads leaves no trace in the shapes.
    #[error(
        "how many heads an encoder of width {0} has cannot be told from its weights; give heads"
    )]
    Heads(usize),
}

/// Widths whose encoders have heads of other than 64 channels: so400m, huge, giant, gigantic.
const UNUSUAL_HEADS: [(usize, usize); 4] = [(1152, 16), (1280, 16), (1408, 16), (1664, 16)];

/// The configuration of weights under timm's names; `heads` wins over what is usual for the width.
pub(super) fn infer(
    state: &BTreeMap<String, HostTensor>,
    heads: Option<usize>,
) -> Result<VitConfig, ShapeError> {
    let shape = |name: &'static str| {
        state.get(name).map(|tensor| tensor.shape.as_slice()).ok_or(ShapeError::Missing(name))
    };
    let form = |name: &str, expected, found: &[usize]| ShapeError::Form {
        name: name.to_owned(),
        expected,
        found: found.to_vec(),
    };
    let kernel = "patch_embed.proj.weight";
    let (width, patch_px) = match shape(kernel)? {
        &[width, 3, height, patch_px] if height == patch_px && width > 0 => (width, patch_px),
        other => return Err(form(kernel, "[width, 3, patch, patch]", other)),
    };
    let positions = match shape("pos_embed")? {
        &[1, positions, d] if d == width => positions,
        other => return Err(form("pos_embed", "[1, positions, width]", other)),
    };
    let registers = match state.get("reg_token").map(|tensor| tensor.shape.as_slice()) {
        None => 0,
        Some(&[1, registers, d]) if d == width => registers,
        Some(other) => return Err(form("reg_token", "[1, registers, width]", other)),
    };
    let side = grid(positions, registers).ok_or(ShapeError::NotSquare(positions))?;
    let numbers = state
        .keys()
        .filter_map(|name| name.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok());
    let depth = numbers.max().and_then(|last| last.checked_add(1));
    // Each block has tensors of its own: a number beyond their number is none of a block.
    let depth = depth.filter(|&depth| depth <= state.len());
    let depth = depth.ok_or(ShapeError::Missing("blocks.0.norm1.weight"))?;
    let fc1 = "blocks.0.mlp.fc1.weight";
    let mlp_ratio = match shape(fc1)? {
        &[hidden, d] if d == width && hidden > 0 && hidden.is_multiple_of(width) => hidden / width,
        other => return Err(form(fc1, "[a multiple of width, width]", other)),
    };
    let heads = heads.or_else(|| usual_heads(width, depth)).ok_or(ShapeError::Heads(width))?;
    let image_px = side * patch_px;
    Ok(VitConfig { image_px, patch_px, width, depth, heads, mlp_ratio })
}

/// Side of the grid that `positions` positions belong to.
fn grid(positions: usize, registers: usize) -> Option<usize> {
    prefixes(registers).into_iter().find_map(|prefix| {
        let patches = positions.checked_sub(prefix)?;
        let side = patches.isqrt();
        (side > 0 && side * side == patches).then_some(side)
    })
}

fn usual_heads(width: usize, depth: usize) -> Option<usize> {
    let named = ENCODER_SIZES.iter().find(|size| (size.1, size.2) == (width, depth));
    let unusual = || UNUSUAL_HEADS.iter().find(|known| known.0 == width).map(|known| known.1);
    let of_64 = || width.is_multiple_of(64).then_some(width / 64);
    named.map(|size| size.3).or_else(unusual).or_else(of_64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(width: usize, depth: usize, positions: usize) -> BTreeMap<String, HostTensor> {
        let shapes = [
            ("patch_embed.proj.weight".to_owned(), vec![width, 3, 14, 14]),
            ("pos_embed".to_owned(), vec![1, positions, width]),
            (format!("blocks.{}.norm1.weight", depth - 1), vec![width]),
            ("blocks.0.mlp.fc1.weight".to_owned(), vec![4 * width, width]),
        ];
        // The number of tensors bounds the depth.
        let more = (0..depth).map(|i| (format!("blocks.{i}.norm2.weight"), vec![width]));
        let tensor = |shape| HostTensor { shape, values: vec![] };
        shapes.into_iter().chain(more).map(|(name, shape)| (name, tensor(shape))).collect()
    }

    #[test]
    fn published_sizes_are_told_from_shapes() {
        let cases = [
            (192, 12, 3),
            (384, 12, 6),
            (768, 12, 12),
            (1024, 24, 16),
            (1280, 32, 16),
            (1408, 40, 16),
            (1536, 40, 24),
            (128, 4, 4),
        ];
        for (width, depth, heads) in cases {
            let config = infer(&weights(width, depth, 257), None).unwrap();
            assert_eq!((config.heads, config.depth, config.image_px), (heads, depth, 224));
        }
        assert_eq!(infer(&weights(100, 2, 257), None), Err(ShapeError::Heads(100)));
        assert_eq!(infer(&weights(100, 2, 257), Some(5)).unwrap().heads, 5);
    }

    #[test]
    fn positions_with_and_without_prefix_are_told_apart() {
        assert_eq!(
            [grid(197, 0), grid(196, 0), grid(201, 4), grid(200, 4)],
            [Some(14), Some(14), Some(14), None]
        );
        assert_eq!(infer(&weights(64, 1, 200), None), Err(ShapeError::NotSquare(200)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut state = weights(64, 1, 197);
        state.remove("pos_embed");
        assert_eq!(infer(&state, None), Err(ShapeError::Missing("pos_embed")));
        let mut state = weights(64, 1, 197);
        state.insert(
            "blocks.18446744073709551615.x".into(),
            HostTensor { shape: vec![], values: vec![] },
        );
        assert!(infer(&state, None).is_err());
    }
}
