//! The entropy-coded bytes of a scan, without what was stuffed in, and a reader of their bits.

use std::ops::Range;

/// Zeros behind the data, so that a word can be read anywhere.
const PADDING: usize = 8;

/// Entropy-coded data cut at its restart markers.
#[derive(Default)]
pub(super) struct Scan {
    data: Vec<u8>,
    /// The bytes of each restart interval.
    intervals: Vec<Range<usize>>,
}

impl Scan {
    /// Takes the data at `bytes`' front over. `None` unless they end with the end-of-image marker.
    pub(super) fn load(&mut self, bytes: &[u8]) -> Option<()> {
        self.data.clear();
        self.intervals.clear();
        // At once, so that the copies below never move what is there.
        self.data.reserve(bytes.len() + PADDING);
        let (mut from, mut start) = (0, 0);
        loop {
            let at = from + memchr::memchr(0xFF, bytes.get(from..)?)?;
            match *bytes.get(at + 1)? {
                // A zero is stuffed in after each 0xFF of the data.
                0x00 => self.data.extend_from_slice(&bytes[from..=at]),
                marker @ (0xD0..=0xD7 | 0xD9) => {
                    self.data.extend_from_slice(&bytes[from..at]);
                    if marker != 0xD9 && usize::from(marker & 7) != self.intervals.len() % 8 {
                        return None;
                    }
                    self.intervals.push(start..self.data.len());
                    start = self.data.len();
                    if marker == 0xD9 {
                        self.data.extend_from_slice(&[0; PADDING]);
                        return Some(());
                    }
                }
                _ => return None,
            }
            from = at + 2;
        }
    }

    pub(super) fn intervals(&self) -> usize {
        self.intervals.len()
    }

    /// A reader of one restart interval.
    pub(super) fn interval(&self, number: usize) -> Bits<'_> {
        let Range { start, end } = self.intervals[number];
        Bits { data: &self.data, at: start, end, held: 0, count: 0 }
    }
}

/// Reads bits from the most significant on.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
    /// The next bits, left-aligned; more than `count` of them may be right, none is wrong.
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// Sees to it that at least 56 bits are held. Behind the end they are of no meaning.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let at = self.at.min(self.data.len() - PADDING);
        let mut word = [0; 8];
        word.copy_from_slice(&self.data[at..at + 8]);
        self.held |= u64::from_be_bytes(word) >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// The next `count` bits, 1 to 32.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> usize {
        (self.held >> (64 - count)) as usize
    }

    #[inline(always)]
    pub(super) fn consume(&mut self, count: u32) {
        self.held <<= count;
        self.count -= count;
    }

    /// Whether more bits were taken than there are.
    pub(super) fn overrun(&self) -> bool {
        self.at * 8 - self.count as usize > self.end * 8
    }
}
