//! Augmentations against Pillow's and torchvision's results, bit for bit.
//!
//! Reads every `*.safetensors` in `OCL_GOLDEN_DIR`, else in `tests/golden`, that holds one of the
//! markers below. A folder of the caller's own need not hold all of them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;

use ocl_data::{Augmentation, Augmenter, Crop, Filter, Jitter, Resampler, RgbImage, Window};
use safetensors::SafeTensors;

/// Calls `check` with each golden file that holds tensor `marker`.
fn with(marker: &str, check: impl Fn(&Golden<'_>)) {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let named = std::env::var_os("OCL_GOLDEN_DIR").map(PathBuf::from);
    let mut checked = 0;
    for entry in std::fs::read_dir(named.as_ref().unwrap_or(&own)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        if tensors.tensor(marker).is_ok() {
            check(&Golden(tensors));
            checked += 1;
        }
    }
    assert!(checked > 0 || named.is_some(), "no golden file holds {marker}");
}

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    /// Pictures `[N, H, W, 3]`, and their width.
    fn pictures(&self, name: &str) -> (Vec<Vec<u8>>, usize) {
        let view = self.0.tensor(name).unwrap();
        let &[_, h, w, 3] = view.shape() else { panic!("{name}: {:?}", view.shape()) };
        (view.data().chunks_exact(h * w * 3).map(<[u8]>::to_vec).collect(), w)
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let data = self.0.tensor(name).unwrap();
        data.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn counts(&self, name: &str) -> Vec<u32> {
        let data = self.0.tensor(name).unwrap();
        let eight = data.data().chunks_exact(8);
        eight.map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    }

    fn jitter(&self, i: usize) -> Jitter {
        let (factors, orders) = (self.numbers("input.factors"), self.counts("input.orders"));
        let [brightness, contrast, saturation, hue] = factors[i * 4..].first_chunk().unwrap();
        let order = [0, 1, 2, 3].map(|step| orders[i * 4 + step] as u8);
        Jitter {
            brightness: *brightness,
            contrast: *contrast,
            saturation: *saturation,
            hue: *hue,
            order,
        }
    }
}

/// Applies what `what` says of picture `i` to each picture of `input`, and compares with
/// `expected`.
fn compare(golden: &Golden<'_>, expected: &str, what: impl Fn(usize) -> Augmentation) {
    let (pictures, width) = golden.pictures("input.rgb");
    let (expected_pictures, _) = golden.pictures(expected);
    assert!(!expected_pictures.is_empty());
    let mut augmenter = Augmenter::new();
    for (i, theirs) in expected_pictures.iter().enumerate() {
        let mut ours = pictures[i % pictures.len()].clone();
        augmenter.apply(&mut ours, width, &what(i));
        let apart = ours.iter().zip(theirs).filter(|(a, b)| a != b).count();
        assert!(ours == *theirs, "{expected} {i}: {apart} of {} values differ", ours.len());
    }
}

#[test]
fn colour_jitter_is_torchvisions() {
    with("expect.jittered", |golden| {
        // Factors of 1 and a turn of 0 leave a picture as it is, but for hue's round trip: alone,
        // each step stands first, and the others do nothing.
        compare(golden, "expect.jittered", |i| Augmentation {
            jitter: Some(golden.jitter(i)),
            ..Augmentation::default()
        });
        for (name, step) in [("brightness", 0), ("contrast", 1), ("saturation", 2), ("hue", 3)] {
            compare(golden, &format!("expect.{name}"), |i| {
                let jitter = Jitter { order: [step; 4], ..golden.jitter(i) };
                Augmentation { jitter: Some(once(jitter)), ..Augmentation::default() }
            });
        }
    });
}

/// A jitter of one step, which stands first and is undone by nothing.
fn once(jitter: Jitter) -> Jitter {
    let step = jitter.order[0];
    let of = |number: u8, factor: f64| if number == step { factor } else { 1.0 };
    // Brightness by 1 changes no level.
    let rest = if step == 0 { 2 } else { 0 };
    Jitter {
        brightness: of(0, jitter.brightness),
        contrast: of(1, jitter.contrast),
        saturation: of(2, jitter.saturation),
        hue: jitter.hue,
        order: [step, rest, rest, rest],
    }
}

#[test]
fn grey_solarize_and_blur_are_pillows() {
    with("expect.grey", |golden| {
        compare(golden, "expect.grey", |_| Augmentation { grey: true, ..Augmentation::default() });
    });
    with("expect.solarized", |golden| {
        let what = Augmentation { solarize: true, ..Augmentation::default() };
        compare(golden, "expect.solarized", |_| what);
    });
    with("expect.blurred", |golden| {
        let sigmas = golden.numbers("input.sigmas");
        compare(golden, "expect.blurred", |i| Augmentation {
            blur: Some(sigmas[i]),
            ..Augmentation::default()
        });
    });
}

/// A crop of `image`, resized to a square by the antialiased triangle filter.
fn resized(image: &RgbImage, crop: &[u32], side: u32) -> Vec<u8> {
    let source = Crop { x_px: crop[0], y_px: crop[1], width_px: crop[2], height_px: crop[3] };
    let window = Window { source, width_px: side, height_px: side, filter: Filter::Bilinear };
    let whole = Crop { x_px: 0, y_px: 0, width_px: side, height_px: side };
    let mut out = vec![0; (side * side * 3) as usize];
    Resampler::new().part(image, &window, &whole, &mut out);
    out
}

fn source(golden: &Golden<'_>) -> RgbImage {
    let rgb = golden.0.tensor("input.rgb").unwrap();
    RgbImage::new(rgb.shape()[1] as u32, rgb.shape()[0] as u32, rgb.data().to_vec())
}

#[test]
fn bilinear_crops_are_pillows() {
    with("expect.bilinear.0", |golden| {
        let (image, crops) = (source(golden), golden.counts("input.crops_xywh"));
        for (i, crop) in crops.chunks_exact(4).enumerate() {
            let expected = golden.0.tensor(&format!("expect.bilinear.{i}")).unwrap();
            let ours = resized(&image, crop, expected.shape()[0] as u32);
            assert!(ours == expected.data(), "crop {i}");
        }
    });
}

#[test]
fn whole_views_are_torchvisions() {
    with("expect.augmented", |golden| {
        let (image, crops) = (source(golden), golden.counts("input.crops_xywh"));
        let (switches, sigmas) = (golden.counts("input.switches"), golden.numbers("input.sigmas"));
        let (expected, side) = golden.pictures("expect.augmented");
        let mut augmenter = Augmenter::new();
        for (i, theirs) in expected.iter().enumerate() {
            let &[_, jitter, grey, solarize, flip] = switches[i * 5..].first_chunk().unwrap();
            let what = Augmentation {
                jitter: (jitter == 1).then(|| golden.jitter(i)),
                grey: grey == 1,
                blur: (sigmas[i] > 0.0).then_some(sigmas[i]),
                solarize: solarize == 1,
            };
            let mut ours = resized(&image, &crops[i * 4..i * 4 + 4], side as u32);
            augmenter.apply(&mut ours, side, &what);
            if flip == 1 {
                for row in ours.chunks_exact_mut(side * 3) {
                    let pixels: Vec<_> = row.chunks_exact(3).rev().flatten().copied().collect();
                    row.copy_from_slice(&pixels);
                }
            }
            assert!(ours == *theirs, "view {i}");
        }
    });
}
