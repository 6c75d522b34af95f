//! The gradients of a batch's parts, added up as a tree while they come, the last part first.

use std::ops::Range;

use crate::optim::NamedGradients;
use crate::world::{World, tree};

/// The sum over all parts of a batch, a power of two, of what `gradients` gives for each part of
/// this process, which it is asked for from the last to the first. All processes get the same bits,
/// whatever their number.
pub fn sum_of_parts(
    world: &World,
    parts: usize,
    mut gradients: impl FnMut(usize) -> NamedGradients,
) -> NamedGradients {
    let mut sums = GradientTree::default();
    for part in parts_of(world, parts).rev() {
        sums.push(part, gradients(part));
    }
    sums.whole(world, parts)
}

/// The parts of a batch that are this process's.
pub fn parts_of(world: &World, parts: usize) -> Range<usize> {
    tree::share(parts, world.rank(), world.size())
}

/// Sums of parts that cannot be added up yet, the last first. There are at most as many as the tree
/// has levels.
#[derive(Default)]
struct GradientTree {
    nodes: Vec<(Range<usize>, NamedGradients)>,
}

impl GradientTree {
    /// Adds the part before those that came so far.
    fn push(&mut self, part: usize, gradients: NamedGradients) {
        let (mut range, mut sum) = (part..part + 1, gradients);
        while let Some((right, other)) =
            self.nodes.pop_if(|(right, _)| tree::are_halves(&range, right))
        {
            sum = sum.plus(other);
            range.end = right.end;
        }
        self.nodes.push((range, sum));
    }

    /// The sum of all parts, those of the other processes included.
    fn whole(mut self, world: &World, parts: usize) -> NamedGradients {
        if world.size() == 1 {
            assert_eq!(self.nodes.len(), 1, "one process has all parts");
            return self.nodes.pop().expect("there is one").1;
        }
        if self.nodes.first().is_some_and(|(_, sum)| sum.is_on(|device| world.sums_on(device))) {
            let own = self.nodes.into_iter().map(|(_, sum)| sum).reduce(NamedGradients::plus);
            return own.unwrap_or_default().map(|values| world.sum_on_device(values));
        }
        let mut layout = None;
        let values = self.nodes.into_iter().rev().map(|(_, gradients)| {
            let (values, own) = gradients.into_values();
            layout = Some(own);
            values
        });
        let values: Vec<Vec<f32>> = values.collect();
        let layout = layout.expect("a process has a part");
        NamedGradients::from_values(world.sum(values, parts), layout)
    }
}
