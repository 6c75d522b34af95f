//! What comes of a view: the patches of some images.

use std::ops::Range;

use super::blocks::Blocks;

/// The kept patches of `C` crops of each of `N` images, and where they lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its epoch.
    pub epoch: u64,
    /// Its number in the epoch.
    pub index: u64,
    /// `[N]`: index of each image in the source; a replacement's where an image was unreadable.
    pub samples: Vec<u64>,
    /// `[N]`: class of each image; empty without labels.
    pub labels: Vec<u32>,
    /// `[N, C, K, P * P * 3]`: normalised; inside a patch row, column, channel.
    pub patches: Vec<f32>,
    /// `[N, C, K]`: row-major place of each patch in the grid.
    pub positions: Vec<u32>,
    /// `N`; smaller than asked for in the last batch of a sequential run, or where an image of such
    /// a run was unreadable.
    pub images: usize,
    /// Crops of each image, `C`.
    pub crops: usize,
    /// `K`.
    pub kept: usize,
    /// `P * P * 3`.
    pub patch_len: usize,
    /// Which patches are context and targets, where the view draws blocks.
    pub blocks: Option<Blocks>,
}

impl Batch {
    /// Some of its images: their patches, positions and blocks. Samples and labels stay behind.
    pub fn of_images(&self, images: Range<usize>) -> Batch {
        let values = |len: usize| images.start * len..images.end * len;
        let (crops, kept, patch_len) = (self.crops, self.kept, self.patch_len);
        Batch {
            epoch: self.epoch,
            index: self.index,
            patches: self.patches[values(crops * kept * patch_len)].to_vec(),
            positions: self.positions[values(crops * kept)].to_vec(),
            images: images.len(),
            crops,
            kept,
            patch_len,
            blocks: self.blocks.as_ref().map(|blocks| blocks.of_images(images)),
            ..Batch::default()
        }
    }
}

impl Default for Batch {
    /// No image, one crop of each.
    fn default() -> Batch {
        Batch {
            epoch: 0,
            index: 0,
            samples: Vec::new(),
            labels: Vec::new(),
            patches: Vec::new(),
            positions: Vec::new(),
            images: 0,
            crops: 1,
            kept: 0,
            patch_len: 0,
            blocks: None,
        }
    }
}
