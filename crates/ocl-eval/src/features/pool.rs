//! What of an encoder's output is the feature of an image.

use std::fmt;
use std::str::FromStr;

use ocl_model::{Pooling, Vit};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// What of an encoder's output is the feature of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The class token after the final norm: what the contrastive loss was trained on.
    #[default]
    Cls,
    /// The mean of the patch tokens after the final norm.
    Mean,
}

impl Pool {
    /// What weights with such norms are made for.
    pub fn of(vit: &Vit) -> Self {
        match vit.usual_pooling() {
            Pooling::Cls => Self::Cls,
            Pooling::Mean => Self::Mean,
        }
    }

    pub(super) fn pooling(self) -> Pooling {
        match self {
            Self::Cls => Pooling::Cls,
            Self::Mean => Pooling::Mean,
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
        })
    }
}

impl FromStr for Pool {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        match name {
            "cls" => Ok(Self::Cls),
            "mean" => Ok(Self::Mean),
            _ => {
                let reason = format!("`{name}` is neither cls nor mean");
                Err(EvalError::Setting { setting: "pool", reason })
            }
        }
    }
}
