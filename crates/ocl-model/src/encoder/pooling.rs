//! What of an encoder's output stands for the image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What of an encoder's output stands for the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The class token.
    #[default]
    Cls,
    /// The mean of the patch tokens.
    Mean,
}

/// A name that is none of a pooling.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is neither cls (the class token) nor mean (of the patch tokens)")]
pub struct UnknownPooling(String);

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
        })
    }
}

impl FromStr for Pooling {
    type Err = UnknownPooling;

    fn from_str(name: &str) -> Result<Self, UnknownPooling> {
        [Self::Cls, Self::Mean]
            .into_iter()
            .find(|pooling| pooling.to_string() == name)
            .ok_or_else(|| UnknownPooling(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for pooling in [Pooling::Cls, Pooling::Mean] {
            assert_eq!(pooling.to_string().parse(), Ok(pooling));
        }
        let error = "max".parse::<Pooling>().unwrap_err().to_string();
        assert!(error.starts_with("`max` is neither cls"), "{error}");
    }
}
