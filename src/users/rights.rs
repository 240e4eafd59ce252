//! The rights of a user: the devices whose heartbeats it may publish.
//!
//! [`Rights::allows`] is asked for each message, so it neither allocates nor goes back: its
//! time is linear in the length of the id and of the patterns.

use std::fmt;
use std::str::FromStr;

use super::UserName;
use crate::domain::DeviceId;
use crate::domain::device_id::{self, is_invisible};
use crate::logging::escape::Quoted;

/// The maximum size of a pattern, in bytes: an id has at most 128 characters, of 4 bytes each
/// at most.
const MAX_PATTERN_BYTES: usize = 4 * device_id::MAX_CHARS;

/// The maximum number of patterns of one user. All of them may be compared for each message.
pub const MAX_PATTERNS: usize = 64;

/// The devices whose heartbeats a user may publish.
///
/// ```
/// use heartbeatd::users::{Rights, UserName};
///
/// let name: UserName = "hall-3".parse().expect("a name");
/// assert!(Rights::of_own_name(&name).allows("hall-3"));
/// assert!(!Rights::of_own_name(&name).allows("hall-3-fan"));
///
/// let gateway = Rights::matching(["hall-3-*".parse()?])?;
/// assert!(gateway.allows("hall-3-fan"));
/// assert!(!gateway.allows("hall-4-fan"));
/// # Ok::<(), heartbeatd::users::InvalidPattern>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights(Devices);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    Named(UserName),
    All,
    Matching(Box<[Pattern]>),
}

impl Rights {
    /// The device whose id is the user's name.
    pub fn of_own_name(name: &UserName) -> Self {
        Self(Devices::Named(name.clone()))
    }

    /// The devices whose ids match one of the patterns.
    ///
    /// # Errors
    ///
    /// [`InvalidPattern::Number`] if there is none, or more than [`MAX_PATTERNS`].
    pub fn matching(patterns: impl IntoIterator<Item = Pattern>) -> Result<Self, InvalidPattern> {
        let patterns: Box<[Pattern]> = patterns.into_iter().collect();
        if !(1..=MAX_PATTERNS).contains(&patterns.len()) {
            return Err(InvalidPattern::Number(patterns.len()));
        }
        let all = patterns.iter().any(Pattern::matches_all);
        Ok(Self(if all { Devices::All } else { Devices::Matching(patterns) }))
    }

    /// True if the user may publish heartbeats of this device.
    pub fn allows(&self, device: &str) -> bool {
        match &self.0 {
            Devices::Named(name) => name.as_str() == device,
            Devices::All => true,
            Devices::Matching(patterns) => patterns.iter().any(|pattern| pattern.matches(device)),
        }
    }

    /// The patterns, each as [`Pattern`] parses it; the user's own name for the default.
    pub fn patterns(&self) -> Vec<String> {
        match &self.0 {
            Devices::Named(name) => vec![escaped(name.as_str())],
            Devices::All => vec!["*".to_owned()],
            Devices::Matching(patterns) => patterns.iter().map(Pattern::to_string).collect(),
        }
    }
}

/// A pattern of device ids, such as `hall-3-*`. `*` is any text, also none. A character after
/// a backslash is that character itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text before the first `*`; the whole id if there is none.
    prefix: Box<str>,
    /// `None` if there is no `*`.
    rest: Option<Rest>,
}

/// The part of a pattern that begins with its first `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rest {
    /// The texts between two `*`; none is empty.
    middle: Box<[Box<str>]>,
    /// The text after the last `*`.
    suffix: Box<str>,
}

/// The reason why a text is not a pattern of device ids, or why patterns are not the rights
/// of a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// The text is empty.
    #[error("a pattern of device ids is expected, such as hall-3-*; this one is empty")]
    Empty,
    /// The text is too long: the number of its bytes.
    #[error("a pattern has at most {MAX_PATTERN_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// It contains a wildcard of topics.
    #[error(
        "{0:?} is a wildcard of topics, and no device id contains it: '*' stands for any text, as \
         in hall-3-*"
    )]
    TopicWildcard(char),
    /// It contains a blank, which ends a pattern.
    #[error("a blank separates two patterns: write '\\ ' for the character")]
    Blank,
    /// It contains a question mark.
    #[error("'?' is not a wildcard here: write \\? for the character, or '*' for any text")]
    QuestionMark,
    /// It contains a character that no device id contains.
    #[error("no device id contains {}", Quoted(&.0.to_string()))]
    NotOfId(char),
    /// It ends with a backslash, which has nothing to escape.
    #[error("a backslash at the end has nothing to escape: write \\\\ for the character")]
    BackslashAtEnd,
    /// It has no `*`, and is not a device id.
    #[error(transparent)]
    NotAnId(#[from] device_id::InvalidDeviceId),
    /// There are none, or too many: their number.
    #[error(
        "a user has 1 to {MAX_PATTERNS} patterns, because each may be compared with each message; \
         this one has {0}"
    )]
    Number(usize),
}

impl Pattern {
    /// True if any device matches.
    fn matches_all(&self) -> bool {
        let Some(Rest { middle, suffix }) = &self.rest else { return false };
        self.prefix.is_empty() && middle.is_empty() && suffix.is_empty()
    }

    /// True if this device matches.
    fn matches(&self, device: &str) -> bool {
        let Some(Rest { middle, suffix }) = &self.rest else { return *self.prefix == *device };
        let inner = device.strip_prefix(&*self.prefix).and_then(|d| d.strip_suffix(&**suffix));
        let Some(mut inner) = inner else { return false };
        // The first place at which a text occurs leaves the most for those after it, so no
        // other place has to be tried.
        for text in middle {
            let Some(at) = inner.find(&**text) else { return false };
            inner = &inner[at + text.len()..];
        }
        true
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(InvalidPattern::TooLong(text.len()));
        }
        let mut texts = texts_between_stars(text)?.into_iter().map(String::into_boxed_str);
        let prefix = texts.next().unwrap_or_default();
        let Some(suffix) = texts.next_back() else {
            DeviceId::of_device(&prefix)?;
            return Ok(Self { prefix, rest: None });
        };
        let middle = texts.filter(|text| !text.is_empty()).collect();
        Ok(Self { prefix, rest: Some(Rest { middle, suffix }) })
    }
}

/// The texts before, between and after the `*` of a pattern, without backslashes.
fn texts_between_stars(pattern: &str) -> Result<Vec<String>, InvalidPattern> {
    let mut texts = vec![String::new()];
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let literal = match c {
            '*' => {
                texts.push(String::new());
                continue;
            }
            '?' => return Err(InvalidPattern::QuestionMark),
            blank if blank.is_whitespace() => return Err(InvalidPattern::Blank),
            '\\' => chars.next().ok_or(InvalidPattern::BackslashAtEnd)?,
            other => other,
        };
        match literal {
            '+' | '#' => return Err(InvalidPattern::TopicWildcard(literal)),
            '/' => return Err(InvalidPattern::NotOfId(literal)),
            c if c.is_control() || is_invisible(c) => return Err(InvalidPattern::NotOfId(c)),
            c => texts.last_mut().expect("there is always one").push(c),
        }
    }
    Ok(texts)
}

impl fmt::Display for Pattern {
    /// Writes the pattern so that [`Pattern`] parses it again, and without a blank that is not
    /// escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.prefix))?;
        if let Some(Rest { middle, suffix }) = &self.rest {
            for text in middle.iter().chain([suffix]) {
                write!(f, "*{}", escaped(text))?;
            }
        }
        Ok(())
    }
}

/// Escapes what has a meaning in a pattern, or between two of them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '\\') || c.is_whitespace() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Splits patterns at the blanks that are not escaped.
pub(super) fn split(patterns: &str) -> impl Iterator<Item = &str> {
    let mut after_backslash = false;
    let is_separator = move |c: char| {
        let escaped = after_backslash;
        after_backslash = c == '\\' && !escaped;
        c.is_whitespace() && !escaped
    };
    patterns.split(is_separator).filter(|pattern| !pattern.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rights(patterns: &str) -> Rights {
        let patterns = split(patterns).map(|text| text.parse().expect(text));
        Rights::matching(patterns).expect("not too many")
    }

    fn parse(text: &str) -> Result<Pattern, InvalidPattern> {
        text.parse()
    }

    #[test]
    fn a_user_may_publish_for_its_own_name_by_default() {
        let rights = Rights::of_own_name(&"pump-17".parse().expect("a name"));
        assert!(rights.allows("pump-17"));
        for other in ["pump-18", "pump-1", "pump-170", "Pump-17", ""] {
            assert!(!rights.allows(other), "{other}");
        }
        // A name is not a pattern.
        let rights = Rights::of_own_name(&"pump-*".parse().expect("a name"));
        assert!(rights.allows("pump-*") && !rights.allows("pump-17"));
    }

    #[test]
    fn a_pattern_stands_for_the_ids_that_it_matches() {
        for (patterns, allowed, refused) in [
            ("*", &["a", "温度"][..], &[][..]),
            ("a *", &["z"], &[]),
            ("hall-3-*", &["hall-3-", "hall-3-fan"], &["hall-3", "hall-30-fan", "xhall-3-fan"]),
            ("*-fan", &["hall-3-fan", "-fan"], &["fan", "hall-3-fan2"]),
            ("a*b", &["ab", "aab", "a*b", "abab"], &["a", "b", "abc", "cab"]),
            ("aa*aa", &["aaaa", "aaaaa"], &["aa", "aaa"]),
            ("a*b*c", &["abc", "axbxc", "abcbc"], &["acb", "ac", "ab"]),
            ("a**b", &["ab", "axb"], &["a"]),
            ("site:pump x", &["site:pump", "x"], &["site", "pump"]),
            (r"pump\ 17", &["pump 17"], &["pump", "17", r"pump\ 17"]),
            (r"a\*b \\x \?", &["a*b", r"\x", "?"], &["axb", "x"]),
        ] {
            let rights = rights(patterns);
            for device in allowed {
                assert!(rights.allows(device), "{patterns}: {device}");
            }
            for device in refused {
                assert!(!rights.allows(device), "{patterns}: {device}");
            }
        }
    }

    #[test]
    fn a_pattern_that_can_match_no_id_is_refused_with_what_would_be_right() {
        for (text, part) in [
            ("", "such as hall-3-*"),
            ("+", "'*' stands for any text"),
            ("hall/#", "no device id contains \"/\""),
            ("hall-3-#", "'*' stands for any text"),
            ("pump-?", r"write \? for the character"),
            ("pump 17", r"write '\ ' for the character"),
            ("a\u{200b}*", r#"no device id contains "\u{200b}""#),
            ("a\\", r"write \\ for the character"),
            (r"a\+", "'+'"),
            (r"\ a", "must not begin or end with a blank"),
            ("heartbeatd-echo-x", "reserved for echoes"),
            (&"x".repeat(129), "1 to 128 characters"),
            (&"*".repeat(513), "at most 512 bytes"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    /// Matches by the definition: `*` is any number of characters, tried one after the other.
    fn matches(pattern: &[char], device: &[char]) -> bool {
        match pattern.split_first() {
            None => device.is_empty(),
            Some(('*', rest)) => (0..=device.len()).any(|n| matches(rest, &device[n..])),
            Some((c, rest)) => {
                device.split_first().is_some_and(|(d, more)| d == c && matches(rest, more))
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_its_definition_says(
            pattern in "[abä*]{1,8}",
            devices in prop::collection::vec("[abä]{0,10}", 8),
        ) {
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            let rights = rights(&pattern);
            for device in devices {
                let expected = matches(&chars(&pattern), &chars(&device));
                prop_assert_eq!(rights.allows(&device), expected, "{} {}", pattern, device);
            }
        }

        #[test]
        fn a_pattern_that_was_written_is_read_as_the_same(text in r"[ab *\\?é\u{a0}]{1,12}") {
            let Ok(pattern) = parse(&text) else { return Ok(()) };
            let written = pattern.to_string();
            prop_assert_eq!(split(&written).collect::<Vec<_>>(), [&*written]);
            prop_assert_eq!(parse(&written), Ok(pattern));
        }
    }

    #[test]
    fn a_user_has_at_least_one_pattern_and_not_too_many() {
        let of = |count| Rights::matching(vec![parse("a*").expect("valid"); count]);
        assert!(of(1).is_ok() && of(MAX_PATTERNS).is_ok());
        for count in [0, MAX_PATTERNS + 1] {
            assert_eq!(of(count), Err(InvalidPattern::Number(count)));
        }
    }

    /// A matcher that goes back would take longer than the age of the universe.
    #[test]
    fn no_pattern_takes_longer_than_its_length() {
        let pattern = "a*".repeat(MAX_PATTERN_BYTES / 2 - 1) + "b";
        let rights = rights(&pattern);
        assert!(!rights.allows(&"a".repeat(10_000)));
    }
}
