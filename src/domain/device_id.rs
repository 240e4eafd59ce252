//! Device ids: the `<id>` of `devices/<id>/heartbeat`.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The maximum number of characters in an id.
pub const MAX_CHARS: usize = 128;

/// The prefix of ids that no device may have. An instance may publish its echoes under such
/// an id, so that they come back through the same subscription as the heartbeats.
pub const RESERVED_PREFIX: &str = "heartbeatd-echo-";

/// True if the text is an id that no device may have.
pub fn is_reserved(text: &str) -> bool {
    text.starts_with(RESERVED_PREFIX)
}

/// The id of a device: 1 to 128 characters. None of them is a control character, an
/// invisible character or one with a meaning in a topic (`/`, `+`, `#`), and neither end is
/// a blank.
///
/// So no part of an id is hidden, and an id does not change the text around it.
///
/// Up to 24 bytes are stored inline, so a usual id needs no allocation.
///
/// ```
/// use heartbeatd::domain::DeviceId;
///
/// let id: DeviceId = "pump-17".parse()?;
/// assert_eq!(id.as_str(), "pump-17");
/// assert!("pump/17".parse::<DeviceId>().is_err());
/// # Ok::<(), heartbeatd::domain::device_id::InvalidDeviceId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(CompactString);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of bytes of the text, unless they are stored inline.
    pub(super) fn text_bytes(&self) -> usize {
        if self.0.is_heap_allocated() { self.0.len() } else { 0 }
    }

    /// Parses the id of a device.
    ///
    /// # Errors
    ///
    /// [`InvalidDeviceId`] if the text is not an id, or is a reserved one.
    pub fn of_device(text: &str) -> Result<Self, InvalidDeviceId> {
        let id: Self = text.parse()?;
        if id.is_reserved() { Err(InvalidDeviceId::Reserved) } else { Ok(id) }
    }

    /// True if no device may have this id, because it begins with [`RESERVED_PREFIX`].
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }
}

/// The reason why a text is not a device id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDeviceId {
    /// The text is empty.
    #[error("a device id has 1 to {MAX_CHARS} characters; this one is empty")]
    Empty,
    /// The text is too long: the number of its characters.
    #[error("a device id has 1 to {MAX_CHARS} characters; this one has {0}")]
    TooLong(usize),
    /// It contains a character with a meaning in a topic or to a terminal.
    #[error(
        "a device id must not contain a control character or any of '/', '+', '#'; this one \
         contains {0:?}"
    )]
    Forbidden(char),
    /// It contains a character that cannot be seen. Two ids could look alike, or an id could
    /// change the text around it.
    #[error(
        "a device id must not contain {}; this one contains {}",
        kind_of_invisible(*.0),
        code_point(*.0)
    )]
    Invisible(char),
    /// It begins or ends with a blank, which cannot be seen there.
    #[error("a device id must not begin or end with a blank; this one does, with {}", code_point(*.0))]
    BlankAtEnd(char),
    /// It is a step within a path to every browser, so no page could be about it.
    #[error("a device id must not be \".\" or \"..\", because no address of a page can name it")]
    Dots,
    /// It is reserved for echoes.
    #[error("ids that begin with {RESERVED_PREFIX:?} are reserved for echoes of the service")]
    Reserved,
}

fn kind_of_invisible(c: char) -> &'static str {
    match c {
        _ if c.general_category() == GeneralCategory::PrivateUse => "a private-use character",
        _ if is_noncharacter(c) => "a code point that will never be a character",
        _ => "an invisible, format or line separator character",
    }
}

fn code_point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        if text.is_empty() {
            return Err(InvalidDeviceId::Empty);
        }
        if matches!(text, "." | "..") {
            return Err(InvalidDeviceId::Dots);
        }
        // There are at most as many characters as bytes, so a usual id is not counted.
        if text.len() > MAX_CHARS {
            let chars = text.chars().count();
            if chars > MAX_CHARS {
                return Err(InvalidDeviceId::TooLong(chars));
            }
        }
        let is_forbidden = |c: &char| c.is_control() || matches!(c, '/' | '+' | '#');
        // Each heartbeat takes this path. A usual id is ASCII and needs no decoding.
        let forbidden = if text.is_ascii() {
            text.bytes().map(char::from).find(is_forbidden)
        } else {
            if let Some(c) = text.chars().find(|&c| is_invisible(c)) {
                return Err(InvalidDeviceId::Invisible(c));
            }
            text.chars().find(is_forbidden)
        };
        if let Some(c) = forbidden {
            return Err(InvalidDeviceId::Forbidden(c));
        }
        let ends = [text.chars().next(), text.chars().next_back()];
        if let Some(c) = ends.into_iter().flatten().find(|c| c.is_whitespace()) {
            return Err(InvalidDeviceId::BlankAtEnd(c));
        }
        Ok(Self(CompactString::new(text)))
    }
}

/// True for a character that cannot be seen or shows something else in every font: the
/// categories Cf (format: bidi controls, zero-width characters, U+FEFF, soft hyphen), Zl and
/// Zp (line and paragraph separator) and Co (private use), the other characters that Unicode
/// tells programs not to draw, the code points that are none, and the Braille pattern without a
/// dot.
pub(crate) fn is_invisible(c: char) -> bool {
    use GeneralCategory::{Format, LineSeparator, ParagraphSeparator, PrivateUse};
    let category = c.general_category();
    matches!(category, Format | LineSeparator | ParagraphSeparator | PrivateUse)
        || is_ignorable(c)
        || is_noncharacter(c)
        || c == '\u{2800}'
}

/// True for the 66 code points that Unicode never assigns: U+FDD0 to U+FDEF, and the last two of
/// each plane.
fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE
}

/// True for the property Default_Ignorable_Code_Point without the category Cf, as in
/// DerivedCoreProperties.txt of Unicode 16: fillers, variation selectors and code points
/// that are reserved for further ones.
fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{034F}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{2065}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFF8}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl log::kv::ToValue for DeviceId {
    fn to_value(&self) -> log::kv::Value<'_> {
        self.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_128_characters_however_many_bytes_they_take() {
        assert_eq!("".parse::<DeviceId>(), Err(InvalidDeviceId::Empty));
        assert!("x".parse::<DeviceId>().is_ok());
        assert!("ü".repeat(128).parse::<DeviceId>().is_ok());
        assert_eq!("ü".repeat(129).parse::<DeviceId>(), Err(InvalidDeviceId::TooLong(129)));
    }

    #[test]
    fn ids_of_echoes_are_reserved() {
        for (text, reserved) in [
            ("heartbeatd-echo-", true),
            ("heartbeatd-echo-heartbeatd", true),
            ("heartbeatd-echo", false),
            ("my-heartbeatd-echo-1", false),
            ("Heartbeatd-echo-1", false),
        ] {
            assert_eq!(text.parse::<DeviceId>().expect(text).is_reserved(), reserved, "{text}");
        }
    }

    #[test]
    fn an_id_has_no_control_and_no_topic_characters() {
        for forbidden in ['/', '+', '#', '\0', '\n', '\x1b', '\u{7f}', '\u{85}'] {
            let text = format!("pump{forbidden}17");
            assert_eq!(text.parse::<DeviceId>(), Err(InvalidDeviceId::Forbidden(forbidden)));
        }
        for allowed in ["a b", "$SYS", "Köln-3", "温度", "a:b.c_d-e@f", "😀"] {
            assert!(allowed.parse::<DeviceId>().is_ok(), "{allowed:?}");
        }
    }

    #[test]
    fn an_id_has_no_character_that_cannot_be_seen() {
        for invisible in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{2800}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{fdd0}',
            '\u{fdef}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{10ffff}',
        ] {
            for text in [
                format!("pump{invisible}17"),
                format!("{invisible}pump"),
                format!("pump{invisible}"),
            ] {
                let error = text.parse::<DeviceId>().expect_err("it cannot be seen");
                assert_eq!(error, InvalidDeviceId::Invisible(invisible));
                let code_point = format!("U+{:04X}", u32::from(invisible));
                assert!(error.to_string().contains(&code_point), "{error}");
            }
        }
    }

    #[test]
    fn a_refusal_says_which_kind_of_character_cannot_be_seen() {
        for (text, expected) in [
            ("a\u{200b}", "an invisible, format or line separator character"),
            ("a\u{e000}", "a private-use character"),
            ("a\u{10fffd}", "a private-use character"),
            ("a\u{10ffff}", "a code point that will never be a character"),
        ] {
            let error = text.parse::<DeviceId>().expect_err("it cannot be seen").to_string();
            let expected = format!("must not contain {expected}; ");
            assert!(error.contains(&expected), "{error}");
        }
        for next in ['\u{fdcf}', '\u{fdf0}', '\u{fffd}', '\u{20000}'] {
            assert!(next.to_string().parse::<DeviceId>().is_ok(), "{next:?}");
        }
    }

    #[test]
    fn an_id_is_not_a_step_within_a_path() {
        for dots in [".", ".."] {
            assert_eq!(dots.parse::<DeviceId>(), Err(InvalidDeviceId::Dots));
        }
        for allowed in ["...", ".a", "a."] {
            assert!(allowed.parse::<DeviceId>().is_ok(), "{allowed}");
        }
    }

    #[test]
    fn an_id_has_no_blank_at_its_ends() {
        for blank in [' ', '\u{a0}', '\u{1680}', '\u{2003}', '\u{202f}', '\u{205f}', '\u{3000}'] {
            let inside = format!("pump{blank}17");
            assert!(inside.parse::<DeviceId>().is_ok(), "{inside:?}");
            for text in [format!("{blank}pump"), format!("pump{blank}"), blank.to_string()] {
                assert_eq!(
                    text.parse::<DeviceId>(),
                    Err(InvalidDeviceId::BlankAtEnd(blank)),
                    "{text:?}"
                );
            }
        }
    }
}
