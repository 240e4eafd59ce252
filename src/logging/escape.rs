//! Text from outside as it may stand in a log or on a terminal: on one line, with
//! nothing in it that hides text, turns its direction or drives the terminal.

use std::fmt::{self, Write};

use crate::domain::device_id::is_invisible;

/// Wraps text or anything that can be shown: hazardous characters are escaped as in a
/// string literal of Rust, all others stay. For text that is one line among ours.
pub struct Escaped<T>(pub T);

/// Wraps text from outside to stand within a sentence: in quotes, escaped, and at most
/// 100 characters of it.
pub struct Quoted<'a>(pub &'a str);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { out: f, quoted: false }, "{}", self.0)
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS: usize = 100;
        let end = self.0.char_indices().nth(CHARS).map(|(end, _)| end);
        f.write_char('"')?;
        Escaping { out: &mut *f, quoted: true }
            .write_str(&self.0[..end.unwrap_or(self.0.len())])?;
        f.write_str(if end.is_some() { "\"…" } else { "\"" })
    }
}

/// The whole text in quotes, escaped.
pub fn in_quotes(text: &str) -> String {
    let mut out = "\"".to_owned();
    // A String takes everything.
    let _ = Escaping { out: &mut out, quoted: true }.write_str(text);
    out + "\""
}

/// Passes text on, escaped.
struct Escaping<W> {
    out: W,
    /// True inside quotes: a quote and a backslash are escaped too.
    quoted: bool,
}

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let in_quotes = self.quoted && matches!(c, '"' | '\\');
            if !in_quotes && !is_hazardous(c) {
                continue;
            }
            self.out.write_str(&text[plain..at])?;
            plain = at + c.len_utf8();
            match c {
                '\n' => self.out.write_str("\\n")?,
                '\r' => self.out.write_str("\\r")?,
                '\t' => self.out.write_str("\\t")?,
                '"' | '\\' => write!(self.out, "\\{c}")?,
                _ => write!(self.out, "{}", c.escape_unicode())?,
            }
        }
        self.out.write_str(&text[plain..])
    }
}

/// True for a character that is not seen as itself: controls, formats (bidi marks and
/// zero-width characters among them), separators other than the blank, unassigned and
/// private ones, and letters that show nothing.
pub fn is_hazardous(c: char) -> bool {
    !matches!(c, ' '..='~') && (is_invisible(c) || !is_printable(c))
}

/// Asks the standard library, which knows Unicode's categories: it escapes what is not
/// printable, and a mark only at the beginning, where it would join what stands before.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let length = 1 + c.encode_utf8(&mut buffer[1..]).len();
    let text = str::from_utf8(&buffer[..length]);
    text.is_ok_and(|text| matches!(c, '\'' | '"' | '\\') || text.escape_debug().nth(1) == Some(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_as_itself_stays() {
        for text in ["pump-17", "Köln 3", "温度", "a=b \"c\" 'd' \\e", "हिन्दी", "e\u{301}", "🌡"]
        {
            assert_eq!(Escaped(text).to_string(), text);
        }
    }

    #[test]
    fn what_breaks_lines_hides_or_drives_a_terminal_is_escaped() {
        for (text, escaped) in [
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[2J\u{7f}\u{9b}", "\\u{1b}[2J\\u{7f}\\u{9b}"),
            ("\u{2028}\u{2029}\u{85}", "\\u{2028}\\u{2029}\\u{85}"),
            ("\u{202e}\u{2066}\u{200f}\u{61c}", "\\u{202e}\\u{2066}\\u{200f}\\u{61c}"),
            ("a\u{200b}\u{feff}\u{ad}b", "a\\u{200b}\\u{feff}\\u{ad}b"),
            ("\u{a0}\u{3000}\u{3164}\u{2800}", "\\u{a0}\\u{3000}\\u{3164}\\u{2800}"),
            ("\u{e0041}\u{fe0f}\u{e000}", "\\u{e0041}\\u{fe0f}\\u{e000}"),
        ] {
            assert_eq!(Escaped(text).to_string(), escaped);
        }
    }

    #[test]
    fn a_quoted_text_cannot_end_its_quotes_and_is_short() {
        assert_eq!(Quoted("a\" b=\"c\\").to_string(), r#""a\" b=\"c\\""#);
        let long = "ä".repeat(101);
        assert_eq!(Quoted(&long).to_string(), format!("\"{}\"…", "ä".repeat(100)));
        assert_eq!(Quoted(&long[..200]).to_string(), format!("\"{}\"", "ä".repeat(100)));
    }
}
