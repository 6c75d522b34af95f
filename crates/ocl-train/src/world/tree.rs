//! Sums whose order does not depend on who takes them.
//!
//! A batch's gradient is a sum of `P` parts, `P` a power of two, taken as a binary tree over their
//! numbers. A process that holds some parts in a row can add up the subtrees that lie inside of
//! these; what is left to add is the same, whatever the number of processes. So every number of
//! them gives the same bits.

use std::ops::Range;

#[cfg(any(test, feature = "flex", feature = "mpi"))]
use rayon::prelude::*;

/// Values that a thread takes at a time.
#[cfg(any(test, feature = "flex", feature = "mpi"))]
const BAND: usize = 1 << 15;

/// The parts that process `rank` of `size` takes.
pub(crate) fn share(parts: usize, rank: usize, size: usize) -> Range<usize> {
    parts * rank / size..parts * (rank + 1) / size
}

/// Whether two ranges of parts in a row are the halves of one node of the tree.
pub(crate) fn are_halves(left: &Range<usize>, right: &Range<usize>) -> bool {
    left.len() == right.len()
        && left.end == right.start
        && left.start.is_multiple_of(2 * left.len())
}

/// The largest nodes of the tree that lie inside of a range of parts, in order.
pub(crate) fn nodes(parts: Range<usize>) -> Vec<Range<usize>> {
    let mut nodes: Vec<Range<usize>> = vec![];
    for part in parts {
        let mut last = part..part + 1;
        while let Some(left) = nodes.pop_if(|left| are_halves(left, &last)) {
            last = left.start..last.end;
        }
        nodes.push(last);
    }
    nodes
}

/// The sum of nodes that make up the whole tree, in order; it is left in the first.
///
/// # Panics
/// If they do not make up a tree.
#[cfg(any(test, feature = "mpi"))]
pub(crate) fn sum<'a>(nodes: impl IntoIterator<Item = (Range<usize>, &'a mut [f32])>) -> &'a [f32] {
    let mut stack: Vec<(Range<usize>, &mut [f32])> = vec![];
    for (mut range, mut values) in nodes {
        while let Some((left, sum)) = stack.pop_if(|(left, _)| are_halves(left, &range)) {
            add(sum, values);
            (range, values) = (left.start..range.end, sum);
        }
        stack.push((range, values));
    }
    let ranges: Vec<_> = stack.iter().map(|(range, _)| range.clone()).collect();
    assert_eq!(ranges.len(), 1, "nodes of one tree: {ranges:?} are left");
    stack.pop().expect("there is one").1
}

/// `sum += other`.
#[cfg(any(test, feature = "flex", feature = "mpi"))]
pub(crate) fn add(sum: &mut [f32], other: &[f32]) {
    sum.par_chunks_mut(BAND).zip(other.par_chunks(BAND)).for_each(|(sum, other)| {
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_parts_in_order() {
        for (parts, size) in [(8, 1), (8, 3), (8, 8), (64, 5), (1, 1)] {
            let shares: Vec<_> = (0..size).map(|rank| share(parts, rank, size)).collect();
            assert!(shares.iter().all(|share| !share.is_empty()));
            assert!(shares.into_iter().flatten().eq(0..parts));
        }
    }

    #[test]
    fn nodes_are_as_large_as_the_tree_allows() {
        assert_eq!((nodes(0..8).len(), nodes(0..8)[0].clone()), (1, 0..8));
        assert_eq!(nodes(2..5), [2..4, 4..5]);
        assert_eq!(nodes(5..8), [5..6, 6..8]);
        assert_eq!(nodes(1..7), [1..2, 2..4, 4..6, 6..7]);
    }

    #[test]
    fn any_number_of_processes_gives_the_same_bits() {
        const PARTS: usize = 8;
        let part = |part: usize| -> Vec<f32> {
            (0..1000).map(|i| ((i * 31 + part * 7) as f32 * 0.37).sin() * 1e3).collect()
        };
        let of_size = |size: usize| -> Vec<f32> {
            let mut sums: Vec<(Range<usize>, Vec<f32>)> = vec![];
            for rank in 0..size {
                for node in nodes(share(PARTS, rank, size)) {
                    let mut parts: Vec<_> = node.clone().map(|p| (p..p + 1, part(p))).collect();
                    let own = parts.iter_mut().map(|(range, v)| {
                        // Inside of a node the numbers begin at its own start, as a tree's do.
                        (range.start - node.start..range.end - node.start, &mut v[..])
                    });
                    sums.push((node.clone(), sum(own).to_vec()));
                }
            }
            sum(sums.iter_mut().map(|(range, values)| (range.clone(), &mut values[..]))).to_vec()
        };
        let one = of_size(1);
        let plain: Vec<f32> = (0..PARTS)
            .map(part)
            .reduce(|mut a, b| {
                add(&mut a, &b);
                a
            })
            .unwrap();
        assert_ne!(one, plain, "another order has other bits, or this shows nothing");
        for size in 2..=PARTS {
            assert!(of_size(size) == one, "{size} processes");
        }
    }
}
