//! Small pictures of one size, all in memory.

use crate::picture::RgbImage;

/// Pictures of `width_px` x `height_px` with 1 or 3 interleaved channels.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) channels: usize,
    /// `[len, height, width, channels]`.
    pub(super) pixels: Vec<u8>,
    /// The files the pictures came from and how many each held, in order.
    pub(super) files: Vec<(String, usize)>,
}

impl Memory {
    fn picture_len(&self) -> usize {
        self.width_px as usize * self.height_px as usize * self.channels
    }

    pub(super) fn len(&self) -> usize {
        self.files.iter().map(|(_, count)| count).sum()
    }

    pub(super) fn name_of(&self, index: usize) -> String {
        let mut place = index;
        for (file, count) in &self.files {
            if place < *count {
                return format!("{file}[{place}]");
            }
            place -= count;
        }
        format!("sample {index}")
    }

    pub(super) fn copy(&self, index: usize, image: &mut RgbImage) {
        let from = &self.pixels[index * self.picture_len()..][..self.picture_len()];
        let to = image.reshape(self.width_px, self.height_px);
        if self.channels == 1 {
            for (to, from) in to.chunks_exact_mut(3).zip(from) {
                to.fill(*from);
            }
        } else {
            to.copy_from_slice(from);
        }
    }
}
