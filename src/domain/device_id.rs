//! Device ids: the `<id>` of `devices/<id>/heartbeat`.

use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::Serialize;

/// The most characters that an id may have.
pub const MAX_CHARS: usize = 128;

/// The beginning of the ids that no device has: an instance may publish its echoes
/// there, through the very subscription of the heartbeats.
pub const RESERVED_PREFIX: &str = "heartbeatd-echo-";

/// True if the text is an id that no device has.
pub fn is_reserved(text: &str) -> bool {
    text.starts_with(RESERVED_PREFIX)
}

/// The name of a device: 1 to 128 characters, none of them a control character
/// or one that means something in a topic (`/`, `+`, `#`).
///
/// Up to 24 bytes are held inline, so the usual id costs no allocation.
///
/// ```
/// use heartbeatd::domain::DeviceId;
///
/// let id: DeviceId = "pump-17".parse()?;
/// assert_eq!(id.as_str(), "pump-17");
/// assert!("pump/17".parse::<DeviceId>().is_err());
/// # Ok::<(), heartbeatd::domain::device_id::InvalidDeviceId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DeviceId(CompactString);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if no device has this id: it begins with [`RESERVED_PREFIX`].
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }
}

/// Why a text is no device id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDeviceId {
    /// Nothing there.
    #[error("a device id has 1 to {MAX_CHARS} characters, this one is empty")]
    Empty,
    /// Too much of it.
    #[error("a device id has 1 to {MAX_CHARS} characters, this one has {0}")]
    TooLong(usize),
    /// A character that would change a topic or a terminal.
    #[error(
        "a device id contains no control character and none of '/', '+', '#'; this one has {0:?}"
    )]
    Forbidden(char),
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        if text.is_empty() {
            return Err(InvalidDeviceId::Empty);
        }
        // Bytes bound characters from above, so the usual id is not counted.
        if text.len() > MAX_CHARS {
            let chars = text.chars().count();
            if chars > MAX_CHARS {
                return Err(InvalidDeviceId::TooLong(chars));
            }
        }
        match text.chars().find(|c| c.is_control() || matches!(c, '/' | '+' | '#')) {
            Some(forbidden) => Err(InvalidDeviceId::Forbidden(forbidden)),
            None => Ok(Self(CompactString::new(text))),
        }
    }
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
    fn the_ids_of_echoes_are_reserved() {
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
}
