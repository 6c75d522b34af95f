//! One sample: draw the crop and the patches, then make just those pixels.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::decode::{ImageHeader, PartDecoder};
use crate::error::ImageError;
use crate::loader::StageTimes;
use crate::normalise::Normaliser;
use crate::patchify::PatchCut;
use crate::pixels::RgbImage;
use crate::random::{Purpose, draws};
use crate::resample::{Resampler, Window};
use crate::source::{Room, Source, Stored};
use crate::view::{Crop, EvalView, Keep, TrainView, View, sample_crop};

/// Makes samples of one view, one after the other; each worker has its own.
pub(crate) struct SampleMaker {
    view: View,
    seed: u64,
    normaliser: Normaliser,
    decoder: PartDecoder,
    resampler: Resampler,
    bytes: Vec<u8>,
    image: RgbImage,
    /// Resized pixels: of one patch, or of the whole crop.
    pixels: Vec<u8>,
    /// The kept patches of the sample at hand, in order.
    kept: Vec<u32>,
    /// What is made of the resized picture (the kept patches, or the whole crop), and the boxes of the
    /// image that it is made from.
    made: Vec<Crop>,
    sources: Vec<Crop>,
    /// The path of the file at hand.
    path: PathBuf,
    stages: StageTimes,
}

impl SampleMaker {
    /// The view must have passed its check.
    pub(crate) fn new(view: View, seed: u64) -> SampleMaker {
        SampleMaker {
            view,
            seed,
            normaliser: Normaliser::new(&view.normalisation()),
            decoder: PartDecoder::new(),
            resampler: Resampler::new(),
            bytes: Vec::new(),
            image: RgbImage::default(),
            pixels: Vec::new(),
            kept: Vec::new(),
            made: Vec::new(),
            sources: Vec::new(),
            path: PathBuf::new(),
            stages: StageTimes::default(),
        }
    }

    /// Writes the kept patches of a sample (`[K, P * P * 3]`) and appends their positions (`[K]`).
    ///
    /// # Errors
    /// If the image cannot be read; the positions are then as before.
    pub(crate) fn make(
        &mut self,
        source: &Source,
        epoch: u64,
        sample: u32,
        patches: &mut [f32],
        positions: &mut Vec<u32>,
    ) -> Result<(), ImageError> {
        self.stages.images += 1;
        let mut clock = Clock::start();
        let room = Room { path: &mut self.path, bytes: &mut self.bytes, image: &mut self.image };
        let stored = source.fetch(sample as usize, room);
        clock.lap(&mut self.stages.read);
        let (header, raw) = match stored? {
            Stored::Encoded => (Some(ImageHeader::read(&self.bytes)?), None),
            Stored::Pixels => (None, None),
            Stored::Raw(raw) => (None, Some(raw)),
        };
        let (width, height) = match (&header, &raw) {
            (Some(header), _) => (header.width_px, header.height_px),
            (_, Some(raw)) => (raw.width_px, raw.height_px),
            _ => (self.image.width_px, self.image.height_px),
        };
        let (frame, flipped) = match &self.view {
            View::Train(view) => self.train_frame(view, width, height, epoch, sample),
            View::Eval(view) => (center_frame(view, width, height), false),
        };
        self.draw_kept(epoch, sample);
        self.plan(&frame, flipped);
        if let Some(header) = header {
            self.sources.clear();
            let resampler = &mut self.resampler;
            let source = |part| resampler.source_part(&frame.window, part);
            self.sources.extend(self.made.iter().map(source));
            let (parts, image) = (&self.sources, &mut self.image);
            let decoded = self.decoder.decode(&header, &mut self.bytes, parts, image);
            let colour = self.decoder.colour_time();
            clock.lap(&mut self.stages.decode);
            self.stages.decode = self.stages.decode.saturating_sub(colour);
            self.stages.colour += colour;
            decoded?;
        }
        positions.extend_from_slice(&self.kept);
        // Out of `self`, so that it can be read while buffers beside it are written.
        let image = std::mem::take(&mut self.image);
        let pixels = raw.map_or(image.pixels.as_slice(), |raw| raw.pixels);
        self.write_patches(pixels, width, &frame, flipped, patches, &mut clock);
        self.image = image;
        Ok(())
    }

    /// What was spent since this was last asked.
    pub(crate) fn take_stages(&mut self) -> StageTimes {
        std::mem::take(&mut self.stages)
    }

    fn train_frame(
        &self,
        view: &TrainView,
        width: u32,
        height: u32,
        epoch: u64,
        sample: u32,
    ) -> (Frame, bool) {
        let sample = u64::from(sample);
        let side = view.geometry.image_px;
        let mut crop_draws = draws(self.seed, epoch, sample, Purpose::Crop);
        let source = sample_crop(width, height, view.scale, view.ratio, &mut crop_draws);
        let flipped = draws(self.seed, epoch, sample, Purpose::Flip).unit() < view.flip;
        let window = Window { source, width_px: side, height_px: side };
        (Frame { window, x_px: 0, y_px: 0 }, flipped)
    }

    fn draw_kept(&mut self, epoch: u64, sample: u32) {
        let total = self.view.geometry().patches();
        self.kept.clear();
        self.kept.extend(0..total as u32);
        if let View::Train(TrainView { keep: Keep::Random { .. }, .. }) = self.view {
            let kept = self.view.kept();
            draws(self.seed, epoch, u64::from(sample), Purpose::Keep)
                .shuffle_front(&mut self.kept, kept);
            self.kept.truncate(kept);
        }
    }

    /// Decides what of the resized picture is made.
    ///
    /// Neighbouring patches share the pixels that their filters reach; when many are kept, making the
    /// crop once and cutting it is less work. The values are the same either way.
    fn plan(&mut self, frame: &Frame, flipped: bool) {
        let geometry = self.view.geometry();
        let (patch_px, grid) = (geometry.patch_px, geometry.grid() as u32);
        let part = |x_px, y_px, side| Crop {
            x_px: frame.x_px + x_px,
            y_px: frame.y_px + y_px,
            width_px: side,
            height_px: side,
        };
        self.made.clear();
        if self.kept.len() * 3 > geometry.patches() {
            self.made.push(part(0, 0, geometry.image_px));
            return;
        }
        self.made.extend(self.kept.iter().map(|patch| {
            let place = unmirrored(*patch, grid, flipped);
            part(place % grid * patch_px, place / grid * patch_px, patch_px)
        }));
    }

    fn write_patches(
        &mut self,
        pixels: &[u8],
        width_px: u32,
        frame: &Frame,
        flipped: bool,
        out: &mut [f32],
        clock: &mut Clock,
    ) {
        let geometry = self.view.geometry();
        let whole = self.made[0].width_px == geometry.image_px;
        let mut places = out.chunks_exact_mut(geometry.patch_len());
        for part in &self.made {
            self.pixels.resize(part.width_px as usize * part.height_px as usize * 3, 0);
            self.resampler.part_of(pixels, width_px, &frame.window, part, &mut self.pixels);
            clock.lap(&mut self.stages.resize);
            if whole {
                break;
            }
            let row_len = geometry.patch_px as usize * 3;
            if let Some(out) = places.next() {
                self.normaliser.patch(&self.pixels, row_len, row_len, flipped, out);
            }
            clock.lap(&mut self.stages.normalise);
        }
        if whole {
            for (patch, out) in self.kept.iter().zip(places) {
                let grid_patch = unmirrored(*patch, geometry.grid() as u32, flipped);
                let cut = PatchCut { grid_patch, geometry, flipped };
                cut.write(&self.pixels, &self.normaliser, out);
            }
            clock.lap(&mut self.stages.normalise);
        }
    }
}

/// Tells how long each stage took.
struct Clock(Instant);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Adds what has passed since the last lap.
    fn lap(&mut self, stage: &mut Duration) {
        let now = Instant::now();
        *stage += now - self.0;
        self.0 = now;
    }
}

/// A mirrored crop has its patch column `c` where the unmirrored one has `grid - 1 - c`.
fn unmirrored(patch: u32, grid: u32, flipped: bool) -> u32 {
    let (y, x) = (patch / grid, patch % grid);
    y * grid + if flipped { grid - 1 - x } else { x }
}

/// A resized picture and where in it the crop of `image_px` squared lies.
struct Frame {
    window: Window,
    x_px: u32,
    y_px: u32,
}

/// The picture that [`View::Eval`] cuts into patches: resized, its centre cut out.
pub fn centre_crop(image: &RgbImage, view: &EvalView) -> RgbImage {
    let frame = center_frame(view, image.width_px, image.height_px);
    let side = view.geometry.image_px;
    let part = Crop { x_px: frame.x_px, y_px: frame.y_px, width_px: side, height_px: side };
    let mut pixels = vec![0; side as usize * side as usize * 3];
    Resampler::new().part(image, &frame.window, &part, &mut pixels);
    RgbImage::new(side, side, pixels)
}

/// torchvision's `Resize(short side)` and then `CenterCrop`.
fn center_frame(view: &EvalView, width: u32, height: u32) -> Frame {
    let side = view.geometry.image_px;
    let short = (f64::from(side) * view.resize_ratio).round() as u32;
    let long = |a: u32, b: u32| {
        (u64::from(short) * u64::from(a) / u64::from(b)).min(u64::from(u32::MAX)) as u32
    };
    let (width_px, height_px) =
        if width <= height { (short, long(height, width)) } else { (long(width, height), short) };
    let offset = |len: u32| (f64::from(len - side) / 2.0).round_ties_even() as u32;
    let source = Crop { x_px: 0, y_px: 0, width_px: width, height_px: height };
    let window = Window { source, width_px, height_px };
    Frame { window, x_px: offset(width_px), y_px: offset(height_px) }
}
