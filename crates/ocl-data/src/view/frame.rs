//! Where a sample's crop lies, drawn or the centre.

use super::settings::{Augment, EvalView, TrainView};
use crate::augment::Augmentation;
use crate::picture::{Crop, RgbImage, sample_crop};
use crate::random::{Draws, Purpose};
use crate::resample::{Filter, Resampler, Window};

/// A resized picture, where in it the crop of `image_px` squared lies, and what becomes of that.
pub(crate) struct Frame {
    pub(crate) window: Window,
    pub(crate) x_px: u32,
    pub(crate) y_px: u32,
    pub(crate) flipped: bool,
    pub(crate) augmentation: Option<Augmentation>,
}

/// The streams of a sample's first or second crop: box, flip, colours.
pub(crate) fn draws_of(seed: u64, epoch: u64, sample: u32, crop: usize) -> [Draws; 3] {
    let purposes = match crop {
        0 => [Purpose::Crop, Purpose::Flip, Purpose::Augment],
        _ => [Purpose::SecondCrop, Purpose::SecondFlip, Purpose::SecondAugment],
    };
    purposes.map(|purpose| Draws::new(seed, epoch, u64::from(sample), purpose))
}

/// One random crop of an image; the streams are those of box, flip and colours.
pub(crate) fn train_frame(
    view: &TrainView,
    width: u32,
    height: u32,
    [mut crop, mut flip, mut colours]: [Draws; 3],
    second: bool,
) -> Frame {
    let side = view.geometry.image_px;
    let source = sample_crop(width, height, view.crop.scale, view.crop.ratio, &mut crop);
    let window = Window { source, width_px: side, height_px: side, filter: view.crop.filter };
    let augmentation = match view.augment {
        Augment::None => None,
        Augment::MocoV3 => Some(Augmentation::moco_v3(second, &mut colours)),
    };
    Frame { window, x_px: 0, y_px: 0, flipped: flip.unit() < view.crop.flip, augmentation }
}

/// The picture that [`EvalView`] cuts into patches: resized, its centre cut out.
pub fn centre_crop(image: &RgbImage, view: &EvalView) -> RgbImage {
    let frame = centre_frame(view, image.width_px, image.height_px);
    let side = view.geometry.image_px;
    let part = Crop { x_px: frame.x_px, y_px: frame.y_px, width_px: side, height_px: side };
    let mut pixels = vec![0; side as usize * side as usize * 3];
    Resampler::new().part(image, &frame.window, &part, &mut pixels);
    RgbImage::new(side, side, pixels)
}

/// torchvision's `Resize(short side)` and then `CenterCrop`.
pub(crate) fn centre_frame(view: &EvalView, width: u32, height: u32) -> Frame {
    let side = view.geometry.image_px;
    let short = view.short_px();
    let long = |a: u32, b: u32| {
        (u64::from(short) * u64::from(a) / u64::from(b)).min(u64::from(u32::MAX)) as u32
    };
    let (width_px, height_px) =
        if width <= height { (short, long(height, width)) } else { (long(width, height), short) };
    let offset = |len: u32| (f64::from(len - side) / 2.0).round_ties_even() as u32;
    let source = Crop { x_px: 0, y_px: 0, width_px: width, height_px: height };
    let window = Window { source, width_px, height_px, filter: Filter::Bicubic };
    let (x_px, y_px) = (offset(width_px), offset(height_px));
    Frame { window, x_px, y_px, flipped: false, augmentation: None }
}
