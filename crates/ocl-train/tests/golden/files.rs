//! What all golden tests share: files with their constants, comparison, cut patches, AdamW.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use burn::module::Param;
use burn::tensor::Tensor;
use ocl_data::Batch;
use ocl_model::{HostTensor, NamedMapper};
use ocl_train::AdamWConfig;
use safetensors::{SafeTensors, tensor::Dtype};

/// Bounds on relative error. Products on GPUs may sum in another order and, on some, in lower
/// precision.
pub(crate) const LOSS: f64 = if cfg!(feature = "flex") { 1e-5 } else { 1e-4 };
pub(crate) const GRADIENT: f64 = if cfg!(feature = "flex") { 1e-4 } else { 1e-3 };
pub(crate) const RUN: f64 = if cfg!(feature = "flex") { 1e-4 } else { 1e-3 };
pub(crate) const WEIGHTS: f64 = if cfg!(feature = "flex") { 1e-3 } else { 5e-3 };

/// Bounds with products in bf16, whose numbers have 8 bits: one rounding may be of 4e-3.
pub(crate) const BF16_LOSS: f64 = 1e-2;
pub(crate) const BF16_VIEWS: f64 = 2e-2;
pub(crate) const BF16_GRADIENT: f64 = 5e-2;

pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) tensors: BTreeMap<String, HostTensor>,
    pub(crate) meta: HashMap<String, String>,
}

impl Golden {
    pub(crate) fn number(&self, key: &str) -> f64 {
        self.meta[key].parse().unwrap_or_else(|_| panic!("{}: {key}", self.name))
    }

    pub(crate) fn count(&self, key: &str) -> usize {
        self.number(key) as usize
    }

    /// Tensors whose names begin with `prefix`, which is taken off.
    pub(crate) fn under(&self, prefix: &str) -> BTreeMap<String, HostTensor> {
        let named = self.tensors.iter();
        named.filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
    }
}

/// Every golden file that holds tensor `marker`.
pub(crate) fn goldens(marker: &str) -> Vec<Golden> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let named = std::env::var_os("OCL_GOLDEN_DIR").map(PathBuf::from);
    let (mut found, mut files) = (vec![], 0);
    for entry in std::fs::read_dir(named.as_ref().unwrap_or(&own)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        files += 1;
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        if file.tensor(marker).is_err() {
            continue;
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
                Dtype::F64 => data
                    .chunks_exact(8)
                    .map(|b| f64::from_le_bytes(b.try_into().unwrap()) as f32)
                    .collect(),
                Dtype::I64 => data
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                    .collect(),
                other => panic!("{name}: {other:?}"),
            };
            (name, HostTensor { shape: view.shape().to_vec(), values })
        });
        found.push(Golden {
            name: path.display().to_string(),
            tensors: tensors.collect(),
            meta: header.metadata().clone().unwrap_or_default(),
        });
    }
    // A folder of other vectors need not hold these, but one without any is a slip of the pen.
    assert!(files > 0, "there is no *.safetensors in {named:?}");
    assert!(named.is_some() || !found.is_empty(), "no golden file holds {marker}");
    if found.is_empty() {
        println!("SKIPPED: no file of {named:?} holds {marker}");
    }
    found
}

/// Norm of the difference over the norm.
pub(crate) fn relative(ours: &[f32], golden: &[f32]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut ours.iter().zip(golden).map(|(a, b)| f64::from(a - b)));
    apart / norm(&mut golden.iter().map(|&v| f64::from(v))).max(1e-30)
}

pub(crate) fn check(what: &str, ours: &[f32], golden: &[f32], bound: f64) {
    let error = relative(ours, golden);
    println!("{what}: {error:.2e} of {bound:.0e}");
    assert!(error <= bound, "{what}: relative error {error:.2e}, allowed {bound:.0e}");
}

pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Patches of whole images `[N, 3, S, S]`, `kept` of each by their ids.
pub(crate) fn cut(images: &HostTensor, patch_px: usize, kept: usize, ids: &[f32]) -> Batch {
    let (n, side, p) = (images.shape[0], images.shape[2], patch_px);
    assert_eq!(ids.len(), n * kept);
    let grid = side / p;
    let mut patches = vec![];
    for (i, id) in ids.iter().enumerate() {
        let (image, id) = (i / kept, *id as usize);
        let (top, left) = (id / grid * p, id % grid * p);
        for pixel in 0..p * p {
            let (y, x) = (top + pixel / p, left + pixel % p);
            patches.extend((0..3).map(|c| images.values[((image * 3 + c) * side + y) * side + x]));
        }
    }
    Batch {
        samples: (0..n as u64).collect(),
        patches,
        positions: ids.iter().map(|&id| id as u32).collect(),
        images: n,
        kept,
        patch_len: p * p * 3,
        ..Batch::default()
    }
}

/// The optimiser of a golden run.
pub(crate) fn adamw(golden: &Golden) -> AdamWConfig {
    AdamWConfig {
        beta1: golden.number("beta1"),
        beta2: golden.number("beta2"),
        eps: golden.number("eps"),
        weight_decay: golden.number("weight_decay"),
    }
}

/// Puts each parameter's gradient in its place, so that gradients can be read under timm's names.
pub(crate) struct Differentiate {
    pub(crate) by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedMapper for Differentiate {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.by_name.remove(name).expect("every parameter has one");
        param.map(|tensor| Tensor::from_inner(gradient.reshape(tensor.dims())))
    }
}

/// Holds a parameter at the end of a run against the golden one; `reach` is the sum of all learning
/// rates.
///
/// Softmax does not see a shift of all keys: the gradient of their bias is zero but for rounding,
/// which AdamW scales up to whole steps. No two implementations agree there, so that it is held by
/// how far AdamW can have moved it.
pub(crate) fn check_end(
    what: &str,
    parameter: &str,
    ours: &[f32],
    golden: &[f32],
    start: &[f32],
    reach: f32,
) {
    if !parameter.ends_with("attn.qkv.bias") {
        return check(what, ours, golden, WEIGHTS);
    }
    let width = ours.len() / 3;
    let keys = width..2 * width;
    // An average follows what may be anywhere.
    let averaged =
        ["target_encoder.", "momentum_encoder."].iter().any(|of| parameter.starts_with(of));
    let reach = if averaged { f32::INFINITY } else { reach };
    for (value, start) in ours[keys.clone()].iter().zip(&start[keys.clone()]) {
        assert!((value - start).abs() <= reach, "{what}: a key's bias moved too far");
    }
    let others = |values: &[f32]| [&values[..width], &values[2 * width..]].concat();
    check(what, &others(ours), &others(golden), WEIGHTS);
}
