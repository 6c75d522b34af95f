//! I-JEPA: context features, targets, predictions, loss, every gradient, a short training run with
//! the averaged encoder it ends with, and its schedules.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::{Batch, BlockMasks, Blocks};
use ocl_model::{Vit, VitConfig, apply_module_state, map_named, module_state, sincos_table};
use ocl_train::{
    AdamW, Clock, IJepa, IJepaLearner, Learner, Method, NamedGradients, Rates, Trainer,
    WarmupCosine, WeightAverage,
};

use crate::files::*;

struct Case {
    golden: Golden,
    config: VitConfig,
    ijepa: IJepa,
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
        let ijepa = ijepa(&golden, golden.number("ipe_scale"));
        Self { golden, config, ijepa }
    }

    fn learner(&self) -> IJepaLearner {
        let mut state = self.golden.under("weight.");
        // The fixed positions must be ours; they are not parameters.
        for (name, width) in [
            ("encoder.pos_embed", self.config.width),
            ("target_encoder.pos_embed", self.config.width),
            ("predictor.predictor_pos_embed", self.ijepa.predictor_width),
        ] {
            let table = sincos_table(width, self.config.grid());
            check(name, &table[width..], &state.remove(name).unwrap().values, 1e-6);
        }
        let device = Device::default().autodiff();
        let fresh = Vit::new(&self.config, 0, &device).unwrap().without_cls_token();
        let target = apply_module_state(fresh.clone(), "target_encoder.", &mut state).unwrap();
        let encoder = apply_module_state(fresh, "encoder.", &mut state).unwrap();
        let target = WeightAverage::new(&target, 1.0);
        let mut learner = self.ijepa.learner(encoder, target, 0);
        learner.predictor =
            apply_module_state(learner.predictor, "predictor.", &mut state).unwrap();
        assert!(state.is_empty(), "{:?}", state.keys());
        learner
    }

    fn batch(&self, step: usize) -> Batch {
        let images = &self.golden.tensors["input.images"];
        let (n, l) = (images.shape[0], self.config.patches());
        let all: Vec<f32> = (0..n * l).map(|i| (i % l) as f32).collect();
        let batch = cut(images, self.config.patch_px, l, &all);
        let ids = |name: &str| &self.golden.tensors[&format!("input.{name}.{step}")];
        let (context, targets) = (ids("context_ids"), ids("target_ids"));
        let &[m, _, kt] = targets.shape.as_slice() else { panic!("targets are [M, N, Kt]") };
        let of = |image: usize, block: usize| &targets.values[(block * n + image) * kt..][..kt];
        let by_image = (0..n).flat_map(|image| (0..m).flat_map(move |block| of(image, block)));
        let blocks = Blocks {
            context: context.values.iter().map(|&id| id as u32).collect(),
            targets: by_image.map(|&id| id as u32).collect(),
            context_len: context.shape[1],
            target_len: kt,
            blocks: m,
        };
        Batch { blocks: Some(blocks), ..batch }
    }
}

fn ijepa(golden: &Golden, schedule_stretch: f64) -> IJepa {
    let count = |key: &str, otherwise: usize| {
        if golden.meta.contains_key(key) { golden.count(key) } else { otherwise }
    };
    IJepa {
        masks: BlockMasks {
            targets: count("targets", 4),
            target_scale: [0.15, 0.2],
            target_ratio: [0.75, 1.5],
            context_scale: [0.85, 1.0],
            min_keep: count("min_keep", 10),
        },
        predictor_width: count("predictor_dim", 16),
        predictor_depth: count("predictor_depth", 1),
        predictor_heads: count("predictor_heads", 1),
        momentum: [golden.number("ema_start"), golden.number("ema_end")],
        start_lr: golden.number("start_lr"),
        final_weight_decay: golden.number("final_weight_decay"),
        schedule_stretch,
    }
}

fn rates(golden: &Golden, ijepa: IJepa, step: u64) -> Rates {
    let schedule = WarmupCosine {
        lr: golden.number("lr"),
        min_lr: golden.number("final_lr"),
        warmup_epochs: golden.number("warmup_epochs"),
        epochs: golden.number("epochs"),
    };
    let clock = Clock {
        step,
        steps_per_epoch: golden.count("steps_per_epoch") as u64,
        steps: (golden.count("steps_per_epoch") * golden.count("epochs")) as u64,
    };
    Method::IJepa(ijepa).rates(&schedule, golden.number("weight_decay"), clock)
}

#[test]
fn what_ijepa_computes_on_the_way_is_the_authors() {
    for golden in goldens("expect.predictions") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let (learner, batch) = (case.learner(), case.batch(0));
        let device = learner.encoder.device();
        let blocks = batch.blocks.clone().unwrap();
        let context = learner.context(&batch, &blocks, &device);
        let found = host(context.clone().inner());
        check(&format!("{name}: context"), &found, &expect["context"].values, LOSS);

        let ids = |ids: &[u32], shape: Vec<usize>| {
            TensorData::new(ids.iter().map(|&id| id as i32).collect::<Vec<_>>(), shape)
        };
        let (n, m) = (batch.images, blocks.blocks);
        let of_context = ids(&blocks.context, vec![n, blocks.context_len]);
        let context_ids = Tensor::<2, Int>::from_data(of_context, &device);
        let of_targets = ids(&blocks.targets, vec![n, m, blocks.target_len]);
        let target_ids = Tensor::<3, Int>::from_data(of_targets, &device).swap_dims(0, 1);
        let predicted = learner.predictor.forward(context, context_ids, target_ids.clone());
        let found = host(predicted.inner());
        check(&format!("{name}: predictions"), &found, &expect["predictions"].values, LOSS);
        let (targets, _) = learner.targets(batch, target_ids.inner());
        check(&format!("{name}: targets"), &host(targets), &expect["targets"].values, LOSS);
    }
}

#[test]
fn ijepas_loss_and_gradients_are_the_authors() {
    for golden in goldens("expect.predictions") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = Learner::IJepa(case.learner());
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
            let mut place = Differentiate { by_name: gradients.into_iter().collect() };
            let IJepaLearner { encoder, predictor, .. } = case.learner();
            let encoder = map_named(encoder, "encoder.", &mut place);
            let mut ours = module_state(&encoder, "encoder.");
            let predictor = map_named(predictor, "predictor.", &mut place);
            ours.extend(module_state(&predictor, "predictor."));
            let expected = case.golden.under("grad.");
            assert_eq!(ours.len(), expected.len(), "{name}: {way}");
            for (parameter, gradient) in &expected {
                let what = format!("{name}: {way} of {parameter}");
                check(&what, &ours[parameter].values, &gradient.values, GRADIENT);
            }
        }
    }
}

#[test]
fn a_training_run_of_ijepa_is_the_authors() {
    for golden in goldens("expect.predictions") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = Learner::IJepa(case.learner());
        let mut trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
        for step in 0..case.golden.count("steps") {
            let rates = rates(&case.golden, case.ijepa, step as u64);
            for (what, ours) in [
                ("lrs", rates.lr),
                ("weight_decays", rates.weight_decay.unwrap()),
                ("momenta", rates.momentum.unwrap()),
            ] {
                let theirs = f64::from(expect[what].values[step]);
                assert!((ours - theirs).abs() < 1e-7, "{name}: {what} of step {step}: {ours}");
            }
            let loss;
            (trainer, loss) = trainer.step(case.batch(step), rates);
            let golden = &expect["losses"].values[step..=step];
            check(&format!("{name}: loss of step {step}"), &host(loss), golden, RUN);
        }
        let Learner::IJepa(learner) = trainer.learner() else { panic!("it was I-JEPA's") };
        let mut ours = module_state(&learner.encoder, "encoder.");
        ours.extend(module_state(&learner.predictor, "predictor."));
        ours.extend(module_state(learner.target.weights(), "target_encoder."));
        let start = case.golden.under("weight.");
        let reach: f32 = expect["lrs"].values.iter().sum();
        for (parameter, golden) in case.golden.under("after.") {
            let what = format!("{name}: {parameter} after");
            let ours = &ours[&parameter].values;
            check_end(&what, &parameter, ours, &golden.values, &start[&parameter].values, reach);
        }
        assert!(learner.encoder.clone().valid().has_cls_token() == learner.encoder.has_cls_token());
    }
}

#[test]
fn ijepas_schedules_are_the_authors() {
    for golden in goldens("expect.published_lr") {
        let every = golden.count("every") as u64;
        for (which, key) in
            [("published", "published_ipe_scale"), ("stretched", "stretched_ipe_scale")]
        {
            let ijepa = ijepa(&golden, golden.number(key));
            let expected = |what: &str| &golden.tensors[&format!("expect.{which}_{what}")].values;
            for i in 0..expected("lr").len() {
                let rates = rates(&golden, ijepa, i as u64 * every);
                for (what, ours) in [
                    ("lr", rates.lr),
                    ("weight_decay", rates.weight_decay.unwrap()),
                    ("momentum", rates.momentum.unwrap()),
                ] {
                    let theirs = f64::from(expected(what)[i]);
                    assert!((ours - theirs).abs() < 1e-6 * theirs.max(1e-2), "{which} {what} {i}");
                }
            }
        }
    }
}
