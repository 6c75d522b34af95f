//! What can go wrong with an image, a data set and a loader.

use std::path::PathBuf;

/// Why one image could not be turned into pixels. It is quarantined, the run goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be read.
    #[error("the file cannot be read")]
    Read(#[source] std::io::Error),
    /// The file holds no bytes.
    #[error("the file is empty")]
    Empty,
    /// The first bytes are those of none of the known formats.
    #[error("not an image: the bytes are neither JPEG, PNG, WebP, BMP, GIF nor TIFF")]
    UnknownFormat,
    /// The header promises an image that is empty or too large to be decoded safely.
    #[error(
        "the header says {width_px} x {height_px} pixels; an image must have at least one and at \
         most {max_pixels} pixels"
    )]
    Dimensions {
        /// Width in the header.
        width_px: u32,
        /// Height in the header.
        height_px: u32,
        /// The limit, [`MAX_PIXELS`](crate::MAX_PIXELS).
        max_pixels: u64,
    },
    /// The decoder refused a JPEG.
    #[error("the JPEG is damaged or of an unknown kind")]
    Jpeg(#[source] libjpeg_turbo_rs::JpegError),
    /// The decoder refused another format.
    #[error("the image is damaged or of an unknown kind")]
    Container(#[source] image::ImageError),
    /// A decoder panicked; taken as a damaged image.
    #[error("the decoder gave up: {0}")]
    Decoder(String),
}

/// Why a data set could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing is at the path.
    #[error("{}: no such file or folder; check the path, or say `embedded` for the built-in set", .0.display())]
    Missing(PathBuf),
    /// The path is a file where a folder is wanted.
    #[error("{}: is a file; give the folder that holds the data set", .0.display())]
    NotAFolder(PathBuf),
    /// The folder has none of the files that its kind of data set consists of.
    #[error("{}: {looked_for}; {advice}", .path.display())]
    NotFound {
        /// Where was looked.
        path: PathBuf,
        /// What was looked for, and found or not.
        looked_for: String,
        /// What to do about it.
        advice: String,
    },
    /// A folder or file could not be read.
    #[error("{}: cannot be read", .path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// A file of a data set is not what its name says.
    #[error("{}: {reason}; fetch the file again or give the right folder", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The program was built without the embedded data set.
    #[error(
        "the embedded data set is not part of this program; build it with the cargo feature \
         `embedded` or give a path"
    )]
    NotEmbedded,
    /// A name that is none of the known kinds.
    #[error(
        "`{0}` is no kind of data set; use auto, folder, zip, parquet, manifest, shards, idx, cifar10, cifar100 or embedded"
    )]
    UnknownKind(String),
}

/// Why a loader could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// A setting that cannot work.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// More images than allowed could not be read.
    #[error(
        "{}; {} names them, the last is {last}: {}",
        too_many(*.bad, *.tried, *.allowed),
        quarantine_name(.quarantine),
        if bad == tried { "see whether it is what you meant to give" }
        else { "mend or remove them, or raise the allowed share (--max-bad-share, in recipes data.max_bad_share)" }
    )]
    TooManyBad {
        /// Distinct images that could not be read.
        bad: u64,
        /// Distinct images tried.
        tried: u64,
        /// The share allowed, 0 to 1.
        allowed: f64,
        /// Name and reason of the last one.
        last: String,
        /// The file that names them all, if there is one.
        quarantine: Option<PathBuf>,
    },
    /// The quarantine file could not be written.
    #[error("{}: the quarantine file cannot be written; give a folder with room that may be written", .path.display())]
    Quarantine {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// A worker panicked: a fault of this program, not of the data.
    #[error(
        "a loader worker panicked at sample {sample} ({name}): {message}; this is a fault of the program, please report it"
    )]
    WorkerPanicked {
        /// Index of the sample in the source.
        sample: u64,
        /// Its name.
        name: String,
        /// The panic's message.
        message: String,
    },
    /// A worker thread could not be started, or all of them are gone.
    #[error("the loader's worker threads cannot run")]
    Threads(#[source] std::io::Error),
}

fn too_many(bad: u64, tried: u64, allowed: f64) -> String {
    if bad == tried {
        return format!("none of the first {tried} images can be read");
    }
    let share = 100.0 * bad as f64 / tried as f64;
    format!(
        "{bad} of the {tried} images tried so far cannot be read ({share:.1} %), more than the allowed \
         {:.1} %",
        100.0 * allowed
    )
}

fn quarantine_name(path: &Option<PathBuf>) -> String {
    match path {
        Some(path) => path.display().to_string(),
        None => "no quarantine file was asked for, so nothing".into(),
    }
}

/// An error with its causes, in one line.
pub fn in_words<E: std::error::Error>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
