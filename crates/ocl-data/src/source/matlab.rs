//! The little of MATLAB's files (version 5) that a table of classes needs: an array of structures
//! with numbers and words in it.
//!
//! Source: "MAT-File Format", The MathWorks, chapter 1.

use std::io::Read;

use flate2::read::ZlibDecoder;

/// Bytes before the first element.
const HEADER: usize = 128;
/// The most bytes that a compressed element may have.
const MAX_BYTES: u64 = 64 << 20;
/// The deepest that arrays lie in one another.
const MAX_DEPTH: usize = 8;

/// Kinds of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;

/// Classes of arrays.
const STRUCTURE: u32 = 2;
const TEXT: u32 = 4;
const NUMBERS: std::ops::RangeInclusive<u32> = 6..=15;

/// An array.
enum Array {
    /// The fields' names, and their values in each structure, one structure after the other.
    Structures(Vec<String>, Vec<Array>),
    Text(String),
    Numbers(Vec<f64>),
    Other,
}

/// A number and a word of each structure, from the first array of structures that has both fields.
pub(super) fn numbers_and_words(
    file: &[u8],
    number: &str,
    word: &str,
) -> Option<Vec<(i64, String)>> {
    let mut rest = file.get(HEADER..)?;
    while let Some((kind, content)) = element(&mut rest) {
        let inflated = match kind {
            COMPRESSED => {
                let mut bytes = Vec::new();
                ZlibDecoder::new(content).take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
                bytes
            }
            _ => Vec::new(),
        };
        let array = match kind {
            COMPRESSED => match element(&mut inflated.as_slice())? {
                (MATRIX, content) => array(content, 0)?,
                _ => continue,
            },
            MATRIX => array(content, 0)?,
            _ => continue,
        };
        if let Array::Structures(names, values) = array
            && let Some(number) = names.iter().position(|name| name == number)
            && let Some(word) = names.iter().position(|name| name == word)
        {
            let pair = |values: &[Array]| match (&values[number], &values[word]) {
                (Array::Numbers(numbers), Array::Text(word)) => {
                    Some((*numbers.first()? as i64, word.clone()))
                }
                _ => None,
            };
            return values.chunks_exact(names.len()).map(pair).collect();
        }
    }
    None
}

/// Takes the next element: its kind and content.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
    let first = word(0)?;
    let (kind, start, len, end): (u32, usize, usize, usize) = match first >> 16 {
        // Up to four bytes stand in the element's head.
        small @ 1..=4 => (first & 0xFFFF, 4, small as usize, 8),
        0 => {
            let len = word(4)? as usize;
            // Compressed elements alone are not filled up to eight bytes.
            let filled = if first == COMPRESSED { len } else { len.checked_next_multiple_of(8)? };
            (first, 8, len, filled.checked_add(8)?)
        }
        _ => return None,
    };
    let content = rest.get(start..start.checked_add(len)?)?;
    *rest = rest.get(end..).unwrap_or_default();
    Some((kind, content))
}

/// What the content of a matrix says.
fn array(mut rest: &[u8], depth: usize) -> Option<Array> {
    if depth > MAX_DEPTH {
        return None;
    }
    if rest.is_empty() {
        return Some(Array::Other);
    }
    let (_, flags) = element(&mut rest)?;
    let class = u32::from(*flags.first()?);
    let (_, sides) = element(&mut rest)?;
    let (_, _name) = element(&mut rest)?;
    if class == STRUCTURE {
        let mut count = 1usize;
        for side in sides.as_chunks().0 {
            count = count.checked_mul(usize::try_from(i32::from_le_bytes(*side)).ok()?)?;
        }
        let (_, len) = element(&mut rest)?;
        let len = i32::from_le_bytes(len.try_into().ok()?);
        let len = usize::try_from(len).ok().filter(|&len| len > 0)?;
        let (_, names) = element(&mut rest)?;
        let names: Vec<String> = names.chunks_exact(len).map(word).collect();
        let mut values = Vec::new();
        for _ in 0..count.checked_mul(names.len())? {
            let (MATRIX, content) = element(&mut rest)? else { return None };
            values.push(array(content, depth + 1)?);
        }
        return Some(Array::Structures(names, values));
    }
    let Some((kind, content)) = element(&mut rest) else { return Some(Array::Other) };
    Some(match class {
        TEXT => Array::Text(match kind {
            UINT16 => {
                let units = content.as_chunks().0.iter().map(|two| u16::from_le_bytes(*two));
                String::from_utf16_lossy(&units.collect::<Vec<u16>>())
            }
            INT8 | UINT8 | UTF8 => String::from_utf8_lossy(content).into_owned(),
            _ => return None,
        }),
        _ if NUMBERS.contains(&class) => Array::Numbers(match kind {
            INT8 => content.iter().map(|&byte| f64::from(byte.cast_signed())).collect(),
            UINT8 => content.iter().map(|&byte| f64::from(byte)).collect(),
            INT16 => content.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect(),
            UINT16 => content.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect(),
            INT32 => content.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            UINT32 => content.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b).into()).collect(),
            DOUBLE => content.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            _ => return Some(Array::Other),
        }),
        _ => Array::Other,
    })
}

/// Up to the first zero.
fn word(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
