//! Many rows as one bound parameter: a JSON array of arrays, unpacked by the
//! database.

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

/// The rows as the parameter: each item serializes as an array in the order of
/// the columns, as a tuple does.
pub(super) fn bind<T: Serialize>(rows: &[T]) -> Value {
    serde_json::to_string(rows).expect("tuples of text and numbers serialize").into()
}
