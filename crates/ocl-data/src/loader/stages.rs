//! Where the workers' time goes.

use std::ops::AddAssign;
use std::time::Duration;

/// Time that all workers together have spent on each stage, over so many images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Images made, unreadable ones included.
    pub images: u64,
    /// Fetching the bytes of a file, or the pixels of what is held in memory.
    pub read: Duration,
    /// Decoding; of a JPEG entropy decoding and the inverse transform, where only parts are
    /// decoded.
    pub decode: Duration,
    /// Smoothing of chroma and conversion of colours, where only parts are decoded.
    pub colour: Duration,
    /// Resizing.
    pub resize: Duration,
    /// What is done to colours.
    pub augment: Duration,
    /// Cutting into patches and normalising.
    pub normalise: Duration,
}

impl StageTimes {
    /// The stages by name, in their order.
    pub fn stages(&self) -> [(&'static str, Duration); 6] {
        [
            ("read", self.read),
            ("decode", self.decode),
            ("colour", self.colour),
            ("resize", self.resize),
            ("augment", self.augment),
            ("normalise", self.normalise),
        ]
    }
}

impl AddAssign for StageTimes {
    fn add_assign(&mut self, other: StageTimes) {
        self.images += other.images;
        self.read += other.read;
        self.decode += other.decode;
        self.colour += other.colour;
        self.resize += other.resize;
        self.augment += other.augment;
        self.normalise += other.normalise;
    }
}
