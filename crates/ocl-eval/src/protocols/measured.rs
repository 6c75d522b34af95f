//! The result of a protocol.

use serde::Serialize;
use serde_json::Value;

use crate::heads::mean_and_deviation;

/// One figure, over seeds where training or drawing is involved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// What was counted, such as `top-1` or `k=20 top-1`; in `0..=1` unless the name says
    /// otherwise.
    pub name: String,
    /// Mean over seeds.
    pub mean: f64,
    /// Sample standard deviation over seeds; 0 with one value.
    pub deviation: f64,
    /// The value of each seed, or the only one.
    pub values: Vec<f64>,
}

impl Score {
    /// A figure from its values.
    pub fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        let (mean, deviation) = mean_and_deviation(&values);
        Self { name: name.into(), mean, deviation, values }
    }
}

/// The result of a protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Every constant, as used: what the recipe leaves to the data is resolved.
    pub constants: Value,
    /// The figures; the first is the headline.
    pub scores: Vec<Score>,
    /// The seeds of the values; empty where nothing is random.
    pub seeds: Vec<u64>,
}
