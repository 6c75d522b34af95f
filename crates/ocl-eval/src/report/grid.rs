//! Pictures in rows and columns, as one picture.

use std::path::Path;

use ocl_data::{EvalView, Geometry, Normalisation, RgbImage, centre_crop};

use plotters::prelude::*;

use super::font::font;
use crate::error::EvalError;

/// Side of a picture in the grid.
const SIDE_PX: u32 = 96;
/// Height of the titles' line, and of their words.
const TITLE_PX: u32 = 22;
const WORDS_PX: u32 = 14;
/// White between pictures; twice as much after the first of a row.
const GAP_PX: u32 = 6;

/// Writes rows of pictures as PNG: each row a query and what is nearest to it.
///
/// # Errors
/// When the file cannot be written.
///
/// # Panics
/// If rows differ in length.
pub fn write_grid(rows: &[Vec<RgbImage>], path: &Path) -> Result<(), EvalError> {
    write_titled(&[], rows, SIDE_PX, path)
}

/// The same with a title over each column and pictures of another side.
pub(super) fn write_titled(
    titles: &[&str],
    rows: &[Vec<RgbImage>],
    side_px: u32,
    path: &Path,
) -> Result<(), EvalError> {
    let columns = rows.first().map_or(0, Vec::len) as u32;
    let left = |column: u32| GAP_PX + column * (side_px + GAP_PX) + u32::from(column > 0) * GAP_PX;
    let head = if titles.is_empty() { 0 } else { TITLE_PX };
    let (width, height) = (left(columns), head + GAP_PX + rows.len() as u32 * (side_px + GAP_PX));
    let mut pixels = vec![255; width as usize * height as usize * 3];
    if !titles.is_empty() {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        for (column, title) in (0..).zip(titles) {
            let place = (left(column) as i32, GAP_PX as i32);
            let text = Text::new(*title, place, (font(), WORDS_PX));
            area.draw(&text).map_err(|error| EvalError::Picture(error.to_string()))?;
        }
    }
    let view = EvalView {
        geometry: Geometry { image_px: side_px, patch_px: side_px },
        normalisation: Normalisation::IMAGENET,
        resize_ratio: 1.0,
    };
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row.len() as u32, columns, "pictures of a row");
        let top = head + GAP_PX + number as u32 * (side_px + GAP_PX);
        for (column, image) in row.iter().enumerate() {
            let small = centre_crop(image, &view);
            for (y, line) in small.pixels.chunks_exact(side_px as usize * 3).enumerate() {
                let at = ((top as usize + y) * width as usize + left(column as u32) as usize) * 3;
                pixels[at..at + line.len()].copy_from_slice(line);
            }
        }
    }
    image::save_buffer(path, &pixels, width, height, image::ColorType::Rgb8)
        .map_err(|error| EvalError::Picture(format!("{}: {error}", path.display())))
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
}
