//! Nearest neighbours of query images as a picture: a row for each query, itself first.

use std::path::Path;

use burn::tensor::Device;
use ocl_data::{Batch, EvalView, Geometry, Normalisation, RgbImage, Source, centre_crop, patchify};
use ocl_model::Vit;

use crate::error::EvalError;
use crate::features::{ExtractConfig, Extractor, Features, Pool, append_features};

/// Side of a picture in the grid.
const SIDE_PX: u32 = 96;
/// White between pictures; twice as much after the query.
const GAP_PX: u32 = 6;

/// The feature of one picture.
///
/// # Errors
/// When the feature is not finite or the device fails.
pub fn feature_of(
    vit: &Vit,
    pool: Pool,
    image: &RgbImage,
    reading: &ExtractConfig,
    source: &Source,
    device: &Device,
) -> Result<Vec<f32>, EvalError> {
    let view = &reading.view;
    let count = view.geometry.patches();
    let batch = Batch {
        patches: patchify(&centre_crop(image, view), view.geometry, &view.normalisation),
        positions: (0..count as u32).collect(),
        samples: vec![0],
        images: 1,
        kept: count,
        patch_len: view.geometry.patch_len(),
        ..Batch::default()
    };
    let mut row = Vec::new();
    append_features(&Extractor::Encoder(vit, pool), &batch, reading, source, device, &mut row)?;
    Ok(row)
}

/// Reads an `.npy` file of features that [`embed`](crate::embed) wrote, `[N, D]`. Rows of images that could
/// not be read become zeros, which are near nothing.
///
/// # Errors
/// When it cannot be read or has another form.
pub fn read_features(path: &Path) -> Result<Features, EvalError> {
    let bytes = std::fs::read(path).map_err(|source| EvalError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    let form = || EvalError::Setting {
        setting: "features",
        reason: format!("{} is no .npy file of pooled features that embed wrote", path.display()),
    };
    let length = bytes.get(8..10).map(|length| u16::from_le_bytes([length[0], length[1]]));
    let start = 10 + usize::from(length.ok_or_else(form)?);
    let header = String::from_utf8_lossy(bytes.get(10..start).ok_or_else(form)?).into_owned();
    let inside =
        |(_, rest): (&str, &str)| rest.split_once(')').map(|(inside, _)| inside.to_owned());
    let shape = header.split_once("'shape': (").and_then(inside).ok_or_else(form)?;
    let sides: Vec<usize> = shape.split(',').filter_map(|side| side.trim().parse().ok()).collect();
    let &[images, width] = sides.as_slice() else { return Err(form()) };
    let values: Vec<f32> = bytes[start..]
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .map(|value| if value.is_nan() { 0.0 } else { value })
        .collect();
    if !header.contains("'<f4'") || width == 0 || values.len() != images * width {
        return Err(form());
    }
    Ok(Features::new(values, width, vec![0; images]))
}

/// Writes rows of pictures as PNG: each row a query and what is nearest to it.
///
/// # Errors
/// When the file cannot be written.
///
/// # Panics
/// If rows differ in length.
pub fn write_grid(rows: &[Vec<RgbImage>], path: &Path) -> Result<(), EvalError> {
    let columns = rows.first().map_or(0, Vec::len) as u32;
    let left = |column: u32| GAP_PX + column * (SIDE_PX + GAP_PX) + u32::from(column > 0) * GAP_PX;
    let (width, height) = (left(columns), GAP_PX + rows.len() as u32 * (SIDE_PX + GAP_PX));
    let mut pixels = vec![255; width as usize * height as usize * 3];
    let view = EvalView {
        geometry: Geometry { image_px: SIDE_PX, patch_px: SIDE_PX },
        normalisation: Normalisation::IMAGENET,
        resize_ratio: 1.0,
    };
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row.len() as u32, columns, "pictures of a row");
        let top = GAP_PX + number as u32 * (SIDE_PX + GAP_PX);
        for (column, image) in row.iter().enumerate() {
            let small = centre_crop(image, &view);
            for (y, line) in small.pixels.chunks_exact(SIDE_PX as usize * 3).enumerate() {
                let at = ((top as usize + y) * width as usize + left(column as u32) as usize) * 3;
                pixels[at..at + line.len()].copy_from_slice(line);
            }
        }
    }
    image::save_buffer(path, &pixels, width, height, image::ColorType::Rgb8).map_err(|error| {
        EvalError::Setting { setting: "grid", reason: format!("{}: {error}", path.display()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        let plain = |level: u8| RgbImage::new(10, 20, vec![level; 600]);
        write_grid(&[vec![plain(1), plain(2)], vec![plain(3), plain(4)]], &path).unwrap();
        let grid = ocl_data::decode(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((grid.width_px, grid.height_px), (6 + 96 + 12 + 96 + 6, 6 + 2 * 102));
        let at = |x: usize, y: usize| grid.pixels[(y * grid.width_px as usize + x) * 3];
        assert_eq!(
            [at(0, 0), at(50, 50), at(150, 50), at(50, 150), at(150, 150)],
            [255, 1, 2, 3, 4]
        );
    }

    #[test]
    fn a_file_of_another_form_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        std::fs::write(&path, b"short").unwrap();
        assert!(read_features(&path).unwrap_err().to_string().contains("x.npy"));
    }
}
