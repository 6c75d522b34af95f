//! Recipes by name: those that come with the program, and files.

use std::path::Path;

use super::Recipe;
use super::overrides::{Known, Layers, RecipeError, nearest};
use crate::methods::Method;

/// Every key of a recipe, for suggestions and for refusing the rest.
const KEYS: [&str; 71] = [
    "data.path",
    "data.kind",
    "data.train_split",
    "data.test_split",
    "data.image_px",
    "data.crop_scale",
    "data.crop_ratio",
    "data.flip",
    "data.resize_ratio",
    "data.mean",
    "data.std",
    "data.max_bad_share",
    "data.workers",
    "model.size",
    "model.patch_px",
    "model.width",
    "model.depth",
    "model.heads",
    "model.mlp_ratio",
    "method.name",
    "method.mask_ratio",
    "method.kappa",
    "method.temperature",
    "method.group",
    "method.norm_pix",
    "method.decoder_width",
    "method.decoder_depth",
    "method.decoder_heads",
    "method.targets",
    "method.target_scale",
    "method.target_ratio",
    "method.context_scale",
    "method.min_keep",
    "method.predictor_width",
    "method.predictor_depth",
    "method.predictor_heads",
    "method.momentum",
    "method.start_lr",
    "method.final_weight_decay",
    "method.schedule_stretch",
    "method.hidden_width",
    "method.output_width",
    "optim.base_lr",
    "optim.min_lr",
    "optim.warmup_epochs",
    "optim.weight_decay",
    "optim.beta1",
    "optim.beta2",
    "optim.eps",
    "optim.clip_norm",
    "optim.ema_decay",
    "train.epochs",
    "batch.size",
    "batch.chunk",
    "batch.micro_batch",
    "batch.parts",
    "train.seed",
    "train.precision",
    "train.checkpoint_every_epochs",
    "train.keep_checkpoints",
    "train.keep_every_epochs",
    "train.patience_secs",
    "monitor.every_steps",
    "monitor.knn_every_epochs",
    "monitor.peak_tflops",
    // Whole sections, so that a misspelt section is answered with its name.
    "data",
    "model",
    "method",
    "optim",
    "batch",
    "monitor",
];

/// Keys of before, which are still understood: the old name and today's.
const RENAMED: [(&str, &str); 2] =
    [("train.batch", "batch.size"), ("batch.grain", "batch.micro_batch")];

/// Recipes that come with the program, by name.
const BUILT_IN: [(&str, &str); 10] = [
    ("embedded", include_str!("../../recipes/embedded.toml")),
    ("fashion-mnist", include_str!("../../recipes/fashion-mnist.toml")),
    ("cifar-10", include_str!("../../recipes/cifar-10.toml")),
    ("folder", include_str!("../../recipes/folder.toml")),
    ("imagenet-vit-b", include_str!("../../recipes/imagenet-vit-b.toml")),
    ("imagenet-vit-l", include_str!("../../recipes/imagenet-vit-l.toml")),
    ("imagenet-vit-h", include_str!("../../recipes/imagenet-vit-h.toml")),
    ("imagenet-vit-b-all", include_str!("../../recipes/imagenet-vit-b-all.toml")),
    ("imagenet-vit-l-all", include_str!("../../recipes/imagenet-vit-l-all.toml")),
    ("imagenet-vit-h-all", include_str!("../../recipes/imagenet-vit-h-all.toml")),
];

/// What a method puts over a recipe that is another's: its name, the recipes that it is for (none:
/// all others), and the text.
const METHODS: [(&str, &[&str], &str); 8] = [
    ("ocl", &[], include_str!("../../recipes/methods/ocl.toml")),
    ("mae", &IMAGENET, include_str!("../../recipes/methods/mae-imagenet.toml")),
    ("mae", &[], include_str!("../../recipes/methods/mae.toml")),
    (
        "i-jepa",
        &["imagenet-vit-b", "imagenet-vit-b-all"],
        include_str!("../../recipes/methods/i-jepa-imagenet-vit-b.toml"),
    ),
    ("i-jepa", &IMAGENET, include_str!("../../recipes/methods/i-jepa-imagenet.toml")),
    ("i-jepa", &[], include_str!("../../recipes/methods/i-jepa.toml")),
    ("moco-v3", &IMAGENET, include_str!("../../recipes/methods/moco-v3-imagenet.toml")),
    ("moco-v3", &[], include_str!("../../recipes/methods/moco-v3.toml")),
];

const IMAGENET: [&str; 6] = [
    "imagenet-vit-b",
    "imagenet-vit-l",
    "imagenet-vit-h",
    "imagenet-vit-b-all",
    "imagenet-vit-l-all",
    "imagenet-vit-h-all",
];

/// Constants that a method's section may leave out, so that its text above does not show them.
const LEFT_OUT: [(&str, &str); 1] = [("ocl", "group")];

impl Recipe {
    /// Names of the built-in recipes with the text of each.
    pub fn built_in() -> &'static [(&'static str, &'static str)] {
        &BUILT_IN
    }

    /// Reads a built-in recipe or a file, then the environment, then `overrides`
    /// (`section.key=value`).
    ///
    /// # Errors
    /// [`RecipeError`], naming the origin and the nearest known key.
    pub fn load(name: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let environment = std::env::vars().filter_map(|(variable, value)| {
            let key = variable.strip_prefix("OCL__")?.to_lowercase().replace("__", ".");
            Some((variable, key, value))
        });
        Self::layered(name, environment.collect(), overrides)
    }

    fn layered(
        name: &str,
        environment: Vec<(String, String, String)>,
        overrides: &[String],
    ) -> Result<Self, RecipeError> {
        let (origin, text) = find(name)?;
        // The name decides what the other keys are, so that it is taken before all else.
        let is_name = |key: &str| key.trim() == "method.name";
        let named = overrides.iter().rev().filter_map(|pair| pair.split_once('='));
        let method = named
            .filter(|(key, _)| is_name(key))
            .map(|(_, value)| value.trim().trim_matches('"').to_owned())
            .chain(environment.iter().filter(|e| is_name(&e.1)).map(|e| e.2.clone()))
            .next();
        let text = match &method {
            Some(method) => under_method(name, &text, method)?,
            None => text,
        };
        let known = Known { keys: &KEYS, renamed: &RENAMED };
        let layers = Layers { origin: &origin, text: &text, known, environment, overrides };
        let (mut recipe, set): (Self, _) =
            layers.read_checked(|values| match values.get::<toml::Table>("method") {
                Ok(method) => check_constants(&origin, &method),
                Err(_) => Ok(()), // to be answered where the rest is
            })?;
        if set.contains("train.epochs") && !set.contains("optim.warmup_epochs") {
            recipe.shorten_warmup(set.written("train.epochs").unwrap_or_default());
        }
        Ok(recipe)
    }

    /// Who asks for fewer epochs than a recipe's wants a shorter run of the same form: its warm-up
    /// shrinks with it.
    fn shorten_warmup(&mut self, epochs_written: f64) {
        let share = self.train.epochs as f64 / epochs_written;
        if share < 1.0 && self.optim.warmup_epochs > 0.0 {
            self.warmup_written = Some(self.optim.warmup_epochs);
            self.optim.warmup_epochs *= share;
        }
    }
}

/// What a method's section has that the method has not, or of another type than the method's.
/// Serde would pass over the one, and not name the key of the other.
fn check_constants(origin: &str, section: &toml::Table) -> Result<(), RecipeError> {
    let Some(name) = section.get("name").and_then(|name| name.as_str()) else {
        return Ok(()); // to be answered where the rest is
    };
    let Some((_, _, text)) = METHODS.iter().find(|(of, ..)| *of == name) else {
        return Err(unknown_method(name));
    };
    let own = text.parse::<toml::Table>().expect("a built-in text is TOML")["method"].clone();
    let own: toml::Table = own.try_into().expect("a method is a table");
    for (key, value) in section {
        let (origin, name) = (origin.to_owned(), name.to_owned());
        let left_out = LEFT_OUT.iter().filter(|(of, _)| *of == name).map(|(_, key)| *key);
        if !own.contains_key(key) && !left_out.clone().any(|left_out| left_out == key) {
            let written = own.keys().map(String::as_str).filter(|key| *key != "name");
            let known: Vec<&str> = written.chain(left_out).collect();
            let (key, known) = (format!("method.{key}"), known.join(", "));
            return Err(RecipeError::OtherMethods { origin, key, name, known });
        }
        let mut one = own.clone();
        one.insert(key.clone(), value.clone());
        if let Err(error) = one.try_into::<Method>() {
            // Rust's names of types say nothing to who writes a recipe.
            let problem = error.message().replace("usize", "a whole number of at least 0");
            let (key, problem) = (format!("method.{key}"), problem.replace("f64", "a number"));
            return Err(RecipeError::Constant { origin, key, problem });
        }
    }
    Ok(())
}

fn unknown_method(name: &str) -> RecipeError {
    let names = Method::NAMES;
    RecipeError::UnknownMethod {
        name: name.to_owned(),
        known: names.join(", "),
        hint: nearest(&name.to_lowercase(), &names),
    }
}

/// The text of a recipe with another method's section in place of its own, and what goes with it.
fn under_method(name: &str, text: &str, method: &str) -> Result<String, RecipeError> {
    let Ok(mut recipe) = text.parse::<toml::Table>() else {
        return Ok(text.to_owned()); // to be answered where it is read
    };
    let own = recipe.get("method").and_then(|own| own.get("name")).and_then(|name| name.as_str());
    if own == Some(method) {
        return Ok(text.to_owned());
    }
    let fits = |recipes: &[&str]| recipes.is_empty() || recipes.contains(&name);
    let over = METHODS.iter().find(|(of, recipes, _)| *of == method && fits(recipes));
    let Some((_, _, over)) = over else {
        return Err(unknown_method(method));
    };
    for (section, over) in over.parse::<toml::Table>().expect("a built-in text is TOML") {
        match (recipe.get_mut(&section), over) {
            (Some(toml::Value::Table(own)), toml::Value::Table(over)) if section != "method" => {
                own.extend(over);
            }
            (_, over) => drop(recipe.insert(section, over)),
        }
    }
    Ok(recipe.to_string())
}

fn find(name: &str) -> Result<(String, String), RecipeError> {
    if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok(((*name).to_owned(), (*text).to_owned()));
    }
    let names = BUILT_IN.map(|(name, _)| name);
    match std::fs::read_to_string(Path::new(name)) {
        Ok(text) => Ok((name.to_owned(), text)),
        Err(source) => Err(RecipeError::NotFound {
            name: name.to_owned(),
            known: names.join(", "),
            hint: nearest(name, &names),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::config::overrides::flatten;
    use crate::config::{Chunk, ModelRecipe, MonitorRecipe};
    use ocl_data::SplitNames;
    use ocl_model::Precision;

    fn set(pairs: &[&str]) -> Result<Recipe, RecipeError> {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        Recipe::layered("embedded", vec![], &pairs)
    }

    #[test]
    fn every_built_in_recipe_reads() {
        for (name, _) in Recipe::built_in() {
            let read = Recipe::layered(name, vec![], &[]);
            assert!(read.is_ok(), "{name}: {:?}", read.unwrap_err());
        }
    }

    #[test]
    fn every_method_reads_over_every_recipe() {
        for (recipe, _) in Recipe::built_in() {
            for method in Method::NAMES {
                let read = Recipe::layered(recipe, vec![], &[format!("method.name={method}")]);
                let read = read.unwrap_or_else(|error| panic!("{recipe}, {method}: {error:?}"));
                assert_eq!(read.method.name(), method, "{recipe}");
            }
        }
        // What goes with a method comes along, and what was asked for stands over it.
        let over = ["method.name=i-jepa", "optim.beta2=0.9"].map(str::to_owned);
        let recipe = Recipe::layered("embedded", vec![], &over).unwrap();
        assert_eq!((recipe.data.flip, recipe.optim.beta2), (0.0, 0.9));
        let from = ("OCL__METHOD__NAME".to_owned(), "method.name".to_owned(), "mae".to_owned());
        let recipe = Recipe::layered("embedded", vec![from], &[]).unwrap();
        assert_eq!(recipe.method.name(), "mae");
    }

    #[test]
    fn keys_and_names_of_other_methods_are_refused() {
        let text = |pairs: &[&str]| set(pairs).unwrap_err().to_string();
        let error = text(&["method.name=mae", "method.kappa=1"]);
        assert!(error.contains("`method.kappa` is no key of method `mae`"), "{error}");
        assert!(text(&["method.norm_pix=true"]).contains("no key of method `ocl`"));
        for (name, meant) in [("ijepa", "i-jepa"), ("MAE", "mae"), ("moco", "moco-v3")] {
            let error = text(&[&format!("method.name={name}")]);
            assert!(error.ends_with(&format!("did you mean `{meant}`?")), "{error}");
        }
        assert!(text(&["method.name=simclr"]).ends_with("there are ocl, mae, i-jepa, moco-v3"));
        // A method's name is no section.
        let error = text(&["method.name=mae", "mae.mask_ratio=0.5"]);
        assert!(error.ends_with("did you mean `method.mask_ratio`?"), "{error}");
    }

    #[test]
    fn a_files_own_method_is_read_as_closely() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        let text = |method: &str| {
            let recipe = Recipe::built_in()[0].1;
            let (start, rest) = recipe.split_once("[method]").unwrap();
            let (_, end) = rest.split_once("[optim]").unwrap();
            std::fs::write(&path, format!("{start}[method]\n{method}\n[optim]{end}")).unwrap();
            let read = Recipe::layered(path.to_str().unwrap(), vec![], &[]);
            read.map_or_else(|error| format!("{error}: {:?}", error.source()), |_| "read".into())
        };
        let own = "name = \"moco-v3\"\ntemperature = 0.2\nmomentum = 0.99\nhidden_width = 8";
        assert_eq!(text(&format!("{own}\noutput_width = 8")), "read");
        assert!(
            text(own).contains("missing configuration field \"method.output_width\""),
            "{}",
            text(own)
        );
        let error = text(&format!("{own}\noutput_width = 8\nkappa = 1"));
        assert!(error.contains("`method.kappa` is no key of method `moco-v3`"), "{error}");
        let error = text(&format!("{own}\noutput_width = \"wide\""));
        assert!(error.contains("`method.output_width` cannot be read"), "{error}");
        assert!(text("name = \"jepa\"").contains("did you mean `i-jepa`?"));
    }

    #[test]
    fn the_list_of_keys_is_complete() {
        let mut recipe = set(&[]).unwrap();
        recipe.batch.chunk = Some(Chunk::Auto);
        recipe.batch.micro_batch = Some(1);
        recipe.batch.parts = Some(1);
        recipe.train.patience_secs = Some(1);
        recipe.optim.clip_norm = Some(1.0);
        recipe.optim.ema_decay = Some(0.5);
        recipe.train.keep_every_epochs = Some(1.0);
        recipe.train.precision = Some(Precision::Bf16);
        let name = || Some("a".to_owned());
        recipe.data.splits = SplitNames { train: name(), test: name() };
        recipe.monitor = MonitorRecipe {
            every_steps: Some(1),
            knn_every_epochs: Some(1.0),
            peak_tflops: Some(1.0),
        };
        recipe.model = ModelRecipe {
            size: Some("tiny".to_owned()),
            patch_px: 4,
            width: Some(8),
            depth: Some(1),
            heads: Some(1),
            mlp_ratio: Some(4),
        };
        let mut keys = vec![];
        for method in Method::NAMES {
            recipe.method = set(&[&format!("method.name={method}")]).unwrap().method;
            if let Method::Ocl(ocl) = &mut recipe.method {
                ocl.group = Some(2);
            }
            flatten("", &config::Config::try_from(&recipe).unwrap().cache, &mut keys);
        }
        keys.sort();
        keys.dedup();
        let mut listed: Vec<_> = KEYS.iter().filter(|key| key.contains('.')).copied().collect();
        listed.sort_unstable();
        assert_eq!(keys, listed);
    }

    #[test]
    fn a_shorter_run_warms_up_for_less() {
        let of = |pairs: &[&str]| {
            let recipe = set(pairs).unwrap();
            (recipe.optim.warmup_epochs, recipe.warmup_written)
        };
        assert_eq!(of(&[]), (0.5, None));
        assert_eq!(of(&["train.epochs=10"]), (0.125, Some(0.5)));
        assert_eq!(of(&["train.epochs=80"]), (0.5, None));
        assert_eq!(of(&["train.epochs=10", "optim.warmup_epochs=0.4"]), (0.4, None));
    }

    #[test]
    fn later_layers_win() {
        let variable = |value: &str| {
            vec![("OCL__OPTIM__BASE_LR".to_owned(), "optim.base_lr".to_owned(), value.to_owned())]
        };
        let from = |environment, pairs: &[String]| {
            Recipe::layered("embedded", environment, pairs).unwrap()
        };
        assert_eq!(from(variable("0.25"), &[]).optim.base_lr, 0.25);
        let both = from(variable("0.25"), &["optim.base_lr=2".to_owned()]);
        assert_eq!(both.optim.base_lr, 2.0);
        let list = set(&["data.crop_scale=[0.2, 1.0]", "data.path=/some/where"]).unwrap();
        assert_eq!(list.data.crop_scale, [0.2, 1.0]);
        assert_eq!(list.data.path, "/some/where");
    }

    #[test]
    fn the_batch_may_be_written_as_before() {
        let text = Recipe::built_in()[0].1.replace("[batch]\nsize = 256\n", "");
        let text = text.replace("[train]\n", "[train]\nbatch = 96\n");
        assert!(text.contains("batch = 96") && !text.contains("[batch]"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.toml");
        std::fs::write(&path, text).unwrap();
        let read = |pairs: &[String]| {
            Recipe::layered(path.to_str().unwrap(), vec![], pairs).unwrap().batch.size
        };
        assert_eq!(read(&[]), 96);
        assert_eq!(read(&["batch.size=32".to_owned()]), 32);
        assert_eq!(set(&["train.batch=12"]).unwrap().batch.size, 12);
        let auto = set(&["batch.chunk=auto"]).unwrap().batch.chunk;
        assert_eq!(auto, Some(Chunk::Auto));
        assert_eq!(set(&["batch.chunk=8"]).unwrap().batch.chunk, Some(Chunk::Images(8)));
        assert!(set(&["batch.chunk=most"]).is_err());
    }

    #[test]
    fn a_misspelt_key_is_answered_with_the_nearest() {
        let text = |pair: &str| set(&[pair]).unwrap_err().to_string();
        assert_eq!(
            text("optim.base_lrr=1"),
            "--set: unknown key `optim.base_lrr`; did you mean `optim.base_lr`?"
        );
        assert!(text("mask_ratio=0.5").ends_with("did you mean `method.mask_ratio`?"));
        assert!(text("optimm.base_lr=1").ends_with("did you mean `optim.base_lr`?"));
        assert!(text("optim.lr=1").ends_with("did you mean `optim.base_lr`?"));
        assert!(Recipe::load("embeded", &[]).unwrap_err().to_string().contains("`embedded`?"));
        assert!(matches!(set(&["optim.base_lr"]), Err(RecipeError::Override(_))));
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        let error = set(&["optim.base_lr=fast"]).unwrap_err();
        assert!(error.source().unwrap().to_string().contains("optim.base_lr"), "{error:?}");
        for (pair, says) in [
            ("train.epochs=2.5", "2.5 is no whole number"),
            ("train.epochs=true", "true is no number"),
            ("train.epochs=nan", "NaN is no whole number"),
            ("batch.size=4.9", "4.9 is no whole number"),
            ("batch.chunk=4.9", "4.9 is no whole number"),
            ("data.workers=0.5", "0.5 is no whole number"),
            ("optim.base_lr=true", "true is no number"),
        ] {
            let error = set(&[pair]).unwrap_err().to_string();
            let key = pair.split('=').next().unwrap();
            assert!(error.contains(&format!("`{key}` cannot be read: {says}")), "{pair}: {error}");
        }
        assert_eq!(set(&["train.epochs=20.0"]).unwrap().train.epochs, 20);
        for (method, pair, says) in [
            ("i-jepa", "momentum=0.99", "expected an array of length 2"),
            ("i-jepa", "target_scale=[0.1]", "expected an array of length 2"),
            ("mae", "decoder_width=-4", "expected a whole number of at least 0"),
            ("mae", "mask_ratio=75%", "expected a number"),
            ("mae", "norm_pix=7", "expected a boolean"),
        ] {
            let error = set(&[&format!("method.name={method}"), &format!("method.{pair}")]);
            let error = error.unwrap_err().to_string();
            let key = pair.split('=').next().unwrap();
            assert!(error.contains(&format!("`method.{key}`")) && error.contains(says), "{error}");
        }
    }
}
