//! Makes text from outside safe for a log or a terminal: it stays on one line and cannot
//! hide text, turn its direction or control the terminal.

use std::fmt::{self, Write};

use crate::domain::device_id::is_invisible;

/// Wraps anything that can be displayed. Escapes hazardous characters as in a Rust string
/// literal; all others stay. For text that forms a whole line.
pub struct Escaped<T>(pub T);

/// Wraps text from outside for use within a sentence: quoted, escaped, and cut after 100
/// characters.
pub struct Quoted<'a>(pub &'a str);

/// Bytes that are not a text, as hexadecimal digits in lower case. `{:#}` puts a space
/// between bytes.
///
/// The crate `hex` is in the build only because others need it; these lines are not worth
/// one more dependency.
pub struct Hex<'a>(pub &'a [u8]);

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

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if f.alternate() { " " } else { "" };
        self.0.iter().enumerate().try_for_each(|(index, byte)| {
            let before = if index > 0 { space } else { "" };
            write!(f, "{before}{byte:02x}")
        })
    }
}

/// Returns the whole text, quoted and escaped.
pub fn in_quotes(text: &str) -> String {
    let mut out = "\"".to_owned();
    // Writing to a String cannot fail.
    let _ = Escaping { out: &mut out, quoted: true }.write_str(text);
    out + "\""
}

/// Passes text on, escaped.
struct Escaping<W> {
    out: W,
    /// True inside quotes, where a quote and a backslash are escaped too.
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

/// True for a character that does not show as itself: a control, a format character (such
/// as a bidi mark or a zero-width character), a separator other than the space, an
/// unassigned or private one, or a letter that shows nothing.
pub fn is_hazardous(c: char) -> bool {
    !matches!(c, ' '..='~') && (is_invisible(c) || !is_printable(c))
}

/// Asks the standard library, which knows Unicode's categories. It escapes what is not
/// printable, and a combining mark only at the beginning, where it would join the
/// character before.
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
    fn a_character_that_shows_as_itself_stays() {
        for text in ["pump-17", "Köln 3", "温度", "a=b \"c\" 'd' \\e", "हिन्दी", "e\u{301}", "🌡"]
        {
            assert_eq!(Escaped(text).to_string(), text);
        }
    }

    #[test]
    fn characters_that_break_lines_hide_text_or_control_a_terminal_are_escaped() {
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
    fn bytes_are_two_digits_each() {
        for (bytes, digits, spaced) in
            [(&[][..], "", ""), (&[7], "07", "07"), (b"\0a\xff", "0061ff", "00 61 ff")]
        {
            let hex = Hex(bytes);
            assert_eq!((format!("{hex}"), format!("{hex:#}")), (digits.into(), spaced.into()));
        }
    }

    #[test]
    fn a_quoted_text_cannot_end_its_quotes_and_is_cut() {
        assert_eq!(Quoted("a\" b=\"c\\").to_string(), r#""a\" b=\"c\\""#);
        let long = "ä".repeat(101);
        assert_eq!(Quoted(&long).to_string(), format!("\"{}\"…", "ä".repeat(100)));
        assert_eq!(Quoted(&long[..200]).to_string(), format!("\"{}\"", "ä".repeat(100)));
    }
}
