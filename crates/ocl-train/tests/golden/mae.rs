//! MAE: encoded patches, decoder's tokens, pixels, loss, every gradient, a short training run.

use burn::tensor::{Device, Int, Tensor, TensorData};
use ocl_data::Batch;
use ocl_model::{
    HostTensor, Vit, VitConfig, apply_module_state, apply_state, map_named, module_state,
};
use ocl_train::{AdamW, Learner, Mae, MaeLearner, NamedGradients, Trainer, WarmupCosine};

use crate::files::*;

struct Case {
    golden: Golden,
    config: VitConfig,
    mae: Mae,
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
        let mae = Mae {
            mask_ratio: golden.number("mask_ratio"),
            norm_pix: golden.count("norm_pix") == 1,
            decoder_width: golden.count("decoder_dim"),
            decoder_depth: golden.count("decoder_depth"),
            decoder_heads: golden.count("decoder_heads"),
        };
        let kept = golden.tensors["input.ids_keep"].shape[2];
        assert_eq!(mae.kept(config.patches()), kept, "{}", golden.name);
        Self { golden, config, mae }
    }

    fn learner(&self) -> MaeLearner {
        let mut state = self.golden.under("weight.");
        // The fixed positions must be ours; they are not parameters.
        for (name, width) in
            [("pos_embed", self.config.width), ("decoder_pos_embed", self.mae.decoder_width)]
        {
            let table = ocl_model::sincos_table(width, self.config.grid());
            check(name, &table, &state.remove(name).unwrap().values, 1e-6);
        }
        let decoder = state.clone().into_iter();
        let mut decoder = decoder
            .filter(|(name, _)| name.starts_with("decoder_") || name == "mask_token")
            .collect();
        state.retain(|name, _| !name.starts_with("decoder_") && name != "mask_token");
        let fresh = Vit::new(&self.config, 0, &Device::default().autodiff()).unwrap();
        let mut learner = self.mae.learner(apply_state(fresh, state).unwrap(), 0);
        learner.decoder = apply_module_state(learner.decoder, "", &mut decoder).unwrap();
        assert!(decoder.is_empty(), "{decoder:?}");
        learner
    }

    /// The order of all patches in step `step`: by noise, so that the kept ones come first.
    fn order(&self, step: usize) -> Vec<f32> {
        let (noise, kept) =
            (&self.golden.tensors["input.noise"], &self.golden.tensors["input.ids_keep"]);
        let &[_, n, l] = noise.shape.as_slice() else { panic!("noise is [steps, N, L]") };
        let k = kept.shape[2];
        let mut order = vec![];
        for image in step * n..(step + 1) * n {
            let noise = &noise.values[image * l..(image + 1) * l];
            let mut ids: Vec<usize> = (0..l).collect();
            ids.sort_by(|a, b| noise[*a].total_cmp(&noise[*b]));
            let ids: Vec<f32> = ids.into_iter().map(|id| id as f32).collect();
            assert_eq!(ids[..k], kept.values[image * k..(image + 1) * k]);
            order.extend(ids);
        }
        order
    }

    fn batch(&self, step: usize) -> Batch {
        let images = &self.golden.tensors["input.images"];
        cut(images, self.config.patch_px, self.config.patches(), &self.order(step))
    }

    /// Rows of each image in the order of its patches, back in raster order: `[N, L, W]`.
    fn in_raster_order(&self, rows: &[f32], golden: &HostTensor) -> Vec<f32> {
        let &[n, l, w] = golden.shape.as_slice() else { panic!("rows are [N, L, W]") };
        let mut out = vec![0.0; n * l * w];
        for (i, id) in self.order(0).iter().enumerate() {
            let at = (i / l * l + *id as usize) * w;
            out[at..at + w].copy_from_slice(&rows[i * w..(i + 1) * w]);
        }
        out
    }
}

#[test]
fn what_mae_computes_on_the_way_is_the_authors() {
    for golden in goldens("expect.pixels") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = case.learner();
        let Batch { images: n, kept: l, patch_len, patches, positions, .. } = case.batch(0);
        let device = learner.encoder.device();
        let k = case.mae.kept(l);
        let patches = Tensor::<3>::from_data(TensorData::new(patches, [n, l, patch_len]), &device);
        let positions: Vec<i32> = positions.into_iter().map(|id| id as i32).collect();
        let positions = Tensor::<2, Int>::from_data(TensorData::new(positions, [n, l]), &device);
        let seen = patches.narrow(1, 0, k);
        let tokens = learner.encoder.tokens(seen, positions.clone().narrow(1, 0, k));
        let latent = learner.encoder.encode(tokens);
        check(
            &format!("{name}: latent"),
            &host(latent.clone().inner()),
            &expect["latent"].values,
            LOSS,
        );

        let w = case.mae.decoder_width;
        let tokens = host(learner.decoder.tokens(latent.clone(), positions.clone()).inner());
        let golden = &expect["decoder_tokens"];
        let (mut ours, mut theirs) = (vec![], vec![]);
        for image in 0..n {
            let rows = image * (1 + l) * w..(image + 1) * (1 + l) * w;
            let (ours_rows, theirs_rows) = (&tokens[rows.clone()], &golden.values[rows]);
            check("class token", &ours_rows[..w], &theirs_rows[..w], LOSS);
            ours.extend_from_slice(&ours_rows[w..]);
            theirs.extend_from_slice(&theirs_rows[w..]);
        }
        let shape = HostTensor { shape: vec![n, l, w], values: theirs };
        let ours = case.in_raster_order(&ours, &shape);
        check(&format!("{name}: decoder's tokens"), &ours, &shape.values, LOSS);

        // Of the hidden patches alone: the others' pixels are nobody's concern.
        let found = host(learner.decoder.forward(latent, positions).inner());
        let (order, pred) = (case.order(0), &expect["pred"].values);
        let golden: Vec<f32> = (0..n)
            .flat_map(|image| {
                order[image * l + k..(image + 1) * l].iter().map(move |id| (image, *id))
            })
            .flat_map(|(image, id)| {
                let at = (image * l + id as usize) * patch_len;
                pred[at..at + patch_len].to_vec()
            })
            .collect();
        check(&format!("{name}: pixels"), &found, &golden, LOSS);
    }
}

#[test]
fn maes_loss_and_gradients_are_the_authors() {
    for golden in goldens("expect.pixels") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let learner = Learner::Mae(case.learner());
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
            let MaeLearner { encoder, decoder, .. } = case.learner();
            let mut ours = module_state(&map_named(encoder, "", &mut place), "");
            ours.extend(module_state(&map_named(decoder, "", &mut place), ""));
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
fn a_training_run_of_mae_is_the_authors() {
    for golden in goldens("expect.pixels") {
        let case = Case::new(golden);
        let (name, expect) = (&case.golden.name, case.golden.under("expect."));
        let schedule = WarmupCosine {
            lr: case.golden.number("lr"),
            min_lr: 0.0,
            warmup_epochs: case.golden.number("warmup_steps"),
            epochs: case.golden.number("steps"),
        };
        let learner = Learner::Mae(case.learner());
        let mut trainer = Trainer::with(learner, AdamW::new(adamw(&case.golden)));
        for step in 0..case.golden.count("steps") {
            let lr = schedule.at(step as f64);
            assert!((lr - f64::from(expect["lrs"].values[step])).abs() < 1e-9, "{name}: lr");
            let loss;
            (trainer, loss) = trainer.step(case.batch(step), lr);
            let golden = &expect["losses"].values[step..=step];
            check(&format!("{name}: loss of step {step}"), &host(loss), golden, RUN);
        }
        let Learner::Mae(learner) = trainer.learner() else { panic!("it was MAE's") };
        let mut ours = module_state(&learner.encoder, "");
        ours.extend(module_state(&learner.decoder, ""));
        let start = case.golden.under("weight.");
        let reach: f32 = expect["lrs"].values.iter().sum();
        for (parameter, golden) in case.golden.under("after.") {
            let what = format!("{name}: {parameter} after");
            let ours = &ours[&parameter].values;
            check_end(&what, &parameter, ours, &golden.values, &start[&parameter].values, reach);
        }
    }
}
