//! IDX files, the format of MNIST and its relatives.
//!
//! Big-endian: two zero bytes, the type (8: unsigned bytes), the number of dimensions, each
//! dimension as 32 bits, then the values (<http://yann.lecun.com/exdb/mnist/>).

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::kind::Split;
use super::memory::Memory;
use super::opened::{Opened, damaged, read_file};
use super::survey::Survey;
use crate::error::SourceError;

/// The most bytes an unpacked file may have: a gzip file can promise any number.
const MAX_BYTES: u64 = 4 << 30;

/// Whether the folder holds IDX images.
pub(super) fn detects(root: &Path) -> bool {
    [Split::Train, Split::Test].iter().any(|split| find(root, *split, "images", 3).is_some())
}

/// Opens a folder of IDX files.
pub(super) fn open(root: &Path, split: Split) -> Result<Opened<Memory>, SourceError> {
    let Some(images_path) = find(root, split, "images", 3) else {
        let wanted = match split {
            Split::Train => "train-images-idx3-ubyte",
            Split::Test => "t10k-images-idx3-ubyte",
        };
        return Err(SourceError::NotFound {
            path: root.into(),
            looked_for: format!("no {wanted} or {wanted}.gz in it"),
            advice: "give the folder that holds the IDX files".into(),
        });
    };
    let images = Idx::parse(&images_path, &unpacked(&images_path)?)?;
    let labels = match find(root, split, "labels", 1) {
        Some(path) => Some((Idx::parse(&path, &unpacked(&path)?)?, path)),
        None => None,
    };
    let mut title = "IDX".to_string();
    if let Some(folder) = root.file_name() {
        title = format!("{title} {}", folder.to_string_lossy());
    }
    source(images, images_path, labels, (title, format!("{split} images")), Vec::new())
}

/// Makes a source of parsed files; also the embedded set's way.
pub(super) fn source(
    images: Idx,
    images_path: PathBuf,
    labels: Option<(Idx, PathBuf)>,
    title: (String, String),
    class_names: Vec<String>,
) -> Result<Opened<Memory>, SourceError> {
    let [count, height, width] = images.dims[..] else {
        let reason = format!("has {} dimensions, images need 3", images.dims.len());
        return Err(damaged(&images_path, reason));
    };
    if count == 0 || height == 0 || width == 0 || height > 4096 || width > 4096 {
        let reason = format!("holds {count} images of {width} x {height} pixels");
        return Err(damaged(&images_path, reason));
    }
    let mut class_names = class_names;
    let labels = match labels {
        Some((labels, path)) => {
            if labels.dims != [count] {
                let reason =
                    format!("holds labels of shape {:?}, there are {count} images", labels.dims);
                return Err(damaged(&path, reason));
            }
            let classes = labels.values.iter().max().map_or(0, |&last| usize::from(last) + 1);
            for class in class_names.len()..classes {
                class_names.push(class.to_string());
            }
            Some(labels.values.iter().map(|&label| u32::from(label)).collect())
        }
        None => None,
    };
    let name = images_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let memory = Memory {
        width_px: width as u32,
        height_px: height as u32,
        channels: 1,
        pixels: images.values,
        files: vec![(name, count)],
    };
    let survey = Survey::default();
    Ok(Opened { store: memory, labels, class_names, title, survey })
}

/// The file of a split: `train-images-idx3-ubyte`, with or without a prefix (EMNIST's
/// `emnist-letters-train-…`) and `.gz`, with `-` or `.` before `idx`.
fn find(root: &Path, split: Split, what: &str, dims: u32) -> Option<PathBuf> {
    let parts: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["t10k", "test"],
    };
    let mut found: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".gz").unwrap_or(&name);
        let fits = parts.iter().any(|part| {
            ['-', '.']
                .iter()
                .any(|sep| stem.ends_with(&format!("{part}-{what}{sep}idx{dims}-ubyte")))
        });
        if fits {
            found.push(name);
        }
    }
    // The shortest is the plain name without prefix; unpacked goes before packed.
    found.sort_by_key(|name| (name.len(), name.clone()));
    found.first().map(|name| root.join(name))
}

fn unpacked(path: &Path) -> Result<Vec<u8>, SourceError> {
    let bytes = read_file(path)?;
    if bytes.starts_with(&[0x1F, 0x8B]) { gunzip(path, &bytes) } else { Ok(bytes) }
}

/// Unpacks gzip data; `path` names it in errors.
pub(super) fn gunzip(path: &Path, packed: &[u8]) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(packed)
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|cause| damaged(path, format!("is no whole gzip file ({cause})")))?;
    Ok(bytes)
}

/// A parsed file.
pub(super) struct Idx {
    dims: Vec<usize>,
    values: Vec<u8>,
}

impl Idx {
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Idx, SourceError> {
        let [0, 0, 8, count, rest @ ..] = bytes else {
            return Err(damaged(path, "does not begin like an IDX file of unsigned bytes"));
        };
        let count = usize::from(*count);
        let Some((dims, values)) = rest.split_at_checked(count * 4) else {
            return Err(damaged(path, "ends within its header"));
        };
        let dims: Vec<usize> = dims
            .chunks_exact(4)
            .map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize)
            .collect();
        let expected = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        if expected != Some(values.len()) {
            let reason = format!("promises {dims:?} values and holds {}", values.len());
            return Err(damaged(path, reason));
        }
        Ok(Idx { dims, values: values.to_vec() })
    }
}
