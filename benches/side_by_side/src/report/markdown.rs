//! Tables.

use std::fmt::Write;

/// Adds a row.
pub fn row(table: &mut String, cells: &[String]) {
    writeln!(table, "| {} |", cells.join(" | ")).expect("memory");
}
