//! OCL: views, similarity, loss, every gradient, a short training run and the weights it ends with.

use burn::module::Param;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use ocl_data::Batch;
use ocl_loss::TspSimilarity;
use ocl_model::{
    NamedVisitor, Precision, Vit, VitConfig, apply_state, map_named, state_of, visit_named,
};
use ocl_train::{AdamW, Learner, NamedGradients, Ocl, Trainer, WarmupCosine};

use crate::files::*;

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
            group: None,
        };
        let kept = ocl.kept(config.patches());
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
        let ids = &self.golden.tensors["input.ids_keep"].values;
        let count = images.shape[0] * self.kept;
        cut(images, self.config.patch_px, self.kept, &ids[step * count..(step + 1) * count])
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

    let trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
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

/// What the authors' program does on several devices: each contrasts its own images, and gradients
/// are averaged.
#[test]
fn groups_give_the_mean_of_their_losses() {
    for golden in goldens("expect.views") {
        let case = Case::new(golden);
        let (name, vit, whole) = (&case.golden.name, case.vit(), case.batch(0));
        if whole.images < 4 || !whole.images.is_multiple_of(2) {
            continue; // no two groups that contrast anything
        }
        let group = whole.images / 2;
        let part = |first: usize| {
            let of = |len: usize| first * len..(first + group) * len;
            let values = whole.kept * whole.patch_len;
            Batch {
                patches: whole.patches[of(values)].to_vec(),
                positions: whole.positions[of(whole.kept)].to_vec(),
                images: group,
                ..whole.clone()
            }
        };
        let by_definition = |batch: Batch, ocl: Ocl| {
            let loss = Learner::Ocl(ocl.learner(vit.clone())).loss(batch);
            let value = f64::from(host(loss.clone().inner())[0]);
            let gradients = NamedGradients::of(loss.backward(), |take| visit_named(&vit, "", take));
            (value, gradients.into_iter().map(|(name, g)| (name, host(g))).collect::<Vec<_>>())
        };
        let (first, second) =
            (by_definition(part(0), case.ocl), by_definition(part(group), case.ocl));
        let expected = (first.0 + second.0) / 2.0;

        let ocl = Ocl { group: Some(group), ..case.ocl };
        let all = host(Learner::Ocl(case.ocl.learner(vit.clone())).loss(whole.clone()).inner());
        assert!((f64::from(all[0]) - expected).abs() > 1e-2, "{name}: all is another loss");
        let learner = Learner::Ocl(ocl.learner(vit.clone()));
        let trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
        let (objective, trained) = trainer.gradients(whole.clone());
        let trained: Vec<_> = trained.into_iter().map(|(name, g)| (name, host(g))).collect();
        let of_definition = by_definition(whole.clone(), ocl);
        for (way, loss, gradients) in [
            ("trained", f64::from(host(objective.loss)[0]), trained),
            ("by definition", of_definition.0, of_definition.1),
        ] {
            assert!((loss / expected - 1.0).abs() < LOSS, "{name}, {way}: {loss} {expected}");
            for ((parameter, found), (a, b)) in gradients.iter().zip(first.1.iter().zip(&second.1))
            {
                let mean: Vec<f32> = a.1.iter().zip(&b.1).map(|(a, b)| (a + b) / 2.0).collect();
                check(&format!("{name}, {way}: {parameter}"), found, &mean, GRADIENT);
            }
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
        let mut trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
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
            let ours = &ours[&parameter].values;
            check_end(&what, &parameter, ours, &golden.values, &start[&parameter].values, reach);
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

        let mut trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
        for step in 0..case.golden.count("steps") {
            let (lr, golden) = (expect["lrs"].values[step], &expect["losses"].values[step..=step]);
            let loss;
            (trainer, loss) = trainer.step(case.batch(step), f64::from(lr));
            check(&format!("{name}: loss of step {step}"), &host(loss), golden, BF16_LOSS);
        }
        assert_masters(trainer.encoder());
    }
}
