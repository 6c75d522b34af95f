//! The probe's head against PyTorch: every vector file that holds `after.running_mean`.
//!
//! A file holds `input.features` `[S, N, F]`, `input.labels` `[S, N]`, `weight.weight` `[C, F]` and
//! `weight.bias` `[C]`; expected are the loss of each of the S steps, the end weights and running
//! statistics, and the evaluation-mode logits of the first batch.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_eval::{BatchNorm, Head, Lars};
use safetensors::{Dtype, SafeTensors};

/// What f32 on any backend must hold, relative; a CPU is well inside.
const LOSS: f64 = 1e-4;
const STATE: f64 = 1e-3;

struct Golden<'a> {
    tensors: SafeTensors<'a>,
    constants: std::collections::HashMap<String, String>,
}

impl Golden<'_> {
    fn constant(&self, name: &str) -> f64 {
        let text = self.constants.get(name).unwrap_or_else(|| panic!("metadata lacks `{name}`"));
        text.parse().unwrap_or_else(|_| panic!("`{name}` is not a number: {text}"))
    }

    fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let view = self.tensors.tensor(name).unwrap_or_else(|_| panic!("no tensor `{name}`"));
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (view.shape().to_vec(), values)
    }

    fn labels(&self) -> Vec<i64> {
        let view = self.tensors.tensor("input.labels").unwrap();
        assert_eq!(view.dtype(), Dtype::I64);
        view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// Norm of the difference over the norm.
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let square = |v: f32| f64::from(v) * f64::from(v);
    let norm: f64 = expected.iter().map(|e| square(*e)).sum();
    let off: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    let off = (off / norm).sqrt();
    println!("{what}: {off:.1e}");
    assert!(off <= tolerance, "{what}: off by {off:e}, allowed {tolerance:e}");
}

fn check(golden: &Golden<'_>) {
    let device = Device::default();
    let (shape, features) = golden.floats("input.features");
    let &[steps, n, width] = shape.as_slice() else { panic!("input.features is not [S, N, F]") };
    let labels = golden.labels();
    let (shape, weight) = golden.floats("weight.weight");
    let classes = shape[0];
    let weight = Tensor::<2>::from_data(TensorData::new(weight, [classes, width]), &device);
    let (_, bias) = golden.floats("weight.bias");
    let norm =
        BatchNorm { eps: golden.constant("bn_eps"), momentum: golden.constant("bn_momentum") };
    let lars = Lars {
        momentum: golden.constant("momentum"),
        trust_coefficient: golden.constant("trust_coefficient"),
        weight_decay: golden.constant("weight_decay"),
    };
    let bias = Tensor::from_data(TensorData::new(bias, [classes]), &device);
    let mut head = Head::from_parameters(weight.transpose(), bias, norm);

    let batch = |step: usize| {
        let rows = features[step * n * width..][..n * width].to_vec();
        Tensor::<2>::from_data(TensorData::new(rows, [n, width]), &device)
    };
    let (_, losses) = golden.floats("expect.losses");
    for (step, expected) in losses[..steps].iter().enumerate() {
        let labels = TensorData::new(labels[step * n..][..n].to_vec(), [n]);
        let labels = Tensor::<1, Int>::from_data(labels, &device);
        let loss = head.train_step(batch(step), labels, golden.constant("lr"), &lars);
        assert_close(&format!("loss {step}"), &host(loss), &[*expected], LOSS);
    }
    let logits = host(head.logits(batch(0)));
    assert_close("logits", &logits, &golden.floats("expect.logits").1, STATE);
    let weight = host(head.weight.transpose());
    assert_close("weight", &weight, &golden.floats("after.weight").1, STATE);
    assert_close("bias", &host(head.bias), &golden.floats("after.bias").1, STATE);
    for (name, found) in [("mean", head.running_mean), ("var", head.running_var)] {
        let name = format!("after.running_{name}");
        assert_close(&name, &host(found), &golden.floats(&name).1, STATE);
    }
}

/// Checks every file of a folder that is about this head; how many there were.
fn check_all(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut checked = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        if !tensors.names().contains(&"after.running_mean") {
            continue;
        }
        println!("{}", path.display());
        check(&Golden { tensors, constants: metadata.metadata().clone().unwrap_or_default() });
        checked += 1;
    }
    checked
}

#[test]
fn every_vector_file_holds() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    assert!(check_all(&own) > 0, "{} holds no linear probe vectors", own.display());
    // A folder given from outside may hold vectors of other kinds only.
    if let Some(given) = std::env::var_os("OCL_GOLDEN_DIR") {
        check_all(Path::new(&given));
    }
}
