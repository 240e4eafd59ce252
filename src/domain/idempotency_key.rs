//! The key by which whoever receives a status change recognises one that it already has.
//!
//! The sequence number alone is not enough. A PostgreSQL that fails over to a server that had
//! not received the last commits gives the same numbers again, to other transitions. It does so
//! on another timeline.

use std::fmt;
use std::str::FromStr;

/// A timeline of the database: its history since the last failover or recovery to an earlier
/// state. A database loses nothing that was committed on one timeline as long as it stays there.
///
/// PostgreSQL counts them from 1. Other databases have none, and [`DatabaseTimeline::NONE`] is
/// then the only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DatabaseTimeline(u32);

impl DatabaseTimeline {
    /// The timeline of a database that has none or does not tell it.
    pub const NONE: Self = Self(0);

    /// True if the database has no timelines or does not tell them.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Eight hexadecimal digits, as PostgreSQL writes it in the names of its log files; `0` for
/// [`DatabaseTimeline::NONE`].
impl fmt::Display for DatabaseTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() { f.write_str("0") } else { write!(f, "{:08X}", self.0) }
    }
}

/// The refused text of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a timeline: eight hexadecimal digits are expected, as in 0000000A")]
pub struct InvalidTimeline(String);

/// Reads eight hexadecimal digits, of which at least one is not 0.
impl FromStr for DatabaseTimeline {
    type Err = InvalidTimeline;

    fn from_str(text: &str) -> Result<Self, InvalidTimeline> {
        let read = u32::from_str_radix(text, 16).map(Self);
        // Only the one spelling, also without a sign.
        let read = read.ok().filter(|read| !read.is_none() && read.to_string() == text);
        read.ok_or_else(|| InvalidTimeline(text.to_owned()))
    }
}

/// The idempotency key of a transition: the timeline of the database on which it was written, and
/// its sequence number. It stays the same for ever, whatever timeline the database is on later.
///
/// It is shown as `TIMELINE-SEQUENCE`, for example `00000002-1234`, or `0-1234` if the database
/// has no timelines. Keys have no order: a transition of an earlier timeline may be delivered
/// after one of a later timeline, and an upgrade of PostgreSQL to another major version begins
/// with timeline 1 again. No key comes back with that, because the numbers go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The timeline on which the transition was written.
    pub timeline: DatabaseTimeline,
    /// Its sequence number.
    pub sequence: i64,
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.timeline, self.sequence)
    }
}

impl log::kv::ToValue for IdempotencyKey {
    fn to_value(&self) -> log::kv::Value<'_> {
        log::kv::Value::from_display(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn timeline(text: &str) -> DatabaseTimeline {
        text.parse().expect(text)
    }

    #[test]
    fn a_key_names_the_timeline_and_the_sequence() {
        let key = |timeline| IdempotencyKey { timeline, sequence: 1234 }.to_string();
        assert_eq!(key(timeline("00000002")), "00000002-1234");
        assert_eq!(key(timeline("0000000A")), "0000000A-1234");
        assert_eq!(key(DatabaseTimeline::NONE), "0-1234");
    }

    #[test]
    fn the_same_number_on_another_timeline_is_another_key() {
        let key = |text| IdempotencyKey { timeline: timeline(text), sequence: 7 };
        assert_ne!(key("00000001"), key("00000002"));
        assert_ne!(key("00000001").to_string(), key("00000002").to_string());
    }

    #[test]
    fn only_what_postgresql_writes_is_a_timeline() {
        for wrong in ["", "0", "00000000", "2", "0000002", "000000002", "0000000a", "+0000002"] {
            let error = wrong.parse::<DatabaseTimeline>().expect_err(wrong);
            assert!(error.to_string().contains("eight hexadecimal digits"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_timeline_is_read_as_it_is_shown(number in 1..u32::MAX) {
            let shown = DatabaseTimeline(number).to_string();
            prop_assert_eq!(shown.parse(), Ok(DatabaseTimeline(number)));
        }
    }
}
