//! Where a settings file's values come from: its text, over it the environment, over that the
//! command line. One engine for recipes of training, fine-tuning and evaluation.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::numbers::{Mistyped, typed};

/// Why a recipe could not be read.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// Neither a built-in name nor a readable file.
    #[error(
        "no recipe is called `{name}`, and no such file can be read; built in are {known}{hint}"
    )]
    NotFound {
        /// What was asked for.
        name: String,
        /// Names of the built-in recipes.
        known: String,
        /// The nearest of them, as a question.
        hint: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A key that no recipe has.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// The file, variable or option.
        origin: String,
        /// The key.
        key: String,
        /// The nearest key, as a question.
        hint: String,
    },
    /// A key of another method than the recipe's.
    #[error("{origin}: `{key}` is no key of method `{name}`, which has {known}")]
    OtherMethods {
        /// The recipe.
        origin: String,
        /// The key.
        key: String,
        /// The recipe's method.
        name: String,
        /// The method's own keys.
        known: String,
    },
    /// A constant of the method, or a number, is of another type.
    #[error("{origin}: `{key}` cannot be read: {problem}")]
    Constant {
        /// The recipe.
        origin: String,
        /// The key.
        key: String,
        /// What stands there, and what is expected.
        problem: String,
    },
    /// No method has this name.
    #[error("no method is called `{name}`; there are {known}{hint}")]
    UnknownMethod {
        /// What was asked for.
        name: String,
        /// The methods' names.
        known: String,
        /// The nearest of them, as a question.
        hint: String,
    },
    /// `--set` without an equals sign.
    #[error("`--set {0}` is not of the form section.key=value")]
    Override(String),
    /// A wrong type, a missing key, or a file that is not TOML.
    #[error("recipe `{name}` cannot be used")]
    Content {
        /// The recipe.
        name: String,
        /// The cause.
        #[source]
        source: Box<config::ConfigError>,
    },
}

/// The keys that a settings file may have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Dotted names, sections among them so that a misspelt one is answered with its name; if
    /// empty, the keys that stand in the text.
    pub keys: &'a [&'a str],
    /// Keys of before, which are still understood: the old name and today's. The likeliest of
    /// several similar keys stands first.
    pub renamed: &'a [(&'a str, &'a str)],
}

impl<'a> Known<'a> {
    /// Today's name of a key.
    fn today<'b>(&self, key: &'b str) -> &'b str
    where
        'a: 'b,
    {
        self.renamed.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| new)
    }
}

/// The layers of a settings file.
#[derive(Clone, Debug)]
pub struct Layers<'a> {
    /// What errors call the text: a file, or a built-in recipe.
    pub origin: &'a str,
    /// TOML.
    pub text: &'a str,
    /// What keys there are.
    pub known: Known<'a>,
    /// Variables of the environment: name, key and value.
    pub environment: Vec<(String, String, String)>,
    /// `section.key=value` of the command line.
    pub overrides: &'a [String],
}

/// What the environment and the command line have set.
#[derive(Debug)]
pub struct SetKeys {
    keys: BTreeSet<String>,
    written: config::Config,
}

impl SetKeys {
    /// Whether a key was set over the text.
    pub fn contains(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// All keys that were set over the text.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// A number as the text has it.
    pub fn written(&self, key: &str) -> Option<f64> {
        self.written.get_float(key).ok()
    }
}

impl Layers<'_> {
    /// Lays one over the other.
    ///
    /// # Errors
    /// [`RecipeError`], naming the origin of what is wrong, and the nearest known key.
    pub fn read<T: DeserializeOwned>(self) -> Result<(T, SetKeys), RecipeError> {
        self.read_checked(|_| Ok(()))
    }

    /// The same; `check_values` sees the values before they are given their types.
    pub(super) fn read_checked<T: DeserializeOwned>(
        self,
        check_values: impl FnOnce(&config::Config) -> Result<(), RecipeError>,
    ) -> Result<(T, SetKeys), RecipeError> {
        let Self { origin, text, known, environment, overrides } = self;
        let content = |source: config::ConfigError| RecipeError::Content {
            name: origin.to_owned(),
            source: Box::new(source),
        };
        let file = config::File::from_str(text, config::FileFormat::Toml);
        let mut builder = config::Config::builder().add_source(file);
        let written = builder.build_cloned().map_err(content)?;
        let mut found = vec![];
        flatten("", &written.cache, &mut found);
        let keys: Vec<&str> = match known.keys {
            [] => found.iter().map(String::as_str).collect(),
            keys => keys.to_vec(),
        };
        for key in &found {
            let today = known.today(key);
            check(today, &keys, origin)?;
            if let Some(value) = written.get(key).ok().filter(|_| today != key) {
                builder = builder.set_default::<_, config::Value>(today, value).map_err(content)?;
            }
        }
        let mut over: Vec<(String, String, &str)> = vec![];
        for (variable, key, value) in &environment {
            over.push((format!("environment variable {variable}"), key.clone(), value));
        }
        for pair in overrides {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| RecipeError::Override(pair.clone()))?;
            over.push(("--set".to_owned(), key.trim().to_owned(), value.trim()));
        }
        let mut set = BTreeSet::new();
        for (origin, key, value) in over {
            let key = known.today(&key);
            check(key, &keys, &origin)?;
            set.insert(key.to_owned());
            builder = builder.set_override(key, parse(value)).map_err(content)?;
        }
        let built = builder.build().map_err(content)?;
        check_values(&built)?;
        let set = SetKeys { keys: set, written };
        // What is no table of plain values is answered where everything else is.
        if let Ok(values) = built.clone().try_deserialize::<toml::Value>() {
            match typed(values) {
                Ok(Some(read)) => return Ok((read, set)),
                Ok(None) => {}
                Err(Mistyped { key, problem }) => {
                    return Err(RecipeError::Constant { origin: origin.to_owned(), key, problem });
                }
            }
        }
        Ok((built.try_deserialize().map_err(content)?, set))
    }
}

/// Dotted names of the leaves of a table.
pub(super) fn flatten(prefix: &str, value: &config::Value, keys: &mut Vec<String>) {
    match &value.kind {
        config::ValueKind::Table(table) => {
            for (key, value) in table {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, keys);
            }
        }
        _ => keys.push(prefix.to_owned()),
    }
}

fn check(key: &str, keys: &[&str], origin: &str) -> Result<(), RecipeError> {
    if keys.contains(&key) && key.contains('.') {
        return Ok(());
    }
    let (origin, key, hint) = (origin.to_owned(), key.to_owned(), nearest(key, keys));
    Err(RecipeError::UnknownKey { origin, key, hint })
}

/// `; did you mean …?` when something is near enough to be meant.
pub(super) fn nearest(word: &str, names: &[&str]) -> String {
    let near = |name: &&&str| {
        let whole = strsim::jaro_winkler(word, name);
        // A key without its section, or in the wrong one, is told from its last part.
        let parts = |text: &str| match text.rsplit_once('.') {
            Some((section, last)) => (section.to_owned(), last.to_owned()),
            None => (String::new(), text.to_owned()),
        };
        let ((own, word), (section, name)) = (parts(word), parts(name));
        // Of equals the one of the section that was meant.
        let bonus = if own == section { 0.01 } else { 0.0 };
        let part = if name.ends_with(&format!("_{word}")) { 0.95 } else { 0.0 };
        whole.max(strsim::jaro_winkler(&word, &name) - 0.05).max(part) + bonus
    };
    // Of equals the first.
    let best = names.iter().rev().max_by(|a, b| near(a).total_cmp(&near(b)));
    match best {
        Some(name) if near(&name) > 0.75 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

/// A value as TOML reads it; what is no TOML is a string.
fn parse(text: &str) -> config::Value {
    #[derive(Deserialize)]
    struct One {
        v: config::Value,
    }
    toml::from_str::<One>(&format!("v = {text}"))
        .map_or_else(|_| config::Value::from(text), |one| one.v)
}
