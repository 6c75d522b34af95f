//! Draws the embedded data set from Fashion-MNIST's training images: 800 images of each class to
//! train on and 200 to test on, in the order of the original file.
//!
//! cargo run --release -p ocl-data --no-default-features --example make_embedded -- \
//!     /usr/share/datasets/fashion-mnist crates/ocl-data/data

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ocl_data::{Draws, Purpose};

const SEED: u64 = 20_240_614;
const CLASSES: u8 = 10;
const TRAIN_OF_EACH: usize = 800;
const TEST_OF_EACH: usize = 200;
const PICTURE: usize = 28 * 28;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, from, to] = &args[..] else {
        return Err("usage: make_embedded FASHION_MNIST_FOLDER OUTPUT_FOLDER".into());
    };
    let images = read_gz(&Path::new(from).join("train-images-idx3-ubyte.gz"))?;
    let labels = read_gz(&Path::new(from).join("train-labels-idx1-ubyte.gz"))?;
    let (images, labels) = (&images[16..], &labels[8..]);
    assert_eq!(images.len(), labels.len() * PICTURE, "one label per picture");

    let (mut train, mut test) = (Vec::new(), Vec::new());
    for class in 0..CLASSES {
        let mut members: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class).collect();
        let taken = TRAIN_OF_EACH + TEST_OF_EACH;
        Draws::new(SEED, 0, u64::from(class), Purpose::EmbeddedSet)
            .shuffle_front(&mut members, taken);
        train.extend_from_slice(&members[..TRAIN_OF_EACH]);
        test.extend_from_slice(&members[TRAIN_OF_EACH..taken]);
    }
    for (name, mut chosen) in [("train", train), ("test", test)] {
        chosen.sort_unstable();
        let count = (chosen.len() as u32).to_be_bytes();
        let side = 28u32.to_be_bytes();
        let mut idx3 = [&[0, 0, 8, 3][..], &count, &side, &side].concat();
        let mut idx1 = [&[0, 0, 8, 1][..], &count].concat();
        for &i in &chosen {
            idx3.extend_from_slice(&images[i * PICTURE..(i + 1) * PICTURE]);
            idx1.push(labels[i]);
        }
        write_gz(&Path::new(to).join(format!("{name}-images-idx3-ubyte.gz")), &idx3)?;
        write_gz(&Path::new(to).join(format!("{name}-labels-idx1-ubyte.gz")), &idx1)?;
        println!("{name}: {} images", chosen.len());
    }
    Ok(())
}

fn read_gz(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path)?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_gz(path: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut encoder = GzEncoder::new(File::create(path)?, Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()?;
    Ok(())
}
