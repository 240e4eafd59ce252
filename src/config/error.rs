//! The errors of a configuration, each with its place.

use std::fmt;
use std::path::PathBuf;

/// The place where a value is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A position in a file. Lines and columns count from 1.
    File {
        /// The file's path.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// The environment variable of this name.
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

/// An error in the configuration. No message quotes a line of a file, because the line may
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
        /// The position of the first character that does not fit.
        place: Place,
        /// The parser's message.
        why: String,
    },
    /// A key that does not exist.
    #[error(
        "configuration: {place}: unknown field `{name}` {}, expected one of {}",
        within(section),
        quoted(known)
    )]
    UnknownKey {
        /// The place where it is set.
        place: Place,
        /// The section that it is in; empty at the top of the file.
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
        /// The allowed values, and the reason.
        expected: String,
        /// The place where it is set; `None` if the configuration was not loaded.
        place: Option<Place>,
    },
    /// A key that is not set, but that another key needs.
    #[error("configuration: {key} is not set: {expected}")]
    Missing {
        /// The key, with its section.
        key: &'static str,
        /// The remedy, and the reason.
        expected: String,
    },
    /// An environment variable that is not UTF-8.
    #[error("configuration: {place}: its {what} is not UTF-8")]
    NotUtf8 {
        /// The variable.
        place: Place,
        /// The part that is not: "name" or "value".
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
