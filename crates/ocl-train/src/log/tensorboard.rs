//! TensorBoard event files, scalars only.
//!
//! The crates that write them bring protobuf compilers or image codecs of their own; the part of
//! the format that scalars need is four fields in a checksummed frame. Source: tensorflow's
//! `event.proto`, `summary.proto` and `record_writer`.

use std::fs::{self, File};
use std::io::{BufWriter, Result, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file being written.
#[derive(Debug)]
pub(crate) struct EventWriter {
    file: BufWriter<File>,
}

impl EventWriter {
    /// Starts a new event file in `folder`; TensorBoard drops what other files there hold after
    /// `step`.
    pub(crate) fn create(folder: &Path, step: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let name = format!("events.out.tfevents.{:.0}.{}.ocl", now(), std::process::id());
        let mut writer = Self { file: BufWriter::new(File::create(folder.join(name))?) };
        writer.event(0, |event| field_bytes(event, 3, b"brain.Event:2"))?;
        // SessionLog { status: START } as field 7 marks a restart.
        writer.event(step + 1, |event| field_bytes(event, 7, &[0x08, 0x01]))?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds scalars of one step.
    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = vec![];
        for (tag, value) in scalars {
            let mut one = vec![];
            field_bytes(&mut one, 1, tag.as_bytes());
            key(&mut one, 2, 5);
            one.extend((*value as f32).to_le_bytes());
            field_bytes(&mut summary, 1, &one);
        }
        self.event(step, |event| field_bytes(event, 5, &summary))
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }

    /// One `Event { wall_time = 1, step = 2, … }` in its frame: length, its checksum, data, its
    /// checksum.
    fn event(&mut self, step: u64, content: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut event = vec![];
        key(&mut event, 1, 1);
        event.extend(now().to_le_bytes());
        key(&mut event, 2, 0);
        varint(&mut event, step);
        content(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc(&length).to_le_bytes())?;
        self.file.write_all(&event)?;
        self.file.write_all(&masked_crc(&event).to_le_bytes())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn field_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// CRC-32C, rotated and offset as the record format wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of CRC-32C for "123456789" is e3069283.
        assert_eq!(
            masked_crc(b"123456789"),
            0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
    }

    #[test]
    fn frames_follow_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 0).unwrap();
        writer.scalars(3, &[("a", 1.5)]).unwrap();
        writer.flush().unwrap();
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(file).unwrap();
        let (mut at, mut frames) = (0, vec![]);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + length];
            let crc =
                u32::from_le_bytes(bytes[at + 12 + length..at + 16 + length].try_into().unwrap());
            assert_eq!(crc, masked_crc(data));
            frames.push(data.to_vec());
            at += 16 + length;
        }
        assert_eq!(frames.len(), 3);
        // step 3, then summary { value { tag "a", simple_value 1.5 } }
        let tail = [0x10, 3, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0xc0, 0x3f];
        assert_eq!(frames[2][9..], tail);
    }
}
