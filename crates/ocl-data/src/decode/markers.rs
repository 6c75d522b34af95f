//! The marker segments at the head of a JPEG file.

/// One marker and what it carries.
pub(super) struct Segment<'a> {
    /// The marker's second byte.
    pub(super) marker: u8,
    /// Where the content begins in the file.
    pub(super) at: usize,
    /// Without the two bytes of its length.
    pub(super) content: &'a [u8],
}

impl Segment<'_> {
    /// Whether it is a frame header. 0xC4, 0xC8 and 0xCC share the range and are not.
    pub(super) fn is_frame(&self) -> bool {
        matches!(self.marker, 0xC0..=0xCF if !matches!(self.marker, 0xC4 | 0xC8 | 0xCC))
    }
}

/// Walks the segments of a file; the caller stops at the first scan (0xDA).
pub(super) struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    /// Begins behind the start-of-image marker.
    pub(super) fn new(bytes: &'a [u8]) -> Markers<'a> {
        Markers { bytes, at: 2 }
    }

    /// The next segment, or a phrase that says what is wrong with it.
    pub(super) fn next(&mut self) -> Result<Segment<'a>, &'static str> {
        const CUT: &str = "the header is cut short";
        let bytes = self.bytes;
        loop {
            // Whatever is no marker is passed over, as libjpeg does: bytes that old cameras left
            // there, a stuffed zero, and any number of fill bytes 0xFF (ITU T.81, B.1.1.2).
            let rest = bytes.get(self.at..).ok_or(CUT)?;
            self.at += memchr::memchr(0xFF, rest).ok_or(CUT)?;
            while bytes.get(self.at) == Some(&0xFF) {
                self.at += 1;
            }
            let marker = *bytes.get(self.at).ok_or(CUT)?;
            self.at += 1;
            if marker == 0 {
                continue;
            }
            if matches!(marker, 0x01 | 0xD0..=0xD8) {
                continue;
            }
            let len = match bytes.get(self.at..self.at + 2) {
                Some(len) if marker != 0xD9 => usize::from(u16::from_be_bytes([len[0], len[1]])),
                _ => return Err("no scan before the end"),
            };
            let len = len.max(2);
            let at = self.at + 2;
            let content = bytes.get(at..self.at + len).ok_or(CUT)?;
            self.at += len;
            return Ok(Segment { marker, at, content });
        }
    }
}
