//! Labelled data, whose features of it are measured, and the features themselves.

mod digest;
mod embed;
mod encoder;
mod extract;
mod feature_file;
mod labelled;
mod pixels;
mod preparation;
mod shared;
mod splits;
mod subject;
mod table;
mod values;

pub use digest::WeightsRecord;
pub use embed::{Embedding, embed};
pub use encoder::{Encoder, choose_encoder, open_encoder};
pub use extract::{ExtractConfig, Extractor, extract, feature_of};
pub(crate) use extract::{append_features, batch_of, check_pooling, tokens};
pub use feature_file::read_features;
pub(crate) use labelled::DataRecord;
pub use labelled::Labelled;
pub(crate) use preparation::default_encode_batch_of;
pub use preparation::{Preparation, default_encode_batch, geometry};
pub(crate) use shared::{agreed, in_turns};
pub use splits::{Extraction, Material, Splits, features};
pub use subject::{Run, Subject};
pub use values::Features;
