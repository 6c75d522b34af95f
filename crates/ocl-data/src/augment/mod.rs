//! What is done to the colours of a crop, on 8-bit RGB, equal to Pillow and torchvision bit for
//! bit.

mod blur;
mod colour;
mod erase;
mod hue;
mod mix;
mod randaugment;
mod supervised;

pub use mix::Mix;
pub(crate) use supervised::ImageMaker;
pub use supervised::SupervisedAugment;

use crate::random::Draws;

/// Brightness, contrast and saturation are multiplied by these, hue is turned by a share of a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    /// Factor of brightness, at least 0.
    pub brightness: f64,
    /// Factor of contrast, at least 0.
    pub contrast: f64,
    /// Factor of saturation, at least 0.
    pub saturation: f64,
    /// Turn of the hue, -0.5 to 0.5.
    pub hue: f64,
    /// In which order: 0 brightness, 1 contrast, 2 saturation, 3 hue.
    pub order: [u8; 4],
}

/// What one crop undergoes, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// Colour jitter.
    pub jitter: Option<Jitter>,
    /// Whether colours go.
    pub grey: bool,
    /// Deviation of a blur, in pixels.
    pub blur: Option<f64>,
    /// Whether bright levels are inverted: those of at least 128.
    pub solarize: bool,
}

impl Augmentation {
    /// Draws what MoCo v3 does to an image's first or second crop (arXiv 2104.02057, after BYOL).
    pub fn moco_v3(second: bool, draws: &mut Draws) -> Augmentation {
        let jitter = (draws.unit() < 0.8).then(|| {
            let mut order = [0, 1, 2, 3];
            let [brightness, contrast] = [(); 2].map(|()| draws.between(0.6, 1.4));
            let saturation = draws.between(0.8, 1.2);
            let hue = draws.between(-0.1, 0.1);
            draws.shuffle_front(&mut order, 4);
            Jitter { brightness, contrast, saturation, hue, order }
        });
        let grey = draws.unit() < 0.2;
        let (blurs, solarizes) = if second { (0.1, 0.2) } else { (1.0, 0.0) };
        let blur = (draws.unit() < blurs).then(|| draws.between(0.1, 2.0));
        Augmentation { jitter, grey, blur, solarize: draws.unit() < solarizes }
    }
}

/// Applies augmentations, keeping memory from one to the next.
#[derive(Debug, Default)]
pub struct Augmenter {
    scratch: Vec<u8>,
    sums: Vec<u32>,
}

impl Augmenter {
    /// An empty one.
    pub fn new() -> Augmenter {
        Augmenter::default()
    }

    /// Applies `what` to a picture, `[height, width, 3]`.
    ///
    /// # Panics
    /// If there are no whole rows.
    pub fn apply(&mut self, pixels: &mut [u8], width_px: usize, what: &Augmentation) {
        assert!(width_px > 0 && pixels.len().is_multiple_of(width_px * 3), "rows of {width_px} px");
        if let Some(jitter) = &what.jitter {
            for step in jitter.order {
                match step {
                    0 => colour::brightness(pixels, jitter.brightness),
                    1 => colour::contrast(pixels, jitter.contrast),
                    2 => colour::saturation(pixels, jitter.saturation),
                    _ => hue::turn(pixels, jitter.hue),
                }
            }
        }
        if what.grey {
            colour::grey(pixels);
        }
        if let Some(deviation) = what.blur {
            blur::blur(pixels, width_px, deviation, &mut self.scratch, &mut self.sums);
        }
        if what.solarize {
            colour::solarize(pixels);
        }
    }
}
