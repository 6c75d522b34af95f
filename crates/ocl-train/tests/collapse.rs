//! A collapsed encoder is seen in the figures of every method, whatever its loss says.

#![allow(clippy::unwrap_used, reason = "a test may")]

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use ocl_data::{Batch, Loader, LoaderConfig, Source, SourceKind, Split};
use ocl_model::{NamedMapper, Vit, map_named};
use ocl_train::{AdamW, Figures, Learner, Plan, Recipe, Trainer};

/// Leaves of an encoder's last norm the bias alone, which it sets: every image is the same then.
struct Collapse;

impl NamedMapper for Collapse {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match name {
            "norm.weight" => param.map(|weight| weight.mul_scalar(0.0)),
            "norm.bias" => param.map(|bias| bias.mul_scalar(0.0).add_scalar(0.5)),
            _ => param,
        }
    }
}

fn collapsed(learner: Learner) -> Learner {
    let over = |encoder: Vit| map_named(encoder, "", &mut Collapse);
    match learner {
        Learner::Ocl(mut own) => {
            own.encoder = over(own.encoder);
            Learner::Ocl(own)
        }
        Learner::Mae(mut own) => {
            own.encoder = over(own.encoder);
            Learner::Mae(own)
        }
        Learner::IJepa(mut own) => {
            own.target = own.target.map(over);
            Learner::IJepa(own)
        }
        Learner::MocoV3(mut own) => {
            own.encoder = over(own.encoder);
            own.momentum_encoder = own.momentum_encoder.map(over);
            Learner::MocoV3(own)
        }
    }
}

/// A batch of the embedded data as the method sees it, and networks that have learnt nothing.
fn setup(method: &str, more: &[&str]) -> (Batch, Learner, Plan) {
    let name = format!("method.name={method}");
    let small = ["model.width=32", "model.heads=2", "batch.size=64"];
    let pairs: Vec<String> =
        [&name[..]].iter().chain(&small).chain(more).map(|pair| (*pair).to_owned()).collect();
    let recipe = Recipe::load("embedded", &pairs).unwrap();
    let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
    let plan = Plan::resolve("embedded", &recipe, &source).unwrap();
    let config = LoaderConfig { batch: plan.batch, ..LoaderConfig::default() };
    let batch = Loader::start(source.into(), plan.view(), config).unwrap().next().unwrap().unwrap();
    let device = Device::default().autodiff();
    let learner = plan.method.learner(&plan.model, 3, &device).unwrap();
    (batch, learner, plan)
}

fn figures(learner: Learner, batch: &Batch, plan: &Plan) -> Figures {
    let trainer = Trainer::with(learner, AdamW::new(plan.adamw));
    let (_, output) = trainer.step_watched(batch.clone(), 0.0);
    output.into_figures().read()
}

#[test]
fn a_collapse_is_seen_in_each_methods_figures() {
    for method in ["ocl", "mae", "i-jepa", "moco-v3"] {
        let (batch, learner, plan) = setup(method, &[]);
        let sound = figures(learner.clone(), &batch, &plan);
        let collapsed = figures(collapsed(learner), &batch, &plan);
        let of = |name: &str| [&sound, &collapsed].map(|figures| figures.get(name).unwrap());
        if method == "ocl" {
            let [sound, collapsed] = of("negative");
            assert!(sound < 0.9 && collapsed > 0.999, "{sound} {collapsed}");
            continue;
        }
        let [sound, collapsed] = of("feature_spread");
        assert!(sound > 0.02 && sound <= 1.0 && collapsed < 1e-6, "{method}: {sound} {collapsed}");
        if method == "i-jepa" {
            let [sound, collapsed] = of("spread");
            assert!(sound > 0.02 && collapsed < 1e-6, "{sound} {collapsed}");
        }
    }
}

/// A decoder whose last layer gives nothing tells the mean; one that has not learnt tells less.
#[test]
fn the_loss_of_pixels_is_held_against_that_of_their_mean() {
    struct Silent;
    impl NamedMapper for Silent {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let last = name.starts_with("decoder_pred.");
            if last { param.map(|values| values.mul_scalar(0.0)) } else { param }
        }
    }
    for norm_pix in ["method.norm_pix=true", "method.norm_pix=false"] {
        let (batch, learner, plan) = setup("mae", &[norm_pix]);
        let fresh = figures(learner.clone(), &batch, &plan);
        let silent = figures(learner.map(&mut Silent), &batch, &plan);
        assert!(fresh.get("explained").unwrap() < 0.0, "{fresh:?}");
        assert!(silent.get("explained").unwrap().abs() < 1e-6, "{silent:?}");
        let [mean_loss, loss] = ["mean_loss", "loss"].map(|name| silent.get(name).unwrap());
        assert!((mean_loss / loss - 1.0).abs() < 1e-6, "{silent:?}");
        assert_eq!(Some(mean_loss), fresh.get("mean_loss"));
    }
}
