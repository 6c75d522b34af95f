//! How a batch is taken apart so that a step fits into memory.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::estimate::peak_bytes;
use super::{Plan, PlanError};
use crate::device::{self, Backend};
use crate::step::{MicroBatches, busy_size, whole_micro_batches};

/// What of the memory there is a step may take, by an estimate.
const SHARE: f64 = 0.8;

/// Parts of a batch that several processes share, at least, where nothing else is asked for: a run
/// may then go on with another number of them.
const USUAL_PARTS: usize = 8;

/// `batch.chunk`: the images whose intermediate values are in memory at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// As many as fit.
    Auto,
    /// So many, in whole micro-batches, at least one.
    Images(usize),
}

impl FromStr for Chunk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(images) if images > 0 => Ok(Self::Images(images)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            _ => Err(format!("`{text}` is neither a number of images nor `auto`")),
        }
    }
}

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Images(images) => write!(f, "{images}"),
        }
    }
}

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Images(images) => serializer.serialize_u64(*images as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Chunk;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of images, or \"auto\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Chunk, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, images: u64) -> Result<Chunk, E> {
                self.visit_str(&images.to_string())
            }
            fn visit_i64<E: de::Error>(self, images: i64) -> Result<Chunk, E> {
                self.visit_str(&images.to_string())
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The images of a new run's micro-batch: what a recipe asks for, or as many as keep the threads
/// busy; no more than the chunk, if that was asked for.
pub(super) fn micro_batch(
    batch: usize,
    rows_per_image: usize,
    asked: Option<usize>,
    chunk: Chunk,
) -> usize {
    match (asked, chunk) {
        (Some(images), _) => images.clamp(1, batch),
        (None, Chunk::Images(images)) => busy_size(batch, rows_per_image).min(images),
        (None, Chunk::Auto) => busy_size(batch, rows_per_image),
    }
}

impl Plan {
    /// How a batch is taken apart.
    pub fn micro_batches(&self) -> MicroBatches {
        MicroBatches { size: self.micro_batch, chunk: self.chunk, parts: self.parts }
    }

    /// Sets the parts of a new run's batch: what is asked for, or enough for so many processes and
    /// some more. Micro-batches become smaller where a part would have none; the chunk is to be set
    /// again afterwards.
    ///
    /// # Errors
    /// When the batch has no such parts, or there are more processes than parts.
    pub fn set_parts(&mut self, asked: Option<usize>, processes: usize) -> Result<(), PlanError> {
        let wrong = |problem| PlanError::Value { key: "batch.parts".to_owned(), problem };
        let most = 1 << self.batch.ilog2();
        let parts = match asked {
            Some(parts) if !parts.is_power_of_two() => {
                return Err(wrong(format!("{parts} is no power of two: 1, 2, 4, 8 and so on")));
            }
            Some(parts) if parts > most => {
                let problem = format!(
                    "a batch of {} images has no {parts} parts; give at most {most}, or a larger \
                     batch.size",
                    self.batch
                );
                return Err(wrong(problem));
            }
            Some(parts) => parts,
            None if processes == 1 => 1,
            None => processes.next_power_of_two().max(USUAL_PARTS).min(most),
        };
        self.parts = parts;
        self.fits(processes)?;
        self.micro_batch = self.micro_batch.min(self.batch / parts);
        Ok(())
    }

    /// Whether so many processes can share the run.
    ///
    /// # Errors
    /// When a batch has fewer parts.
    pub fn fits(&self, processes: usize) -> Result<(), PlanError> {
        if processes <= self.parts {
            return Ok(());
        }
        let (key, parts) = ("batch.parts".to_owned(), self.parts);
        let problem = format!(
            "{parts}: each of {processes} ranks needs a part of the batch; start at most {parts} \
             (a new run may set more)"
        );
        Err(PlanError::Value { key, problem })
    }

    /// Sets the chunk: whole micro-batches, as near to what is asked for as that allows, at least
    /// one.
    ///
    /// The micro-batch stays, so that a run goes on bit for bit. A GPU has a sum of its own for
    /// every shape, and likes large ones: there a micro-batch is a chunk.
    pub fn set_chunk(&mut self, asked: Chunk, backend: Backend) {
        if backend != Backend::Flex {
            let most = self.batch / self.parts;
            self.micro_batch = match asked {
                Chunk::Auto => self.largest_fitting(backend, 1).unwrap_or(most).min(most),
                Chunk::Images(images) => images.min(most),
            };
            self.chunk = self.micro_batch;
            return;
        }
        if self.method.is_separable() {
            // Its micro-batches know nothing of each other: never are two in memory.
            self.chunk = self.micro_batch;
            return;
        }
        let images = match asked {
            Chunk::Auto => self.largest_fitting(backend, self.micro_batch).unwrap_or(self.batch),
            Chunk::Images(images) => images,
        };
        self.chunk = whole_micro_batches(self.batch, self.micro_batch, images);
    }

    /// The most images, in whole micro-batches, with which a step stays inside the memory there is
    /// now; the whole batch if that fits, one micro-batch if nothing does. None where the memory is
    /// not known.
    pub fn largest_fitting(&self, backend: Backend, micro_batch: usize) -> Option<usize> {
        let room = (device::available(backend)? as f64 * SHARE) as u64;
        let fits = |chunk: usize| peak_bytes(self, chunk.min(self.batch), backend) <= room;
        if fits(self.batch) {
            return Some(self.batch);
        }
        let (mut low, mut high) = (1, self.batch.div_ceil(micro_batch));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            *(if fits(middle * micro_batch) { &mut low } else { &mut high }) = middle;
        }
        Some(low * micro_batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Recipe;
    use ocl_data::{Source, SourceKind, Split};

    fn plan(pairs: &[&str]) -> Plan {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        let recipe = Recipe::load("embedded", &pairs).unwrap();
        let source = Source::open("embedded", SourceKind::Auto, Split::Train).unwrap();
        Plan::resolve("embedded", &recipe, &source).unwrap()
    }

    #[test]
    fn chunks_are_whole_micro_batches_and_these_stay() {
        let mut plan = plan(&["batch.size=1000", "batch.micro_batch=64", "batch.chunk=200"]);
        assert_eq!((plan.micro_batch, plan.chunk), (64, 192));
        for (asked, chunk) in [(64, 64), (1, 64), (999, 960), (1000, 1000), (5000, 1000)] {
            plan.set_chunk(Chunk::Images(asked), Backend::Flex);
            assert_eq!((plan.micro_batch, plan.chunk), (64, chunk), "{asked}");
        }
        plan.set_chunk(Chunk::Images(200), Backend::Cuda);
        assert_eq!((plan.micro_batch, plan.chunk), (200, 200));
    }

    #[test]
    fn a_chunk_may_be_smaller_than_what_keeps_threads_busy() {
        let plan = plan(&["batch.size=512", "batch.chunk=8"]);
        assert_eq!((plan.micro_batch, plan.chunk), (8, 8));
    }

    #[test]
    fn auto_takes_the_whole_batch_when_it_fits_and_less_when_not() {
        let small = plan(&["batch.size=64", "batch.chunk=auto"]);
        assert_eq!(small.chunk, 64);
        let mut huge = plan(&["batch.size=8000", "model.width=4096", "model.heads=32"]);
        huge.model.depth = 4096;
        huge.set_chunk(Chunk::Auto, Backend::Flex);
        assert!(huge.chunk < 8000 && huge.chunk.is_multiple_of(huge.micro_batch), "{}", huge.chunk);
    }

    #[test]
    fn a_gpu_keeps_less_of_a_step_than_the_plain_block() {
        // ViT-L, 1,800 images, two views of 10 tokens: 28 GiB were measured on an H200, 65 GiB at
        // mask ratio 0.75.
        let plan = |mask_ratio: &str| {
            let mut plan = plan(&["train.precision=bf16"]);
            plan.model = ocl_model::VitConfig::named("large").unwrap();
            (plan.batch, plan.chunk, plan.micro_batch) = (1800, 1800, 1800);
            let crate::Method::Ocl(ocl) = &mut plan.method else { panic!("the recipe's method") };
            ocl.mask_ratio = mask_ratio.parse().unwrap();
            plan
        };
        for (mask_ratio, measured) in [("0.9", 28.0), ("0.75", 65.0)] {
            let bytes = peak_bytes(&plan(mask_ratio), 1800, Backend::Cuda) as f64;
            let gib = bytes / f64::from(1 << 30);
            assert!((gib / measured - 1.0).abs() < 0.15, "{gib:.1} GiB, measured {measured}");
            let elsewhere = |backend| peak_bytes(&plan(mask_ratio), 1800, backend) as f64;
            assert!(elsewhere(Backend::Flex) > 1.9 * bytes, "in f32 throughout");
            assert!(elsewhere(Backend::Vulkan) > 1.4 * bytes, "which has no bf16");
        }
    }

    #[test]
    fn words_are_read() {
        assert_eq!("auto".parse(), Ok(Chunk::Auto));
        assert_eq!("32".parse(), Ok(Chunk::Images(32)));
        for wrong in ["0", "-1", "most"] {
            assert!(wrong.parse::<Chunk>().is_err(), "{wrong}");
        }
    }
}
