//! What can go wrong between a run folder and a number.

use std::path::PathBuf;

use crate::text::counted;

/// Why a representation could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A data set could not be opened.
    #[error("cannot open the {split} split")]
    Source {
        /// Which split.
        split: ocl_data::Split,
        /// The cause.
        #[source]
        source: ocl_data::SourceError,
    },
    /// The images have no labels, and every protocol counts how often a label is hit.
    #[error(
        "the data has no labels, which every protocol needs ({data}): give labelled data with \
         --data, for example a folder with train/CLASS/*.jpg and val/CLASS/*.jpg"
    )]
    NoLabels {
        /// The data set, in words.
        data: String,
    },
    /// A split has too little in it.
    #[error(
        "the {split} split of {data} holds {} of {}: at least 2 images of 2 classes are needed",
        counted(*images, "image", "images"),
        counted(*classes, "class", "classes")
    )]
    TooSmall {
        /// Which split.
        split: ocl_data::Split,
        /// The data set, in words.
        data: String,
        /// Its images.
        images: usize,
        /// Its classes.
        classes: usize,
    },
    /// The classes of the two splits are not the same.
    #[error(
        "train and test split differ in their classes, so labels mean different things: {difference}; \
         give both splits the same class folders"
    )]
    Classes {
        /// What is in one only.
        difference: String,
    },
    /// The loader stopped.
    #[error("cannot read the {split} split")]
    Loader {
        /// Which split.
        split: ocl_data::Split,
        /// The cause.
        #[source]
        source: ocl_data::LoaderError,
    },
    /// The encoder gave a feature that is NaN or infinite.
    #[error(
        "the encoder gives NaN or infinite values for {image}: the weights are damaged or the \
         training diverged"
    )]
    NotFinite {
        /// The first image with such a feature.
        image: String,
    },
    /// A setting that cannot work.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The probe's loss is NaN or infinite.
    #[error(
        "the linear probe's loss is NaN or infinite in epoch {epoch} at learning rate {lr}: lower the rate"
    )]
    Diverged {
        /// The epoch, from 0.
        epoch: usize,
        /// The rate at its end.
        lr: f64,
    },
    /// The loss of a fine-tuning is NaN or infinite.
    #[error(
        "the loss is NaN or infinite at step {step}, at learning rate {lr}: lower optim.base_lr"
    )]
    FinetuneDiverged {
        /// The step, from 1.
        step: u64,
        /// Its rate.
        lr: f64,
    },
    /// Another process failed, of those that share the images.
    #[error(transparent)]
    Elsewhere(#[from] ocl_train::Elsewhere),
    /// The processes do not come together.
    #[error(transparent)]
    World(#[from] ocl_train::WorldError),
    /// The device did not hand values back.
    #[error("cannot read from the device")]
    Device(#[source] burn::tensor::TensorReadError),
    /// The plan of the run could not be read.
    #[error(transparent)]
    Plan(ocl_train::PlanError),
    /// The backend cannot be used.
    #[error(transparent)]
    Backend(#[from] ocl_train::BackendError),
    /// The run has no final weights.
    #[error("{} does not exist: {advice}", path.display())]
    NoWeights {
        /// The file looked for.
        path: PathBuf,
        /// What to do.
        advice: String,
    },
    /// The weights could not be read.
    #[error("cannot load the encoder")]
    Weights(#[from] ocl_model::WeightsError),
    /// Weights without a classifier where one is needed.
    #[error(
        "{} holds an encoder without a classifier: train one on labelled images with {}",
        path.display(),
        ocl_train::command_line(&format!("finetune --weights {} --data PATH", path.display()))
    )]
    NoClassifier {
        /// The file.
        path: PathBuf,
    },
    /// What was found could not be told on.
    #[error("cannot write what was found")]
    Output(#[source] std::io::Error),
    /// The shape of the encoder is impossible.
    #[error("cannot build the encoder")]
    Config(#[from] ocl_model::ConfigError),
    /// A pre-training of a comparison ended in an error.
    #[error("the pre-training in {} failed", run.display())]
    Training {
        /// Its run folder.
        run: PathBuf,
        /// The cause.
        #[source]
        source: ocl_train::TrainError,
    },
    /// A picture could not be drawn.
    #[error("cannot draw the picture: {0}")]
    Picture(String),
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A recipe, or what was set over it, that cannot be used.
    #[error(transparent)]
    Overrides(#[from] ocl_train::RecipeError),
    /// A file of settings that cannot be used.
    #[error("{name}: {reason}")]
    Recipe {
        /// The file, or the built-in one.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}
