//! Blocks of neighbouring patches: what I-JEPA (arXiv 2301.08243) sees of an image, and what of it
//! is to be predicted.
//!
//! Sizes are the batch's, drawn from (seed, epoch, batch); corners are the image's, drawn from
//! (seed, epoch, sample). A context is its block less all target blocks; the contexts of a batch
//! are cut to the shortest of them, so that they make one tensor.

use serde::{Deserialize, Serialize};

use crate::random::{Draws, Purpose};

/// Vain draws of a context after which it may overlap one target more.
const PATIENCE: usize = 20;

/// How blocks are drawn. Shares are of the grid's area.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockMasks {
    /// Target blocks of an image, `M`.
    pub targets: usize,
    /// Least and greatest area of a target.
    pub target_scale: [f64; 2],
    /// Least and greatest height over width of a target.
    pub target_ratio: [f64; 2],
    /// Least and greatest area of a context's block, which is square.
    pub context_scale: [f64; 2],
    /// A context of no more patches than this is drawn again.
    pub min_keep: usize,
}

/// The blocks of a batch, as row-major ids of patches, ascending within a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// `[N, Kc]`.
    pub context: Vec<u32>,
    /// `[N, M, Kt]`.
    pub targets: Vec<u32>,
    /// `Kc`.
    pub context_len: usize,
    /// `Kt`.
    pub target_len: usize,
    /// `M`.
    pub blocks: usize,
}

/// Height and width of a block, or top and left of its corner, in patches.
type Pair = [usize; 2];

impl BlockMasks {
    /// Says why blocks cannot be drawn on a grid of `grid` by `grid` patches, if they cannot.
    ///
    /// # Errors
    /// The field that is to blame, the reason, and what to do.
    pub fn check(&self, grid: usize) -> Result<(), (&'static str, String)> {
        let within = |[low, high]: [f64; 2]| low > 0.0 && low <= high && high.is_finite();
        for (name, range, top) in
            [("target_scale", self.target_scale, 1.0), ("context_scale", self.context_scale, 1.0)]
        {
            if !(within(range) && range[1] <= top) {
                return Err((name, format!("{range:?} is not [low, high], 0 < low <= high <= 1")));
            }
        }
        if !within(self.target_ratio) {
            let reason = format!("{:?} is not [low, high], 0 < low <= high", self.target_ratio);
            return Err(("target_ratio", reason));
        }
        if self.targets == 0 {
            return Err(("targets", "0 blocks leave nothing to predict; give at least 1".into()));
        }
        let remedy = "use smaller patches or larger images";
        let [h, w] = block_size(0.0, grid, self.context_scale, [1.0; 2]);
        if h * w == 0 {
            let reason = format!(
                "on a grid of {grid} x {grid} patches a context may be {h} x {w}, which is none: \
                 {remedy}"
            );
            return Err(("context_scale", reason));
        }
        if h * w <= self.min_keep {
            let reason = format!(
                "on a grid of {grid} x {grid} patches a context may be as small as {h} x {w}, no \
                 more than the {} of min_keep: {remedy}, or lower min_keep",
                self.min_keep
            );
            return Err(("min_keep", reason));
        }
        for step in 0..=64 {
            let [h, w] = self.target_size(f64::from(step) / 64.0, grid);
            if h * w == 0 {
                let reason = format!(
                    "on a grid of {grid} x {grid} patches a target may be {h} x {w}, which is none: \
                     {remedy}, or raise target_scale"
                );
                return Err(("target_scale", reason));
            }
        }
        Ok(())
    }

    fn target_size(&self, u: f64, grid: usize) -> Pair {
        block_size(u, grid, self.target_scale, self.target_ratio)
    }

    /// The blocks of these samples, the batch `index` of an epoch.
    pub(super) fn draw(
        &self,
        seed: u64,
        (epoch, index): (u64, u64),
        samples: &[u64],
        grid: usize,
    ) -> Blocks {
        let mut sizes = Draws::new(seed, epoch, index, Purpose::BlockSizes);
        let target = self.target_size(sizes.unit(), grid);
        let context = block_size(sizes.unit(), grid, self.context_scale, [1.0; 2]);
        let corners = samples.iter().map(|&sample| {
            let mut draws = Draws::new(seed, epoch, sample, Purpose::BlockCorners);
            let targets: Vec<Pair> =
                (0..self.targets).map(|_| corner(grid, target, &mut draws)).collect();
            let place = self.context_corner(grid, [target, context], &targets, &mut draws);
            (targets, place)
        });
        Blocks::at(grid, target, context, &corners.collect::<Vec<_>>())
    }

    /// Draws a context until enough of it is left beside the targets, and how many of these it
    /// leaves out.
    fn context_corner(
        &self,
        grid: usize,
        [target, context]: [Pair; 2],
        targets: &[Pair],
        draws: &mut Draws,
    ) -> (Pair, usize) {
        let mut avoided = self.targets;
        for tries in 1.. {
            let place = corner(grid, context, draws);
            let left = context_ids(grid, (place, context), &targets[..avoided], target).count();
            if left > self.min_keep {
                return (place, avoided);
            }
            if tries % PATIENCE == 0 {
                avoided = avoided.saturating_sub(1);
            }
        }
        unreachable!("a context that leaves out no target is large enough, or was refused before")
    }
}

impl Blocks {
    /// The blocks of images from their corners: of each image those of the targets, and that of the
    /// context with the number of targets that it leaves out.
    pub(crate) fn at(
        grid: usize,
        target: Pair,
        context: Pair,
        corners: &[(Vec<Pair>, (Pair, usize))],
    ) -> Blocks {
        let target_len = target[0] * target[1];
        let blocks = corners.first().map_or(0, |(targets, _)| targets.len());
        let mut contexts: Vec<Vec<u32>> = Vec::with_capacity(corners.len());
        let mut ids = Vec::with_capacity(corners.len() * blocks * target_len);
        for (targets, (place, avoided)) in corners {
            for &place in targets {
                ids.extend(block_ids(grid, place, target));
            }
            let left = context_ids(grid, (*place, context), &targets[..*avoided], target);
            contexts.push(left.collect());
        }
        let context_len = contexts.iter().map(Vec::len).min().unwrap_or(0);
        let context = contexts.iter().flat_map(|ids| &ids[..context_len]).copied().collect();
        Blocks { context, targets: ids, context_len, target_len, blocks }
    }

    /// The blocks of some of the images.
    #[must_use]
    pub fn of_images(&self, images: std::ops::Range<usize>) -> Blocks {
        let part = |ids: &[u32], len: usize| ids[images.start * len..images.end * len].to_vec();
        Blocks {
            context: part(&self.context, self.context_len),
            targets: part(&self.targets, self.blocks * self.target_len),
            ..*self
        }
    }
}

/// Height and width of a block from one draw `u` in `0..1`, which decides area and ratio alike. A
/// block is never as long as the grid.
fn block_size(u: f64, grid: usize, scale: [f64; 2], ratio: [f64; 2]) -> Pair {
    let between = |[low, high]: [f64; 2]| low + u * (high - low);
    let (area, ratio) = (((grid * grid) as f64 * between(scale)).floor(), between(ratio));
    // Python's `round` ties to even.
    let side = |exact: f64| (exact.sqrt().round_ties_even() as usize).min(grid.saturating_sub(1));
    [side(area * ratio), side(area / ratio)]
}

/// The corner of a block, uniform over all places but the last of each axis, which the authors'
/// program never draws.
fn corner(grid: usize, size: Pair, draws: &mut Draws) -> Pair {
    size.map(|side| draws.below((grid - side) as u32) as usize)
}

fn block_ids(grid: usize, [top, left]: Pair, [height, width]: Pair) -> impl Iterator<Item = u32> {
    (top..top + height).flat_map(move |y| (left..left + width).map(move |x| (y * grid + x) as u32))
}

/// Ids of a context block that lie in none of the target blocks.
fn context_ids(
    grid: usize,
    (place, size): (Pair, Pair),
    targets: &[Pair],
    target: Pair,
) -> impl Iterator<Item = u32> {
    let outside = move |id: &u32| {
        let (y, x) = (*id as usize / grid, *id as usize % grid);
        !targets.iter().any(|&[top, left]| {
            (top..top + target[0]).contains(&y) && (left..left + target[1]).contains(&x)
        })
    };
    block_ids(grid, place, size).filter(outside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const IJEPA: BlockMasks = BlockMasks {
        targets: 4,
        target_scale: [0.15, 0.2],
        target_ratio: [0.75, 1.5],
        context_scale: [0.85, 1.0],
        min_keep: 10,
    };

    /// The blocks of the batch `index`.
    fn drawn(samples: u64, index: u64) -> Blocks {
        IJEPA.draw(3, (0, index), &(0..samples).collect::<Vec<_>>(), 14)
    }

    #[test]
    fn contexts_keep_clear_of_targets_and_are_of_one_length() {
        for index in 0..20 {
            let blocks = drawn(64, index);
            assert!((43..=120).contains(&blocks.context_len), "{}", blocks.context_len);
            assert!((30..=36).contains(&blocks.target_len), "{}", blocks.target_len);
            let (targets, context) = (4 * blocks.target_len, blocks.context_len);
            assert_eq!((blocks.context.len(), blocks.targets.len()), (64 * context, 64 * targets));
            for (context, targets) in
                blocks.context.chunks(context).zip(blocks.targets.chunks(targets))
            {
                assert!(context.windows(2).all(|pair| pair[0] < pair[1]));
                assert!(context.iter().all(|id| !targets.contains(id)));
                // The last row and column are never seen, as in the authors' program.
                assert!(context.iter().chain(targets).all(|id| id / 14 < 13 && id % 14 < 13));
            }
        }
    }

    #[test]
    fn sizes_are_the_batchs_and_corners_the_images() {
        let (one, other) = (drawn(8, 0), drawn(8, 1));
        assert_ne!((one.target_len, &one.targets), (other.target_len, &other.targets));
        // A sample's blocks do not depend on those beside it, but for the cut.
        let alone = drawn(3, 0);
        assert_eq!(alone.targets, one.targets[..alone.targets.len()]);
        let part = one.of_images(1..3);
        assert_eq!(part.targets[..], one.targets[4 * one.target_len..3 * 4 * one.target_len]);
        assert_eq!(part.context[..], one.context[one.context_len..3 * one.context_len]);
    }

    #[test]
    fn a_grid_too_small_is_answered() {
        let (field, reason) = IJEPA.check(4).unwrap_err();
        assert_eq!(field, "min_keep");
        assert!(reason.contains("4 x 4 patches") && reason.contains("min_keep"), "{reason}");
        assert!(BlockMasks { min_keep: 4, ..IJEPA }.check(4).is_ok());
        assert!(BlockMasks { min_keep: 0, ..IJEPA }.check(1).is_err());
        assert!(IJEPA.check(14).is_ok());
    }

    #[test]
    fn the_field_that_is_to_blame_is_named() {
        let field = |masks: BlockMasks| masks.check(14).unwrap_err().0;
        assert_eq!(field(BlockMasks { targets: 0, ..IJEPA }), "targets");
        assert_eq!(field(BlockMasks { target_scale: [0.2, 0.1], ..IJEPA }), "target_scale");
        assert_eq!(field(BlockMasks { target_scale: [1e-3, 2e-3], ..IJEPA }), "target_scale");
        assert_eq!(field(BlockMasks { target_ratio: [0.0, 1.0], ..IJEPA }), "target_ratio");
        assert_eq!(field(BlockMasks { target_ratio: [f64::NAN; 2], ..IJEPA }), "target_ratio");
        assert_eq!(field(BlockMasks { context_scale: [0.85, 1.5], ..IJEPA }), "context_scale");
    }

    #[test]
    fn sizes_and_ids_are_the_authors() {
        let own = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let named = std::env::var_os("OCL_GOLDEN_DIR").map(std::path::PathBuf::from);
        let mut checked = 0;
        for entry in std::fs::read_dir(named.as_ref().unwrap_or(&own)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "safetensors") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            if tensors.tensor("expect.block_sizes").is_ok() {
                let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
                let grid = header.metadata().as_ref().unwrap()["grid"].parse().unwrap();
                check_golden(&tensors, grid);
                checked += 1;
            }
        }
        assert!(checked > 0 || named.is_some(), "no golden masks");
    }

    fn check_golden(tensors: &SafeTensors<'_>, grid: usize) {
        let numbers = |name: &str| -> Vec<f64> {
            let view = tensors.tensor(name).unwrap();
            let eight = |b: &[u8]| <[u8; 8]>::try_from(b).unwrap();
            let four = |b: &[u8]| <[u8; 4]>::try_from(b).unwrap();
            match view.dtype() {
                safetensors::Dtype::F64 => {
                    view.data().chunks_exact(8).map(|b| f64::from_le_bytes(eight(b))).collect()
                }
                safetensors::Dtype::I64 => view
                    .data()
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(eight(b)) as f64)
                    .collect(),
                safetensors::Dtype::F32 => view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f64::from(f32::from_le_bytes(four(b))))
                    .collect(),
                other => panic!("{name}: {other:?}"),
            }
        };
        let counts = |name: &str| numbers(name).into_iter().map(|n| n as usize).collect::<Vec<_>>();
        let (draws, sizes) = (numbers("input.draws"), counts("expect.block_sizes"));
        assert_eq!(draws.len() / 6, sizes.len() / 2);
        for (draw, size) in draws.chunks_exact(6).zip(sizes.chunks_exact(2)) {
            let found =
                block_size(draw[5], draw[0] as usize, [draw[1], draw[2]], [draw[3], draw[4]]);
            assert_eq!(found[..], *size, "{draw:?}");
        }

        let pair = |values: &[usize]| -> Pair { [values[0], values[1]] };
        let target = pair(&counts("input.target_size"));
        let context = pair(&counts("input.context_size"));
        let (targets, contexts) = (counts("input.target_corners"), counts("input.context_corners"));
        let n = contexts.len() / 2;
        let m = targets.len() / 2 / n;
        let corners: Vec<_> = (0..n)
            .map(|i| {
                let of = (0..m).map(|j| pair(&targets[(i * m + j) * 2..])).collect();
                (of, (pair(&contexts[i * 2..]), m))
            })
            .collect();
        let expected = tensors.tensor("expect.target_ids").unwrap();
        assert_eq!(expected.shape(), [m, n, target[0] * target[1]]);
        let blocks = Blocks::at(grid, target, context, &corners);
        let ids = counts("expect.target_ids");
        for i in 0..n {
            for j in 0..m {
                let ours = &blocks.targets[(i * m + j) * blocks.target_len..][..blocks.target_len];
                let theirs = &ids[(j * n + i) * blocks.target_len..][..blocks.target_len];
                assert!(ours.iter().map(|id| *id as usize).eq(theirs.iter().copied()), "{i}, {j}");
            }
        }
        let theirs = counts("expect.context_ids");
        assert!(blocks.context.iter().map(|id| *id as usize).eq(theirs), "contexts");
    }
}
