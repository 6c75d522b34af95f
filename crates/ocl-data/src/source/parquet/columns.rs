//! Which columns of a table hold the images and their classes.

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::super::survey::Survey;

/// What columns of images are called, in lower case, the likelier first.
const IMAGES: [&str; 10] =
    ["image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes"];
/// What columns of classes are called.
const CLASSES: [&str; 11] = [
    "label",
    "labels",
    "fine_label",
    "class",
    "class_label",
    "cls",
    "category",
    "target",
    "class_name",
    "label_name",
    "y",
];

/// The columns of a table that serve, as places among its leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) class: Option<usize>,
    /// The classes' names, where the table says them.
    pub(super) names: Vec<String>,
}

impl Columns {
    /// Chooses by what Hugging Face's libraries note of a table, else by names and types.
    ///
    /// # Errors
    /// A sentence, when no column or several might hold the images.
    pub(super) fn of(about: &ParquetMetaData, survey: &mut Survey) -> Result<Columns, String> {
        let leaves = about.file_metadata().schema_descr().columns();
        let features = features(about);
        let kind = |name: &str| features.as_ref()?.get(name)?.get("_type")?.as_str();
        let root = |leaf: usize| leaves[leaf].path().parts()[0].as_str();
        // A struct of bytes and path, or bytes alone; never a list.
        let is_image = |leaf: &usize| {
            let column = &leaves[*leaf];
            let parts = column.path().parts();
            let named = parts.len() == 1 || parts.len() == 2 && parts[1] == "bytes";
            named
                && column.max_rep_level() == 0
                && column.physical_type() == Type::BYTE_ARRAY
                && !is_text(column)
        };
        let images: Vec<usize> = (0..leaves.len()).filter(is_image).collect();
        let noted: Vec<usize> =
            images.iter().copied().filter(|&leaf| kind(root(leaf)) == Some("Image")).collect();
        let among = if noted.is_empty() { &images } else { &noted };
        let Some(image) = likeliest(among, &IMAGES, root) else {
            let all: Vec<String> = leaves.iter().map(|leaf| leaf.path().string()).collect();
            let all = all.join("`, `");
            return Err(match images.len() {
                0 => format!("no column of image bytes among `{all}`"),
                _ => format!("which of the columns `{all}` holds the images? call it `image`"),
            });
        };
        for other in among.iter().filter(|other| **other != image) {
            survey.pass("further columns of images", root(*other));
        }
        let is_class = |leaf: &usize| {
            let column = &leaves[*leaf];
            let integer = matches!(column.physical_type(), Type::INT32 | Type::INT64);
            let flat = column.path().parts().len() == 1 && column.max_rep_level() == 0;
            flat && (integer || column.physical_type() == Type::BYTE_ARRAY && is_text(column))
        };
        let classes: Vec<usize> = (0..leaves.len()).filter(is_class).collect();
        let (noted, named): (Vec<usize>, Vec<usize>) = (
            classes
                .iter()
                .copied()
                .filter(|&leaf| kind(root(leaf)) == Some("ClassLabel"))
                .collect(),
            classes.iter().copied().filter(|&leaf| place(root(leaf), &CLASSES).is_some()).collect(),
        );
        let among = if noted.is_empty() { &named } else { &noted };
        // Of several the first of the table, where no name says more.
        let class = likeliest(among, &CLASSES, root).or(among.first().copied());
        for other in among.iter().filter(|other| Some(**other) != class) {
            survey.pass("further columns of classes", root(*other));
        }
        let names = class.and_then(|leaf| features.as_ref()?.get(root(leaf))?.get("names"));
        let names = names.and_then(Value::as_array).into_iter().flatten();
        let names = names.map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
        Ok(Columns { image, class, names })
    }
}

/// The column with the likeliest name; without such a name the only one.
fn likeliest<'a>(
    among: &[usize],
    known: &[&str],
    root: impl Fn(usize) -> &'a str,
) -> Option<usize> {
    let named = among.iter().copied().filter_map(|leaf| Some((place(root(leaf), known)?, leaf)));
    named.min().map(|(_, leaf)| leaf).or(match among {
        [only] => Some(*only),
        _ => None,
    })
}

fn place(name: &str, known: &[&str]) -> Option<usize> {
    let name = name.to_lowercase();
    known.iter().position(|known| *known == name)
}

fn is_text(column: &ColumnDescriptor) -> bool {
    column.logical_type_ref() == Some(&LogicalType::String)
        || matches!(column.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM)
}

/// What Hugging Face's libraries note of the columns.
fn features(about: &ParquetMetaData) -> Option<Value> {
    let notes = about.file_metadata().key_value_metadata()?;
    let note = notes.iter().find(|note| note.key == "huggingface")?.value.as_ref()?;
    let note: Value = serde_json::from_str(note).ok()?;
    note.get("info")?.get("features").cloned()
}
