//! What a run's data held when it began, so that it goes on with the same and nothing else, wherever
//! they lie.

use std::collections::BTreeMap;

use ocl_data::Source;
use serde::{Deserialize, Serialize};

/// Image files whose lengths are looked at, spread evenly: to ask for all would take minutes on the
/// file system of a cluster.
const LOOKED_AT: usize = 4096;
/// Groups of a set without labels.
const GROUPS: usize = 64;
/// Groups that are named in a sentence.
const NAMED: usize = 3;

/// The images of a run by class, or by neighbourhood where there are no labels. Saved as `data.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inventory {
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    images: usize,
    /// CRC-32 of names and lengths.
    crc32: String,
}

impl Inventory {
    /// Looks at names, labels and lengths. An image that was changed without changing its length, or
    /// whose file was not looked at, is not seen.
    pub(super) fn of(source: &Source) -> Inventory {
        let len = source.len();
        let every = if source.has_files() { len.div_ceil(LOOKED_AT).max(1) } else { 1 };
        let neighbours = len.div_ceil(GROUPS).max(1);
        let mut groups: BTreeMap<String, (usize, crc32fast::Hasher)> = BTreeMap::new();
        for sample in 0..len {
            let group = match source.labels() {
                Some(labels) => source.class_names()[labels[sample] as usize].clone(),
                None => {
                    let first = sample / neighbours * neighbours;
                    format!("images {} to {}", first + 1, (first + neighbours).min(len))
                }
            };
            let (images, digest) = groups.entry(group).or_default();
            *images += 1;
            digest.update(source.relative_name(sample).as_bytes());
            let bytes = if sample % every == 0 { source.bytes_of(sample) } else { None };
            digest.update(&bytes.map_or([0xFF; 8], u64::to_le_bytes));
        }
        let group = |(name, (images, digest)): (String, (usize, crc32fast::Hasher))| {
            (name, Group { images, crc32: format!("{:08x}", digest.finalize()) })
        };
        Inventory { groups: groups.into_iter().map(group).collect() }
    }

    /// How other data differ from these, in words; `None` where they do not.
    pub(super) fn difference(&self, now: &Inventory) -> Option<String> {
        let mut told = vec![];
        for (name, then) in &self.groups {
            match now.groups.get(name) {
                None => told.push(format!("`{name}` is missing")),
                Some(own) if own.images != then.images => {
                    told.push(format!(
                        "`{name}` has {} images, it had {}",
                        own.images, then.images
                    ));
                }
                Some(own) if own != then => {
                    told.push(format!("`{name}` has files of other names or lengths"));
                }
                Some(_) => {}
            }
        }
        let new = now.groups.keys().filter(|name| !self.groups.contains_key(*name));
        told.extend(new.map(|name| format!("`{name}` is new")));
        let more = told.len().saturating_sub(NAMED);
        told.truncate(NAMED);
        if more > 0 {
            told.push(format!("and so on, {more} more"));
        }
        (!told.is_empty()).then(|| told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_data::{SourceKind, Split};

    fn of(files: &[(&str, &str)]) -> Inventory {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let path = dir.path().to_str().unwrap();
        Inventory::of(&Source::open(path, SourceKind::Folder, Split::Train).unwrap())
    }

    #[test]
    fn what_differs_is_named() {
        let first = [("cat/1.bmp", "BM"), ("cat/2.bmp", "BM"), ("dog/1.bmp", "BM")];
        let then = of(&first);
        // The folder that they lie in is another one.
        assert_eq!(then.difference(&of(&first)), None);
        for (files, told) in [
            (vec![first[0], first[2]], "`cat` has 1 images, it had 2"),
            (vec![first[0], first[1]], "`dog` is missing"),
            (
                vec![first[0], ("cat/2.bmp", "BMx"), first[2]],
                "`cat` has files of other names or lengths",
            ),
            (
                vec![first[0], first[1], ("dog/3.bmp", "BM")],
                "`dog` has files of other names or lengths",
            ),
            (vec![first[0], first[1], first[2], ("eel/1.bmp", "BM")], "`eel` is new"),
        ] {
            assert_eq!(then.difference(&of(&files)).unwrap(), told);
        }
        let (flat, other) =
            (of(&[("1.bmp", "BM"), ("2.bmp", "BM")]), of(&[("1.bmp", "BM"), ("3.bmp", "BM")]));
        assert_eq!(
            flat.difference(&other).unwrap(),
            "`images 2 to 2` has files of other names or lengths"
        );
        let many: Vec<(String, &str)> = (0..9).map(|i| (format!("{i}/1.bmp"), "BM")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (&**name, *text)).collect();
        let told = of(&many).difference(&then).unwrap();
        assert!(told.ends_with("`2` is missing, and so on, 8 more"), "{told}");
    }
}
