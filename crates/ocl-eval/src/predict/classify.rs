//! The most probable classes of each image.

use std::io;

use burn::tensor::{Device, activation::softmax};
use ocl_data::{RgbImage, SourceKind, Split};
use rayon::prelude::*;

use super::images::Images;
use crate::error::EvalError;
use crate::features::{Encoder, batch_of, tokens};
use crate::progress::Progress;

/// How images are classified.
#[derive(Clone, Copy, Debug)]
pub struct PredictOptions {
    /// Answers for each image, the most probable first; all classes if there are fewer.
    pub top: usize,
    /// What the paths hold; `auto` takes files as single images.
    pub kind: SourceKind,
    /// Which split of the data; without one the test split, or all where there is none.
    pub split: Option<Split>,
    /// Images encoded at a time.
    pub batch: usize,
}

/// One class with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The class's number, from 0.
    pub class: usize,
    /// Its name, or its number in words where it has none.
    pub name: String,
    /// The softmax of the logits, `0..=1`.
    pub probability: f32,
}

/// The most probable classes of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// The image's path or name.
    pub image: String,
    /// The most probable classes, best first; none for an image that cannot be read.
    pub answers: Vec<Answer>,
    /// Why the image cannot be read, if it cannot.
    pub error: Option<String>,
}

/// Classifies the images at `paths` and hands each answer to `tell`, in the order of the paths.
/// Returns how many images could not be read.
///
/// # Errors
/// When the weights have no classifier, a path is no data, `tell` fails, or the device does.
pub fn predict(
    encoder: &Encoder,
    paths: &[String],
    options: &PredictOptions,
    device: &Device,
    progress: &mut Progress,
    mut tell: impl FnMut(&Predicted) -> io::Result<()>,
) -> Result<usize, EvalError> {
    let no_classifier = || EvalError::NoClassifier { path: encoder.weights.clone() };
    let head = encoder.head.as_ref().ok_or_else(no_classifier)?;
    let view = encoder.preparation.reading(options.batch).view;
    let images = Images::open(paths, options.kind, options.split)?;
    let (total, mut done, mut unreadable) = (images.len(), 0, 0);
    progress.begin();
    for places in images.all().chunks(options.batch.max(1)) {
        let read: Vec<Result<RgbImage, String>> =
            places.par_iter().map(|place| place.read()).collect();
        let (mut shown, mut errors) = (vec![], vec![]);
        for image in read {
            errors.push(image.as_ref().err().cloned());
            shown.extend(image.ok());
        }
        let mut rows = vec![];
        if !shown.is_empty() {
            let batch = batch_of(&shown, &view);
            let tokens = tokens(&encoder.vit, &batch, 0..batch.images, device);
            let features = encoder.vit.pooled(tokens, encoder.pooling); // [N, D]
            let probabilities = softmax(head.forward(features), 1); // [N, C]
            rows = probabilities.try_into_vec_as::<f32>().map_err(EvalError::Device)?;
        }
        let classes = rows.len() / shown.len().max(1);
        let mut rows = rows.chunks_exact(classes.max(1));
        for (place, error) in places.iter().zip(errors) {
            let row = if error.is_none() { rows.next() } else { None };
            unreadable += usize::from(error.is_some());
            let answers = row.map_or(vec![], |row| best(row, options.top, encoder));
            tell(&Predicted { image: place.name(), answers, error }).map_err(EvalError::Output)?;
        }
        done += places.len();
        progress.images("classifying", done, total);
    }
    progress.clear();
    Ok(unreadable)
}

/// The `top` most probable classes; of equals the lower number first.
fn best(probabilities: &[f32], top: usize, encoder: &Encoder) -> Vec<Answer> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    let answer = |class: usize| Answer {
        class,
        name: encoder.class_name(class),
        probability: probabilities[class],
    };
    order.into_iter().take(top).map(answer).collect()
}
