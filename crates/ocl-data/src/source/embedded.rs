//! The data set inside the program: 10,000 of Fashion-MNIST's training images.
//!
//! `data/README.md` states origin, licence and how they were drawn.

use super::kind::Split;
use super::memory::Memory;
use super::opened::Opened;
use crate::error::SourceError;

#[cfg(not(feature = "embedded"))]
pub(super) fn open(_split: Split) -> Result<Opened<Memory>, SourceError> {
    Err(SourceError::NotEmbedded)
}

#[cfg(feature = "embedded")]
pub(super) fn open(split: Split) -> Result<Opened<Memory>, SourceError> {
    use super::idx::{Idx, gunzip, source};
    use std::path::PathBuf;

    let (images, labels): (&[u8], &[u8]) = match split {
        Split::Train => (
            include_bytes!("../../data/train-images-idx3-ubyte.gz"),
            include_bytes!("../../data/train-labels-idx1-ubyte.gz"),
        ),
        Split::Test => (
            include_bytes!("../../data/test-images-idx3-ubyte.gz"),
            include_bytes!("../../data/test-labels-idx1-ubyte.gz"),
        ),
    };
    let parse = |what: &str, packed: &[u8]| {
        let path = PathBuf::from(format!("embedded-{split}-{what}"));
        Ok((Idx::parse(&path, &gunzip(&path, packed)?)?, path))
    };
    let (images, path) = parse("images", images)?;
    let title = ("embedded Fashion-MNIST".into(), format!("{split} images"));
    let names = CLASS_NAMES.map(str::to_string).to_vec();
    source(images, path, Some(parse("labels", labels)?), title, names)
}

/// Fashion-MNIST's classes, in the order of its labels.
#[cfg(feature = "embedded")]
const CLASS_NAMES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];
