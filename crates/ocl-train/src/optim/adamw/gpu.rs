//! The update of a parameter as one kernel, in place, with the sum of its gradient's squares.
//!
//! As tensor operations an update passes over memory many times and launches a dozen kernels. Here
//! each value is read and written once.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rule::{Factors, Moments, Numbers};
use crate::device::is_gpu;
use crate::optim::gradients::total;

/// Most cubes that move one parameter; each leaves the sum of its gradients' squares.
const CUBES: usize = 512;
/// Units of a cube.
const UNITS: u32 = 256;
/// Values that a unit takes at a time.
const VECTOR: usize = 4;

/// Whether a parameter of this length is moved here.
pub(super) fn serves(parameter: &Tensor<1>) -> bool {
    parameter.dims()[0].is_multiple_of(VECTOR) && is_gpu(&parameter.device())
}

/// Sums of squares in one buffer, [`CUBES`] for each gradient. It begins as zeros and goes from
/// update to update, so that places which a short parameter does not write add nothing.
pub(super) struct SharedSquares {
    sums: Option<Tensor<1>>,
    gradients: usize,
    moved: usize,
}

impl SharedSquares {
    /// For so many gradients at most.
    pub(super) fn of(gradients: usize) -> Self {
        Self { sums: None, gradients, moved: 0 }
    }

    /// The sum of them all, `[1]`, if any was moved here.
    pub(super) fn sum(self) -> Option<Tensor<1>> {
        self.sums.map(total)
    }
}

/// Moves a parameter; see [`super::rule::move_plain`].
pub(super) fn move_on_gpu(
    factors: &Factors,
    p: Tensor<1>,
    g: Tensor<1>,
    old: Moments,
    shared: &mut SharedSquares,
) -> (Tensor<1>, Moments) {
    let sums = shared.sums.take();
    let squares = sums.unwrap_or_else(|| Tensor::zeros([shared.gradients * CUBES], &p.device()));
    let place = shared.moved;
    shared.moved += 1;
    let (p, first, second, squares) = <Dispatch as AdamWKernel>::adamw(
        p.into_dispatch(),
        g.into_dispatch(),
        old.first.into_dispatch(),
        old.second.into_dispatch(),
        squares.into_dispatch(),
        place,
        factors.in_f32(),
    );
    let [p, first, second, squares] = [p, first, second, squares].map(Tensor::from_dispatch);
    shared.sums = Some(squares);
    (p, Moments { first, second })
}

#[backend_extension(Cube, Fusion)]
trait AdamWKernel: Backend {
    #[fusion(meta = |p, _g, first, second, squares, _place, _f| {
        (p.clone(), first.clone(), second.clone(), squares.clone())
    })]
    fn adamw(
        p: FloatTensor<Self>,
        g: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        squares: FloatTensor<Self>,
        place: usize,
        f: Numbers,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl AdamWKernel for CubeBackend {
    fn adamw(
        p: CubeTensor,
        g: CubeTensor,
        first: CubeTensor,
        second: CubeTensor,
        squares: CubeTensor,
        place: usize,
        f: Numbers,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let [p, first, second, squares] = [p, first, second, squares].map(owned);
        let g = into_contiguous(g);
        let length = p.shape().num_elements();
        for other in [&g, &first, &second] {
            assert_eq!(other.shape().num_elements(), length, "gradient and moments of a parameter");
        }
        let room = squares.shape().num_elements();
        assert!((place + 1) * CUBES <= room, "gradient {place} has no place among {room} sums");
        let vectors = length / VECTOR;
        let cubes = vectors.div_ceil(UNITS as usize).clamp(1, CUBES);
        let argument = |tensor: &CubeTensor| tensor.clone().into_buffer_arg();
        // SAFETY: every buffer of a parameter has the same length, which units stop at; each cube
        // writes a place of its own in `squares`, within the `CUBES` of this parameter.
        unsafe {
            move_kernel::launch_unchecked(
                &p.client,
                CubeCount::Static(cubes as u32, 1, 1),
                CubeDim::new_1d(UNITS),
                argument(&p),
                argument(&g),
                argument(&first),
                argument(&second),
                argument(&squares),
                vectors as u32,
                (place * CUBES) as u32,
                f.beta1,
                f.beta2,
                f.new1,
                f.new2,
                f.eps,
                f.remain,
                f.length,
                f.correct,
            );
        }
        (p, first, second, squares)
    }
}

/// A contiguous tensor that nothing else reads.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { tensor.copy() }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "kernels take scalars one by one")]
fn move_kernel(
    p: &mut [Vector<f32, Const<4>>],
    g: &[Vector<f32, Const<4>>],
    first: &mut [Vector<f32, Const<4>>],
    second: &mut [Vector<f32, Const<4>>],
    squares: &mut [f32],
    vectors: u32,
    place: u32,
    beta1: f32,
    beta2: f32,
    new1: f32,
    new2: f32,
    eps: f32,
    remain: f32,
    length: f32,
    correct: f32,
) {
    let mut sum = Vector::<f32, Const<4>>::new(0.0);
    let step = CUBE_COUNT_X * CUBE_DIM_X;
    let mut at = CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X;
    while at < vectors {
        let i = at as usize;
        let d = g[i];
        let m = first[i] * Vector::new(beta1) + d * Vector::new(new1);
        let v = second[i] * Vector::new(beta2) + d * d * Vector::new(new2);
        let below = Vector::sqrt(v) * Vector::new(correct) + Vector::new(eps);
        p[i] = p[i] * Vector::new(remain) - m / below * Vector::new(length);
        first[i] = m;
        second[i] = v;
        sum += d * d;
        at += step;
    }
    let mut shared = Shared::new_slice(256usize);
    shared[UNIT_POS as usize] = sum.vector_sum();
    sync_cube();
    let mut half = CUBE_DIM / 2;
    while half > 0 {
        if UNIT_POS < half {
            let other = shared[(UNIT_POS + half) as usize];
            shared[UNIT_POS as usize] += other;
        }
        sync_cube();
        half /= 2;
    }
    if UNIT_POS == 0 {
        squares[(place + CUBE_POS_X) as usize] = shared[0];
    }
}

#[cfg(test)]
mod tests {
    use super::super::AdamWConfig;
    use super::super::rule::move_plain;
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn one_kernel_equals_the_plain_update() {
        let device = Device::default();
        let config = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
        let factors = Factors::of(&config, 3, 0.1, true);
        let mut shared = SharedSquares::of(2);
        let mut sum = 0.0;
        // More values than units, so that each moves several; and a few.
        for length in [600_004, 12] {
            let wave = |phase: f32| {
                let values: Vec<f32> =
                    (0..length).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
                Tensor::<1>::from_data(TensorData::new(values, [length]), &device)
            };
            assert!(serves(&wave(0.0)));
            let old = || Moments { first: wave(1.0), second: wave(2.0).square() };
            let (a, m, squares) = move_plain(&factors, wave(0.0), wave(3.0), old());
            let (b, n) = move_on_gpu(&factors, wave(0.0), wave(3.0), old(), &mut shared);
            sum += squares.into_scalar::<f32>();
            for (a, b) in [(a, b), (m.first, n.first), (m.second, n.second)] {
                let worst: f32 = (a - b).abs().max().into_scalar();
                assert!(worst < 1e-6, "differs by {worst}");
            }
        }
        let found: f32 = shared.sum().expect("two parameters were moved").into_scalar();
        assert!((found / sum - 1.0).abs() < 1e-5, "{found}, not {sum}");
    }
}
