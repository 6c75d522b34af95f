//! An encoder from wherever one lies, with everything that was said about it there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ocl_model::{
    HostTensor, Linear, OpenOptions, OpenedWeights, Pooling, Preprocessing, Vit, open_weights,
    weights_file,
};
use ocl_train::command_line;

use super::preparation::{Preparation, geometry};
use super::subject::Run;
use crate::error::EvalError;
use crate::text::shell_word;

/// An encoder that is ready for images.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The encoder.
    pub vit: Vit,
    /// What of its output is the feature of an image, as its weights want it.
    pub pooling: Pooling,
    /// A classifier of the features, `[D]` to `[classes]`, where there is one.
    pub head: Option<Linear>,
    /// Names of the classifier's classes; empty where nothing says them.
    pub classes: Vec<String>,
    /// How images are prepared.
    pub preparation: Preparation,
    /// Whether something said so; if not, the preparation is what is usual for ImageNet.
    pub preparation_said: bool,
    /// What stands beside the encoder in its network, by name: a decoder and the like.
    pub beside: BTreeMap<String, HostTensor>,
    /// Names of tensors in the file that belong to no encoder.
    pub ignored: Vec<String>,
    /// Which network of the file this is: keys and prefix, joined by dots; empty if it has none.
    pub network: String,
    /// The other encoders in the file.
    pub other_networks: Vec<String>,
    /// The file of weights.
    pub weights: PathBuf,
    /// The run that it was pre-trained in, if its folder was given.
    pub run: Option<Run>,
}

/// Opens what `path` is:
///
/// - the folder of a pre-training: its final weights, images prepared as there;
/// - the folder of a fine-tuning, or of one of its seeds: the classifier, of the first seed;
/// - a folder that timm or Hugging Face's programs wrote, or `export` did;
/// - a file of weights of any program, fine-tuned ones among them.
///
/// # Errors
/// When there is nothing of the kind, it is not complete yet, or the weights are damaged.
pub fn open_encoder(
    path: &Path,
    options: &OpenOptions,
    device: &Device,
) -> Result<Encoder, EvalError> {
    if path.join("plan.toml").is_file() {
        let run = Run::open(path)?;
        let weights = run.existing_weights()?;
        return Encoder::open(weights, Some(run), options, device);
    }
    let weights = match finetuned_in(path)? {
        Some(file) => file,
        None => weights_file(path),
    };
    Encoder::open(weights, None, options, device)
}

/// Opens the weights that are given, images prepared as they say, else as `run` did; without
/// weights, those that the run left.
///
/// # Errors
/// As [`open_encoder`]; also when neither is given.
pub fn choose_encoder(
    run: Option<&Path>,
    weights: Option<&Path>,
    options: &OpenOptions,
    device: &Device,
) -> Result<Encoder, EvalError> {
    match (run, weights) {
        (None, None) => Err(EvalError::Setting {
            setting: "run",
            reason: "give --run RUN or --weights FILE".to_owned(),
        }),
        (Some(path), None) | (None, Some(path)) => open_encoder(path, options, device),
        (Some(run), Some(weights)) => {
            let run = Run::open(run)?;
            if !weights.exists() {
                let advice = "give a file of weights: safetensors or .pth".to_owned();
                return Err(EvalError::NoWeights { path: weights.to_owned(), advice });
            }
            let weights = finetuned_in(weights)?.unwrap_or_else(|| weights_file(weights));
            Encoder::open(weights, Some(run), options, device)
        }
    }
}

/// The classifier in the folder of a fine-tuning or of one of its seeds; `None` for any other path.
fn finetuned_in(path: &Path) -> Result<Option<PathBuf>, EvalError> {
    let of =
        |folder: &Path| Some(folder.join("finetuned.safetensors")).filter(|file| file.is_file());
    if let Some(file) = of(path) {
        return Ok(Some(file));
    }
    if !path.join("finetune.toml").is_file() {
        return Ok(None);
    }
    // Seeds are numbered from 0.
    let first =
        (0..).map(|seed| path.join(format!("seed-{seed}"))).take_while(|seed| seed.is_dir());
    let file = first.filter_map(|seed| of(&seed)).next();
    let unfinished = || EvalError::NoWeights {
        path: path.join("seed-0/finetuned.safetensors"),
        advice: format!(
            "the fine-tuning has not ended; finish it with {}",
            command_line(&format!("finetune --resume {}", shell_word(&path.to_string_lossy())))
        ),
    };
    file.map(Some).ok_or_else(unfinished)
}

impl Encoder {
    fn open(
        weights: PathBuf,
        run: Option<Run>,
        options: &OpenOptions,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let opened = open_weights(&weights, options, device)?;
        let OpenedWeights {
            vit,
            pooling,
            head,
            preprocessing,
            classes,
            beside,
            ignored,
            network,
            other_networks,
        } = opened;
        let geometry = geometry(vit.config());
        let preparation_said = preprocessing.is_some() || run.is_some();
        let preparation = match &run {
            Some(run) => Preparation { geometry, ..run.preparation() },
            None => Preparation::imagenet(geometry),
        };
        let preparation = match preprocessing {
            Some(own) => preparation.with(own),
            None => preparation,
        };
        Ok(Self {
            vit,
            pooling,
            head,
            classes,
            preparation,
            preparation_said,
            beside,
            ignored,
            network,
            other_networks,
            weights,
            run,
        })
    }

    /// How images are prepared, in the words of files of weights.
    pub fn preprocessing(&self) -> Preprocessing {
        self.preparation.preprocessing()
    }

    /// Where the file holds several networks: which was taken, and how another is.
    pub fn network_note(&self) -> Option<String> {
        let called = |name: &str| match name {
            "" => "the one without a prefix".to_owned(),
            name => format!("`{name}`"),
        };
        let names: Vec<String> = self.other_networks.iter().map(|name| called(name)).collect();
        (!names.is_empty()).then(|| {
            format!(
                "note: {} holds {} networks: {} is taken, {} not; --prefix NAME takes another",
                self.weights.display(),
                names.len() + 1,
                called(&self.network),
                names.join(", ")
            )
        })
    }

    /// What a class is called: its name, or its number where it has none.
    pub fn class_name(&self, class: usize) -> String {
        self.classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_model::{VitConfig, save_weights};

    #[test]
    fn a_file_decides_its_pooling_and_a_folder_that_has_not_ended_says_so() {
        let (device, options) = (Device::default(), OpenOptions::default());
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 1, heads: 2, mlp_ratio: 4 };
        let vit = Vit::new(&config, 1, &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        for (vit, pooling) in
            [(vit.clone(), Pooling::Cls), (vit.without_cls_token(), Pooling::Mean)]
        {
            save_weights(&vit, &path, &[]).unwrap();
            let encoder = open_encoder(&path, &options, &device).unwrap();
            assert_eq!((encoder.pooling, encoder.preparation_said), (pooling, false));
            assert!(encoder.head.is_none() && encoder.preparation.geometry.image_px == 8);
        }
        std::fs::write(folder.path().join("finetune.toml"), "").unwrap();
        let error = open_encoder(folder.path(), &options, &device).unwrap_err().to_string();
        assert!(error.contains("finetune --resume"), "{error}");
        let error = choose_encoder(None, None, &options, &device).unwrap_err().to_string();
        assert!(error.contains("--run RUN or --weights FILE"), "{error}");
    }
}
