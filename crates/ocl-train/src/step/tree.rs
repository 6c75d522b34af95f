//! The gradients of a batch's parts, added up as a tree while they come, the last part first.

use std::ops::Range;

use crate::optim::NamedGradients;
use crate::world::{World, tree};

/// Sums of parts that cannot be added up yet, the last first. There are at most as many as the tree
/// has levels.
#[derive(Default)]
pub(super) struct GradientTree {
    nodes: Vec<(Range<usize>, NamedGradients)>,
}

impl GradientTree {
    /// Adds the part before those that came so far.
    pub(super) fn push(&mut self, part: usize, gradients: NamedGradients) {
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
    pub(super) fn whole(mut self, world: &World, parts: usize) -> NamedGradients {
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
