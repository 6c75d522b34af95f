//! Number types of weights, all of which become f32.

/// A floating-point type in a file, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F16,
    Bf16,
    F32,
    F64,
}

impl Kind {
    /// The type of PyTorch's storage of this name.
    pub(super) fn of_storage(name: &str) -> Option<Self> {
        match name {
            "HalfStorage" => Some(Self::F16),
            "BFloat16Storage" => Some(Self::Bf16),
            "FloatStorage" => Some(Self::F32),
            "DoubleStorage" => Some(Self::F64),
            _ => None,
        }
    }

    /// Bytes of a value.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// The value of `bytes`, as many as [`Kind::size`] says.
pub(super) fn to_f32(kind: Kind, bytes: &[u8]) -> f32 {
    match (kind, bytes) {
        (Kind::F16, &[a, b]) => half_to_f32(u16::from_le_bytes([a, b])),
        (Kind::Bf16, &[a, b]) => f32::from_le_bytes([0, 0, a, b]),
        (Kind::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (Kind::F64, &[a, b, c, d, e, f, g, h]) => {
            f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
        }
        _ => unreachable!("a {kind:?} of {} bytes", bytes.len()),
    }
}

/// IEEE 754 binary16.
fn half_to_f32(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_numpys_values() {
        // numpy.array([0x3c00, 0xc001, 0x7bff, 0x0001, 0x8400], "uint16").view("float16")
        let cases = [
            (0x3c00, 1.0),
            (0xc001, -2.001_953_1),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x8400, -6.103_515_6e-5),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, value) in cases {
            assert_eq!(half_to_f32(bits), value, "{bits:#x}");
        }
        assert!(half_to_f32(0x7e00).is_nan());
        assert_eq!(to_f32(Kind::Bf16, &[0x80, 0xbf]), -1.0);
        assert_eq!(to_f32(Kind::F64, &1.5f64.to_le_bytes()), 1.5);
    }
}
