//! How a batch is taken apart.

use std::ops::Range;

use ocl_data::Batch;

use crate::world::tree;

/// Tokens of a micro-batch for each thread: fewer make the packing of matrices felt on the CPU.
const BUSY_ROWS: usize = 704;

/// How a batch is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatches {
    /// Images that are encoded together, and whose gradients are one term of the batch's sum. The
    /// sum is taken over micro-batches, last to first, whatever the chunk: so the chunk changes no
    /// bit of the result.
    pub size: usize,
    /// Images whose intermediate values are in memory at once, at least a micro-batch. The last
    /// chunk's are kept from the first encoding; only the images before it are encoded twice.
    pub chunk: usize,
    /// Parts of the batch, a power of two: a part's micro-batches are summed one after the other,
    /// and the parts as a binary tree. So as many processes may share a batch and give the same
    /// bits.
    pub parts: usize,
}

impl MicroBatches {
    /// The whole batch at once.
    pub const WHOLE: Self = Self { size: usize::MAX, chunk: usize::MAX, parts: 1 };

    /// How a new run on the CPU takes a batch apart when `chunk` of its images may be in memory at
    /// once; `rows_per_image` are the tokens of all its sequences together.
    pub fn of(batch: usize, rows_per_image: usize, chunk: usize) -> Self {
        let size = busy_size(batch, rows_per_image).min(chunk);
        Self { size, chunk: whole_micro_batches(batch, size, chunk), parts: 1 }
    }

    /// The images of a batch of so many that process `rank` of `processes` takes.
    pub fn share(self, batch: usize, rank: usize, processes: usize) -> Range<usize> {
        let own = tree::share(self.parts, rank, processes);
        let first = |part: usize| (self.first_of(part, batch) * self.size.min(batch)).min(batch);
        first(own.start)..first(own.end)
    }

    /// The first micro-batch of a part of a batch of so many images.
    pub(super) fn first_of(self, part: usize, batch: usize) -> usize {
        batch.div_ceil(self.size.min(batch).max(1)) * part / self.parts
    }
}

/// The images of a micro-batch that keep the threads busy, even over the batch.
pub(crate) fn busy_size(batch: usize, rows_per_image: usize) -> usize {
    let busy = BUSY_ROWS * rayon::current_num_threads();
    batch.div_ceil((batch * rows_per_image).div_ceil(busy).max(1)).clamp(1, batch)
}

/// The chunk nearest to what is asked for, no larger unless it is less than a micro-batch.
pub(crate) fn whole_micro_batches(batch: usize, size: usize, images: usize) -> usize {
    if images >= batch { batch } else { (images / size).max(1) * size }
}

/// A batch, or a process's share of one, on the host and in micro-batches.
pub(super) struct Cut {
    pub(super) batch: Batch,
    size: usize,
}

impl Cut {
    pub(super) fn of(batch: Batch, size: usize) -> Self {
        Self { size: size.min(batch.images).max(1), batch }
    }

    pub(super) fn len(&self) -> usize {
        self.batch.images.div_ceil(self.size)
    }

    /// The images of micro-batch `i`.
    pub(super) fn images(&self, i: usize) -> std::ops::Range<usize> {
        i * self.size..((i + 1) * self.size).min(self.batch.images)
    }

    /// The patches and positions of micro-batch `i`; labels and sample numbers stay behind. The
    /// only one of a batch is given away, not copied: it is asked for once.
    pub(super) fn get(&mut self, i: usize) -> Batch {
        if self.len() == 1 {
            let Batch { epoch, index, crops, kept, patch_len, .. } = self.batch;
            let patches = std::mem::take(&mut self.batch.patches);
            let positions = std::mem::take(&mut self.batch.positions);
            assert!(!patches.is_empty(), "the only micro-batch is asked for once");
            let (images, blocks) = (self.batch.images, self.batch.blocks.take());
            return Batch {
                epoch,
                index,
                patches,
                positions,
                images,
                crops,
                kept,
                patch_len,
                blocks,
                ..Batch::default()
            };
        }
        self.batch.of_images(self.images(i))
    }
}
