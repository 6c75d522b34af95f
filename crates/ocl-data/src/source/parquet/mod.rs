//! Tables of images in Parquet files, as Hugging Face's libraries and sites keep data sets.
//!
//! A row is a sample. Bytes of images are read a row group at a time and shared by all threads; the
//! shuffled order visits row groups together (`Runs`), so that each is read once an epoch.

mod checks;
mod columns;
mod groups;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Runs;
use super::archives::{PARQUET, at_once, in_folder, of_path};
use super::classes::{Class, labels};
use super::kind::Split;
use super::opened::{Opened, damaged};
use super::parts::SplitNames;
use super::survey::Survey;
use super::walk;
use crate::error::{ImageError, SourceError};
use columns::Columns;
use groups::{Cache, Table};

/// Bytes of images that are mixed with one another in the shuffled order. As many again are held
/// where one mixture ends and the next begins.
const MIXED_BYTES: u64 = 256 << 20;

/// Folders that are looked into for tables; where there are more they are classes, and to list them
/// would take long.
const LOOKED_INTO: usize = 32;

/// The images of all rows, in their order.
#[derive(Debug)]
pub(super) struct Parquet {
    tables: Vec<Table>,
    groups: Vec<Group>,
    /// The first sample of each group, and behind them the number of all.
    starts: Vec<u32>,
    mixed: usize,
    cache: Cache,
}

/// A row group that has images.
#[derive(Debug)]
struct Group {
    table: u32,
    number: u32,
    column: u32,
    /// The row of its first row in the table.
    first_row: u64,
    /// Rows of it without an image.
    missing: Vec<u32>,
}

impl Parquet {
    pub(super) fn len(&self) -> usize {
        self.starts.last().map_or(0, |&len| len as usize)
    }

    /// The group of a sample, and its place among the images there.
    fn place(&self, index: usize) -> (usize, usize) {
        let group = self.starts.partition_point(|&start| start as usize <= index) - 1;
        (group, index - self.starts[group] as usize)
    }

    pub(super) fn name_of(&self, index: usize) -> String {
        let (group, mut row) = self.place(index);
        let Group { first_row, missing, .. } = &self.groups[group];
        for &missing in missing {
            row += usize::from(missing as usize <= row);
        }
        format!("{}[{}]", self.table(index).display(), first_row + row as u64)
    }

    /// The file that a sample lies in.
    pub(super) fn table(&self, index: usize) -> &Path {
        &self.tables[self.groups[self.place(index).0].table as usize].path
    }

    /// The bytes of the images of a sample's row group, as they are stored.
    pub(super) fn bytes_of(&self, index: usize) -> u64 {
        let Group { table, number, column, .. } = &self.groups[self.place(index).0];
        self.tables[*table as usize].stored_bytes(*number as usize, *column as usize)
    }

    /// Row groups lie side by side, and so many are mixed.
    pub(super) fn runs(&self) -> Runs<'_> {
        Runs::Groups { starts: &self.starts, mixed: self.mixed }
    }

    /// Copies a sample's bytes out of its row group.
    pub(super) fn read(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(), ImageError> {
        let (at, place) = self.place(index);
        let group = &self.groups[at];
        let table = &self.tables[group.table as usize];
        let read = || table.images(group.number as usize, group.column as usize);
        let images = self.cache.get(at as u32, read);
        let wrong = |why: &str| ImageError::Read(std::io::Error::other(why.to_owned()));
        let images = images.as_ref().as_ref().map_err(|why| wrong(why))?;
        let image = images.get(place).ok_or_else(|| wrong("the row is not there"))?;
        bytes.clear();
        bytes.extend_from_slice(image.data());
        Ok(())
    }
}

/// Opens a part of the tables that a path names.
pub(super) fn open(
    path: &str,
    split: Split,
    names: &SplitNames,
) -> Result<Opened<Parquet>, SourceError> {
    let root = &settled(Path::new(path))?;
    let mut survey = Survey::default();
    let paths = of_path(root, PARQUET, split, names, &mut survey)?;
    let mut parquet = Parquet {
        tables: Vec::new(),
        groups: Vec::new(),
        starts: vec![0],
        mixed: 2,
        cache: Cache::new(0),
    };
    let (mut classes, mut class_names, mut bytes) = (Vec::new(), None::<Vec<String>>, 0);
    for (path, listed) in paths.iter().zip(at_once(&paths, |path| Listed::of(path))) {
        let listed = listed?;
        survey.merge(listed.survey);
        let names = listed.columns.names;
        if class_names.get_or_insert_with(|| names.clone()) != &names {
            return Err(damaged(path, "its classes have other names than those of the first file"));
        }
        bytes += parquet.add(path, listed.table, listed.columns.image, listed.missing, &mut survey);
        classes.extend(listed.classes);
    }
    if parquet.len() == 0 {
        let passed: String = survey.clauses().iter().map(|clause| format!("; {clause}")).collect();
        let count = parquet.tables.len();
        return Err(damaged(root, format!("no images in {count} files{passed}")));
    }
    let count = parquet.groups.len();
    let mean = (bytes / count as u64).max(1);
    parquet.mixed = usize::try_from(MIXED_BYTES / mean).unwrap_or(count).clamp(2, count.max(2));
    parquet.cache = Cache::new(2 * parquet.mixed + 1);
    let class_names = class_names.unwrap_or_default();
    let (labels, class_names) = if class_names.is_empty() {
        let other = if split == Split::Train { Split::Test } else { Split::Train };
        let name_of = |sample| parquet.name_of(sample);
        let words = || words_of(root, other, names);
        labels(root, name_of, &classes, &mut survey, words)?
    } else {
        named(root, &parquet, &classes, class_names, &mut survey)?
    };
    let count = parquet.tables.len();
    let noun = if count == 1 { "Parquet file" } else { "Parquet files" };
    let title = (format!("{count} {noun}"), format!("{split} images"));
    Ok(Opened { store: parquet, labels, class_names, title, survey })
}

/// Whether a path names tables: one, a range or pattern of them, or a folder of them.
pub(super) fn detects(path: &str) -> bool {
    super::archives::detects(path, PARQUET)
        || settled(Path::new(path)).is_ok_and(|root| {
            root != Path::new(path) && !walk::holds_image(Path::new(path)).unwrap_or(true)
        })
}

/// The folder that holds the tables: a data set as it is downloaded has them in `data` or in a folder
/// of its variant's name.
///
/// # Errors
/// If there are several such folders.
fn settled(path: &Path) -> Result<PathBuf, SourceError> {
    let mut root = path.to_owned();
    while root.is_dir() && in_folder(&root, PARQUET)?.is_empty() {
        let mut holding = Vec::new();
        let folders = walk::folders(&root)?;
        if folders.len() > LOOKED_INTO {
            break;
        }
        for name in folders {
            if !in_folder(&root.join(&name), PARQUET)?.is_empty() {
                holding.push(name);
            }
        }
        match holding.as_slice() {
            [] => break,
            [one] => root.push(one),
            several => {
                return Err(SourceError::NotFound {
                    path: root.clone(),
                    looked_for: format!("`{}` each hold tables", several.join("`, `")),
                    advice: format!("give one of them: {}", root.join(&several[0]).display()),
                });
            }
        }
    }
    Ok(root)
}

/// What is known of a file before an image of it is read.
struct Listed {
    table: Table,
    columns: Columns,
    classes: Vec<Class>,
    /// By row group.
    missing: Vec<Vec<u32>>,
    survey: Survey,
}

impl Listed {
    fn of(path: &Path) -> Result<Listed, SourceError> {
        if !path.exists() {
            return Err(SourceError::Missing(path.to_owned()));
        }
        let wrong = |why: String| damaged(path, format!("no table that can be read ({why})"));
        let table = Table::open(path).map_err(wrong)?;
        let mut survey = Survey::default();
        let columns = Columns::of(&table.about, &mut survey).map_err(|why| damaged(path, why))?;
        let used: Vec<usize> = std::iter::once(columns.image).chain(columns.class).collect();
        if let Some(codec) = checks::unknown_codec(&table.about, &used) {
            return Err(SourceError::NotFound {
                path: path.to_owned(),
                looked_for: format!("compressed by {codec}, which this program cannot read"),
                advice: "write it again with snappy: pyarrow.parquet.write_table(table, FILE, \
                         compression=\"snappy\")"
                    .into(),
            });
        }
        table.check(&used).map_err(wrong)?;
        let (mut classes, mut missing) = (Vec::new(), Vec::new());
        for group in 0..table.about.num_row_groups() {
            let lost = table.missing(group, columns.image).map_err(wrong)?;
            let said = match columns.class {
                Some(column) => table.classes(group, column).map_err(wrong)?,
                None => vec![Class::Missing; table.rows(group)],
            };
            let rows = (0..).zip(said).filter(|(row, _)| lost.binary_search(row).is_err());
            classes.extend(rows.map(|(_, class)| match class {
                // Hugging Face's number for a class that is withheld.
                Class::Number(-1) => Class::Missing,
                said => said,
            }));
            missing.push(lost);
        }
        Ok(Listed { table, columns, classes, missing, survey })
    }
}

impl Parquet {
    /// Adds a file's row groups, and returns the bytes of their images as they are stored.
    fn add(
        &mut self,
        path: &Path,
        table: Table,
        column: usize,
        missing: Vec<Vec<u32>>,
        survey: &mut Survey,
    ) -> u64 {
        let (mut bytes, mut first_row) = (0, 0);
        for (number, missing) in missing.into_iter().enumerate() {
            let rows = table.rows(number);
            if let Some(first) = missing.first() {
                let first = format!("{}[{}]", path.display(), first_row + u64::from(*first));
                survey.pass_many("rows without an image", missing.len() as u64, &first);
            }
            let images = rows - missing.len().min(rows);
            if images > 0 {
                bytes += table.stored_bytes(number, column);
                let last = self.starts.last().copied().unwrap_or(0);
                self.starts.push(last.saturating_add(u32::try_from(images).unwrap_or(u32::MAX)));
                self.groups.push(Group {
                    table: self.tables.len() as u32,
                    number: number as u32,
                    column: column as u32,
                    first_row,
                    missing,
                });
            }
            first_row += rows as u64;
        }
        self.tables.push(table);
        bytes
    }
}

/// Labels whose names the tables say.
fn named(
    root: &Path,
    parquet: &Parquet,
    classes: &[Class],
    names: Vec<String>,
    survey: &mut Survey,
) -> Result<(Option<Vec<u32>>, Vec<String>), SourceError> {
    let missing = |class: &Class| *class == Class::Missing;
    let count = classes.iter().filter(|class| missing(class)).count();
    if let Some(first) = classes.iter().position(missing) {
        let first = parquet.name_of(first);
        survey.note(format!("without labels, as {count} rows have none, {first} the first"));
        return Ok((None, Vec::new()));
    }
    let label = |(sample, class): (usize, &Class)| match class {
        Class::Number(number) if (0..names.len() as i64).contains(number) => Ok(*number as u32),
        other => {
            let (name, count) = (parquet.name_of(sample), names.len());
            Err(damaged(root, format!("{name} is of class {} of 0..{count}", other.said())))
        }
    };
    let labels = classes.iter().enumerate().map(label).collect::<Result<Vec<u32>, _>>()?;
    Ok((Some(labels), names))
}

/// The words that a part's classes are called by; none where there is no such part.
fn words_of(root: &Path, split: Split, names: &SplitNames) -> BTreeSet<String> {
    let paths = of_path(root, PARQUET, split, names, &mut Survey::default()).unwrap_or_default();
    // A fault of the other part is told when it is opened.
    let listed = at_once(&paths, |path| Listed::of(path)).into_iter().flatten();
    let mut words: BTreeSet<String> =
        listed.flat_map(|listed| listed.classes).map(|class| class.said()).collect();
    words.remove("");
    words
}
