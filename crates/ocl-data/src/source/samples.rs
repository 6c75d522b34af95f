//! Which members of an archive make a sample, as WebDataset's readers have it.
//!
//! A member's key is its name up to the first dot of the last part; members in a row with the same
//! key are one sample. What a member is, its last extension decides: of `000000.input.jpg` and
//! `000000.target.cls` one is the image, the other its class. Members whose last part begins with a
//! dot (`._000000.jpg`, which macOS packs) or has none have no key and are passed over.

use std::path::Path;

use super::archives::IMAGES;
use super::classes::Class;
use super::survey::Survey;
use super::tar::Member;

/// Names of what goes into a network, where a sample has several images.
const INPUTS: [&str; 5] = ["input", "image", "img", "rgb", "x"];
const HIDDEN_WORDS: &str = "hidden members of archives";
const EXTRA_WORDS: &str = "further images of a sample";
const NO_IMAGE_WORDS: &str = "samples without an image";

/// One sample of an archive.
pub(super) struct Sample<'a> {
    pub(super) image: &'a Member,
    pub(super) class: Class,
}

/// Whether a member says a class.
pub(super) fn is_class(name: &str) -> bool {
    key(name).is_some_and(|(_, extension)| matches!(last(extension).as_str(), "cls" | "json"))
}

/// The samples of an archive, in their order; what of it is no part of one is noted.
pub(super) fn samples<'a>(
    archive: &Path,
    members: &'a [Member],
    survey: &mut Survey,
) -> Vec<Sample<'a>> {
    let mut keyed = Vec::with_capacity(members.len());
    for member in members {
        match key(&member.name) {
            Some((key, extension)) => keyed.push((key, extension, member)),
            None if last_part(&member.name).starts_with('.') => {
                survey.pass(HIDDEN_WORDS, &full(archive, member));
            }
            // WebDataset's own remarks, `__index__`, and words for people.
            None => {}
        }
    }
    let mut samples = Vec::with_capacity(keyed.len() / 2);
    for group in keyed.chunk_by(|a, b| a.0 == b.0) {
        let images: Vec<_> =
            group.iter().filter(|member| IMAGES.contains(&last(member.1).as_str())).collect();
        // A plain `.jpg`, then one that is called an input, then the first.
        let input = |extension: &str| {
            extension.split('.').any(|word| INPUTS.contains(&word.to_ascii_lowercase().as_str()))
        };
        let chosen = images
            .iter()
            .find(|member| !member.1.contains('.'))
            .or_else(|| images.iter().find(|member| input(member.1)))
            .or_else(|| images.first());
        let Some((_, _, image)) = chosen else {
            survey.pass(NO_IMAGE_WORDS, &full(archive, group[0].2));
            for (_, extension, member) in group {
                if !matches!(last(extension).as_str(), "cls" | "json" | "txt") {
                    survey.other_kind(&member.name);
                }
            }
            continue;
        };
        for (_, _, further) in images.iter().filter(|member| !std::ptr::eq(member.2, *image)) {
            survey.pass(EXTRA_WORDS, &full(archive, further));
        }
        let class = match class_of(group) {
            Class::Missing => inner_archive(&image.name),
            said => said,
        };
        samples.push(Sample { image, class });
    }
    samples
}

/// The archive within the archive that a member lies in is its class: `n01440764.tar/x.JPEG`.
fn inner_archive(name: &str) -> Class {
    let inner = name.split_once(".tar/").map(|(archive, _)| last_part(archive));
    inner.map_or(Class::Missing, |word| Class::Word(word.to_owned()))
}

/// A plain `.cls` goes before `.fine.cls`, and a `.cls` before a `.json`.
fn class_of(group: &[(&str, &str, &Member)]) -> Class {
    let order = |extension: &str| (last(extension) != "cls", extension.contains('.'));
    let mut said: Vec<_> = group.iter().filter(|member| is_class(&member.2.name)).collect();
    said.sort_by_key(|member| order(member.1));
    said.iter()
        .map(|(_, extension, member)| match last(extension).as_str() {
            "cls" => Class::of_text(&String::from_utf8_lossy(&member.content)),
            _ => in_json(&member.content),
        })
        .find(|class| *class != Class::Missing)
        .unwrap_or(Class::Missing)
}

fn in_json(content: &[u8]) -> Class {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(content) else {
        return Class::Missing;
    };
    // A `.json` may be the class alone, or hold it among other things.
    let label = if value.is_object() {
        value.get("label").or_else(|| value.get("cls"))
    } else {
        Some(&value)
    };
    label.map_or(Class::Missing, Class::of_json)
}

/// The last extension, in lower case.
fn last(extension: &str) -> String {
    extension.rsplit('.').next().unwrap_or_default().to_ascii_lowercase()
}

fn last_part(name: &str) -> &str {
    &name[name.rfind('/').map_or(0, |slash| slash + 1)..]
}

/// A member's key and all that follows it: what stands before and after the first dot of the last
/// part. `None` where either is missing.
fn key(name: &str) -> Option<(&str, &str)> {
    let last = last_part(name);
    let (stem, extension) = last.split_once('.')?;
    let at = name.len() - last.len() + stem.len();
    (!stem.is_empty() && !extension.is_empty()).then_some((&name[..at], extension))
}

pub(super) fn full(archive: &Path, member: &Member) -> String {
    format!("{}/{}", archive.display(), member.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[(&str, &str)]) -> Vec<Member> {
        names
            .iter()
            .map(|(name, content)| Member {
                name: (*name).into(),
                bytes: 0..1,
                content: content.as_bytes().to_vec(),
            })
            .collect()
    }

    fn of(names: &[(&str, &str)]) -> (Vec<(String, Class)>, Vec<String>) {
        let (all, mut survey) = (members(names), Survey::default());
        let made = samples(Path::new("a.tar"), &all, &mut survey);
        let made = made.into_iter().map(|s| (s.image.name.clone(), s.class)).collect();
        (made, survey.clauses())
    }

    #[test]
    fn the_last_extension_decides() {
        let (made, passed) = of(&[
            ("a/0.mask.png", ""),
            ("a/0.Input.JPG", ""),
            ("a/0.target.cls", "3\n"),
            ("a/0.x.json", "{\"label\": 4}"),
            ("a/1.jpg", ""),
            ("a/1.seg.png", ""),
            ("README", ""),
            ("a/1.coarse.cls", "9"),
            ("a/1.cls", "dog"),
        ]);
        assert_eq!(made[0], ("a/0.Input.JPG".into(), Class::Number(3)));
        assert_eq!(made[1], ("a/1.jpg".into(), Class::Word("dog".into())));
        assert_eq!(made.len(), 2);
        assert_eq!(passed, ["2 further images of a sample passed over: a.tar/a/0.mask.png, ..."]);
    }

    #[test]
    fn members_without_a_key_part_nothing() {
        let (made, passed) = of(&[
            ("._0.jpg", "x"),
            ("0.jpg", ""),
            ("d/._0.cls", "x"),
            ("0.cls", "1"),
            ("2.avif", ""),
        ]);
        assert_eq!(made, [("0.jpg".to_owned(), Class::Number(1))]);
        assert_eq!(
            passed,
            [
                "1 file of another kind passed over: .avif",
                "2 hidden members of archives passed over: a.tar/._0.jpg, ...",
                "samples without an image passed over: a.tar/2.avif"
            ]
        );
    }

    #[test]
    fn classes_in_json() {
        for (text, class) in [
            ("{\"label\": 3}", Class::Number(3)),
            ("{\"cls\": \"cat\"}", Class::Word("cat".into())),
            ("7", Class::Number(7)),
            ("{\"caption\": \"a cat\"}", Class::Missing),
            ("{", Class::Missing),
        ] {
            assert_eq!(in_json(text.as_bytes()), class, "{text}");
        }
    }
}
