//! Features of both splits of labelled data, under one subject or several.

use std::time::Instant;

use burn::tensor::Device;
use ocl_data::Split;
use ocl_model::Pooling;
use ocl_train::World;

use super::extract::{ExtractConfig, Extractor, extract};
use super::labelled::Labelled;
use super::pixels::drop_copied_channels;
use super::preparation::Preparation;
use super::subject::Subject;
use super::values::Features;
use crate::error::EvalError;
use crate::progress::Progress;

/// Features of both splits under one subject.
#[derive(Clone, Debug)]
pub struct Splits {
    /// The bank, or what the probe is trained on.
    pub train: Features,
    /// What is measured.
    pub test: Features,
}

/// Everything that a protocol may look at.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// Whose features.
    pub subject: &'a Subject,
    /// What of the encoder's output is the feature.
    pub pool: Pooling,
    /// Features of both splits' centre views.
    pub splits: &'a Splits,
    /// The images.
    pub data: &'a Labelled,
    /// How they are read.
    pub reading: &'a ExtractConfig,
    /// At most so many training and test images.
    pub limits: [Option<usize>; 2],
}

impl Material<'_> {
    pub(crate) fn extractor(&self) -> Extractor<'_> {
        self.subject.extractor(self.pool)
    }
}

/// How images are encoded.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// What of the encoder's output is the feature.
    pub pool: Pooling,
    /// Images encoded at a time.
    pub encode_batch: usize,
    /// At most so many training and test images.
    pub limits: [Option<usize>; 2],
}

/// Features of `data` under each subject, in one pass over the images that the processes of `world`
/// share; how they were read; and the seconds it took. The root alone gets features.
///
/// # Errors
/// As [`extract`](crate::extract).
///
/// # Panics
/// If encoders of different sides are asked for at once.
pub fn features(
    world: &World,
    preparation: &Preparation,
    subjects: &[Subject],
    data: &Labelled,
    how: &Extraction,
    device: &Device,
    progress: &mut Progress,
) -> Result<(Vec<Splits>, ExtractConfig, f64), EvalError> {
    for (setting, limit) in ["max-train", "max-test"].into_iter().zip(how.limits) {
        if limit.is_some_and(|limit| limit < 2) {
            let reason = "at least 2 images are needed".to_owned();
            return Err(EvalError::Setting { setting, reason });
        }
    }
    let started = Instant::now();
    // Weights from elsewhere may be of another size than the run's.
    let mut sides = subjects.iter().filter_map(Subject::geometry);
    let geometry = sides.next().unwrap_or(preparation.geometry);
    for other in sides {
        assert_eq!(other, geometry, "encoders of different sides");
    }
    let config = Preparation { geometry, ..preparation.clone() }.reading(how.encode_batch);
    let extractors: Vec<_> = subjects.iter().map(|subject| subject.extractor(how.pool)).collect();
    let mut read = |split, limit| {
        let subset = data.sample(split, limit);
        extract(world, &extractors, data.split(split), split, subset, &config, device, progress)
    };
    let [train_limit, test_limit] = how.limits;
    let (train, test) = (read(Split::Train, train_limit)?, read(Split::Test, test_limit)?);
    let splits = train.into_iter().zip(test).zip(subjects).map(|((train, test), subject)| {
        let mut splits = Splits { train, test };
        if matches!(subject, Subject::RawPixels) && world.is_root() {
            let norm = config.view.normalisation;
            drop_copied_channels(&mut splits.train, &mut splits.test, norm);
        }
        splits
    });
    let splits = splits.collect();
    progress.clear();
    Ok((splits, config, started.elapsed().as_secs_f64()))
}
