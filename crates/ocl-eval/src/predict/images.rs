//! The images that are asked about: files, and whole data sets.

use std::path::{Path, PathBuf};

use ocl_data::{RgbImage, Source, SourceError, SourceKind, Split, decode};

use crate::error::EvalError;

/// One argument.
enum Given {
    File(PathBuf),
    Set(Box<Source>),
}

/// All images of all arguments, in their order.
pub(super) struct Images {
    given: Vec<Given>,
}

impl Images {
    /// Opens files of single images, folders of images, and whatever else is a data set, of which
    /// `split` is taken; without one the test split, or all where there is none.
    pub(super) fn open(
        paths: &[String],
        kind: SourceKind,
        split: Option<Split>,
    ) -> Result<Self, EvalError> {
        let open = |path: &String| {
            let file = Path::new(path);
            let set = file.extension().is_some_and(|extension| extension == "tar");
            if kind == SourceKind::Auto && file.is_file() && !set {
                return Ok(Given::File(file.to_owned()));
            }
            let set = |split| {
                let source = Source::open(path, kind, split);
                let set = source.map(|source| Given::Set(Box::new(source)));
                set.map_err(|source| EvalError::Source { split, source })
            };
            match (set(split.unwrap_or(Split::Test)), split) {
                // Folders without splits are opened whole as the training split.
                (Err(EvalError::Source { source: SourceError::NotFound { .. }, .. }), None) => {
                    set(Split::Train)
                }
                (opened, _) => opened,
            }
        };
        Ok(Self { given: paths.iter().map(open).collect::<Result<_, _>>()? })
    }

    pub(super) fn len(&self) -> usize {
        self.given.iter().map(Given::len).sum()
    }

    /// Every image: what it lies in, and its number there.
    pub(super) fn all(&self) -> Vec<Place<'_>> {
        let places = |given| (0..Given::len(given)).map(move |index| Place { given, index });
        self.given.iter().flat_map(places).collect()
    }
}

impl Given {
    fn len(&self) -> usize {
        match self {
            Self::File(_) => 1,
            Self::Set(source) => source.len(),
        }
    }
}

/// One image.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    given: &'a Given,
    index: usize,
}

impl Place<'_> {
    pub(super) fn name(&self) -> String {
        match self.given {
            Given::File(path) => path.display().to_string(),
            Given::Set(source) => source.name_of(self.index),
        }
    }

    /// The image, or why there is none.
    pub(super) fn read(&self) -> Result<RgbImage, String> {
        match self.given {
            Given::File(path) => {
                let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
                decode(&bytes).map_err(|error| error.to_string())
            }
            Given::Set(source) => source.image(self.index).map_err(|error| error.to_string()),
        }
    }
}
