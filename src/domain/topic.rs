//! The topics of heartbeats: a pattern with one level for the device id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::device_id::is_invisible;

/// A topic filter such as `devices/+/heartbeat`. Exactly one level is `+`, which stands
/// for the device id.
///
/// ```
/// use heartbeatd::domain::TopicPattern;
///
/// let pattern: TopicPattern = "devices/+/heartbeat".parse()?;
/// assert_eq!(pattern.device_level("devices/pump-17/heartbeat"), Some("pump-17"));
/// assert_eq!(pattern.device_level("devices/pump-17/status"), None);
/// # Ok::<(), heartbeatd::domain::InvalidTopicPattern>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicPattern {
    before: String,
    after: String,
}

/// The error of a text that is not a topic filter with exactly one `+`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a topic for heartbeats: exactly one level must be '+', the device id, none may \
     be '#', and no character may be invisible, as in \"devices/+/heartbeat\""
)]
pub struct InvalidTopicPattern(String);

impl TopicPattern {
    /// The level of `topic` at the place of the `+`, if the other levels match.
    pub fn device_level<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let level = topic.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        (!level.contains('/')).then_some(level)
    }

    /// The topic on which a device publishes.
    pub fn topic_of(&self, device: &str) -> String {
        format!("{}{device}{}", self.before, self.after)
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidTopicPattern;

    fn from_str(text: &str) -> Result<Self, InvalidTopicPattern> {
        let invalid = || InvalidTopicPattern(text.to_owned());
        // MQTT reserves topics that begin with '$' for the broker.
        let is_forbidden = |c: char| c.is_control() || is_invisible(c) || c == '#';
        if text.starts_with('$') || text.contains(is_forbidden) {
            return Err(invalid());
        }
        let (before, after) = text.split_once('+').ok_or_else(invalid)?;
        let whole_level = (before.is_empty() || before.ends_with('/'))
            && (after.is_empty() || after.starts_with('/'));
        if !whole_level || after.contains('+') {
            return Err(invalid());
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = InvalidTopicPattern;

    fn try_from(text: String) -> Result<Self, InvalidTopicPattern> {
        text.parse()
    }
}

impl From<TopicPattern> for String {
    fn from(pattern: TopicPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_one_plus_on_a_level_of_its_own() {
        for valid in ["devices/+/heartbeat", "+", "+/heartbeat", "a/b/+", "/+/"] {
            let pattern: TopicPattern = valid.parse().expect(valid);
            assert_eq!(pattern.to_string(), valid);
        }
        for invalid in [
            "",
            "devices",
            "a/+/+",
            "a/x+/b",
            "a/+x",
            "a/+/#",
            "#",
            "$SYS/+",
            "a\0/+",
            "a\u{202e}/+",
        ] {
            assert!(invalid.parse::<TopicPattern>().is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn the_device_level_is_one_level() {
        let pattern: TopicPattern = "devices/+/heartbeat".parse().expect("it is one");
        assert_eq!(pattern.device_level("devices/a/heartbeat"), Some("a"));
        assert_eq!(pattern.device_level("devices//heartbeat"), Some(""));
        for other in ["devices/a/b/heartbeat", "devices/heartbeat", "devices/a", "x/a/heartbeat"] {
            assert_eq!(pattern.device_level(other), None, "{other:?}");
        }
        assert_eq!(pattern.topic_of("a"), "devices/a/heartbeat");
    }
}
