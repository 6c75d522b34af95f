//! The loss of random embeddings, at chance and when the views agree.
//!
//! `cargo run --release -p ocl-loss --example random_embeddings`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use burn::tensor::{Device, Distribution, Tensor};
use ocl_loss::{TspSimilarity, chance_loss, contrastive_loss};

fn main() {
    let device = Device::default();
    let similarity = TspSimilarity { kappa: 1.0 / 64.0, temperature: 0.07 };
    let draw = || Tensor::<2>::random([256, 384], Distribution::Normal(0.0, 1.0), &device);
    let (a, b) = (draw(), draw());
    let apart: f32 = contrastive_loss(&similarity, a.clone(), b).into_scalar();
    let equal: f32 = contrastive_loss(&similarity, a.clone(), a).into_scalar();
    println!("chance {:.3}, unrelated views {apart:.3}, equal views {equal:.3}", chance_loss(256));
}
