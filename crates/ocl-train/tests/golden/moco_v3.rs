//! MoCo v3: features, projections, queries, keys, logits, loss, every gradient, a short training
//! run with averages and running statistics, and its schedules.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use ocl_data::Batch;
use ocl_model::{
    HostTensor, Vit, VitConfig, apply_module_state, map_named, module_state, row_first_table,
};
use ocl_train::{
    AdamW, Clock, Learner, Method, MocoHead, MocoV3, MocoV3Learner, NamedGradients, Rates, Trainer,
    WarmupCosine, WeightAverage,
};

use crate::files::*;

struct Case {
    golden: Golden,
    config: VitConfig,
    moco: MocoV3,
}

/// Parameters of a head under the authors' names and ours: of layer `i` the linear one is `3 i`,
/// its norm `3 i + 1`.
fn renamed(state: BTreeMap<String, HostTensor>, to_ours: bool) -> BTreeMap<String, HostTensor> {
    let of = |name: &str| -> Option<String> {
        let (start, rest) = ["head.", "predictor."].iter().find_map(|head| {
            let at = name.find(head)? + head.len();
            Some(name.split_at(at))
        })?;
        if to_ours {
            let (number, what) = rest.split_once('.')?;
            let number: usize = number.parse().ok()?;
            let what = match (number % 3, what) {
                (0, "weight") => "weight",
                (1, "weight") => "scale",
                (1, "bias") => "shift",
                (1, "running_mean") => "mean",
                (1, "running_var") => "variance",
                _ => return None,
            };
            Some(format!("{start}layers.{}.{what}", number / 3))
        } else {
            let (layer, what) = rest.strip_prefix("layers.")?.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            let (number, what) = match what {
                "weight" => (0, "weight"),
                "scale" => (1, "weight"),
                "shift" => (1, "bias"),
                "mean" => (1, "running_mean"),
                _ => (1, "running_var"),
            };
            Some(format!("{start}{}.{what}", 3 * layer + number))
        }
    };
    state.into_iter().map(|(name, tensor)| (of(&name).unwrap_or(name), tensor)).collect()
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
        let moco = MocoV3 {
            temperature: golden.number("temperature"),
            momentum: golden.number("momentum"),
            hidden_width: golden.count("hidden"),
            output_width: golden.count("out"),
        };
        Self { golden, config, moco }
    }

    fn learner(&self) -> MocoV3Learner {
        let mut state = renamed(self.golden.under("weight."), true);
        let table = row_first_table(self.config.width, self.config.grid());
        for name in ["base_encoder.pos_embed", "momentum_encoder.pos_embed"] {
            check(name, &table, &state.remove(name).unwrap().values, 1e-6);
        }
        let device = Device::default().autodiff();
        let fresh = Vit::new(&self.config, 0, &device).unwrap().with_positions(table);
        let (mut base, mut average): (BTreeMap<_, _>, BTreeMap<_, _>) = Default::default();
        let mut predictor = BTreeMap::new();
        for (name, tensor) in state {
            if let Some(name) = name.strip_prefix("base_encoder.") {
                base.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("momentum_encoder.") {
                average.insert(name.to_owned(), tensor);
            } else {
                predictor.insert(name, tensor);
            }
        }
        let encoder = apply_module_state(fresh.clone(), "", &mut base).unwrap();
        let mut learner = self.moco.learner(encoder, 0);
        let load = |head: MocoHead, prefix: &str, state: &mut BTreeMap<_, _>| {
            let head = apply_module_state(head, prefix, state).unwrap();
            head.with_statistics(prefix, state).unwrap()
        };
        learner.head = load(learner.head, "head.", &mut base);
        learner.predictor = load(learner.predictor, "predictor.", &mut predictor);
        let head = load(learner.head.clone(), "head.", &mut average);
        learner.momentum_head = WeightAverage::new(&head, 1.0);
        let encoder = apply_module_state(fresh, "", &mut average).unwrap();
        learner.momentum_encoder = WeightAverage::new(&encoder, 1.0);
        assert!(base.is_empty() && average.is_empty() && predictor.is_empty());
        learner
    }

    fn batch(&self, step: usize) -> Batch {
        let crops = &self.golden.tensors["input.crops"];
        let &[_, 2, n, channels, side, _] = crops.shape.as_slice() else { panic!("two crops") };
        let (image, l) = (channels * side * side, self.config.patches());
        // Image by image in place of crop by crop.
        let of =
            |crop: usize, i: usize| &crops.values[((step * 2 + crop) * n + i) * image..][..image];
        let values = (0..n).flat_map(|i| [of(0, i), of(1, i)].concat()).collect();
        let images = HostTensor { shape: vec![2 * n, channels, side, side], values };
        let all: Vec<f32> = (0..2 * n * l).map(|i| (i % l) as f32).collect();
        let batch = cut(&images, self.config.patch_px, l, &all);
        Batch { images: n, crops: 2, samples: (0..n as u64).collect(), ..batch }
    }

    fn rates(&self, step: u64) -> Rates {
        rates(&self.golden, self.moco, step)
    }
}

fn rates(golden: &Golden, moco: MocoV3, step: u64) -> Rates {
    let schedule = WarmupCosine {
        lr: golden.number("lr"),
        min_lr: 0.0,
        warmup_epochs: golden.number("warmup_epochs"),
        epochs: golden.number("epochs"),
    };
    let clock = Clock {
        step,
        steps_per_epoch: golden.count("steps_per_epoch") as u64,
        steps: (golden.count("steps_per_epoch") * golden.count("epochs")) as u64,
    };
    Method::MocoV3(moco).rates(&schedule, 0.1, clock)
}

/// Of `[N, 2, D]` one crop after the other.
fn by_crop(rows: Tensor<3>) -> Vec<f32> {
    host(rows.swap_dims(0, 1))
}

#[test]
fn what_moco_v3_computes_on_the_way_is_the_authors() {
    for golden in goldens("expect.queries") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = Learner::MocoV3(case.learner()).before_step(&case.rates(0));
        let embedded = learner.embed(case.batch(0));
        let features = by_crop(embedded.rows.clone().inner());
        check(&format!("{name}: features"), &features, &expect["features"].values, LOSS);
        let Learner::MocoV3(learner) = learner else { panic!("it was MoCo v3's") };
        let (mut projections, mut queries, mut keys) = (vec![], vec![], vec![]);
        for crop in [0, 1] {
            let [n, _, d] = embedded.rows.dims();
            let of = |rows: &Tensor<3>| rows.clone().narrow(1, crop, 1).reshape([n, d]);
            let (projected, _) = learner.head.forward(of(&embedded.rows));
            projections.extend(host(projected.clone().inner()));
            queries.extend(host(learner.predictor.forward(projected).0.inner()));
            let beside = embedded.beside.as_ref().unwrap();
            keys.extend(host(learner.momentum_head.weights().forward(of(beside)).0));
        }
        for (what, ours) in [("projections", projections), ("queries", queries), ("keys", keys)] {
            check(&format!("{name}: {what}"), &ours, &expect[what].values, LOSS);
        }
    }
}

#[test]
fn moco_v3s_loss_and_gradients_are_the_authors() {
    for golden in goldens("expect.queries") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = Learner::MocoV3(case.learner()).before_step(&case.rates(0));
        let loss = learner.loss(case.batch(0));
        let found = host(loss.clone().inner());
        check(&format!("{name}: loss by definition"), &found, &expect["loss"].values, LOSS);
        let by_definition = NamedGradients::of(loss.backward(), |take| learner.visit(take));
        let trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
        let (objective, trained) = trainer.gradients(case.batch(0));
        check(&format!("{name}: loss"), &host(objective.loss), &expect["loss"].values, LOSS);
        let mut ways = vec![("gradient", trained)];
        if cfg!(not(feature = "cuda")) {
            ways.push(("gradient by definition", by_definition));
        }
        for (way, gradients) in ways {
            let mut by_name: BTreeMap<_, _> = gradients.into_iter().collect();
            let expected = case.golden.under("grad.");
            assert_eq!(by_name.len(), expected.len(), "{name}: {way}");
            let MocoV3Learner { encoder, head, predictor, .. } = case.learner();
            // The frozen projection has none, and is left out.
            for (frozen, tensor) in module_state(&encoder, "") {
                if frozen.starts_with("patch_embed.") {
                    assert!(!by_name.contains_key(&frozen), "{frozen} learns");
                    let device = Device::default();
                    by_name.insert(frozen, Tensor::zeros([tensor.values.len()], &device));
                }
            }
            let mut place = Differentiate { by_name };
            let mut ours = module_state(&map_named(encoder, "", &mut place), "base_encoder.");
            let head = map_named(head, "head.", &mut place);
            ours.extend(module_state(&head, "base_encoder.head."));
            let predictor = map_named(predictor, "predictor.", &mut place);
            ours.extend(module_state(&predictor, "predictor."));
            let ours = renamed(ours, false);
            for (parameter, gradient) in &expected {
                if case.golden.meta["no_gradient"].split(", ").any(|name| name == parameter) {
                    continue; // rounding, and nothing else
                }
                let what = format!("{name}: {way} of {parameter}");
                check(&what, &ours[parameter].values, &gradient.values, GRADIENT);
            }
        }
    }
}

#[test]
fn a_training_run_of_moco_v3_is_the_authors() {
    for golden in goldens("expect.queries") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = Learner::MocoV3(case.learner());
        let optimizer = AdamW::new(adamw(&case.golden)).with_decay_of_all();
        let mut trainer = Trainer::with(learner, optimizer);
        for step in 0..case.golden.count("steps") {
            let rates = case.rates(step as u64);
            for (what, ours) in [("lrs", rates.lr), ("momenta", rates.momentum.unwrap())] {
                let theirs = f64::from(expect[what].values[step]);
                assert!((ours - theirs).abs() < 1e-7, "{name}: {what} of step {step}: {ours}");
            }
            let loss;
            (trainer, loss) = trainer.step(case.batch(step), rates);
            let golden = &expect["losses"].values[step..=step];
            check(&format!("{name}: loss of step {step}"), &host(loss), golden, RUN);
        }
        let Learner::MocoV3(learner) = trainer.learner() else { panic!("it was MoCo v3's") };
        let mut ours = module_state(&learner.encoder, "base_encoder.");
        ours.extend(module_state(learner.momentum_encoder.weights(), "momentum_encoder."));
        for (prefix, head) in [
            ("base_encoder.head.", &learner.head),
            ("momentum_encoder.head.", learner.momentum_head.weights()),
            ("predictor.", &learner.predictor),
        ] {
            ours.extend(module_state(head, prefix));
            ours.extend(head.statistics(prefix));
        }
        let ours = renamed(ours, false);
        let start = case.golden.under("weight.");
        let reach: f32 = expect["lrs"].values.iter().sum();
        let not_pinned: Vec<&str> = case.golden.meta["not_pinned"].split(", ").collect();
        for (parameter, golden) in case.golden.under("after.") {
            if not_pinned.contains(&parameter.as_str()) {
                continue; // follows rounding
            }
            let what = format!("{name}: {parameter} after");
            let ours = &ours[&parameter].values;
            check_end(&what, &parameter, ours, &golden.values, &start[&parameter].values, reach);
        }
    }
}

#[test]
fn moco_v3s_schedules_are_the_authors() {
    for golden in goldens("expect.moco_v3_lr") {
        let moco = MocoV3 {
            temperature: 0.2,
            momentum: golden.number("momentum"),
            hidden_width: 8,
            output_width: 4,
        };
        let every = golden.count("every") as u64;
        let expected = |what: &str| &golden.tensors[&format!("expect.moco_v3_{what}")].values;
        for i in 0..expected("lr").len() {
            let rates = rates(&golden, moco, i as u64 * every);
            for (what, ours) in [("lr", rates.lr), ("momentum", rates.momentum.unwrap())] {
                let theirs = f64::from(expected(what)[i]);
                assert!((ours - theirs).abs() < 1e-6 * theirs.max(1e-2), "{what} {i}");
            }
        }
    }
}
