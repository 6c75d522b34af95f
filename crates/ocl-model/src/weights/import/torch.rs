//! Tensors of `.pth` files: what `torch.save` wrote, in its zip form and in the one before PyTorch
//! 1.6.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use thiserror::Error;

use super::archive::{Archive, ArchiveError};
use super::network::{Network, PrefixError, Taken, take};
use super::node::{Id, PickleError};
use super::number::{Kind, to_f32};
use super::pickle::Pickle;
use crate::weights::layout::HostTensor;

/// Why a `.pth` file gives no tensors.
#[derive(Debug, Error)]
pub enum TorchError {
    /// The zip archive is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The description of the tensors is damaged, or wants more than tensors.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// The file could not be read.
    #[error("the file cannot be read")]
    Io(#[from] std::io::Error),
    /// It is a file of something else.
    #[error("it is neither safetensors nor what torch.save writes")]
    Unknown,
    /// It was written on a machine whose bytes stand the other way round.
    #[error("its numbers are big-endian; save it again on a little-endian machine")]
    BigEndian,
    /// No dictionary of tensors was found.
    #[error("it holds no dictionary of tensors; at the top it has {0}")]
    NoState(String),
    /// No network answers to the prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A tensor contradicts its storage.
    #[error("tensor `{0}` is damaged: it does not fit its storage")]
    Tensor(String),
    /// A number type that weights do not have.
    #[error("tensor `{name}` is a {storage}; float, half, bfloat16 and double are read")]
    Type {
        /// The tensor.
        name: String,
        /// Its storage's type.
        storage: String,
    },
}

/// How deep dictionaries may lie in one another.
const DEEPEST: usize = 8;

/// Tensors by name, of the dictionary that holds the network that is taken.
pub(super) struct Checkpoint {
    pub(super) tensors: Vec<(String, HostTensor)>,
    pub(super) taken: Taken,
}

/// A tensor's place.
struct Place {
    storage: String,
    kind: Option<Kind>,
    type_name: String,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Reads the tensors of a `.pth` file by name, without executing anything. Of several networks in
/// it `prefix` chooses one.
pub(super) fn read(mut file: File, prefix: Option<&str>) -> Result<Checkpoint, TorchError> {
    let mut magic = [0; 4];
    let enough = file.read_exact(&mut magic);
    file.seek(SeekFrom::Start(0))?;
    match enough {
        Ok(()) if magic == *b"PK\x03\x04" => read_zip(file, prefix),
        Ok(()) if magic[0] == 0x80 => read_legacy(file, prefix),
        _ => Err(TorchError::Unknown),
    }
}

fn read_zip(file: File, prefix: Option<&str>) -> Result<Checkpoint, TorchError> {
    let mut archive = Archive::open(file)?;
    let description = archive.names().find(|name| name.ends_with("/data.pkl")).map(str::to_owned);
    let description = description.ok_or(TorchError::Unknown)?;
    let folder = description.trim_end_matches("data.pkl").to_owned();
    match archive.read(&format!("{folder}byteorder")) {
        Ok(order) if order != b"little" => return Err(TorchError::BigEndian),
        // Older files do not say; they are little-endian.
        Ok(_) | Err(ArchiveError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let pickle = Pickle::read(&archive.read(&description)?)?;
    let limit = archive.len();
    let bytes_of = |storage: &str| Ok(archive.read(&format!("{folder}data/{storage}"))?);
    checkpoint(&pickle, prefix, limit, bytes_of)
}

/// Before PyTorch 1.6: three pickles of preliminaries, one with the tensors, one with the names of
/// the storages, then each storage as its length and its values.
fn read_legacy(mut file: File, prefix: Option<&str>) -> Result<Checkpoint, TorchError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut at = 0;
    let mut next = |bytes: &[u8]| -> Result<Pickle, TorchError> {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.len;
        Ok(pickle)
    };
    for _ in ["magic number", "protocol", "system"] {
        next(&bytes)?;
    }
    let pickle = next(&bytes)?;
    let keys = next(&bytes)?;
    let sizes = storage_types(&pickle);
    let mut storages = HashMap::new();
    for &key in keys.items(keys.root()).ok_or(TorchError::Unknown)? {
        let key = keys.text(key).ok_or(TorchError::Unknown)?;
        let cut = || TorchError::Tensor(key.to_owned());
        let head = bytes.get(at..at + 8).ok_or_else(cut)?;
        let count = head.iter().rev().fold(0, |sum: u64, &byte| sum << 8 | u64::from(byte));
        let size = sizes.get(key).copied().ok_or_else(cut)?;
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
        let end = len.and_then(|len| len.checked_add(at + 8)).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(cut)?;
        storages.insert(key.to_owned(), at + 8..end);
        at = end;
    }
    checkpoint(&pickle, prefix, bytes.len() as u64, |storage| {
        let range = storages.get(storage).ok_or_else(|| TorchError::Tensor(storage.to_owned()))?;
        Ok(bytes[range.clone()].to_vec())
    })
}

/// Bytes of a value in each storage that the pickle mentions.
fn storage_types(pickle: &Pickle) -> HashMap<String, usize> {
    let size = |name: &str| match name {
        "ByteStorage" | "CharStorage" | "BoolStorage" => 1,
        "ShortStorage" => 2,
        "IntStorage" => 4,
        "LongStorage" => 8,
        other => Kind::of_storage(other).map_or(1, Kind::size),
    };
    let outside = pickle.outside().filter_map(|id| storage(pickle, id));
    outside.map(|(key, type_name)| (key.to_owned(), size(type_name))).collect()
}

/// Key and type of the storage that a persistent id describes: `("storage", type, key, device,
/// length)`.
fn storage(pickle: &Pickle, id: Id) -> Option<(&str, &str)> {
    let items = pickle.items(id)?;
    let type_name = pickle.global(*items.get(1)?)?;
    Some((pickle.text(*items.get(2)?)?, type_name.rsplit('.').next()?))
}

/// Chooses a network, and reads its dictionary alone.
fn checkpoint(
    pickle: &Pickle,
    prefix: Option<&str>,
    limit: u64,
    bytes_of: impl FnMut(&str) -> Result<Vec<u8>, TorchError>,
) -> Result<Checkpoint, TorchError> {
    let mut states = States::default();
    states.find(pickle, pickle.root(), "", &mut vec![false; pickle.values()], DEEPEST);
    let networks: Vec<Network> = states.networks.iter().map(|(_, found)| found.clone()).collect();
    let (state, taken) = match take(&networks, prefix)? {
        Some(taken) => (states.networks[taken.index].0, taken),
        // What its tensors lack is told later, by name.
        None => {
            let state = states.first.ok_or_else(|| TorchError::NoState(found_at_top(pickle)))?;
            (state, Taken::default())
        }
    };
    Ok(Checkpoint { tensors: tensors(pickle, state, limit, bytes_of)?, taken })
}

fn tensors(
    pickle: &Pickle,
    state: Id,
    limit: u64,
    mut bytes_of: impl FnMut(&str) -> Result<Vec<u8>, TorchError>,
) -> Result<Vec<(String, HostTensor)>, TorchError> {
    let mut tensors = Vec::new();
    let mut values: u64 = 0;
    let mut last: Option<(String, Vec<u8>)> = None;
    for &(key, value) in pickle.entries(state).unwrap_or_default() {
        let (Some(name), Some(place)) = (pickle.text(key), place(pickle, value)) else { continue };
        let damaged = || TorchError::Tensor(name.to_owned());
        let Place { storage, kind, type_name, offset, shape, strides } =
            place.ok_or_else(damaged)?;
        let Some(kind) = kind else {
            if is_counter(&type_name) {
                continue;
            }
            return Err(TorchError::Type { name: name.to_owned(), storage: type_name });
        };
        let count = shape.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
        let count = count.ok_or_else(damaged)?;
        values = values.saturating_add(count as u64);
        // A value takes a byte at least; a file that says more wants to fill the memory.
        if values > limit {
            return Err(damaged());
        }
        if last.as_ref().is_none_or(|(key, _)| *key != storage) {
            last = Some((storage.clone(), bytes_of(&storage)?));
        }
        let bytes = last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let all = gather(bytes, kind, offset, &shape, &strides, count).ok_or_else(damaged)?;
        tensors.push((name.to_owned(), HostTensor { shape, values: all }));
    }
    Ok(tensors)
}

/// Whole numbers in a dictionary of weights count steps or list places; none is a weight.
fn is_counter(type_name: &str) -> bool {
    ["ByteStorage", "CharStorage", "BoolStorage", "ShortStorage", "IntStorage", "LongStorage"]
        .contains(&type_name)
}

/// The dictionaries of tensors in a file.
#[derive(Default)]
struct States {
    /// Each encoder, with the dictionary that it lies in.
    networks: Vec<(Id, Network)>,
    /// The first dictionary that has tensors under dotted names.
    first: Option<Id>,
}

impl States {
    /// Looks through `id` and what it holds: dictionaries, lists, and objects' attributes. `seen`
    /// keeps a value that is used in many places from being looked at more than once.
    fn find(&mut self, pickle: &Pickle, id: Id, within: &str, seen: &mut [bool], depth: usize) {
        if std::mem::replace(&mut seen[id], true) {
            return;
        }
        let Some(below) = depth.checked_sub(1) else { return };
        let join = |key: &str| match within {
            "" => key.to_owned(),
            within => format!("{within}.{key}"),
        };
        if let Some(attributes) = pickle.attributes(id) {
            self.find(pickle, attributes, within, seen, below);
        }
        for (index, &item) in pickle.items(id).unwrap_or_default().iter().enumerate() {
            self.find(pickle, item, &join(&index.to_string()), seen, below);
        }
        for &(key, value) in pickle.entries(id).unwrap_or_default() {
            let number = || pickle.count(key).map(|number| number.to_string());
            let Some(name) = pickle.text(key).map(str::to_owned).or_else(number) else { continue };
            if place(pickle, value).is_none() {
                self.find(pickle, value, &join(&name), seen, below);
                continue;
            }
            if name.contains('.') && self.first.is_none() {
                self.first = Some(id);
            }
            self.networks.extend(Network::told_by(within, &name).map(|network| (id, network)));
        }
    }
}

fn found_at_top(pickle: &Pickle) -> String {
    if let Some((class, _)) = pickle.call(pickle.root()) {
        return format!("an object of `{class}`; save its state_dict() instead");
    }
    let Some(entries) = pickle.entries(pickle.root()) else { return "no dictionary".to_owned() };
    let keys: Vec<_> = entries.iter().filter_map(|(key, _)| pickle.text(*key)).take(12).collect();
    if keys.is_empty() { "an empty dictionary".to_owned() } else { keys.join(", ") }
}

/// `None` if the value is no tensor; `Some(None)` if it is one that is malformed.
fn place(pickle: &Pickle, id: Id) -> Option<Option<Place>> {
    let (function, arguments) = pickle.call(id)?;
    match function {
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            let (function, arguments) = pickle.call(*arguments.first()?)?;
            place_of_tensor(pickle, function, arguments)
        }
        // A subclass of tensors: the function, the class, the function's arguments.
        "torch._tensor._rebuild_from_type_v2" => {
            let &[function, _, arguments, ..] = arguments else { return None };
            place_of_tensor(pickle, pickle.global(function)?, pickle.items(arguments)?)
        }
        _ => place_of_tensor(pickle, function, arguments),
    }
}

fn place_of_tensor(pickle: &Pickle, function: &str, arguments: &[Id]) -> Option<Option<Place>> {
    if !matches!(function, "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2") {
        return None;
    }
    let read = || {
        let &[outside, offset, shape, strides, ..] = arguments else { return None };
        let (storage, type_name) = storage(pickle, pickle.outside_of(outside)?)?;
        let counts = |id| -> Option<Vec<usize>> {
            pickle.items(id)?.iter().map(|&id| pickle.count(id)).collect()
        };
        let (shape, strides) = (counts(shape)?, counts(strides)?);
        (shape.len() == strides.len()).then(|| Place {
            storage: storage.to_owned(),
            kind: Kind::of_storage(type_name),
            type_name: type_name.to_owned(),
            offset: pickle.count(offset).unwrap_or(usize::MAX),
            shape,
            strides,
        })
    };
    Some(read())
}

/// The `count` values of a view of a storage, in row-major order.
fn gather(
    bytes: &[u8],
    kind: Kind,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
    count: usize,
) -> Option<Vec<f32>> {
    let size = kind.size();
    // Where the last value stands; none stands after it.
    let last = shape.iter().zip(strides).try_fold(offset, |at, (&len, &stride)| {
        at.checked_add(len.saturating_sub(1).checked_mul(stride)?)
    })?;
    if count == 0 {
        return Some(vec![]);
    }
    let end = last.checked_add(1)?.checked_mul(size)?;
    let bytes = bytes.get(..end)?;
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    let mut at = offset;
    for _ in 0..count {
        values.push(to_f32(kind, &bytes[at * size..][..size]));
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at = at.wrapping_add(strides[d]);
            if index[d] < shape[d] {
                break;
            }
            at = at.wrapping_sub(strides[d].wrapping_mul(shape[d]));
            index[d] = 0;
        }
    }
    Some(values)
}
