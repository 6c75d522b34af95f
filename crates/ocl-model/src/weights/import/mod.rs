//! Weights that other programs wrote: timm, MAE, DeiT, DINO, DINOv2, and the like.

mod archive;
mod deny_list;
mod names;
mod network;
mod node;
mod number;
mod pickle;
mod pickle_machine;
mod shape;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use thiserror::Error;

use self::network::{Network, Taken};
use self::torch::Checkpoint;
use crate::encoder::{Linear, Pooling, Vit, VitConfig};
use crate::weights::file::{Description, description};
use crate::weights::hub::{self, Hints, Preprocessing};
use crate::weights::layout::HostTensor;
use crate::weights::state::{WeightsError, assemble};

pub use archive::ArchiveError;
pub use network::PrefixError;
pub use node::PickleError;
pub use shape::ShapeError;
pub use torch::TorchError;

/// What weights do not say of themselves.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Attention heads; `None` takes what the file or its `config.json` says, else what is usual
    /// for the width, which is 64 channels a head but for the largest encoders.
    pub heads: Option<usize>,
    /// Side of the images that will be encoded; `None` takes the weights' own. Learned positions
    /// are resampled, fixed ones computed anew.
    pub image_px: Option<usize>,
    /// Of several networks in a file the one under these keys, or whose names begin so; `None` takes
    /// the one that is meant for use: a teacher, a target, an average of weights.
    pub prefix: Option<String>,
}

/// An encoder and what came with it.
#[derive(Clone, Debug)]
pub struct OpenedWeights {
    /// The encoder.
    pub vit: Vit,
    /// How the weights want features to be pooled.
    pub pooling: Pooling,
    /// A classifier of pooled features, `[D]` to `[classes]`.
    pub head: Option<Linear>,
    /// How the images must be prepared, if the file or the folder's `config.json` says.
    pub preprocessing: Option<Preprocessing>,
    /// Names of the head's classes; empty where nothing says them.
    pub classes: Vec<String>,
    /// What stands beside the encoder in its network, by name: a decoder, mask tokens, projection
    /// heads.
    pub beside: BTreeMap<String, HostTensor>,
    /// Full names of all tensors that belong to no encoder.
    pub ignored: Vec<String>,
    /// Which network of the file this is: keys and prefix, joined by dots; empty if it has none.
    pub network: String,
    /// The other encoders in the file.
    pub other_networks: Vec<String>,
}

/// Why weights from elsewhere do not become an encoder.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The `.pth` file gives no tensors.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// The safetensors file is damaged.
    #[error("it is damaged, or neither safetensors nor what torch.save writes")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// No network answers to the prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A number type that weights do not have.
    #[error("tensor `{0}` is {1:?}; F16, BF16, F32 and F64 are read")]
    Type(String, safetensors::Dtype),
    /// The tensors' shapes are those of no encoder.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The tensors do not make an encoder.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The head does not take what the encoder gives.
    #[error("the head is {weight:?} with {bias:?} biases; the encoder's width is {width}")]
    Head {
        /// Shape of the matrix.
        weight: Vec<usize>,
        /// Shape of the biases.
        bias: Vec<usize>,
        /// Width of the encoder.
        width: usize,
    },
    /// A file of fine-tuning that does not say what encoder it holds.
    #[error(
        "it has a classifier, but neither positions nor a configuration: an older version's fine-tuning \
         wrote it; fine-tune again for a file that can be used"
    )]
    OldClassifier,
    /// The folder has no file of weights.
    #[error("the folder has none of {}", hub::FILES.join(", "))]
    NoFile,
}

/// Reads an encoder that any program wrote: safetensors or `.pth`, timm's names or those of MAE,
/// DeiT, DINO and DINOv2, or a folder for timm or Hugging Face (`model.safetensors` and
/// `config.json`). The encoder's size is inferred from the tensors' shapes.
///
/// Nothing in the file is executed: a `.pth` file is read as data, and refused if it asks for more.
/// What the positions add to the class token and the registers is added to these once and for all.
///
/// # Errors
/// When the file cannot be read, is damaged, or is no encoder of this form; a mismatch lists every
/// missing, unexpected and wrong-shaped name.
pub fn open_weights(
    path: &Path,
    options: &OpenOptions,
    device: &Device,
) -> Result<OpenedWeights, WeightsError> {
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let failed = |source| WeightsError::Import { path: path.to_owned(), source: Box::new(source) };
    let file = hub::weights_file(path);
    if file.is_dir() {
        return Err(failed(ImportError::NoFile));
    }
    let hints = hub::folder_of(&file).map(hub::hints).unwrap_or_default();
    let mut start = [0; 9];
    let mut open = File::open(&file).map_err(io)?;
    // A header of safetensors is a JSON object behind its length.
    let safe = open.read_exact(&mut start).is_ok() && start[8] == b'{';
    if safe || file.extension().is_some_and(|extension| extension == "safetensors") {
        let bytes = std::fs::read(&file).map_err(io)?;
        let own = own(&bytes);
        let found = safetensors(&bytes).and_then(|tensors| {
            let taken = network_of(&tensors, own.is_some(), options.prefix.as_deref())?;
            Ok(Checkpoint { tensors, taken })
        });
        build(found, own, hints, options, device).map_err(failed)
    } else {
        let open = File::open(&file).map_err(io)?;
        let found = torch::read(open, options.prefix.as_deref()).map_err(ImportError::from);
        build(found, None, hints, options, device).map_err(failed)
    }
}

/// The network of a safetensors file. In one of our own it is the one without a prefix: what stands
/// beside it belongs to its training.
fn network_of(
    tensors: &[(String, HostTensor)],
    own: bool,
    prefix: Option<&str>,
) -> Result<Taken, PrefixError> {
    if own && prefix.is_none() {
        return Ok(Taken::default());
    }
    let networks: Vec<_> =
        tensors.iter().filter_map(|(name, _)| Network::told_by("", name)).collect();
    Ok(network::take(&networks, prefix)?.unwrap_or_default())
}

fn own(bytes: &[u8]) -> Option<Description> {
    description(bytes).ok().flatten()
}

fn safetensors(bytes: &[u8]) -> Result<Vec<(String, HostTensor)>, ImportError> {
    use safetensors::Dtype;
    let mut tensors = Vec::new();
    for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
        let kind = match view.dtype() {
            Dtype::F16 => number::Kind::F16,
            Dtype::BF16 => number::Kind::Bf16,
            Dtype::F32 => number::Kind::F32,
            Dtype::F64 => number::Kind::F64,
            // Counters are no weights.
            Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL => continue,
            other => return Err(ImportError::Type(name, other)),
        };
        let values = view.data().chunks_exact(kind.size());
        let values = values.map(|bytes| number::to_f32(kind, bytes)).collect();
        tensors.push((name, HostTensor { shape: view.shape().to_vec(), values }));
    }
    Ok(tensors)
}

fn build(
    found: Result<Checkpoint, ImportError>,
    own: Option<Description>,
    hints: Hints,
    options: &OpenOptions,
    device: &Device,
) -> Result<OpenedWeights, ImportError> {
    let Checkpoint { tensors, taken } = found?;
    let names::Named { encoder, head, beside, ignored } =
        names::sort(tensors, &taken.network.prefix);
    let heads = options.heads.or(hints.heads);
    let config = match &own {
        Some(Description { encoder, .. }) => {
            VitConfig { heads: options.heads.unwrap_or(encoder.heads), ..encoder.clone() }
        }
        None if head.is_some() && !encoder.contains_key("pos_embed") => {
            return Err(ImportError::OldClassifier);
        }
        None => shape::infer(&encoder, heads)?,
    };
    let own = own.as_ref();
    let pooling = own.and_then(|own| Pooling::named(own.more.get(hub::POOLING_KEY)?));
    let preprocessing = || own.and_then(|own| own.json(hub::PREPROCESSING_KEY));
    let classes = || own.and_then(|own| own.json(hub::CLASSES_KEY));
    let named = if hints.classes.is_empty() { classes() } else { Some(hints.classes) };
    let outputs = head.as_ref().map(|[_, bias]| bias.values.len());
    let named = named.filter(|names: &Vec<String>| Some(names.len()) == outputs);
    let head = head.map(|head| linear(head, config.width, device)).transpose()?;
    let vit = assemble(&config, encoder, device)?;
    let vit = match options.image_px {
        Some(image_px) => vit.resized(image_px).map_err(WeightsError::from)?,
        None => vit,
    };
    Ok(OpenedWeights {
        pooling: hints.pooling.or(pooling).unwrap_or_else(|| vit.usual_pooling()),
        vit,
        head,
        preprocessing: hints.preprocessing.or_else(preprocessing),
        classes: named.unwrap_or_default(),
        beside,
        ignored,
        network: taken.network.name(),
        other_networks: taken.others,
    })
}

/// A classifier from timm's layout.
fn linear(
    [weight, bias]: [HostTensor; 2],
    width: usize,
    device: &Device,
) -> Result<Linear, ImportError> {
    let classes = bias.values.len();
    if weight.shape != [classes, width] || bias.shape != [classes] {
        return Err(ImportError::Head { weight: weight.shape, bias: bias.shape, width });
    }
    let weight = weight.into_ours("head.weight"); // [D, classes]
    let weight = Tensor::from_data(TensorData::new(weight.values, weight.shape), device);
    let bias = Tensor::from_data(TensorData::new(bias.values, [classes]), device);
    Ok(Linear { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) })
}
