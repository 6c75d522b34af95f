//! What an encoder sees of images, as pictures: components of its patch tokens, where its heads look,
//! which patches are alike, and what occlusion does to its embedding.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use ocl_data::{Batch, Draws, EvalView, Purpose, RgbImage, centre_crop};
use ocl_model::{Pooling, Vit};

use super::components::components;
use super::grid::write_titled;
use super::paint::{Paint, chosen, heat};
use crate::error::EvalError;
use crate::features::{batch_of, tokens};

/// Shares of the patches that are left out, for [`Inspection::write`].
const MASK_RATIOS: [f64; 7] = [0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95];
/// Most heads that are shown, beside their mean.
const HEADS: usize = 6;

/// An encoder and the images that it is shown.
#[derive(Debug)]
pub struct Inspection<'a> {
    /// The encoder.
    pub vit: &'a Vit,
    /// What of its output is the feature of an image.
    pub pooling: Pooling,
    /// How images become patches.
    pub view: EvalView,
    /// The images.
    pub images: &'a [RgbImage],
    /// Seed of the patches that are left out.
    pub seed: u64,
    /// Where the encoder lies.
    pub device: &'a Device,
}

impl Inspection<'_> {
    /// Writes `components.png`, `attention.png`, `similarity.png` and `occlusion.png` to a folder,
    /// and gives their paths.
    ///
    /// # Errors
    /// When the folder cannot be written or the device fails.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, EvalError> {
        std::fs::create_dir_all(folder).map_err(|source| EvalError::File {
            doing: "create",
            path: folder.to_owned(),
            source,
        })?;
        let batch = batch_of(self.images, &self.view);
        let paint = Paint { geometry: self.view.geometry, normalisation: self.view.normalisation };
        let crop = |image| paint.enlarged(centre_crop(image, &self.view));
        let crops: Vec<RgbImage> = self.images.iter().map(crop).collect();
        let side = crops.first().map_or(0, |image| image.width_px);
        let patch_tokens = self.patch_tokens(&batch)?;
        let pictures = [
            ("components.png", self.components(&patch_tokens, &paint)),
            ("attention.png", self.attention(&batch, &paint)?),
            ("similarity.png", self.similarity(&patch_tokens, &paint)),
            ("occlusion.png", self.occlusion(&batch, &paint)?),
        ];
        let mut written = vec![];
        for (name, Columns { titles, columns }) in pictures {
            let titles: Vec<&str> =
                std::iter::once("image").chain(titles.iter().map(String::as_str)).collect();
            let row = |i: usize| {
                std::iter::once(&crops[i]).chain(columns.iter().map(move |column| &column[i]))
            };
            let rows: Vec<Vec<RgbImage>> =
                (0..crops.len()).map(|i| row(i).cloned().collect()).collect();
            let path = folder.join(name);
            write_titled(&titles, &rows, side, &path)?;
            written.push(path);
        }
        Ok(written)
    }

    /// Patch tokens after the encoder's norm, `[N, L, D]`.
    fn patch_tokens(&self, batch: &Batch) -> Result<Vec<f32>, EvalError> {
        let x = self.vit.encode(tokens(self.vit, batch, 0..batch.images, self.device));
        let x = x.narrow(1, usize::from(self.vit.has_cls_token()), batch.kept);
        x.try_into_vec_as().map_err(EvalError::Device)
    }

    /// The first three principal components of all images' patch tokens as red, green and blue: one
    /// colour is one direction in all images.
    fn components(&self, patch_tokens: &[f32], paint: &Paint) -> Columns {
        let colours = components(patch_tokens, self.vit.config().width);
        let images = colours.chunks(self.view.geometry.patches());
        let column = images.map(|image| paint.patches(image)).collect();
        Columns { titles: vec!["components".to_owned()], columns: vec![column] }
    }

    /// Where the class token of the last block looks: the mean of its heads, and some of them. Each
    /// map is scaled to its own greatest value.
    fn attention(&self, batch: &Batch, paint: &Paint) -> Result<Columns, EvalError> {
        let attention =
            self.vit.last_attention(tokens(self.vit, batch, 0..batch.images, self.device));
        let [_, heads, patches] = attention.dims();
        let mean = attention.clone().mean_dim(1); // [N, 1, L]
        let shown = heads.min(HEADS);
        let maps = Tensor::cat(vec![mean, attention.narrow(1, 0, shown)], 1); // [N, 1+h, L]
        let maps: Vec<f32> = maps.try_into_vec_as().map_err(EvalError::Device)?;
        let mut result = Columns::default();
        for map in 0..=shown {
            let title = if map == 0 { format!("mean of {heads}") } else { format!("head {map}") };
            let column = (0..batch.images).map(|image| {
                let values = &maps[(image * (1 + shown) + map) * patches..][..patches];
                let most = values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
                paint.patches(&values.iter().map(|value| heat(value / most)).collect::<Vec<_>>())
            });
            result.push(title, column.collect());
        }
        Ok(result)
    }

    /// How alike all patch tokens are to one, by cosine: three patches on the diagonal of the image.
    fn similarity(&self, patch_tokens: &[f32], paint: &Paint) -> Columns {
        let (patches, d) = (self.view.geometry.patches(), self.vit.config().width);
        let grid = self.view.geometry.grid();
        let mut result = Columns::default();
        for quarter in 1..4 {
            let at = grid * quarter / 4;
            let query = at * grid + at;
            let column = patch_tokens.chunks(patches * d).map(|image| {
                let token = |patch: usize| &image[patch * d..][..d];
                let colour = |patch: usize| match patch == query {
                    true => [255, 255, 255],
                    false => heat(cosine(token(query), token(patch))),
                };
                paint.patches(&(0..patches).map(colour).collect::<Vec<_>>())
            });
            result.push(format!("like patch {}", query + 1), column.collect());
        }
        result
    }

    /// The patches that stay at each mask ratio, and, in the titles, the mean cosine of what the
    /// encoder makes of them with what it makes of all.
    fn occlusion(&self, batch: &Batch, paint: &Paint) -> Result<Columns, EvalError> {
        let patches = batch.kept;
        let mut order: Vec<Vec<u32>> = vec![];
        for image in 0..batch.images {
            let mut places: Vec<u32> = (0..patches as u32).collect();
            let mut draws = Draws::new(self.seed, 0, image as u64, Purpose::Occluded);
            draws.shuffle_front(&mut places, patches);
            order.push(places);
        }
        let feature = |batch: &Batch| -> Result<Vec<f32>, EvalError> {
            let tokens = tokens(self.vit, batch, 0..batch.images, self.device);
            self.vit.pooled(tokens, self.pooling).try_into_vec_as().map_err(EvalError::Device)
        };
        let whole = feature(batch)?;
        let width = whole.len() / batch.images.max(1);
        let mut result = Columns::default();
        for ratio in MASK_RATIOS {
            let kept = ((patches as f64 * (1.0 - ratio)).round() as usize).max(1);
            let places = order.iter().flat_map(|places| &places[..kept]);
            let some = chosen(batch, batch.images, &places.copied().collect::<Vec<_>>(), kept);
            let features = feature(&some)?;
            let pairs = features.chunks(width).zip(whole.chunks(width));
            let cosines = pairs.map(|(some, all)| cosine(some, all));
            let mean = cosines.sum::<f32>() / batch.images.max(1) as f32;
            let title = format!("{:.0} %: cos {mean:.2}", ratio * 100.0);
            let column = (0..batch.images).map(|image| paint.crop(&some, image, 0, 0..kept));
            result.push(title, column.collect());
        }
        Ok(result)
    }
}

/// Pictures of all images, by column.
#[derive(Default)]
struct Columns {
    titles: Vec<String>,
    columns: Vec<Vec<RgbImage>>,
}

impl Columns {
    fn push(&mut self, title: String, column: Vec<RgbImage>) {
        self.titles.push(title);
        self.columns.push(column);
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Preparation;
    use ocl_data::Geometry;
    use ocl_model::VitConfig;

    #[test]
    fn pictures_have_a_row_for_each_image() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::default();
        let config =
            VitConfig { image_px: 32, patch_px: 8, width: 16, depth: 2, heads: 2, mlp_ratio: 4 };
        let vit = Vit::new(&config, 1, &device).unwrap();
        let view = Preparation::imagenet(Geometry { image_px: 32, patch_px: 8 }).view();
        let image = |shade: u8| {
            RgbImage::new(40, 50, (0..40 * 50 * 3).map(|i| (i as u8).wrapping_mul(shade)).collect())
        };
        for (pooling, vit) in
            [(Pooling::Cls, vit.clone()), (Pooling::Mean, vit.without_cls_token())]
        {
            let images = [image(3), image(5), image(7)];
            let inspection =
                Inspection { vit: &vit, pooling, view, images: &images, seed: 0, device: &device };
            let files = inspection.write(&folder.path().join("a/b")).unwrap();
            let columns = [2, 1 + 1 + 2, 1 + 3, 1 + MASK_RATIOS.len() as u32];
            for (file, columns) in files.iter().zip(columns) {
                let picture = image::open(file).unwrap();
                // Pictures of 128 px with 6 px between them, 12 after the first of a row.
                assert_eq!(picture.width(), 6 + columns * 134 + 6, "{}", file.display());
                assert_eq!(picture.height(), 22 + 6 + 3 * 134);
            }
        }
    }
}
