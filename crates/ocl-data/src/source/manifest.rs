//! Tables of images: a row an image, with its path, its class and its part.
//!
//! CSV and TSV with or without a header, and JSON lines. Paths are relative to the table's folder.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::classes::{Class, labels};
use super::folder::Folder;
use super::kind::Split;
use super::opened::{Opened, damaged, read_file};
use super::parts::{self, Part, SplitNames};
use super::survey::Survey;
use super::walk;
use crate::error::SourceError;

/// What the columns are called, in lower case, the likelier first.
const PATHS: [&str; 11] = [
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "image_file",
    "img",
    "img_path",
];
const CLASSES: [&str; 11] = [
    "label",
    "class",
    "class_name",
    "label_name",
    "category",
    "target",
    "labels",
    "class_id",
    "label_id",
    "classid",
    "y",
];
const SPLITS: [&str; 6] = ["split", "set", "subset", "partition", "part", "dataset_split"];

/// Images that are looked for before the first is believed to be where the table says.
const LOOKED_FOR: usize = 64;

/// Whether a path is a table of images by its name.
pub(super) fn detects(path: &Path) -> bool {
    kind(path).is_some() && path.is_file()
}

#[derive(Clone, Copy)]
enum Kind {
    Separated(u8),
    JsonLines,
}

fn kind(path: &Path) -> Option<Kind> {
    let extension = path.extension()?.to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "csv" => Some(Kind::Separated(b',')),
        "tsv" => Some(Kind::Separated(b'\t')),
        "jsonl" | "ndjson" => Some(Kind::JsonLines),
        _ => None,
    }
}

/// One row.
struct Row {
    path: PathBuf,
    class: Class,
    /// The part that it names; empty without one.
    split: String,
}

impl Row {
    /// Whether it names no image.
    fn is_empty(&self) -> bool {
        self.path == Path::new("")
    }
}

/// Opens a part of a table's images.
pub(super) fn open(
    path: &Path,
    split: Split,
    names: &SplitNames,
) -> Result<Opened<Folder>, SourceError> {
    if !path.exists() {
        return Err(SourceError::Missing(path.into()));
    }
    let mut survey = Survey::default();
    let text = read_file(path)?;
    let mut rows = match kind(path) {
        Some(Kind::JsonLines) => json_lines(path, &text, &mut survey)?,
        Some(Kind::Separated(by)) => separated(path, &text, by, &mut survey)?,
        None => return Err(damaged(path, "no table by its name (.csv, .tsv, .jsonl)")),
    };
    if let Some(first) = rows.iter().position(Row::is_empty) {
        let count = rows.iter().filter(|row| row.is_empty()).count();
        survey.pass_many("rows without a path", count as u64, &format!("row {}", first + 1));
        rows.retain(|row| !row.is_empty());
    }
    let has_splits = rows.iter().any(|row| !row.split.is_empty());
    let [mine, theirs] = match split {
        Split::Train => [Split::Train, Split::Test],
        Split::Test => [Split::Test, Split::Train],
    }
    .map(|split| of_split(&rows, has_splits, split, names));
    if mine.is_empty() {
        return Err(no_rows(path, split, has_splits, names, &rows));
    }
    let others: HashSet<&Path> = theirs.iter().map(|&row| rows[row].path.as_path()).collect();
    let (mut seen, mut chosen, mut in_both) = (HashSet::new(), Vec::new(), Vec::new());
    for row in mine {
        let image = rows[row].path.as_path();
        if !seen.insert(image) {
            survey.pass("rows of an image that an earlier row names", &image.to_string_lossy());
            continue;
        }
        if others.contains(image) {
            in_both.push(image);
        }
        chosen.push(row);
    }
    if let Some(first) = in_both.first() {
        let count = in_both.len();
        survey.note(format!("{count} images are in both parts, {} the first", first.display()));
    }
    let nowhere = rows.iter().filter(|row| has_splits && is_nowhere(row, names));
    for row in nowhere {
        survey.pass("rows of no known part", &row.path.to_string_lossy());
    }
    let root = path.parent().unwrap_or(Path::new("")).to_owned();
    if let Some(first) = chosen.first().map(|&row| root.join(&rows[row].path))
        && !chosen.iter().take(LOOKED_FOR).any(|&row| root.join(&rows[row].path).exists())
    {
        return Err(SourceError::NotFound {
            path: path.into(),
            looked_for: format!("its images are not there, {} the first", first.display()),
            advice: "write paths as they are seen from the table's folder".into(),
        });
    }
    let classes = classes_of(&rows, &chosen);
    let name_of = |at: usize| rows[chosen[at]].path.display().to_string();
    let said = |&row: &usize| Some(rows[row].class.said()).filter(|word| !word.is_empty());
    let other_words = || theirs.iter().filter_map(said).collect();
    let (labels, class_names) = labels(path, name_of, &classes, &mut survey, other_words)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let title = (format!("images of {name}"), format!("{split} images"));
    let files = chosen.iter().map(|&row| rows[row].path.clone()).collect();
    Ok(Opened { store: Folder::new(root, files), labels, class_names, title, survey })
}

/// The rows' classes; all are words if any of the table is one.
fn classes_of(rows: &[Row], chosen: &[usize]) -> Vec<Class> {
    let words = rows.iter().any(|row| matches!(row.class, Class::Word(_)));
    let class = |&row: &usize| match &rows[row].class {
        Class::Number(number) if words => Class::Word(number.to_string()),
        class => class.clone(),
    };
    chosen.iter().map(class).collect()
}

/// The rows of a part.
fn of_split(rows: &[Row], has_splits: bool, split: Split, names: &SplitNames) -> Vec<usize> {
    let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<usize> {
        (0..rows.len()).filter(|&row| wanted(&rows[row].split)).collect()
    };
    if let Some(name) = names.of(split) {
        return of(&|own| name == "." || own.eq_ignore_ascii_case(name));
    }
    let test = |own: &str| names.test.as_deref().is_some_and(|name| own.eq_ignore_ascii_case(name));
    let part = |part: Part| of(&|own| parts::of_word(own) == Some(part) && !test(own));
    let (first, second) = match split {
        Split::Train if !has_splits => return (0..rows.len()).collect(),
        // Where the part to measure on was named, the rest is for training.
        Split::Train if names.test.is_some() => (part(Part::Train), of(&|own| !test(own))),
        Split::Train => (part(Part::Train), Vec::new()),
        Split::Test => (part(Part::Validation), part(Part::Test)),
    };
    if first.is_empty() { second } else { first }
}

/// Whether a row is of no part that anyone can ask for.
fn is_nowhere(row: &Row, names: &SplitNames) -> bool {
    let named = [&names.train, &names.test].into_iter().flatten();
    parts::of_word(&row.split).is_none()
        && !named.into_iter().any(|name| name == "." || row.split.eq_ignore_ascii_case(name))
}

fn no_rows(
    path: &Path,
    split: Split,
    has_splits: bool,
    names: &SplitNames,
    rows: &[Row],
) -> SourceError {
    let there: BTreeSet<&str> = rows.iter().map(|row| row.split.as_str()).collect();
    let there: Vec<&str> = there.into_iter().take(8).collect();
    let (looked_for, advice) = if rows.is_empty() {
        ("no row in it".to_owned(), "give a table with a row for each image".to_owned())
    } else if !has_splits {
        let looked_for =
            format!("no column says of what part an image is, so there is no {split} part");
        (looked_for, "add a column `split` with `train` and `test`".to_owned())
    } else {
        let wanted = names.of(split).map_or(String::new(), |name| format!(" called `{name}`"));
        let advice =
            format!("say which it is: --{split}-split NAME (there are `{}`)", there.join("`, `"));
        (format!("no row of a {split} part{wanted}"), advice)
    };
    SourceError::NotFound { path: path.into(), looked_for, advice }
}

/// Which columns are what, by their names.
struct Columns {
    path: usize,
    class: Option<usize>,
    split: Option<usize>,
}

impl Columns {
    /// By the names in a header; `None` where none of them is a path.
    fn of(header: &[String], survey: &mut Survey) -> Option<Columns> {
        let lower: Vec<String> = header.iter().map(|name| name.trim().to_lowercase()).collect();
        let find = |known: &[&str]| {
            known.iter().find_map(|known| lower.iter().position(|name| name == known))
        };
        let columns = Columns { path: find(&PATHS)?, class: find(&CLASSES), split: find(&SPLITS) };
        for (at, name) in header.iter().enumerate() {
            if at != columns.path && Some(at) != columns.class && Some(at) != columns.split {
                survey.pass("columns", name);
            }
        }
        Some(columns)
    }

    /// The row whose cells are these.
    fn row(&self, text: impl Fn(usize) -> String, class: impl Fn(usize) -> Class) -> Row {
        let mut path = text(self.path);
        if !path.contains('/') {
            // Written where folders are parted so.
            path = path.replace('\\', "/");
        }
        Row {
            path: path.into(),
            class: self.class.map_or(Class::Missing, class),
            split: self.split.map_or(String::new(), text),
        }
    }
}

/// Reads text with a separator.
fn separated(
    path: &Path,
    text: &[u8],
    by: u8,
    survey: &mut Survey,
) -> Result<Vec<Row>, SourceError> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    // Some programs write `.csv` with what their country's numbers leave free.
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let by = if line.contains(&by) {
        by
    } else {
        [b';', b'\t', b','].into_iter().find(|by| line.contains(by)).unwrap_or(by)
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(by)
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text);
    let mut columns = None;
    let mut rows = Vec::new();
    for record in reader.byte_records() {
        let record = record.map_err(|error| damaged(path, error.to_string()))?;
        let words: Vec<String> =
            record.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let known = match &columns {
            Some(known) => known,
            None => {
                let named = Columns::of(&words, survey);
                let has_header = named.is_some();
                let plain = || {
                    let own = walk::is_image(Path::new(&words[0]));
                    own.then_some(Columns { path: 0, class: Some(1), split: Some(2) })
                };
                let Some(known) = named.or_else(plain) else {
                    return Err(no_paths(path, &words));
                };
                let known = columns.insert(known);
                if has_header {
                    continue;
                }
                known
            }
        };
        let text = |at: usize| words.get(at).cloned().unwrap_or_default();
        rows.push(known.row(text, |at| Class::of_text(&text(at))));
    }
    Ok(rows)
}

/// Reads an object a line.
fn json_lines(path: &Path, text: &[u8], survey: &mut Survey) -> Result<Vec<Row>, SourceError> {
    let mut rows = Vec::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| damaged(path, format!("line {}: {error}", number + 1)))?;
        let keys: Vec<String> = object.keys().cloned().collect();
        // What the first object has beside them is told once.
        let told = if rows.is_empty() { &mut *survey } else { &mut Survey::default() };
        let known = Columns::of(&keys, told).ok_or_else(|| no_paths(path, &keys))?;
        let text = |at: usize| match &object[&keys[at]] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let row = known.row(text, |at| Class::of_json(&object[&keys[at]]));
        if known.class.is_some_and(|at| object[&keys[at]].is_array()) {
            survey.pass("lists of labels", &row.path.to_string_lossy());
        }
        rows.push(row);
    }
    Ok(rows)
}

fn no_paths(path: &Path, columns: &[String]) -> SourceError {
    SourceError::NotFound {
        path: path.into(),
        looked_for: format!("no column of paths among `{}`", columns.join("`, `")),
        advice: format!("call it `path` (or {})", PATHS[1..6].join(", ")),
    }
}
