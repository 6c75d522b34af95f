//! One sample: draw the crop and the patches, then make just those pixels.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::stages::StageTimes;
use crate::augment::Augmenter;
use crate::decode::{ImageHeader, PartDecoder};
use crate::error::ImageError;
use crate::picture::{Crop, Normaliser, PatchCut, RgbImage};
use crate::random::{Draws, Purpose};
use crate::resample::Resampler;
use crate::source::{Room, Source, Stored};
use crate::view::{Frame, Keep, TrainView, View, centre_frame, draws_of, train_frame};

/// Makes samples of one view, one after the other; each worker has its own.
pub(crate) struct SampleMaker {
    view: View,
    seed: u64,
    normaliser: Normaliser,
    decoder: PartDecoder,
    resampler: Resampler,
    augmenter: Augmenter,
    bytes: Vec<u8>,
    image: RgbImage,
    /// Resized pixels: of one patch, or of the whole crop.
    pixels: Vec<u8>,
    /// The kept patches of the sample at hand, in order.
    kept: Vec<u32>,
    /// The sample's crops.
    frames: Vec<Frame>,
    /// What is made of each resized picture (the kept patches, or the whole crop), one crop after
    /// the other, and the boxes of the image that it is made from.
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
            augmenter: Augmenter::new(),
            bytes: Vec::new(),
            image: RgbImage::default(),
            pixels: Vec::new(),
            kept: Vec::new(),
            frames: Vec::new(),
            made: Vec::new(),
            sources: Vec::new(),
            path: PathBuf::new(),
            stages: StageTimes::default(),
        }
    }

    /// Writes the kept patches of a sample (`[C, K, P * P * 3]`) and appends their positions
    /// (`[C, K]`).
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
        self.frames.clear();
        match &self.view {
            View::Train(view) => {
                for crop in 0..self.view.crops() {
                    let draws = draws_of(self.seed, epoch, sample, crop);
                    self.frames.push(train_frame(view, width, height, draws, crop == 1));
                }
            }
            View::Eval(view) => self.frames.push(centre_frame(view, width, height)),
        }
        self.draw_kept(epoch, sample);
        self.plan();
        if let Some(header) = header {
            self.sources.clear();
            let each = self.made.len() / self.frames.len();
            for (frame, made) in self.frames.iter().zip(self.made.chunks(each)) {
                let resampler = &mut self.resampler;
                let source = |part| resampler.source_part(&frame.window, part);
                self.sources.extend(made.iter().map(source));
            }
            let (parts, image) = (&self.sources, &mut self.image);
            let decoded = self.decoder.decode(&header, &mut self.bytes, parts, image);
            let colour = self.decoder.colour_time();
            clock.lap(&mut self.stages.decode);
            self.stages.decode = self.stages.decode.saturating_sub(colour);
            self.stages.colour += colour;
            decoded?;
        }
        self.frames.iter().for_each(|_| positions.extend_from_slice(&self.kept));
        // Out of `self`, so that it can be read while buffers beside it are written.
        let image = std::mem::take(&mut self.image);
        let pixels = raw.map_or(image.pixels.as_slice(), |raw| raw.pixels);
        let frames = std::mem::take(&mut self.frames);
        let made = std::mem::take(&mut self.made);
        let (crop_len, each) = (patches.len() / frames.len(), made.len() / frames.len());
        for ((frame, made), out) in
            frames.iter().zip(made.chunks(each)).zip(patches.chunks_exact_mut(crop_len))
        {
            self.write_patches(pixels, width, frame, made, out, &mut clock);
        }
        (self.image, self.frames, self.made) = (image, frames, made);
        Ok(())
    }

    /// What was spent since this was last asked.
    pub(crate) fn take_stages(&mut self) -> StageTimes {
        std::mem::take(&mut self.stages)
    }

    fn draw_kept(&mut self, epoch: u64, sample: u32) {
        let total = self.view.geometry().patches();
        self.kept.clear();
        self.kept.extend(0..total as u32);
        if let View::Train(TrainView { keep: Keep::Random { .. }, .. }) = self.view {
            let kept = self.view.kept();
            Draws::new(self.seed, epoch, u64::from(sample), Purpose::Keep)
                .shuffle_front(&mut self.kept, kept);
            self.kept.truncate(kept);
        }
    }

    /// Decides what of the resized picture is made.
    ///
    /// Neighbouring patches share the pixels that their filters reach; when many are kept, making
    /// the crop once and cutting it is less work. The values are the same either way.
    fn plan(&mut self) {
        let geometry = self.view.geometry();
        let (patch_px, grid) = (geometry.patch_px, geometry.grid() as u32);
        self.made.clear();
        for frame in &self.frames {
            let part = |x_px, y_px, side| Crop {
                x_px: frame.x_px + x_px,
                y_px: frame.y_px + y_px,
                width_px: side,
                height_px: side,
            };
            // Blur and contrast need the whole crop.
            if self.kept.len() * 3 > geometry.patches() || frame.augmentation.is_some() {
                self.made.push(part(0, 0, geometry.image_px));
                continue;
            }
            self.made.extend(self.kept.iter().map(|patch| {
                let place = unmirrored(*patch, grid, frame.flipped);
                part(place % grid * patch_px, place / grid * patch_px, patch_px)
            }));
        }
    }

    fn write_patches(
        &mut self,
        pixels: &[u8],
        width_px: u32,
        frame: &Frame,
        made: &[Crop],
        out: &mut [f32],
        clock: &mut Clock,
    ) {
        let geometry = self.view.geometry();
        let flipped = frame.flipped;
        let whole = made[0].width_px == geometry.image_px;
        let mut places = out.chunks_exact_mut(geometry.patch_len());
        for part in made {
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
            if let Some(augmentation) = &frame.augmentation {
                let width = geometry.image_px as usize;
                self.augmenter.apply(&mut self.pixels, width, augmentation);
                clock.lap(&mut self.stages.augment);
            }
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
