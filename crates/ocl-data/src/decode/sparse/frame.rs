//! What a JPEG's header says, as far as the sparse decoder serves it.

use std::ops::Range;

use super::super::markers::Markers;

/// Where each zigzag position lies in the block. What follows the 64 positions takes what an
/// end-of-block writes: a place outside the block.
pub(super) const NATURAL: [u8; 128] = natural();
/// The place that is read by nobody.
const NOWHERE: u8 = 64;

const fn natural() -> [u8; 128] {
    let mut order = [NOWHERE; 128];
    // Along the diagonals, upwards and downwards in turn (ITU T.81, figure A.6).
    let (mut x, mut y, mut k) = (0, 0, 0);
    while k < 64 {
        order[k] = (y * 8 + x) as u8;
        let up = (x + y) % 2 == 0;
        // At an edge one step along it, else one along the diagonal.
        let (along_x, along_y) =
            if up { (y == 0 && x < 7, x == 7) } else { (y == 7, x == 0 && y < 7) };
        if along_x {
            x += 1;
        } else if along_y {
            y += 1;
        } else if up {
            (x, y) = (x + 1, y - 1);
        } else {
            (x, y) = (x - 1, y + 1);
        }
        k += 1;
    }
    order
}

/// A baseline or extended sequential frame of one scan.
pub(super) struct Frame {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    /// 1 (grey) or 3 (luma and two chroma).
    pub(super) components: usize,
    /// Luma samples to one chroma sample, across and down: 1 or 2.
    pub(super) across: u32,
    pub(super) down: u32,
    /// Quantisation steps of each component in zigzag order; zeros after 64.
    pub(super) steps: [[i16; 128]; 3],
    /// Which Huffman tables each component uses: places of their content in the file.
    pub(super) dc: [Range<usize>; 3],
    pub(super) ac: [Range<usize>; 3],
    /// Minimum coded units from one restart marker to the next; 0 without them.
    pub(super) restart: usize,
    /// Where the entropy-coded bytes begin.
    pub(super) data_at: usize,
}

impl Frame {
    /// Reads the header. `None` for what is left to the full decoder: progressive, arithmetic, 12
    /// bits, several scans, other numbers of components or samplings, RGB, or damage.
    pub(super) fn read(bytes: &[u8]) -> Option<Frame> {
        let mut markers = Markers::new(bytes);
        let mut steps: [Option<[i16; 128]>; 4] = [None; 4];
        let mut tables: [Option<Range<usize>>; 8] = Default::default();
        let mut header: Option<&[u8]> = None;
        let (mut restart, mut jfif, mut adobe) = (0, false, None);
        loop {
            let segment = markers.next().ok()?;
            let content = segment.content;
            match segment.marker {
                0xC0 | 0xC1 if header.is_none() => header = Some(content),
                _ if segment.is_frame() => return None,
                0xDB => read_steps(content, &mut steps)?,
                0xC4 => find_tables(content, segment.at, &mut tables)?,
                0xDD => {
                    restart = usize::from(u16::from_be_bytes([*content.first()?, *content.get(1)?]))
                }
                0xE0 => jfif |= content.starts_with(b"JFIF\0"),
                0xEE if content.starts_with(b"Adobe") => adobe = content.get(11).copied(),
                0xDA => {
                    let header = header?;
                    let components = usize::from(*header.get(5)?);
                    if header[0] != 8
                        || !matches!(components, 1 | 3)
                        || header.len() < 6 + 3 * components
                    {
                        return None;
                    }
                    let one_scan = usize::from(*content.first()?) == components
                        && content.len() == 4 + 2 * components;
                    let id = |c: usize| header[6 + 3 * c];
                    let luma = jfif
                        || adobe == Some(1)
                        || (adobe.is_none() && (id(0), id(components - 1)) == (1, 3));
                    if !one_scan || (components == 3 && (!luma || adobe == Some(0))) {
                        return None;
                    }
                    let sampling = header[7];
                    if !matches!((sampling >> 4, sampling & 15), (1..=4, 1..=4)) {
                        return None;
                    }
                    let (mut across, mut down) =
                        (u32::from(sampling >> 4), u32::from(sampling & 15));
                    if components == 1 {
                        // A scan of one component has its blocks in rows, whatever the factors say.
                        (across, down) = (1, 1);
                    } else if !matches!((across, down), (1 | 2, 1 | 2))
                        || header[10] != 0x11
                        || header[13] != 0x11
                    {
                        return None;
                    }
                    let mut frame = Frame {
                        height_px: u32::from(u16::from_be_bytes([header[1], header[2]])),
                        width_px: u32::from(u16::from_be_bytes([header[3], header[4]])),
                        components,
                        across,
                        down,
                        steps: [[0; 128]; 3],
                        dc: Default::default(),
                        ac: Default::default(),
                        restart,
                        data_at: segment.at + content.len(),
                    };
                    for c in 0..components {
                        let (scan_id, chosen) = (content[1 + 2 * c], content[2 + 2 * c]);
                        if scan_id != id(c) {
                            return None;
                        }
                        frame.steps[c] = (*steps.get(usize::from(header[8 + 3 * c]))?)?;
                        frame.dc[c] = tables
                            .get(usize::from(chosen >> 4))
                            .filter(|_| chosen >> 4 < 4)?
                            .clone()?;
                        frame.ac[c] = tables.get(4 + usize::from(chosen & 15))?.clone()?;
                    }
                    // The smoothing of chroma has rules of its own for two columns and less.
                    let narrow = across == 2 && frame.chroma_size().0 <= 2;
                    return (frame.width_px > 0 && frame.height_px > 0 && !narrow).then_some(frame);
                }
                _ => {}
            }
        }
    }

    /// Minimum coded units in a row and in a column.
    pub(super) fn units(&self) -> (usize, usize) {
        let count = |len: u32, factor: u32| len.div_ceil(8 * factor) as usize;
        (count(self.width_px, self.across), count(self.height_px, self.down))
    }

    /// Columns and rows of chroma samples.
    pub(super) fn chroma_size(&self) -> (u32, u32) {
        (self.width_px.div_ceil(self.across), self.height_px.div_ceil(self.down))
    }
}

/// Quantisation tables, of 8 or 16 bits.
fn read_steps(mut content: &[u8], steps: &mut [Option<[i16; 128]>; 4]) -> Option<()> {
    while let Some((&kind, rest)) = content.split_first() {
        let wide = usize::from(kind >> 4);
        let values = rest.get(..64 * (wide + 1)).filter(|_| wide < 2)?;
        let mut table = [0; 128];
        for (step, value) in table.iter_mut().zip(values.chunks_exact(wide + 1)) {
            let value = value.iter().fold(0u16, |all, &byte| all << 8 | u16::from(byte));
            *step = i16::try_from(value).ok()?;
        }
        *steps.get_mut(usize::from(kind & 15))? = Some(table);
        content = &rest[values.len()..];
    }
    Some(())
}

/// Huffman tables: four for DC, then four for AC, each the counts of 16 lengths and the symbols.
fn find_tables(content: &[u8], at: usize, tables: &mut [Option<Range<usize>>; 8]) -> Option<()> {
    let mut from = 0;
    while let Some(&kind) = content.get(from) {
        let counts = content.get(from + 1..from + 17)?;
        let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
        let end = from + 17 + symbols;
        if end > content.len() || kind >> 4 > 1 || kind & 15 > 3 {
            return None;
        }
        tables[usize::from(kind >> 4) * 4 + usize::from(kind & 15)] = Some(at + from + 1..at + end);
        from = end;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_order() {
        assert_eq!(NATURAL[..10], [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]);
        assert_eq!(NATURAL[58..65], [61, 54, 47, 55, 62, 63, NOWHERE]);
        let mut sorted = NATURAL[..64].to_vec();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..64));
    }
}
