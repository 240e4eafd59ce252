//! Many rows in one statement: as one bound parameter, a JSON array of arrays that
//! the database unpacks, or as a list of one parameter a value.

use sea_orm::{DbBackend, Value};
use serde::Serialize;

/// The columns of a bulk parameter and their types.
pub(super) type Columns = &'static [(&'static str, Type)];

/// A column's type.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Text,
    Integer,
}

/// A `SELECT` that turns the parameter `placeholder` into rows.
pub(super) fn select(backend: DbBackend, placeholder: &str, columns: Columns) -> String {
    let list = columns.iter().enumerate().map(|(index, (name, kind))| match (backend, kind) {
        (DbBackend::Postgres, Type::Integer) => format!("(value->>{index})::bigint AS {name}"),
        _ => format!("value->>{index} AS {name}"),
    });
    let list = list.collect::<Vec<_>>().join(", ");
    match backend {
        DbBackend::Postgres => {
            format!("SELECT {list} FROM jsonb_array_elements({placeholder}::jsonb)")
        }
        _ => format!("SELECT {list} FROM json_each({placeholder})"),
    }
}

/// A `SELECT` of `count` rows with a parameter for each of their values, row by row.
///
/// SQLite takes 43 % less time for an update with it than to unpack JSON, but it is
/// another statement for each count.
pub(super) fn list(columns: Columns, count: usize) -> String {
    let row = format!("({})", vec!["?"; columns.len()].join(","));
    let names = columns.iter().enumerate().map(|(index, (name, _))| {
        // What SQLite and PostgreSQL call the columns of a list.
        format!("column{} AS {name}", index + 1)
    });
    let names = names.collect::<Vec<_>>().join(", ");
    format!("SELECT {names} FROM (VALUES {})", vec![row; count].join(","))
}

/// The rows as the parameter: each item serializes as an array in the order of
/// the columns, as a tuple does.
pub(super) fn bind<T: Serialize>(rows: &[T]) -> Value {
    serde_json::to_string(rows).expect("tuples of text and numbers serialize").into()
}
