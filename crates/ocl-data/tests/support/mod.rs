//! What tests of the loader share.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ocl_data::{
    Augment, Filter, Geometry, Keep, Normalisation, Source, SourceKind, Split, TrainCrop,
    TrainView, View,
};

pub(crate) const GEOMETRY: Geometry = Geometry { image_px: 32, patch_px: 8 };

pub(crate) fn train(kept: usize) -> View {
    View::Train(TrainView {
        geometry: GEOMETRY,
        normalisation: Normalisation::IMAGENET,
        crop: TrainCrop {
            scale: (0.2, 1.0),
            ratio: (0.75, 4.0 / 3.0),
            flip: 0.5,
            filter: Filter::Bicubic,
        },
        augment: Augment::None,
        keep: Keep::Random { kept },
    })
}

/// A folder of `count` PNGs, of which those in `bad` are not images.
pub(crate) fn folder(dir: &Path, count: u32, bad: &[u32]) -> Arc<Source> {
    for number in 0..count {
        let path = dir.join(format!("{number:04}.png"));
        if bad.contains(&number) {
            fs::write(path, "not an image").unwrap();
        } else {
            let shade = |x: u32, y: u32| image::Rgb([(x * 5 + number) as u8, (y * 9) as u8, 77]);
            image::RgbImage::from_fn(40 + number % 5, 36, shade).save(path).unwrap();
        }
    }
    Arc::new(Source::open(dir.to_str().unwrap(), SourceKind::Auto, Split::Train).unwrap())
}
