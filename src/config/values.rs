//! The types of values, and the bounds of each key: a value that has been read is valid.
//!
//! A type holds what the code relies on (a timeout is not zero). The bounds that only spare
//! the operator a mistake are checked by the function that reads the key.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::tokens::ListOrText;
use crate::domain::device_id::is_invisible;
use crate::duration;
use crate::secrets::{BrokerUrl, InvalidUrl};

const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest timeout that can be set: ten years. A device's row may hold up to a hundred,
/// see [`OwnTimeout`](crate::domain::OwnTimeout).
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The maximum number of nodes in `mqtt.entry_urls`. Each takes a connection and an echo.
const MAX_ENTRIES: usize = 32;

/// The maximum size of a text in MQTT, in bytes: its length is sent in two bytes.
pub(super) const MAX_MQTT_BYTES: usize = 65_535;

/// A duration of whole milliseconds, at least one.
///
/// ```
/// use std::time::Duration;
/// use heartbeatd::config::NonZeroDuration;
///
/// let minute: NonZeroDuration = Duration::from_secs(60).try_into()?;
/// assert_eq!(minute.get(), Duration::from_secs(60));
/// assert!(NonZeroDuration::try_from(Duration::ZERO).is_err());
/// assert!(NonZeroDuration::try_from(Duration::from_micros(1500)).is_err());
/// # Ok::<(), heartbeatd::config::InvalidValue>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonZeroDuration(Duration);

/// A value that its type does not allow. Says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(super) &'static str);

impl NonZeroDuration {
    /// The duration.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for NonZeroDuration {
    type Error = InvalidValue;

    fn try_from(duration: Duration) -> Result<Self, InvalidValue> {
        let valid = !duration.is_zero() && is_whole_milliseconds(duration);
        valid.then_some(Self(duration)).ok_or(InvalidValue("whole milliseconds, at least 1ms"))
    }
}

impl Serialize for NonZeroDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        duration::serialize(&self.0, serializer)
    }
}

/// A duration of 1 s to 65,535 s in whole seconds, as MQTT writes the keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeSeconds(NonZeroU16);

impl WholeSeconds {
    /// The duration.
    pub fn get(self) -> Duration {
        Duration::from_secs(self.0.get().into())
    }
}

impl TryFrom<Duration> for WholeSeconds {
    type Error = InvalidValue;

    fn try_from(duration: Duration) -> Result<Self, InvalidValue> {
        let seconds = u16::try_from(duration.as_secs()).ok().and_then(NonZeroU16::new);
        let whole = seconds.filter(|_| duration.subsec_nanos() == 0);
        let expected = "whole seconds, 1s to 65535s, because MQTT gives it two bytes";
        whole.map(Self).ok_or(InvalidValue(expected))
    }
}

impl<'de> Deserialize<'de> for WholeSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
    }
}

impl Serialize for WholeSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        duration::serialize(&self.get(), serializer)
    }
}

/// A quality of service of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Qos {
    /// A message may be lost.
    AtMostOnce = 0,
    /// A message may arrive twice.
    AtLeastOnce = 1,
    /// A message arrives once, at twice the packets.
    ExactlyOnce = 2,
}

impl TryFrom<u8> for Qos {
    type Error = InvalidValue;

    fn try_from(level: u8) -> Result<Self, InvalidValue> {
        match level {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(InvalidValue("0, 1 or 2")),
        }
    }
}

impl From<Qos> for u8 {
    fn from(qos: Qos) -> Self {
        qos as Self
    }
}

/// Reads `heartbeat.timeout`.
pub(super) fn timeout<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroDuration, D::Error> {
    let why = "a device that may be silent for longer is not watched";
    duration_within(MILLISECOND..=MAX_TIMEOUT, why, from)
}

/// Reads `heartbeat.check_interval`.
pub(super) fn check_interval<'de, D>(from: D) -> Result<NonZeroDuration, D::Error>
where
    D: Deserializer<'de>,
{
    let why = "a silent device is found up to this much later";
    duration_within(MILLISECOND..=DAY, why, from)
}

/// Reads `heartbeat.flush_interval`.
pub(super) fn flush_interval<'de, D>(from: D) -> Result<NonZeroDuration, D::Error>
where
    D: Deserializer<'de>,
{
    let why = "each flush is a transaction, and a kill -9 loses what arrived since the last one";
    duration_within(Duration::from_millis(10)..=HOUR, why, from)
}

/// Reads `heartbeat.max_clock_skew`.
pub(super) fn max_clock_skew<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let why = "a clock that is off by more was never set";
    duration_within(Duration::ZERO..=365 * DAY, why, from)
}

/// `mqtt.echo_interval`, in which `0s` is `None`.
pub(super) mod echo_interval {
    use super::*;

    pub(crate) fn deserialize<'de, D>(from: D) -> Result<Option<NonZeroDuration>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let interval = duration::deserialize(from)?;
        if interval.is_zero() {
            return Ok(None);
        }
        let why = "or 0s to turn the echo off: one has to come back before the next is sent, and \
                   silence is proven only up to the last";
        within(Duration::from_millis(100)..=HOUR, why, interval).map(Some)
    }

    pub(crate) fn serialize<S>(value: &Option<NonZeroDuration>, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        duration::serialize(&value.map_or(Duration::ZERO, NonZeroDuration::get), to)
    }
}

/// `mqtt.settle`.
pub(super) mod settle {
    use super::*;

    pub(crate) fn deserialize<'de, D>(from: D) -> Result<Option<Duration>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let why = "silence is found as much later, and no broker is slower";
        duration_within(Duration::ZERO..=MINUTE, why, from).map(Some)
    }

    pub(crate) fn serialize<S>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        match value {
            Some(settle) => duration::serialize(settle, to),
            None => to.serialize_none(),
        }
    }
}

/// Reads `alerts.timeout`.
pub(super) fn alert_timeout<'de, D>(from: D) -> Result<NonZeroDuration, D::Error>
where
    D: Deserializer<'de>,
{
    let why = "a sink on another machine needs time, and one that hangs should be noticed";
    duration_within(Duration::from_millis(100)..=HOUR, why, from)
}

/// Reads `history.retention`.
pub(super) fn retention<'de, D: Deserializer<'de>>(from: D) -> Result<NonZeroDuration, D::Error> {
    let why = "a change is kept until somebody can have looked at it";
    duration_within(SECOND..=36_500 * DAY, why, from)
}

/// Reads a duration within bounds, as the type that the code needs.
pub(super) fn duration_within<'de, D, T>(
    bounds: RangeInclusive<Duration>,
    why: &str,
    from: D,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<Duration, Error: fmt::Display>,
{
    within(bounds, why, duration::deserialize(from)?)
}

fn within<T, E>(bounds: RangeInclusive<Duration>, why: &str, value: Duration) -> Result<T, E>
where
    T: TryFrom<Duration, Error: fmt::Display>,
    E: serde::de::Error,
{
    if !bounds.contains(&value) {
        let (least, most) = (duration::format(*bounds.start()), duration::format(*bounds.end()));
        return Err(E::custom(format!("at least {least} and at most {most}; {why}")));
    }
    if !is_whole_milliseconds(value) {
        return Err(E::custom("whole milliseconds"));
    }
    value.try_into().map_err(E::custom)
}

/// True for whole milliseconds. A fraction would silently be lost, because times are kept in
/// milliseconds.
fn is_whole_milliseconds(duration: Duration) -> bool {
    duration.subsec_nanos().is_multiple_of(MILLISECOND.subsec_nanos())
}

/// Reads a number of devices, each of which takes memory.
pub(super) fn device_count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    count(u64::deserialize(from)?, "each may take 150 bytes of memory")
}

/// Reads a number of devices that register at once or in a second.
pub(super) fn registrations<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    count(u64::deserialize(from)?, "no fleet has more")
}

/// Reads `mqtt.max_backlog`.
pub(super) fn backlog<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    let messages = usize::deserialize(from)?;
    count(messages as u64, "each may take 150 bytes of memory").map(|_| messages)
}

/// Reads `http.max_streams`.
pub(super) fn max_streams<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    match usize::deserialize(from)? {
        streams @ 1..=100_000 => Ok(streams),
        _ => Err(D::Error::custom("1 to 100000 are expected, because each takes a file")),
    }
}

/// Reads a number of connections, each of which takes memory and a file.
pub(super) fn connections<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    count(u64::deserialize(from)?, "each takes a few kilobytes of memory and a file")
}

/// Reads `mqtt.embedded.max_connections`.
pub(super) fn max_connections<'de, D>(from: D) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    connections(from).map(Some)
}

/// Reads `mqtt.embedded.connect_timeout`.
pub(super) fn connect_timeout<'de, D>(from: D) -> Result<NonZeroDuration, D::Error>
where
    D: Deserializer<'de>,
{
    let why = "a device on a slow link needs seconds, and one that says nothing holds a place";
    duration_within(Duration::from_millis(100)..=5 * MINUTE, why, from)
}

/// Reads `mqtt.embedded.max_keep_alive`.
pub(super) fn max_keep_alive<'de, D: Deserializer<'de>>(from: D) -> Result<WholeSeconds, D::Error> {
    let why = "MQTT gives it two bytes, and a shorter one ends the connections of most devices";
    duration_within(10 * SECOND..=Duration::from_secs(u16::MAX.into()), why, from)
}

/// Reads `mqtt.embedded.max_packet`.
pub(super) fn max_packet<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    const BOUNDS: RangeInclusive<u32> = 1024..=1024 * 1024;
    let bytes = u32::deserialize(from)?;
    let (least, most) = (BOUNDS.start(), BOUNDS.end());
    let why = "a heartbeat has to fit, and each client may make the service hold one packet";
    let error = || D::Error::custom(format!("at least {least} and at most {most} bytes; {why}"));
    BOUNDS.contains(&bytes).then_some(bytes).ok_or_else(error)
}

/// Reads `mqtt.embedded.max_messages_per_second`.
pub(super) fn messages_per_second<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let messages = u32::deserialize(from)?;
    count(messages.into(), "no client sends more").map(|_| messages)
}

fn count<E: serde::de::Error>(number: u64, why: &str) -> Result<u64, E> {
    const MANY: u64 = 100_000_000;
    let error = || E::custom(format!("at least 1 and at most {MANY}, because {why}"));
    (1..=MANY).contains(&number).then_some(number).ok_or_else(error)
}

/// Reads a text that is one level of a topic.
pub(super) fn topic_level<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let valid = (1..=128).contains(&text.len())
        && !text.contains(|c: char| is_unseen(c) || matches!(c, '/' | '+' | '#'));
    let expected = "1 to 128 bytes, no control character, no invisible one, no '/', '+', '#'";
    valid.then_some(text).ok_or_else(|| D::Error::custom(expected))
}

/// Reads `mqtt.entry_urls`: a list of URLs, or a text with commas in between.
pub(super) fn entry_urls<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<BrokerUrl>, D::Error> {
    let expected = "a list is expected, such as [\"mqtt://node1:1883\", \"mqtt://node2:1883\"]";
    let urls = ListOrText::deserialize(from).map_err(|_| D::Error::custom(expected))?;
    let urls: Vec<_> = urls.parts()?;
    if urls.len() > MAX_ENTRIES {
        return Err(D::Error::custom(format!(
            "at most {MAX_ENTRIES} nodes, because an echo goes through each of them; these are {}",
            urls.len()
        )));
    }
    let named = |(url, number): (&String, usize)| {
        url.parse().map_err(|invalid: InvalidUrl| {
            D::Error::custom(format!("node {number} of {}: {invalid}", urls.len()))
        })
    };
    urls.iter().zip(1..).map(named).collect()
}

/// Reads `mqtt.share_group`.
pub(super) fn share_group<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    topic_level(from).map(Some)
}

/// Reads `mqtt.username`.
pub(super) fn username<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(from)?;
    let valid = (1..=MAX_MQTT_BYTES).contains(&name.len()) && !name.contains(is_unseen);
    let expected = "1 to 65535 bytes, no control character, no invisible one";
    valid.then_some(Some(name)).ok_or_else(|| D::Error::custom(expected))
}

/// True for a character that a device id must not contain either: texts that differ should
/// look different.
pub(super) fn is_unseen(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_hold_what_the_code_relies_on() {
        let duration = |text| duration::parse(text).expect(text);
        for (text, non_zero, whole_seconds) in [
            ("0s", false, false),
            ("1ns", false, false),
            ("1ms", true, false),
            ("1s", true, true),
            ("1s 1us", false, false),
            ("65535s", true, true),
            ("65536s", true, false),
        ] {
            assert_eq!(NonZeroDuration::try_from(duration(text)).is_ok(), non_zero, "{text}");
            assert_eq!(WholeSeconds::try_from(duration(text)).is_ok(), whole_seconds, "{text}");
        }
        let levels: Vec<u8> = (0..=u8::MAX).flat_map(Qos::try_from).map(u8::from).collect();
        assert_eq!(levels, [0, 1, 2]);
    }
}
