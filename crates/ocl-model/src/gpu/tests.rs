//! The block of the GPU against the block as tensor operations, on the device that the tests run
//! on.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};

use crate::encoder::{Block, Init, VitConfig};
use crate::precision::Precision;
use crate::testing::{assert_near, run, wave};

/// Moves every parameter away from the special value that it begins at.
struct Disturb<'a>(&'a Device, f32);

impl ModuleMapper for Disturb<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.1 += 1.0;
        let noise = wave(param.val().dims(), self.1, self.0) * 0.1;
        param.map(|tensor| (tensor + noise).detach().require_grad())
    }
}

fn block(width: usize, heads: usize, device: &Device) -> Block {
    let config = VitConfig { image_px: 16, patch_px: 4, width, depth: 1, heads, mlp_ratio: 4 };
    Block::new(config.block(), 0, &mut Init::new(9, device)).map(&mut Disturb(device, 0.0))
}

/// Sequences, tokens, width, heads: several chunks of rows and columns and uneven last ones, heads
/// of two, four and an odd number of vectors, a width that fills no plane, as many tokens as there
/// may be.
const CASES: [(usize, usize, usize, usize); 3] = [(70, 11, 32, 4), (3, 33, 48, 3), (2, 64, 36, 3)];

#[test]
fn it_equals_the_plain_block_in_values_and_gradients() {
    let device = Device::default().autodiff();
    for (sequences, tokens, width, heads) in CASES {
        assert!(super::serves(&device, tokens, width, heads));
        let block = block(width, heads, &device);
        let x = wave([sequences, tokens, width], 0.0, &device);
        let case = format!("{sequences} sequences of {tokens}, width {width}");
        let plain = run(&block, &x, Block::forward_plain);
        assert_near(&plain, &run(&block, &x, Block::forward), BOUND, &case);
        let first = |x: Tensor<3>| x.narrow(1, 0, 1);
        let plain = run(&block, &x, |block, x| first(block.forward_plain(x)));
        let found = run(&block, &x, Block::forward_first);
        assert_near(&plain, &found, BOUND, &format!("{case}, first"));
    }
}

/// The plain block's products may be TF32 on CUDA, where ours are not.
const BOUND: f64 = if cfg!(feature = "cuda") { 3e-3 } else { 2e-5 };

#[test]
fn in_bf16_it_is_as_near_to_f32_as_the_plain_block() {
    let device = Device::default().autodiff();
    if !Precision::Bf16.exists_on(&device) {
        return;
    }
    for (sequences, tokens, width, heads) in CASES {
        let block = block(width, heads, &device);
        let x = wave([sequences, tokens, width], 0.0, &device);
        let exact = run(&block, &x, Block::forward_plain);
        let block = block.with_precision(Precision::Bf16);
        let rounded = run(&block, &x, Block::forward);
        let case = format!("{sequences} sequences of {tokens}, width {width}, bf16");
        assert_near(&exact, &rounded, 2e-2, &case);
        assert_ne!(exact[0], rounded[0], "nothing was rounded");
    }
}

#[test]
fn blocks_that_do_not_fit_are_not_served() {
    let device = Device::default();
    assert!(!super::serves(&device, 65, 64, 4), "too many tokens");
    assert!(!super::serves(&device, 10, 24, 4), "a head of six channels");
}
