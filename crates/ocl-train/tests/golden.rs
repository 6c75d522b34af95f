//! The method against vectors made by the reference implementation: views, similarity, loss, every
//! gradient, a short training run and the weights it ends with, and the learning rate schedule.
//!
//! Reads every `*.safetensors` in `OCL_GOLDEN_DIR`, else in `tests/golden`, and takes the constants
//! from each file's metadata.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use burn::module::Param;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use ocl_data::{Batch, kept_patches};
use ocl_loss::TspSimilarity;
use ocl_model::{
    HostTensor, NamedMapper, NamedVisitor, Precision, Vit, VitConfig, apply_state, map_named,
    state_of, visit_named,
};
use ocl_train::{AdamW, AdamWConfig, Learner, NamedGradients, Ocl, Trainer, WarmupCosine};
use safetensors::{SafeTensors, tensor::Dtype};

/// Bounds on relative error. Products on GPUs may sum in another order and, on some, in lower
/// precision.
const LOSS: f64 = if cfg!(feature = "flex") { 1e-5 } else { 1e-4 };
const GRADIENT: f64 = if cfg!(feature = "flex") { 1e-4 } else { 1e-3 };
const RUN: f64 = if cfg!(feature = "flex") { 1e-4 } else { 1e-3 };
const WEIGHTS: f64 = if cfg!(feature = "flex") { 1e-3 } else { 5e-3 };

/// Bounds with products in bf16, whose numbers have 8 bits: one rounding may be of 4e-3.
const BF16_LOSS: f64 = 1e-2;
const BF16_VIEWS: f64 = 2e-2;
const BF16_GRADIENT: f64 = 5e-2;

struct Golden {
    name: String,
    tensors: BTreeMap<String, HostTensor>,
    meta: HashMap<String, String>,
}

impl Golden {
    fn number(&self, key: &str) -> f64 {
        self.meta[key].parse().unwrap_or_else(|_| panic!("{}: {key}", self.name))
    }

    fn count(&self, key: &str) -> usize {
        self.number(key) as usize
    }

    /// Tensors whose names begin with `prefix`, which is taken off.
    fn under(&self, prefix: &str) -> BTreeMap<String, HostTensor> {
        let named = self.tensors.iter();
        named.filter_map(|(k, t)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
    }
}

/// Every golden file that holds tensor `marker`.
fn goldens(marker: &str) -> Vec<Golden> {
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
fn relative(ours: &[f32], golden: &[f32]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut ours.iter().zip(golden).map(|(a, b)| f64::from(a - b)));
    apart / norm(&mut golden.iter().map(|&v| f64::from(v))).max(1e-30)
}

fn check(what: &str, ours: &[f32], golden: &[f32], bound: f64) {
    let error = relative(ours, golden);
    println!("{what}: {error:.2e} of {bound:.0e}");
    assert!(error <= bound, "{what}: relative error {error:.2e}, allowed {bound:.0e}");
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

struct Case {
    golden: Golden,
    config: VitConfig,
    ocl: Ocl,
    kept: usize,
}

impl Case {
    fn new(golden: Golden) -> Self {
        let config = VitConfig {
            image_px: golden.count("image"),
            patch_px: golden.count("patch"),
            width: golden.count("dim"),
            depth: golden.count("depth"),
            heads: golden.count("heads"),
            mlp_ratio: golden.count("mlp_ratio"),
        };
        let ocl = Ocl {
            mask_ratio: golden.number("mask_ratio"),
            kappa: golden.number("kappa"),
            temperature: golden.number("temperature"),
        };
        let kept = kept_patches(config.patches(), ocl.mask_ratio);
        assert_eq!(golden.tensors["input.ids_keep"].shape[2], kept, "{}", golden.name);
        Self { golden, config, ocl, kept }
    }

    fn vit(&self) -> Vit {
        let mut state = self.golden.under("weight.");
        // The fixed positions must be ours; they are not a parameter.
        let places = state.remove("pos_embed").unwrap();
        let table = ocl_model::sincos_table(self.config.width, self.config.grid());
        check("pos_embed", &table, &places.values, 1e-6);
        let fresh = Vit::new(&self.config, 0, &Device::default().autodiff()).unwrap();
        apply_state(fresh, state).unwrap()
    }

    /// The patches that step `step` keeps, cut from the whole images.
    fn batch(&self, step: usize) -> Batch {
        let images = &self.golden.tensors["input.images"];
        let ids = &self.golden.tensors["input.ids_keep"];
        let (n, side, p, kept) =
            (images.shape[0], self.config.image_px, self.config.patch_px, self.kept);
        let ids = &ids.values[step * n * kept..(step + 1) * n * kept];
        let mut patches = vec![];
        for (i, id) in ids.iter().enumerate() {
            let (image, id) = (i / kept, *id as usize);
            let (top, left) = (id / self.config.grid() * p, id % self.config.grid() * p);
            for pixel in 0..p * p {
                let (y, x) = (top + pixel / p, left + pixel % p);
                patches
                    .extend((0..3).map(|c| images.values[((image * 3 + c) * side + y) * side + x]));
            }
        }
        Batch {
            epoch: 0,
            index: step as u64,
            samples: (0..n as u64).collect(),
            labels: vec![],
            patches,
            positions: ids.iter().map(|&id| id as u32).collect(),
            images: n,
            kept,
            patch_len: self.config.patch_len(),
        }
    }

    fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.golden.number("beta1"),
            beta2: self.golden.number("beta2"),
            eps: self.golden.number("eps"),
            weight_decay: self.golden.number("weight_decay"),
        }
    }
}

/// Puts each parameter's gradient in its place, so that gradients can be read under timm's names.
struct Differentiate {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedMapper for Differentiate {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.by_name.remove(name).expect("every parameter has one");
        param.map(|tensor| Tensor::from_inner(gradient.reshape(tensor.dims())))
    }
}

#[test]
fn views_similarity_loss_and_gradients_are_the_authors() {
    for golden in goldens("expect.views") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let vit = case.vit();
        let batch = case.batch(0);
        let device = vit.device();
        let (n, k) = (batch.images, batch.kept);
        let patches = Tensor::<1>::from_floats(batch.patches.as_slice(), &device);
        let positions: Vec<i32> = batch.positions.iter().map(|&p| p as i32).collect();
        let positions = Tensor::<1, burn::tensor::Int>::from_ints(positions.as_slice(), &device);
        let views = vit.views(patches.reshape([n, k, batch.patch_len]), positions.reshape([n, k]));
        check(
            &format!("{name}: views"),
            &host(views.clone().inner()),
            &expect["views"].values,
            LOSS,
        );

        let view = |i: usize| views.clone().slice([0..n, i..i + 1]).reshape([n, case.config.width]);
        let similarity = TspSimilarity { kappa: case.ocl.kappa, temperature: case.ocl.temperature };
        let logits = similarity.logits(view(0), view(1));
        check(
            &format!("{name}: similarity"),
            &host(logits.inner()),
            &expect["similarity"].values,
            LOSS,
        );

        check_gradients(&case, vit, LOSS, GRADIENT);
    }
}

/// The loss of the first batch and every gradient.
fn check_gradients(case: &Case, vit: Vit, loss_bound: f64, bound: f64) {
    let (name, expect) = (&case.golden.name, case.golden.under("expect."));
    let learner = Learner::Ocl(case.ocl.learner(vit.clone()));
    let loss = learner.loss(case.batch(0));
    let found = host(loss.clone().inner());
    check(&format!("{name}: loss by definition"), &found, &expect["loss"].values, loss_bound);
    let by_definition = NamedGradients::of(loss.backward(), |take| visit_named(&vit, "", take));

    let trainer = Trainer::with(learner, AdamW::new(case.adamw()));
    let (objective, trained) = trainer.gradients(case.batch(0));
    check(&format!("{name}: loss"), &host(objective.loss), &expect["loss"].values, loss_bound);

    let mut ways = vec![("gradient", trained)];
    // Burn's products in the definition's backward pass round their factors on CUDA, as training's
    // do not.
    if cfg!(not(feature = "cuda")) {
        ways.push(("gradient by definition", by_definition));
    }
    let expected = case.golden.under("grad.");
    for (way, gradients) in ways {
        let mut place = Differentiate { by_name: gradients.into_iter().collect() };
        let ours = state_of(&map_named(vit.clone(), "", &mut place));
        assert_eq!(ours.len(), expected.len(), "{name}: {way}");
        for (parameter, gradient) in &expected {
            assert_eq!(ours[parameter].shape, gradient.shape);
            let what = format!("{name}: {way} of {parameter}");
            check(&what, &ours[parameter].values, &gradient.values, bound);
        }
    }
}

#[test]
fn a_training_run_is_the_authors() {
    for golden in goldens("expect.losses") {
        if !golden.tensors.contains_key("expect.views") {
            continue; // a linear probe's
        }
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let schedule = WarmupCosine {
            lr: case.golden.number("lr"),
            min_lr: 0.0,
            warmup_epochs: case.golden.number("warmup_steps"),
            epochs: case.golden.number("steps"),
        };
        let learner = Learner::Ocl(case.ocl.learner(case.vit()));
        let mut trainer = Trainer::with(learner, AdamW::new(case.adamw()));
        for step in 0..case.golden.count("steps") {
            let lr = schedule.at(step as f64);
            assert!((lr - f64::from(expect["lrs"].values[step])).abs() < 1e-9, "{name}: lr");
            let loss;
            (trainer, loss) = trainer.step(case.batch(step), lr);
            let golden = &expect["losses"].values[step..=step];
            check(&format!("{name}: loss of step {step}"), &host(loss), golden, RUN);
        }
        let (ours, start) = (state_of(trainer.encoder()), case.golden.under("weight."));
        let reach: f32 = expect["lrs"].values.iter().sum();
        for (parameter, golden) in case.golden.under("after.") {
            let what = format!("{name}: {parameter} after");
            let (mut ours, mut golden) = (ours[&parameter].values.clone(), golden.values);
            if parameter.ends_with("attn.qkv.bias") {
                // Softmax does not see a shift of all keys: the gradient of their bias is zero but
                // for rounding, which AdamW scales up to whole steps. No two implementations agree
                // there.
                let keys = case.config.width..2 * case.config.width;
                for (value, start) in
                    ours[keys.clone()].iter().zip(&start[&parameter].values[keys.clone()])
                {
                    assert!((value - start).abs() <= reach, "{what}: a key's bias moved too far");
                }
                ours.drain(keys.clone());
                golden.drain(keys);
            }
            check(&what, &ours, &golden, WEIGHTS);
        }
    }
}

/// Every parameter is an f32 leaf.
fn assert_masters(vit: &Vit) {
    struct Masters;
    impl NamedVisitor for Masters {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            assert_eq!(param.dtype(), DType::F32, "{name}");
        }
    }
    visit_named(vit, "", &mut Masters);
}

#[test]
fn products_in_bf16_are_near_the_authors() {
    for golden in goldens("expect.views") {
        let case = Case::new(golden);
        if !case.vit().device().supports_dtype(FloatDType::BF16) {
            println!("SKIPPED: the device has no bf16");
            return;
        }
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let vit = case.vit().with_precision(Precision::Bf16);
        let learner = Learner::Ocl(case.ocl.learner(vit.clone()));
        let embeddings = learner.embed(case.batch(0)).rows;
        assert_eq!(embeddings.dtype(), DType::F32);
        let (views, golden) = (host(embeddings.inner()), &expect["views"].values);
        assert!(relative(&views, golden) > 1e-4, "{name}: nothing was rounded to bf16");
        check(&format!("{name}: views"), &views, golden, BF16_VIEWS);
        check_gradients(&case, vit, BF16_LOSS, BF16_GRADIENT);

        let mut trainer = Trainer::with(learner, AdamW::new(case.adamw()));
        for step in 0..case.golden.count("steps") {
            let (lr, golden) = (expect["lrs"].values[step], &expect["losses"].values[step..=step]);
            let loss;
            (trainer, loss) = trainer.step(case.batch(step), f64::from(lr));
            check(&format!("{name}: loss of step {step}"), &host(loss), golden, BF16_LOSS);
        }
        assert_masters(trainer.encoder());
    }
}

#[test]
fn the_learning_rate_is_the_authors() {
    for golden in goldens("expect.lr") {
        let schedule = WarmupCosine {
            lr: golden.number("lr"),
            min_lr: golden.number("min_lr"),
            warmup_epochs: golden.number("warmup_epochs"),
            epochs: golden.number("epochs"),
        };
        let (every, per_epoch) = (golden.number("every"), golden.number("steps_per_epoch"));
        for (i, expected) in golden.tensors["expect.lr"].values.iter().enumerate() {
            let lr = schedule.at(i as f64 * every / per_epoch);
            assert!((lr - f64::from(*expected)).abs() < 1e-6 * schedule.lr.max(1.0), "{i}: {lr}");
        }
    }
}
