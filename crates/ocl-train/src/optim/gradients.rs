//! Gradients of a module by parameter name, which can be added up.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use ocl_model::NamedVisitor;
#[cfg(feature = "flex")]
use ocl_model::is_host;
#[cfg(any(test, feature = "flex"))]
use rayon::prelude::*;

/// Values that a thread takes at a time.
#[cfg(any(test, feature = "flex"))]
pub(crate) const BAND: usize = 1 << 15;

/// Gradients of a module's parameters, flat, by dotted name.
#[derive(Clone, Debug, Default)]
pub struct NamedGradients {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedGradients {
    /// Takes the gradients of a module's parameters out of what a backward pass left; a parameter
    /// that has none is left out. `visit` shows the parameters to the visitor that it is given.
    pub fn of(gradients: Gradients, visit: impl FnOnce(&mut TakeGradients)) -> Self {
        let mut take = TakeGradients { gradients, by_name: BTreeMap::new() };
        visit(&mut take);
        Self { by_name: take.by_name }
    }

    /// The sum of both, parameter by parameter.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (name, gradient) in other.by_name {
            let sum = match self.by_name.remove(&name) {
                Some(sum) => add(sum, gradient),
                None => gradient,
            };
            self.by_name.insert(name, sum);
        }
        self
    }

    /// The global norm: the root of the sum of all squares, `[1]`.
    pub fn norm(&self) -> Tensor<1> {
        let squares: Vec<Tensor<1>> =
            self.by_name.values().map(|gradient| squares(gradient.clone())).collect();
        Tensor::cat(squares, 0).sum().sqrt()
    }

    /// The norm of each parameter's gradient on the host, by name.
    pub fn norms(&self) -> BTreeMap<String, f64> {
        let norm = |gradient: &Tensor<1>| squares(gradient.clone()).sqrt().into_scalar::<f32>();
        self.by_name.iter().map(|(name, g)| (name.clone(), f64::from(norm(g)))).collect()
    }

    /// What `fits` says of the device that these lie on.
    pub(crate) fn is_on(&self, fits: impl FnOnce(&Device) -> bool) -> bool {
        self.by_name.values().next().is_some_and(|gradient| fits(&gradient.device()))
    }

    /// The same parameters' with other values, in the order of names.
    pub(crate) fn map(self, change: impl FnOnce(Vec<Tensor<1>>) -> Vec<Tensor<1>>) -> Self {
        let (names, values): (Vec<_>, Vec<_>) = self.by_name.into_iter().unzip();
        Self { by_name: names.into_iter().zip(change(values)).collect() }
    }

    /// All values one after the other, in the order of names, and what is needed to take them apart
    /// again.
    pub(crate) fn into_values(self) -> (Vec<f32>, Layout) {
        let device = self.by_name.values().next().map(Tensor::device);
        let (mut values, mut lengths) = (vec![], vec![]);
        for (name, gradient) in self.by_name {
            lengths.push((name, gradient.dims()[0]));
            let data = gradient.into_data();
            values.extend_from_slice(data.as_slice::<f32>().expect("gradients are f32"));
        }
        (values, Layout { lengths, device: device.unwrap_or_default() })
    }

    /// The gradients that [`NamedGradients::into_values`] took apart.
    pub(crate) fn from_values(values: Vec<f32>, layout: Layout) -> Self {
        let Layout { lengths, device } = layout;
        let mut rest = &values[..];
        let by_name = lengths.into_iter().map(|(name, length)| {
            let (own, behind) = rest.split_at(length);
            rest = behind;
            (name, Tensor::from_data(TensorData::new(own.to_vec(), [length]), &device))
        });
        Self { by_name: by_name.collect() }
    }

    /// How many parameters have one.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Tensor<1>> {
        self.by_name.remove(name)
    }
}

/// Which values are whose, in [`NamedGradients::into_values`].
pub(crate) struct Layout {
    lengths: Vec<(String, usize)>,
    device: Device,
}

impl IntoIterator for NamedGradients {
    type Item = (String, Tensor<1>);
    type IntoIter = std::collections::btree_map::IntoIter<String, Tensor<1>>;

    fn into_iter(self) -> Self::IntoIter {
        self.by_name.into_iter()
    }
}

/// Takes the gradient of each parameter that it is shown.
pub struct TakeGradients {
    gradients: Gradients,
    by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedVisitor for TakeGradients {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
            // GPUs do not check: an optimiser of f32 would read other numbers as garbage.
            let found = gradient.dtype();
            assert!(found == DType::F32, "gradient of {name}: expected F32, got {found:?}");
            self.by_name.insert(name.to_owned(), gradient.flatten(0, D - 1));
        }
    }
}

/// The sum of squares, `[1]`.
pub(crate) fn squares(values: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if is_host(&values.device()) {
        let device = values.device();
        let values = values.into_data();
        let values = values.as_slice::<f32>().expect("gradients are f32");
        return Tensor::from_data([host_squares(values) as f32], &device);
    }
    total(values.square())
}

/// The sum of all values, `[1]`, by rows: on wgpu burn 0.22.1 leaves out what lies beyond some
/// 262,000 values of a sum taken at once.
pub(crate) fn total(values: Tensor<1>) -> Tensor<1> {
    const ROW: usize = 1024;
    let length = values.dims()[0];
    let (rows, rest) = (length / ROW, length % ROW);
    if rows == 0 {
        return values.sum();
    }
    let whole = values.clone().narrow(0, 0, rows * ROW).reshape([rows, ROW]);
    let sum = total(whole.sum_dim(1).reshape([rows]));
    if rest == 0 { sum } else { sum + values.narrow(0, rows * ROW, rest).sum() }
}

/// The same on the host, in an order that depends on the length alone.
#[cfg(any(test, feature = "flex"))]
pub(crate) fn host_squares(values: &[f32]) -> f64 {
    values.par_chunks(BAND).map(band_squares).collect::<Vec<f64>>().into_iter().sum()
}

/// The sum of squares of a band: lanes that a vector holds, then the rest.
#[cfg(any(test, feature = "flex"))]
pub(crate) fn band_squares(values: &[f32]) -> f64 {
    const LANES: usize = 32;
    pulp::Arch::new().dispatch(|| {
        let mut sums = [0.0f32; LANES];
        let rows = values.chunks_exact(LANES);
        let rest: f32 = rows.remainder().iter().map(|v| v * v).sum();
        for row in rows {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v * v);
        }
        sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + f64::from(rest)
    })
}

fn add(sum: Tensor<1>, other: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if is_host(&sum.device()) {
        return add_on_host(sum, other);
    }
    sum + other
}

/// `sum + other` in place and on all threads.
#[cfg(any(test, feature = "flex"))]
fn add_on_host(sum: Tensor<1>, other: Tensor<1>) -> Tensor<1> {
    let (device, shape) = (sum.device(), sum.dims());
    let mut sum = sum.into_data().try_into_vec::<f32>().expect("gradients are f32");
    let other = other.into_data();
    let other = other.as_slice::<f32>().expect("gradients are f32");
    crate::world::tree::add(&mut sum, other);
    Tensor::from_data(TensorData::new(sum, shape), &device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_norms_are_those_of_the_values() {
        let device = Device::default();
        let wave = |phase: f32| -> Vec<f32> {
            (0..70_001).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
        };
        let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
        let (a, b) = (wave(0.0), wave(1.0));
        let sum = add(tensor(&a), tensor(&b)).into_data().try_to_vec::<f32>().unwrap();
        let on_host = add_on_host(tensor(&a), tensor(&b)).into_data().try_to_vec::<f32>().unwrap();
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(sum, expected);
        assert_eq!(on_host, expected);
        let expected: f64 = a.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((host_squares(&a) / expected - 1.0).abs() < 1e-6);
        let found: f32 = total(tensor(&a).square()).into_scalar();
        assert!((f64::from(found) / expected - 1.0).abs() < 1e-5);
        let found: f32 = squares(tensor(&a)).into_scalar();
        assert!((f64::from(found) / expected - 1.0).abs() < 1e-5);
    }
}
