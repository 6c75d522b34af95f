//! Classifiers on frozen features, and the gemm and the counts that they share.

mod lars;
mod logistic;
mod mae_head;
mod many_heads;
mod matrix;
mod metrics;

pub use lars::Lars;
pub(crate) use logistic::Logistic;
pub use mae_head::{BatchNorm, Head};
pub(crate) use many_heads::{Heads, Training};
pub(crate) use matrix::{Matrix, Standard, Threads, gemm, unit_rows};
pub(crate) use metrics::{Accuracy, Tally, mean_and_deviation, rank_of};
