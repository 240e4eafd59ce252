//! The names of users.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::domain::device_id::is_invisible;

/// The maximum size of a name, in bytes. The receiver refuses a longer one in CONNECT before
/// it looks for the user.
pub const MAX_NAME_BYTES: usize = 256;

/// The name of a user: 1 to 256 bytes. None of its characters is `:`, a control character or
/// an invisible one, neither end is a blank, and the first character is not `#`.
///
/// So a name is one field of a line, the line is not a comment, and no two names look alike.
///
/// ```
/// use heartbeatd::users::UserName;
///
/// let name: UserName = "pump-17".parse()?;
/// assert_eq!(name.as_str(), "pump-17");
/// assert!("hall:3".parse::<UserName>().is_err());
/// # Ok::<(), heartbeatd::users::InvalidUserName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<str>);

/// The reason why a text is not the name of a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserName {
    /// The text is empty.
    #[error("a user name has 1 to {MAX_NAME_BYTES} bytes; this one is empty")]
    Empty,
    /// The text is too long: the number of its bytes.
    #[error("a user name has 1 to {MAX_NAME_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// It contains a colon, which ends a name in the users file.
    #[error("a user name must not contain ':', which ends the name in the users file")]
    Colon,
    /// It begins with the sign of a comment.
    #[error("a user name must not begin with '#', which begins a comment in the users file")]
    Comment,
    /// It contains a character that cannot be seen or that controls a terminal.
    #[error(
        "a user name must not contain a control character or an invisible one; this one contains \
         U+{:04X}",
        u32::from(*.0)
    )]
    Unseen(char),
    /// It begins or ends with a blank, which cannot be seen there.
    #[error("a user name must not begin or end with a blank; this one does")]
    BlankAtEnd,
}

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        use InvalidUserName::{BlankAtEnd, Colon, Comment, Empty, TooLong, Unseen};
        if text.is_empty() {
            return Err(Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(TooLong(text.len()));
        }
        if let Some(c) = text.chars().find(|&c| c.is_control() || is_invisible(c)) {
            return Err(Unseen(c));
        }
        if text.contains(':') {
            return Err(Colon);
        }
        if text.starts_with('#') {
            return Err(Comment);
        }
        if text.trim() != text {
            return Err(BlankAtEnd);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_field_of_a_line_and_can_be_seen() {
        let longest = "n".repeat(MAX_NAME_BYTES);
        for name in ["pump-17", "a", "Köln 3", "温度", "$x", "a#b", "a$b", &longest] {
            assert_eq!(name.parse::<UserName>().expect(name).as_str(), name);
        }
        for (text, expected) in [
            ("", InvalidUserName::Empty),
            (&"ä".repeat(129), InvalidUserName::TooLong(258)),
            ("a:b", InvalidUserName::Colon),
            ("#a", InvalidUserName::Comment),
            ("a\nb", InvalidUserName::Unseen('\n')),
            ("a\0", InvalidUserName::Unseen('\0')),
            ("a\u{200b}", InvalidUserName::Unseen('\u{200b}')),
            (" a", InvalidUserName::BlankAtEnd),
            ("a\u{a0}", InvalidUserName::BlankAtEnd),
        ] {
            assert_eq!(text.parse::<UserName>(), Err(expected), "{text:?}");
        }
    }
}
