//! What is wrong with a configuration, and where that stands.

use std::fmt;
use std::path::PathBuf;

/// The place where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file; line and column count from 1.
    File {
        /// The file's path.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// The variable of this name in the environment.
    Environment(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => {
                write!(f, "{}, line {line}, column {column}", path.display())
            }
            Self::Environment(name) => write!(f, "{name} in the environment"),
        }
    }
}

/// What is wrong with the configuration. No message quotes a line of a file: it may
/// hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("configuration: {}: {why}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The reason, and what would be right.
        why: String,
    },
    /// Text that is not TOML.
    #[error("configuration: {place}: {why}")]
    Syntax {
        /// The place of the first character that does not fit.
        place: Place,
        /// What the parser says.
        why: String,
    },
    /// A key that does not exist.
    #[error(
        "configuration: {place}: unknown field `{name}` {}, expected one of {}",
        within(section),
        quoted(known)
    )]
    UnknownKey {
        /// Where it is set.
        place: Place,
        /// The section it stands in; empty for the file's top.
        section: String,
        /// The key's name.
        name: String,
        /// The names that exist in that section.
        known: Vec<String>,
    },
    /// A value that cannot work.
    #[error("configuration: {key} = {value}: {expected}{}", in_brackets(place))]
    Value {
        /// The key, with its section.
        key: String,
        /// The value, or `***` if it may be a secret.
        value: String,
        /// What would be right, and why.
        expected: String,
        /// Where it is set; `None` for a configuration that was not loaded.
        place: Option<Place>,
    },
    /// A key that another one needs.
    #[error("configuration: {key} is not set: {expected}")]
    Missing {
        /// The key, with its section.
        key: &'static str,
        /// What to do, and why.
        expected: String,
    },
    /// A variable of the environment that is not UTF-8.
    #[error("configuration: {place}: its {what} is not UTF-8")]
    NotUtf8 {
        /// The variable.
        place: Place,
        /// Its name or its value.
        what: &'static str,
    },
}

fn within(section: &str) -> String {
    if section.is_empty() { "outside of a section".to_owned() } else { format!("in `{section}`") }
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn in_brackets(place: &Option<Place>) -> String {
    place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default()
}
