//! Ids as they are stored: SQLite lets any program store any bytes as an id.

use std::fmt;

use sea_orm::{DbBackend, DbErr, QueryResult, Value};

use super::rows::{self, Columns, Type};
use crate::logging::escape::Hex;

/// The stored id of a row, valid or not.
///
/// An id that is not a text is spelled as SQLite's literal for bytes, `x'00ff'`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RawId {
    /// A text, which may be an invalid id.
    Text(String),
    /// A text that is not UTF-8.
    NotUtf8(Vec<u8>),
    /// Bytes that are not a text.
    Bytes(Vec<u8>),
}

/// The beginning of a text that spells bytes.
const BYTES_PREFIX: &str = "x'";

pub(super) const ID: Columns = &[("id", Type::Text)];

impl RawId {
    /// The text; `None` if it is not one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::NotUtf8(_) | Self::Bytes(_) => None,
        }
    }

    /// The columns that [`read`](Self::read) needs.
    pub(super) fn columns(backend: DbBackend) -> &'static str {
        match backend {
            DbBackend::Postgres => "convert_to(id, 'UTF8') AS raw_id, 'text' AS id_type",
            _ => "CAST(id AS BLOB) AS raw_id, typeof(id) AS id_type",
        }
    }

    pub(super) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let bytes: Vec<u8> = row.try_get("", "raw_id")?;
        let kind: String = row.try_get("", "id_type")?;
        Ok(match String::from_utf8(bytes) {
            // A column of texts keeps nothing but texts and bytes.
            Ok(text) if kind == "text" => Self::Text(text),
            Err(error) if kind == "text" => Self::NotUtf8(error.into_bytes()),
            Ok(text) => Self::Bytes(text.into_bytes()),
            Err(error) => Self::Bytes(error.into_bytes()),
        })
    }

    /// An expression for this id; `placeholder` names its parameter.
    pub(super) fn bind(&self, placeholder: impl FnOnce(Value) -> String) -> String {
        match self {
            Self::Text(text) => placeholder(text.as_str().into()),
            Self::NotUtf8(bytes) => {
                format!("CAST({} AS TEXT)", placeholder(bytes.as_slice().into()))
            }
            Self::Bytes(bytes) => placeholder(bytes.as_slice().into()),
        }
    }
}

impl fmt::Display for RawId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::NotUtf8(bytes) | Self::Bytes(bytes) => {
                write!(f, "{BYTES_PREFIX}{}'", Hex(bytes))
            }
        }
    }
}

/// A `SELECT` of the ids that these texts are or spell; `placeholder` names its parameters.
pub(super) fn listed(
    backend: DbBackend,
    ids: &[String],
    mut placeholder: impl FnMut(Value) -> String,
) -> String {
    let texts = placeholder(bind(ids.iter().map(String::as_str)));
    let texts = format!("SELECT id FROM ({}) AS listed", rows::select(backend, &texts, ID));
    let mut digits = ids.iter().filter_map(|id| spelled_bytes(id)).peekable();
    if backend != DbBackend::Sqlite || digits.peek().is_none() {
        return texts;
    }
    let bytes = placeholder(bind(digits));
    let bytes = format!("SELECT unhex(id) AS id FROM ({})", rows::select(backend, &bytes, ID));
    format!(
        "WITH spelled AS ({bytes}) {texts} UNION ALL SELECT id FROM spelled \
         UNION ALL SELECT CAST(id AS TEXT) FROM spelled"
    )
}

/// The digits of `x'00ff'`.
fn spelled_bytes(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(BYTES_PREFIX)?.strip_suffix('\'')?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_hex && digits.len().is_multiple_of(2)).then_some(digits)
}

/// Texts as the one parameter of a list.
pub(super) fn bind<'a>(ids: impl IntoIterator<Item = &'a str>) -> Value {
    rows::bind(ids.into_iter().map(|id| [Value::from(id)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_they_are_read() {
        for (bytes, spelled) in [(&[][..], "x''"), (&[0, 0xff, 0x61], "x'00ff61'")] {
            assert_eq!(RawId::Bytes(bytes.to_vec()).to_string(), spelled);
            assert_eq!(RawId::NotUtf8(bytes.to_vec()).to_string(), spelled);
            assert_eq!(spelled_bytes(spelled), Some(&spelled[2..spelled.len() - 1]));
        }
        for text in ["x'0'", "x'0g'", "x'00", "00", "X'00'", "x'"] {
            assert_eq!(spelled_bytes(text), None, "{text}");
        }
    }
}
