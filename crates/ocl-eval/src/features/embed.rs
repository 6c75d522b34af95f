//! Features of any images, labelled or not, as a file: streamed, and resumed when interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::Device;
use ocl_data::{Batch, LoaderConfig, Order, Source, Split, View, in_words};
use ocl_model::{Pooling, Vit};
use ocl_train::World;
use serde_json::json;

use super::digest::digest_of;
use super::extract::{ExtractConfig, Extractor, append_features, tokens};
use super::feature_file::{Format, write_names};
use super::shared::in_turns;
use super::table::write_table;
use crate::error::EvalError;
use crate::files::replace;
use crate::progress::Progress;

/// What is kept of each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embedding {
    /// One feature, `[D]`.
    Pooled(Pooling),
    /// Every patch token after the encoder's norm, `[L, D]`.
    Patches,
}

impl FromStr for Embedding {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        if name == "patches" {
            return Ok(Self::Patches);
        }
        name.parse().map(Self::Pooled).map_err(|_| {
            let reason = format!("`{name}` is none of cls, mean, patches");
            EvalError::Setting { setting: "what", reason }
        })
    }
}

impl Embedding {
    /// Shape of all images' features.
    fn shape(self, images: usize, vit: &Vit) -> Vec<usize> {
        let config = vit.config();
        match self {
            Self::Pooled(_) => vec![images, config.width],
            Self::Patches => vec![images, config.patches(), config.width],
        }
    }

    fn append(
        self,
        vit: &Vit,
        batch: &Batch,
        reading: &ExtractConfig,
        source: &Source,
        device: &Device,
        rows: &mut Vec<f32>,
    ) -> Result<(), EvalError> {
        match self {
            Self::Pooled(pool) => append_features(
                &Extractor::Encoder(vit, pool),
                batch,
                reading,
                source,
                device,
                rows,
            ),
            Self::Patches if batch.images == 0 => Ok(()),
            Self::Patches => {
                let tokens = vit.encode(tokens(vit, batch, 0..batch.images, device));
                let cls = usize::from(vit.has_cls_token());
                let patches = tokens.narrow(1, cls, batch.kept); // [N, L, D]
                let patches = patches.try_into_vec_as::<f32>().map_err(EvalError::Device)?;
                rows.extend(patches);
                Ok(())
            }
        }
    }
}

/// Writes the features of every image of `source`, in its order, to `out` (`.npy`, `.safetensors` or
/// `.parquet`, by its name) and the images' names and labels to `OUT.names.jsonl`, or into the table;
/// row `i` is image `i`. An image that cannot be read has NaN.
///
/// The processes of `world` share the images; the root alone sees the files. What is written goes to
/// `OUT.part` first. If that is there, of the same images, weights (`weights` names them) and shape,
/// writing resumes where it stopped, on any number of processes. Returns the images that were there
/// already.
///
/// # Errors
/// When images cannot be read, a feature is NaN or infinite, the disk is full or the device fails.
#[allow(
    clippy::too_many_arguments,
    reason = "an encoder, what, of which images, read how, by whom, to where"
)]
pub fn embed(
    world: &World,
    vit: &Vit,
    embedding: Embedding,
    source: &Arc<Source>,
    reading: &ExtractConfig,
    weights: &str,
    out: &Path,
    device: &Device,
    progress: &mut Progress,
) -> Result<usize, EvalError> {
    let begin = || Unfinished::open(out, embedding.shape(source.len(), vit), weights, source);
    let mut file = world.on_root(begin, in_words)?;
    let done = world.told(file.as_ref().map_or(0, |file| file.next));
    let loader = LoaderConfig {
        batch: reading.batch,
        workers: reading.workers,
        order: Order::Sequential,
        max_bad_share: reading.max_bad_share,
        subset: Some((done as u32..source.len() as u32).collect()),
        ..LoaderConfig::default()
    };
    let make = |batch: &Batch| {
        let mut rows = Vec::new();
        embedding.append(vit, batch, reading, source, device, &mut rows)?;
        Ok(vec![rows])
    };
    progress.begin();
    if done < source.len() {
        let view = View::Eval(reading.view);
        let bad = in_turns(world, source, Split::Train, view, loader, make, |made| {
            let file = file.as_mut().expect("the root takes what is made");
            file.append(&made.samples, &made.rows[0])?;
            progress.images("embedding", file.next, source.len());
            Ok(())
        })?;
        progress.left_out(&bad);
    }
    world.on_root(|| file.map_or(Ok(()), |file| file.finish(source)), in_words)?;
    progress.clear();
    Ok(done)
}

/// A file of features that is being written.
struct Unfinished<'a> {
    out: &'a Path,
    format: Format,
    shape: Vec<usize>,
    part: PathBuf,
    key: PathBuf,
    file: BufWriter<File>,
    /// Values of an image.
    width: usize,
    /// The image whose row comes next.
    next: usize,
}

impl<'a> Unfinished<'a> {
    /// Begins one of this shape, or goes on with one of the same images and weights.
    fn open(
        out: &'a Path,
        shape: Vec<usize>,
        weights: &str,
        source: &Source,
    ) -> Result<Self, EvalError> {
        let format = Format::of(out)?;
        let header = format.header(&shape);
        let width: usize = shape[1..].iter().product();
        let (part, key_file) = (with_suffix(out, "part"), with_suffix(out, "part.json"));
        let key = json!({
            "weights": weights,
            "data": digest_of(source),
            "header": header,
            "shape": shape,
        });
        let known = fs::read(&key_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let same = part.exists() && known == Some(key.clone());
        let next = if same {
            let bytes = part.metadata().map_err(io("read", &part))?.len() as usize;
            bytes.saturating_sub(header.len()) / (4 * width)
        } else {
            fs::write(&part, &header).map_err(io("write", &part))?;
            replace(&key_file, key.to_string().as_bytes())?;
            0
        };
        let mut file = OpenOptions::new().write(true).open(&part).map_err(io("open", &part))?;
        // A torn last row is written again.
        let end = (header.len() + next * 4 * width) as u64;
        file.set_len(end)
            .and_then(|()| file.seek(SeekFrom::End(0)).map(drop))
            .map_err(io("write", &part))?;
        let file = BufWriter::new(file);
        Ok(Self { out, format, shape, part, key: key_file, file, width, next })
    }

    /// Writes the rows of some images, and NaN for those that are missing before them.
    fn append(&mut self, samples: &[u64], rows: &[f32]) -> Result<(), EvalError> {
        for (row, sample) in rows.chunks_exact(self.width).zip(samples) {
            self.skip_to(*sample as usize)?;
            write(&mut self.file, row).map_err(io("write", &self.part))?;
            self.next += 1;
        }
        Ok(())
    }

    fn skip_to(&mut self, image: usize) -> Result<(), EvalError> {
        let missing = vec![f32::NAN; (image - self.next) * self.width];
        self.next = image;
        write(&mut self.file, &missing).map_err(io("write", &self.part))
    }

    /// Writes the names beside it and gives it its own name; or makes a table of both.
    fn finish(mut self, source: &Source) -> Result<(), EvalError> {
        self.skip_to(source.len())?;
        self.file.flush().map_err(io("write", &self.part))?;
        if self.format == Format::Parquet {
            let table = with_suffix(self.out, "part.parquet");
            write_table(&self.part, &self.shape, source, &table)
                .map_err(|error| io("write", &table)(std::io::Error::other(error)))?;
            fs::rename(&table, self.out).map_err(io("write", self.out))?;
            fs::remove_file(&self.part).map_err(io("remove", &self.part))?;
        } else {
            let names = with_suffix(self.out, "names.jsonl");
            write_names(source, &names).map_err(io("write", &names))?;
            let synced = self.file.get_ref().sync_all();
            synced
                .and_then(|()| fs::rename(&self.part, self.out))
                .map_err(io("write", self.out))?;
        }
        fs::remove_file(&self.key).map_err(io("remove", &self.key))
    }
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EvalError + use<> {
    let path = path.to_owned();
    move |source| EvalError::File { doing, path, source }
}

fn write(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

/// `features.npy` and `part` make `features.npy.part`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Preparation;
    use ocl_data::{Geometry, SourceKind};
    use ocl_model::VitConfig;

    fn source(folder: &Path) -> Arc<Source> {
        for i in 0..70u8 {
            let pixels: Vec<u8> = (0..8 * 8 * 3).map(|p| (p as u8).wrapping_mul(i)).collect();
            let path = folder.join(format!("{i:02}.png"));
            image::save_buffer(path, &pixels, 8, 8, image::ColorType::Rgb8).unwrap();
        }
        // One that is no image, in the middle.
        fs::write(folder.join("33.png"), b"nothing").unwrap();
        let path = folder.to_str().unwrap();
        Arc::new(Source::open(path, SourceKind::Folder, Split::Train).unwrap())
    }

    fn encoder() -> Vit {
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 1, heads: 2, mlp_ratio: 4 };
        Vit::new(&config, 1, &Device::default()).unwrap()
    }

    fn run(source: &Arc<Source>, embedding: Embedding, out: &Path) -> usize {
        run_with(&encoder(), source, embedding, out).unwrap()
    }

    fn run_with(
        vit: &Vit,
        source: &Arc<Source>,
        embedding: Embedding,
        out: &Path,
    ) -> Result<usize, EvalError> {
        let device = Device::default();
        let mut preparation = Preparation::imagenet(Geometry { image_px: 8, patch_px: 4 });
        preparation.max_bad_share = 0.1;
        let reading = preparation.reading(16);
        let mut progress = Progress::silent();
        embed(&World::One, vit, embedding, source, &reading, "w", out, &device, &mut progress)
    }

    #[test]
    fn an_interrupted_file_is_resumed_and_equals_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        let source = source(&images);
        let (whole, parts) = (folder.path().join("a.npy"), folder.path().join("b.npy"));
        let pooled = Embedding::Pooled(Pooling::Mean);
        assert_eq!(run(&source, pooled, &whole), 0);
        assert_eq!(run(&source, pooled, &parts), 0);
        let bytes = fs::read(&whole).unwrap();
        assert_eq!((bytes.len(), &bytes[..6]), (128 + 70 * 8 * 4, b"\x93NUMPY".as_slice()));
        let row = |i: usize| &bytes[128 + i * 32..][..32];
        assert!(f32::from_le_bytes(row(33)[..4].try_into().unwrap()).is_nan());
        assert!(f32::from_le_bytes(row(34)[..4].try_into().unwrap()).is_finite());
        // As a crash leaves it: 20 rows and a piece of the next, under the other name.
        let key = {
            let header = Format::Npy.header(&[70, 8]);
            json!({
                "weights": "w",
                "data": digest_of(&source),
                "header": header,
                "shape": [70, 8],
            })
        };
        fs::write(with_suffix(&parts, "part.json"), key.to_string()).unwrap();
        fs::write(with_suffix(&parts, "part"), &bytes[..128 + 20 * 32 + 5]).unwrap();
        fs::remove_file(&parts).unwrap();
        assert_eq!(run(&source, pooled, &parts), 20);
        assert_eq!(fs::read(&parts).unwrap(), bytes);
        let names = fs::read_to_string(with_suffix(&parts, "names.jsonl")).unwrap();
        assert!(names.lines().count() == 70 && names.lines().nth(5).unwrap().contains("05.png"));
    }

    #[test]
    fn a_table_is_made_of_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        let source = source(&images);
        let out = folder.path().join("f.parquet");
        run(&source, Embedding::Pooled(Pooling::Mean), &out);
        let table = fs::read(&out).unwrap();
        assert!(table.starts_with(b"PAR1") && table.ends_with(b"PAR1"));
        // Nothing else is left beside the images.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn safetensors_hold_every_patch() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        let source = source(&images);
        let out = folder.path().join("f.safetensors");
        for vit in [encoder(), encoder().without_cls_token()] {
            run_with(&vit, &source, Embedding::Patches, &out).unwrap();
            let bytes = fs::read(&out).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(tensors.tensor("features").unwrap().shape(), [70, 4, 8]);
        }
        let (vit, cls) = (encoder().without_cls_token(), Embedding::Pooled(Pooling::Cls));
        let error = run_with(&vit, &source, cls, &out).unwrap_err().to_string();
        assert!(error.contains("no class token") && error.contains("mean"), "{error}");
    }
}
