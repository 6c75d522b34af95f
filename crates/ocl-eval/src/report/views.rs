//! What a method sees of images: the crops and patches of a run's first batch, made by the loader
//! that trains.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ocl_data::{
    Batch, EvalView, Keep, Loader, LoaderConfig, RgbImage, Source, Split, TrainView, View,
    centre_crop,
};
use ocl_train::{Learner, Method, Plan};

use super::grid::write_titled;
use super::paint::{LEAST_PX, Paint, chosen};
use crate::error::EvalError;

/// What a method sees of the first images of a run's first batch: the title of each column, and a
/// row of pictures for each image.
///
/// The first column is the whole image, cut to a square. With a `learner` of MAE the last is what
/// its decoder makes of the hidden patches.
///
/// # Errors
/// When the images cannot be read, or the device fails.
pub fn views(
    plan: &Plan,
    source: &Arc<Source>,
    learner: Option<&Learner>,
    images: usize,
) -> Result<(Vec<String>, Vec<Vec<RgbImage>>), EvalError> {
    let batch = first_batch(plan, source, plan.view(), images)?;
    let paint = Paint { geometry: plan.geometry(), normalisation: plan.normalisation() };
    let mut titles = vec!["image".to_owned()];
    let whole = EvalView {
        geometry: paint.geometry,
        normalisation: paint.normalisation,
        resize_ratio: 1.0,
    };
    let shown = 0..images.min(batch.images);
    let mut rows: Vec<Vec<RgbImage>> = vec![];
    for &sample in &batch.samples[shown.clone()] {
        let image = source.image(sample as usize).map_err(|error| EvalError::Setting {
            setting: "data",
            reason: format!("{}: {}", source.name_of(sample as usize), ocl_data::in_words(&error)),
        })?;
        rows.push(vec![paint.enlarged(centre_crop(&image, &whole))]);
    }
    let mut column = |title: &str, batch: &Batch, crop: usize, seen: Range<usize>| {
        titles.push(title.to_owned());
        for (row, image) in rows.iter_mut().zip(shown.clone()) {
            row.push(paint.crop(batch, image, crop, seen.clone()));
        }
    };
    let all = 0..batch.kept;
    match &plan.method {
        Method::Ocl(_) => {
            // The loader makes no more than what is kept: the same crops once more, with all patches.
            let View::Train(view) = plan.view() else { unreachable!("a plan trains") };
            let crops = View::Train(TrainView { keep: Keep::All, ..view });
            let crops = first_batch(plan, source, crops, images)?;
            let half = batch.kept / 2;
            column("crop", &crops, 0, 0..crops.kept);
            column("view 1", &batch, 0, 0..half);
            column("view 2", &batch, 0, half..batch.kept);
        }
        Method::Mae(mae) => {
            let kept = mae.kept(batch.kept);
            column("crop", &batch, 0, all.clone());
            column("visible", &batch, 0, 0..kept);
            if let Some(Learner::Mae(learner)) = learner {
                let some = batch.of_images(shown.clone());
                let told = learner.reconstruct(some.clone());
                let patches = told.try_into_vec_as().map_err(EvalError::Device)?;
                column("reconstructed", &Batch { patches, ..some }, 0, all);
            }
        }
        Method::IJepa(_) => {
            column("crop", &batch, 0, all);
            let blocks = batch.blocks.as_ref().expect("a view of blocks draws them");
            let (kc, kt, m) = (blocks.context_len, blocks.target_len, blocks.blocks);
            let chosen = |ids: &[u32], len: usize| chosen(&batch, shown.len(), ids, len);
            let context = chosen(&blocks.context[..shown.len() * kc], kc);
            column("context", &context, 0, 0..kc);
            for target in 0..m {
                let ids: Vec<u32> = shown
                    .clone()
                    .flat_map(|image| &blocks.targets[(image * m + target) * kt..][..kt])
                    .copied()
                    .collect();
                column(&format!("target {}", target + 1), &chosen(&ids, kt), 0, 0..kt);
            }
        }
        Method::MocoV3(_) => {
            column("crop 1", &batch, 0, all.clone());
            column("crop 2", &batch, 1, all);
        }
    }
    Ok((titles, rows))
}

/// Writes [`views`] as PNG.
///
/// # Errors
/// As [`views`], and when the file cannot be written.
pub fn write_views(
    plan: &Plan,
    source: &Arc<Source>,
    learner: Option<&Learner>,
    images: usize,
    path: &Path,
) -> Result<(), EvalError> {
    let (titles, rows) = views(plan, source, learner, images)?;
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let side = rows.first().and_then(|row| row.first()).map_or(LEAST_PX, |image| image.width_px);
    write_titled(&titles, &rows, side, path)
}

/// The first images of the first batch, or all of it where an image's patches depend on the others.
fn first_batch(
    plan: &Plan,
    source: &Arc<Source>,
    view: View,
    images: usize,
) -> Result<Batch, EvalError> {
    let blocks = matches!(view, View::Train(TrainView { keep: Keep::Blocks(_), .. }));
    let config = LoaderConfig {
        batch: plan.batch,
        workers: plan.data.workers.max(1),
        seed: plan.seed,
        max_bad_share: 1.0,
        share: (!blocks).then(|| 0..images.clamp(1, plan.batch)),
        ..LoaderConfig::default()
    };
    let failed = |source| EvalError::Loader { split: Split::Train, source };
    let mut loader = Loader::start(Arc::clone(source), view, config).map_err(failed)?;
    let none = EvalError::Setting { setting: "data", reason: "no batch can be made".to_owned() };
    loader.next().ok_or(none)?.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::paint::HIDDEN;
    use super::*;
    use burn::tensor::Device;
    use ocl_train::Recipe;

    /// The columns that a method has, and the pictures of five images under each of them.
    fn columns(method: &str, with_learner: bool) -> (Vec<String>, Vec<Vec<RgbImage>>) {
        let overrides = [format!("method.name={method}"), "batch.size=64".to_owned()];
        let recipe = Recipe::load("embedded", &overrides).unwrap();
        let source = Arc::new(recipe.data.open(Split::Train).unwrap());
        let plan = Plan::resolve("embedded", &recipe, &source).unwrap();
        let learner =
            with_learner.then(|| plan.method.learner(&plan.model, 0, &Device::default()).unwrap());
        let (titles, rows) = views(&plan, &source, learner.as_ref(), 5).unwrap();
        let of_column = |column: usize| rows.iter().map(|row| row[column].clone()).collect();
        let columns = (0..titles.len()).map(of_column).collect();
        assert_eq!(rows.len(), 5);
        (titles, columns)
    }

    /// How many patches are shown, each as it is in the crop.
    fn shown(part: &RgbImage, crop: &RgbImage) -> usize {
        // 28 px in patches of 7, each pixel drawn 4 by 4.
        let patch = |image: &RgbImage, place: usize| -> Vec<u8> {
            let (top, left) = (place / 4 * 28, place % 4 * 28);
            let line = |y: usize| (y * 112 + left) * 3..(y * 112 + left + 28) * 3;
            (top..top + 28).flat_map(|y| image.pixels[line(y)].to_vec()).collect()
        };
        let seen = |place: &usize| patch(part, *place).iter().any(|level| *level != HIDDEN);
        let seen: Vec<usize> = (0..16).filter(seen).collect();
        assert!(seen.iter().all(|place| patch(part, *place) == patch(crop, *place)));
        seen.len()
    }

    #[test]
    #[allow(clippy::needless_range_loop, reason = "columns are compared row by row")]
    fn each_method_shows_what_it_learns_from() {
        let (titles, ocl) = columns("ocl", false);
        assert_eq!(titles, ["image", "crop", "view 1", "view 2"]);
        for row in 0..5 {
            let seen = [2, 3].map(|view| shown(&ocl[view][row], &ocl[1][row]));
            assert!(seen[0] == seen[1] && seen[0] > 0, "{seen:?}");
            let both = ocl[2][row].pixels.iter().zip(&ocl[3][row].pixels);
            assert!(both.into_iter().all(|(a, b)| *a == HIDDEN || *b == HIDDEN), "no patch twice");
        }
        let (titles, mae) = columns("mae", true);
        assert_eq!(titles, ["image", "crop", "visible", "reconstructed"]);
        for row in 0..5 {
            assert_eq!(shown(&mae[2][row], &mae[1][row]), 4, "a quarter of 16");
            let visible = mae[2][row].pixels.iter().zip(&mae[3][row].pixels);
            assert!(visible.into_iter().all(|(seen, told)| *seen == HIDDEN || seen == told));
            assert_ne!(mae[3][row], mae[1][row], "a decoder that learnt nothing");
        }
        let (titles, i_jepa) = columns("i-jepa", false);
        assert_eq!(titles[..3], ["image", "crop", "context"]);
        assert_eq!(titles.len(), 3 + 4);
        for row in 0..5 {
            for part in &i_jepa[2..] {
                assert!(shown(&part[row], &i_jepa[1][row]) > 0);
            }
        }
        let (titles, moco) = columns("moco-v3", false);
        assert_eq!(titles, ["image", "crop 1", "crop 2"]);
        assert!((0..5).all(|row| moco[1][row] != moco[2][row]));
        // All methods draw the same boxes from the same images.
        assert_eq!(ocl[1], mae[1]);
    }
}
