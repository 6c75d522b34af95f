//! Classes of images that stand in a file beside their archive, as those of ImageNet's validation
//! part do.
//!
//! Known are lists of words, a line an image in the order of their names; tables of names and classes
//! (`val.txt`, `LOC_val_solution.csv`), whose numbers count the training classes from 0; and the list
//! of the development kit, whose numbers its `meta.mat` explains.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::classes::Class;
use super::matlab;
use super::opened::{damaged, read_file};
use super::parts::{self, Part};
use super::survey::Survey;
use super::tar;
use super::walk;
use crate::error::SourceError;

/// ImageNet's classes, which are not numbered in the order of their names.
const IMAGENET_CLASSES: usize = 1000;
/// The most bytes of a development kit, or of a file beside it.
const MAX_KIT_BYTES: u64 = 256 << 20;

/// A file that may say the classes.
struct Text {
    path: PathBuf,
    content: Vec<u8>,
}

/// The classes of images, from a file in their folder or in a development kit there; `None` where
/// there is none. `trained` are the names of the training classes.
///
/// # Errors
/// If a file cannot be read, or the list of a development kit does not fit the images.
pub(super) fn classes(
    root: &Path,
    images: &[&str],
    trained: impl FnOnce() -> BTreeSet<String>,
    survey: &mut Survey,
) -> Result<Option<Vec<Class>>, SourceError> {
    let (mut lists, mut tables) = (Vec::new(), Vec::new());
    gather(root, &mut lists, &mut tables)?;
    // The kit's own list comes last: others need nothing to explain them.
    lists.sort_by_key(|list| is_of_kit(&list.path));
    if lists.is_empty() {
        return Ok(None);
    }
    let trained: Vec<String> = trained().into_iter().collect();
    for list in &lists {
        match read(list, images, &trained, &tables) {
            Ok(known) => {
                survey.note(format!("classes are those of {}", list.path.display()));
                return Ok(Some(known));
            }
            Err(error) if is_of_kit(&list.path) => return Err(error),
            Err(error) => survey.note(format!("no classes of the images: {error}")),
        }
    }
    Ok(None)
}

/// Finds the files that say classes, and those that explain their numbers.
fn gather(dir: &Path, lists: &mut Vec<Text>, tables: &mut Vec<Text>) -> Result<(), SourceError> {
    let mut keep = |path: PathBuf, content: &mut dyn FnMut() -> Result<Vec<u8>, SourceError>| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let list = name.ends_with(".txt") || name.ends_with(".csv");
        if name == "meta.mat" {
            tables.push(Text { content: content()?, path });
        } else if list && parts::in_name(&name).contains(&Part::Validation) {
            lists.push(Text { content: content()?, path });
        }
        Ok::<(), SourceError>(())
    };
    let mut folders = Vec::new();
    for entry in walk::list(dir)? {
        let (name, path) = (entry.file_name().to_string_lossy().to_lowercase(), entry.path());
        if walk::foreign(&name).is_some() {
            continue;
        }
        if path.is_dir() {
            if name.contains("devkit") || name == "data" {
                folders.push(path);
            }
        } else if name.contains("devkit") && name.ends_with(".tar.gz") {
            let mut kit = Vec::new();
            let io = |cause| SourceError::Io { path: path.clone(), cause };
            let file = File::open(&path).map_err(io)?;
            GzDecoder::new(file).take(MAX_KIT_BYTES).read_to_end(&mut kit).map_err(io)?;
            let members = tar::members(&kit.as_slice(), 0..kit.len() as u64, |_| false);
            for member in members.map_err(|why| damaged(&path, why))? {
                let bytes = member.bytes.start as usize..member.bytes.end as usize;
                keep(path.join(&member.name), &mut || Ok(kit[bytes.clone()].to_vec()))?;
            }
        } else if entry.metadata().is_ok_and(|file| file.len() <= MAX_KIT_BYTES) {
            keep(path.clone(), &mut || read_file(&path))?;
        }
    }
    folders.iter().try_for_each(|folder| gather(folder, lists, tables))
}

/// Whether a file is the list of the development kit.
fn is_of_kit(path: &Path) -> bool {
    path.to_string_lossy().to_lowercase().ends_with("ground_truth.txt")
}

/// The classes of the images as a file has them.
fn read(
    list: &Text,
    images: &[&str],
    trained: &[String],
    tables: &[Text],
) -> Result<Vec<Class>, SourceError> {
    let wrong = |reason: String| damaged(&list.path, reason);
    let text = String::from_utf8_lossy(&list.content);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| {
            let between = |c: char| c.is_whitespace() || matches!(c, ',' | ';');
            line.split(between)
                .map(|word| word.trim_matches('"'))
                .filter(|w| !w.is_empty())
                .collect()
        })
        .filter(|line: &Vec<&str>| !line.is_empty())
        .collect();
    if lines.iter().any(|line| line.len() > 1) {
        return images.iter().map(by_name(&lines, trained, wrong)).collect();
    }
    if lines.len() != images.len() {
        return Err(wrong(format!("{} lines for {} images", lines.len(), images.len())));
    }
    // A line an image, in the order of the images' names.
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by_key(|&image| images[image]);
    let said: Vec<Class> = lines.iter().map(|line| Class::of_text(line[0])).collect();
    let explained = tables
        .iter()
        .find_map(|table| matlab::numbers_and_words(&table.content, "ILSVRC2012_ID", "WNID"));
    let explained: Option<HashMap<i64, String>> =
        explained.map(|pairs| pairs.into_iter().collect());
    let mut known = vec![Class::Missing; images.len()];
    for (image, class) in order.into_iter().zip(said) {
        known[image] = match class {
            Class::Number(number) => {
                let name = match &explained {
                    Some(explained) => explained.get(&number),
                    None if trained.len() == IMAGENET_CLASSES => {
                        return Err(wrong(
                            "its numbers are those of ImageNet's development kit: put \
                             ILSVRC2012_devkit_t12.tar.gz or its meta.mat beside it"
                                .into(),
                        ));
                    }
                    // Counted from 1, as the kit counts.
                    None => number
                        .checked_sub(1)
                        .and_then(|place| trained.get(usize::try_from(place).ok()?)),
                };
                let Some(name) = name else {
                    return Err(wrong(format!(
                        "{} is of class {number}, which is unknown",
                        images[image]
                    )));
                };
                Class::Word(name.clone())
            }
            class => class,
        };
    }
    Ok(known)
}

/// The class that the line with an image's name gives it; numbers count the training classes by name,
/// where those have names.
fn by_name<'a>(
    lines: &'a [Vec<&'a str>],
    trained: &'a [String],
    wrong: impl Fn(String) -> SourceError + 'a,
) -> impl Fn(&&str) -> Result<Class, SourceError> + 'a {
    let stem = |image: &str| {
        let name = &image[image.rfind('/').map_or(0, |slash| slash + 1)..];
        name.split('.').next().unwrap_or_default().to_owned()
    };
    let classes: HashMap<String, &str> =
        lines.iter().filter_map(|line| Some((stem(line[0]), *line.get(1)?))).collect();
    move |image| {
        let Some(word) = classes.get(&stem(image)) else {
            return Err(wrong(format!("no line for {image}")));
        };
        match Class::of_text(word) {
            Class::Number(number) if !trained.is_empty() => {
                let place = usize::try_from(number).ok().and_then(|place| trained.get(place));
                place.map(|name| Class::Word(name.clone())).ok_or_else(|| {
                    let count = trained.len();
                    wrong(format!("{image} is of class {number} of 0..{count}"))
                })
            }
            class => Ok(class),
        }
    }
}
