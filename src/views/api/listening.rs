//! The listening: when it is proven, and why it was not.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::as_seconds;
use crate::domain::{Coverage, Gap, GapCause, Interval};
use crate::views::{as_millis, gap_in_words};

/// The maximum number of gaps and of intervals that are listed.
const LISTED: usize = 1000;

/// The listening in a stretch of time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListeningView {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    /// The instance that listened.
    instance: String,
    #[serde(serialize_with = "as_seconds")]
    listened_seconds: TimeDelta,
    /// Newest first.
    intervals: Vec<IntervalItem>,
    /// Newest first.
    gaps: Vec<GapInWords>,
    /// The number of gaps that are not listed.
    more: usize,
    echo_latency_seconds: EchoLatency,
}

/// A time that was listened to.
#[derive(Clone, Debug, Serialize)]
struct IntervalItem {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
}

/// A time that was not listened to.
#[derive(Clone, Debug, Serialize)]
struct GapInWords {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    /// Null if it is not known.
    cause: Option<&'static str>,
    sentence: String,
}

/// The times that the last echoes took; null before the first one.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct EchoLatency {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl ListeningView {
    /// The listening of `instance` from `from` until `to`, which is not in the future.
    pub(crate) fn new(
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        instance: &str,
        coverage: &Coverage,
        echo_latency_seconds: EchoLatency,
    ) -> Self {
        let gaps = coverage.gaps(from, to);
        let known = coverage.intervals().within(Interval { from, until: to });
        Self {
            from,
            to,
            instance: instance.to_owned(),
            listened_seconds: known.iter().map(Interval::length).sum(),
            more: gaps.len().saturating_sub(LISTED),
            gaps: gaps.iter().rev().take(LISTED).map(GapInWords::from).collect(),
            intervals: known.into_iter().rev().take(LISTED).map(IntervalItem::from).collect(),
            echo_latency_seconds,
        }
    }
}

impl From<Interval> for IntervalItem {
    fn from(Interval { from, until }: Interval) -> Self {
        Self { from, to: until }
    }
}

impl From<&Gap> for GapInWords {
    fn from(gap: &Gap) -> Self {
        Self {
            from: gap.interval.from,
            to: gap.interval.until,
            cause: gap.cause.map(GapCause::as_str),
            sentence: gap_in_words(gap),
        }
    }
}
