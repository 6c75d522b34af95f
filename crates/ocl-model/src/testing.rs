//! What the tests of the CPU's and the GPU's block share: inputs, a run with all gradients, a
//! comparison.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::encoder::Block;

/// Values of no pattern, between -1 and 1.
pub(crate) fn wave<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
    let values = (0..shape.iter().product()).map(|i| (i as f32 * 0.7 + phase).sin());
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
}

/// Gradients of all parameters in order.
struct Collect<'a>(&'a Gradients, Vec<Vec<f32>>);

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.push(host(param.val().grad(self.0).expect("every parameter has a gradient")));
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("values are f32")
}

/// Output, gradient of the input and gradients of the parameters.
pub(crate) fn run(
    block: &Block,
    x: &Tensor<3>,
    by: impl Fn(&Block, Tensor<3>) -> Tensor<3>,
) -> Vec<Vec<f32>> {
    let x = x.clone().require_grad();
    let y = by(block, x.clone());
    let weights = wave(y.dims(), 0.3, &y.device());
    let gradients = (y.clone() * weights).sum().backward();
    let mut collect = Collect(&gradients, vec![]);
    block.visit(&mut collect);
    let mut all = vec![host(y.inner()), host(x.grad(&gradients).expect("the input has one"))];
    all.append(&mut collect.1);
    all
}

/// Norm of the difference over the norm, of each tensor of two runs.
pub(crate) fn assert_near(expected: &[Vec<f32>], found: &[Vec<f32>], bound: f64, case: &str) {
    assert_eq!((expected.len(), found.len()), (14, 14));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len(), "tensor {i} of {case}");
        let apart = norm(&mut expected.iter().zip(found).map(|(a, b)| a - b));
        let error = apart / norm(&mut expected.iter().copied()).max(1e-3);
        assert!(error < bound, "{case}: tensor {i} differs by {error:.2e}, allowed {bound:.0e}");
    }
}
