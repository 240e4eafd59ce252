//! Lists for people and for programs. Both are printed page by page, so that a list of a
//! million devices does not have to fit into memory.

use std::io::{self, Write};

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::logging::escape::Escaped;
use crate::store::{DeviceStore, Unreadable};

/// Prints items page by page.
pub(super) trait List<T> {
    fn write(&mut self, page: &[T]) -> io::Result<()>;
    fn end(&mut self) -> io::Result<()>;
}

/// Prints one JSON array, with one item per line.
pub(super) struct JsonArray {
    empty: bool,
}

impl JsonArray {
    pub(super) fn new() -> Self {
        Self { empty: true }
    }
}

impl<T: Serialize> List<T> for JsonArray {
    fn write(&mut self, page: &[T]) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for item in page {
            out.write_all(if self.empty { b"[\n" } else { b",\n" })?;
            self.empty = false;
            serde_json::to_writer(&mut out, item)?;
        }
        out.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        let end: &[u8] = if self.empty { b"[]\n" } else { b"\n]\n" };
        io::stdout().write_all(end)
    }
}

/// The widest column, in those of the terminal. A cell that is wider moves only what follows it in its own line.
const WIDEST: usize = 40;

/// Prints aligned columns. Columns may grow wider from page to page, but never narrower.
pub(super) struct Table<T> {
    header: Option<Vec<String>>,
    row: fn(&T) -> Vec<String>,
    widths: Vec<usize>,
}

impl<T> Table<T> {
    pub(super) fn new(header: &[&str], row: fn(&T) -> Vec<String>) -> Self {
        let header: Vec<_> = header.iter().map(ToString::to_string).collect();
        Self { widths: vec![0; header.len()], header: Some(header), row }
    }

    /// The cells of an item, escaped: a device's text must not drive the terminal.
    fn cells(&self, item: &T) -> Vec<String> {
        (self.row)(item).iter().map(|cell| Escaped(cell).to_string()).collect()
    }
}

impl<T> List<T> for Table<T> {
    fn write(&mut self, page: &[T]) -> io::Result<()> {
        let rows: Vec<_> = self
            .header
            .take()
            .into_iter()
            .chain(page.iter().map(|item| self.cells(item)))
            .collect();
        let is_usual = |width: &usize| *width <= WIDEST;
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(Some(cell.width()).filter(is_usual).unwrap_or(0));
            }
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        for row in rows {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| padded(cell, *width));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        out.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The cell with blanks up to a width. `{:<width$}` counts characters, of which some take no column
/// of the terminal and some take two.
fn padded(cell: &str, width: usize) -> String {
    format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width())))
}

pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Names the rows that a list had to leave out, in one line on stderr, with the remedy.
pub(super) fn tell_unreadable(store: &DeviceStore, remedy: &str) {
    let Unreadable { count, examples } = store.take_unreadable();
    if count == 0 {
        return;
    }
    let left_out = match count {
        1 => "1 row cannot be read and is not listed".to_owned(),
        _ => format!("{count} rows cannot be read and are not listed"),
    };
    let more = if count > examples.len() as u64 { "; …" } else { "" };
    let examples = examples.join("; ");
    log::warn!(target: "heartbeatd", "{left_out} ({examples}{more}); {remedy}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_as_wide_as_a_terminal_shows_it() {
        for (cell, expected) in [
            ("pump", "pump  "),
            ("Ko\u{308}ln", "Ko\u{308}ln  "),
            ("ポンプ", "ポンプ"),
            ("ポ1", "ポ1   "),
            ("too long", "too long"),
        ] {
            assert_eq!(padded(cell, 6), expected);
        }
    }

    #[test]
    fn cells_cannot_drive_the_terminal() {
        let table = Table::new(&["ERROR"], |error: &&str| vec![(*error).to_owned()]);
        assert_eq!(table.cells(&"\u{1b}]0;owned\u{7}\u{202e}"), [r"\u{1b}]0;owned\u{7}\u{202e}"]);
    }
}
