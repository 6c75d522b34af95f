//! Parameters outside of the program: by name on the host, as files of ours, of timm and of others.

mod expected;
mod file;
mod hub;
mod import;
mod layout;
mod state;

pub use file::{
    load_weights, save_weights, state_bytes, state_bytes_with, tensor_bytes, tensors_from,
    weights_from, weights_with_others_from,
};
pub use hub::{Preprocessing, classifier_bytes, export_folder, weights_file};
pub use import::{
    ArchiveError, ImportError, OpenOptions, OpenedWeights, PickleError, PrefixError, ShapeError,
    TorchError, open_weights,
};
pub use layout::HostTensor;
pub use state::{WeightsError, apply_module_state, apply_state, module_state, state_of};
