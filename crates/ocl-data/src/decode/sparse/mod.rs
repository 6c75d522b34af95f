//! JPEG decoding of some parts of an image.
//!
//! Entropy-coded bits can only be read in order, so every block before the last one wanted is
//! passed over, several symbols in one look-up. Only blocks that a part touches are dequantised and
//! transformed, only its pixels are smoothed and coloured. Restart markers make it possible to
//! leave whole intervals unread. The levels are those of libjpeg, which the full decoder gives as
//! well.

mod bits;
mod colour;
mod frame;
mod huffman;
mod idct;

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::picture::Crop;
use crate::picture::RgbImage;
use bits::{Bits, Scan};
use colour::{Plane, Smoother, to_rgb};
use frame::{Frame, NATURAL};
use huffman::{END, Table, Tables};

/// Decodes parts of JPEGs, keeping tables and memory from one file to the next.
#[derive(Default)]
pub(super) struct SparseDecoder {
    tables: Tables,
    scan: Scan,
    /// For each minimum coded unit the blocks wanted of it, a bit each in coded order.
    wanted: Vec<u8>,
    /// Levels of luma and chroma, whole blocks.
    planes: [Vec<u8>; 3],
    cb: Smoother,
    cr: Smoother,
    /// The image as stored, where it is not upright.
    stored: RgbImage,
}

/// The most that the coefficients of a block may sum up to, without their signs. Beyond it sums
/// within the transform no longer fit 16 bits, and what libjpeg's vector code then gives is its own
/// affair. No picture comes near: 64 levels of -128 and 127 in turn have some 6,500 only as noise.
const MOST_SUM: u32 = 5_800;

/// The Huffman tables of a component.
#[derive(Clone, Copy)]
struct Coding<'a> {
    dc: &'a Table,
    ac: &'a Table,
}

impl SparseDecoder {
    /// Decodes `parts` (boxes of the upright image) into `image`, which then has the size of the
    /// whole upright image; what lies in no part is unspecified.
    ///
    /// Returns how long smoothing and colours took; `None` for a file that it does not serve or
    /// that is damaged: the full decoder has the last word.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        orientation: u8,
        parts: &[Crop],
        image: &mut RgbImage,
    ) -> Option<Duration> {
        let frame = Frame::read(bytes)?;
        let (width, height) = (frame.width_px, frame.height_px);
        let (units_x, units_y) = frame.units();
        self.wanted.clear();
        self.wanted.resize(units_x * units_y, 0);
        let side = [8 * frame.across as usize, 8 * frame.down as usize];
        for (c, plane) in self.planes.iter_mut().enumerate().take(frame.components) {
            let [across, down] = if c == 0 { side } else { [8, 8] };
            let len = units_x * across * units_y * down;
            if plane.len() < len {
                plane.resize(len, 0);
            }
        }
        let stored = |part: &Crop| part.stored(orientation, width, height);
        for part in parts {
            self.want(&frame, &stored(part));
        }
        self.scan.load(bytes.get(frame.data_at..)?)?;
        self.read_scan(bytes, &frame)?;

        let started = Instant::now();
        if orientation <= 1 {
            image.canvas(width, height);
            for part in parts {
                self.write(&frame, part, image);
            }
        } else {
            let mut turned = std::mem::take(&mut self.stored);
            turned.canvas(width, height);
            for part in parts {
                self.write(&frame, &stored(part), &mut turned);
            }
            let (width, height) = if orientation >= 5 { (height, width) } else { (width, height) };
            image.canvas(width, height);
            for part in parts {
                image.copy_upright(&turned, orientation, part);
            }
            self.stored = turned;
        }
        Some(started.elapsed())
    }

    /// Marks the blocks that a part (a box of the stored image) is made from.
    fn want(&mut self, frame: &Frame, part: &Crop) {
        let units_x = frame.units().0;
        let (across, down) = (frame.across as usize, frame.down as usize);
        let blocks = |start: u32, len: u32| start as usize / 8..(start + len).div_ceil(8) as usize;
        for by in blocks(part.y_px, part.height_px) {
            for bx in blocks(part.x_px, part.width_px) {
                let bit = by % down * across + bx % across;
                self.wanted[by / down * units_x + bx / across] |= 1 << bit;
            }
        }
        if frame.components == 1 {
            return;
        }
        // Smoothing looks at the sample to each side.
        let (width, height) = frame.chroma_size();
        let blocks = |start: u32, len: u32, factor: u32, limit: u32| {
            let margin = factor - 1;
            let first = (start / factor).saturating_sub(margin);
            let end = ((start + len).div_ceil(factor) + margin).min(limit);
            first as usize / 8..end.div_ceil(8) as usize
        };
        for by in blocks(part.y_px, part.height_px, frame.down, height) {
            for bx in blocks(part.x_px, part.width_px, frame.across, width) {
                self.wanted[by * units_x + bx] |= 0b11 << (across * down);
            }
        }
    }

    /// Reads as far as there is something wanted, and transforms that.
    fn read_scan(&mut self, bytes: &[u8], frame: &Frame) -> Option<()> {
        self.tables.begin();
        let mut places = [(0, 0); 3];
        for (c, place) in places.iter_mut().enumerate().take(frame.components) {
            *place = (
                self.tables.find(bytes, &frame.dc[c], true)?,
                self.tables.find(bytes, &frame.ac[c], false)?,
            );
        }
        let codings =
            places.map(|(dc, ac)| Coding { dc: self.tables.get(dc), ac: self.tables.get(ac) });
        let units = self.wanted.len();
        let interval = if frame.restart == 0 { units } else { frame.restart };
        if units.div_ceil(interval) != self.scan.intervals() {
            return None;
        }
        for number in 0..self.scan.intervals() {
            let first = number * interval;
            let all = &self.wanted[first..units.min(first + interval)];
            let Some(last) = all.iter().rposition(|&wanted| wanted != 0) else { continue };
            let bits = self.scan.interval(number);
            read_interval(
                bits,
                frame,
                &codings,
                first..first + last + 1,
                &self.wanted,
                &mut self.planes,
            )?;
        }
        Some(())
    }

    /// Colours a part (a box of the stored image).
    fn write(&mut self, frame: &Frame, part: &Crop, image: &mut RgbImage) {
        let units_x = frame.units().0;
        let (width, height) = (frame.width_px as usize, frame.height_px as usize);
        let xs = part.x_px as usize..(part.x_px + part.width_px) as usize;
        let stride = units_x * 8 * frame.across as usize;
        let luma = Plane { levels: &self.planes[0], stride, width, height };
        let (chroma_width, chroma_height) = frame.chroma_size();
        let chroma = |levels| Plane {
            levels,
            stride: units_x * 8,
            width: chroma_width as usize,
            height: chroma_height as usize,
        };
        let (cb, cr) = (chroma(&self.planes[1]), chroma(&self.planes[2]));
        let factors = (frame.across, frame.down);
        for y in part.y_px as usize..(part.y_px + part.height_px) as usize {
            let luma = luma.row(y, xs.clone());
            let rgb = &mut image.pixels[(y * width + xs.start) * 3..][..xs.len() * 3];
            if frame.components == 1 {
                for (pixel, level) in rgb.chunks_exact_mut(3).zip(luma) {
                    pixel.fill(*level);
                }
            } else {
                let cb = self.cb.row(&cb, factors, y, xs.clone());
                let cr = self.cr.row(&cr, factors, y, xs.clone());
                to_rgb(luma, cb, cr, rgb);
            }
        }
    }
}

/// Reads the units `units` of a restart interval. `None` where the bits make no sense.
fn read_interval(
    mut bits: Bits,
    frame: &Frame,
    codings: &[Coding; 3],
    units: Range<usize>,
    wanted: &[u8],
    planes: &mut [Vec<u8>; 3],
) -> Option<()> {
    let units_x = frame.units().0;
    let (across, down) = (frame.across as usize, frame.down as usize);
    let luma = across * down;
    let mut means = [0i32; 3];
    let mut block: idct::Block = [0; 65];
    for unit in units {
        let (unit_x, unit_y) = (unit % units_x, unit / units_x);
        let mut wanted = wanted[unit];
        for number in 0..luma + frame.components - 1 {
            let c = (number + 1).saturating_sub(luma);
            let Coding { dc, ac } = codings[c];
            means[c] = means[c].wrapping_add(i32::from(dc.next(&mut bits)?.value));
            if wanted & 1 == 0 {
                ac.skip_block(&mut bits)?;
            } else {
                let steps = &frame.steps[c];
                let (across, x, y) = if c == 0 {
                    (across, unit_x * across + number % across, unit_y * down + number / across)
                } else {
                    (1, unit_x, unit_y)
                };
                let stride = units_x * across * 8;
                let out = &mut planes[c][y * 8 * stride + x * 8..];
                let mean = i32::from(means[c] as i16) * i32::from(steps[0]);
                if mean.unsigned_abs() > MOST_SUM {
                    return None;
                }
                let mean = mean as i16;
                if read_block(&mut bits, ac, steps, mean, &mut block)? {
                    idct::flat(mean, out, stride);
                } else {
                    block[0] = mean;
                    idct::levels(&block, out, stride);
                }
            }
            wanted >>= 1;
        }
        if bits.overrun() {
            return None;
        }
    }
    Some(())
}

/// Reads the AC coefficients of a block; says whether there are none, and then leaves it alone.
/// `None` where they make no sense, or leave the range that coefficients of pictures have.
#[inline(always)]
fn read_block(
    bits: &mut Bits,
    ac: &Table,
    steps: &[i16; 128],
    mean: i16,
    block: &mut idct::Block,
) -> Option<bool> {
    let mut symbol = ac.next(bits)?;
    if symbol.advance == END {
        return Some(true);
    }
    block.fill(0);
    let (mut place, mut sum) = (0, u32::from(mean.unsigned_abs()));
    loop {
        place += symbol.advance;
        // Below 128: the place before is below 64, and so much is no advance.
        let at = place as usize & 127;
        let level = i32::from(symbol.value) * i32::from(steps[at]);
        sum = sum.saturating_add(level.unsigned_abs());
        block[usize::from(NATURAL[at])] = level as i16;
        if place >= 63 {
            let whole = place == 63 || symbol.advance == END;
            return (whole && sum <= MOST_SUM).then_some(false);
        }
        symbol = ac.next(bits)?;
    }
}

#[cfg(test)]
mod tests;
