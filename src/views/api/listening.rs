//! The listening: when it is proven, and why it was not.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::as_seconds;
use crate::domain::{Coverage, Gap, GapCause, Interval};
use crate::views::{as_millis, gap_in_words};

/// The maximum number of gaps and of intervals that are listed.
const LISTED: usize = 1000;

/// The listening that was read for a stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct KnownListening {
    pub(crate) coverage: Coverage,
    /// The beginning of the stretch, or that of the oldest interval that was read if there are
    /// too many.
    pub(crate) since: DateTime<Utc>,
}

/// The listening in a stretch of time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListeningView {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    /// The time from which on all is counted. Later than `from` only if there are too many
    /// intervals.
    #[serde(serialize_with = "as_millis")]
    known_from: DateTime<Utc>,
    /// The time from which on all intervals and gaps are listed.
    #[serde(serialize_with = "as_millis")]
    listed_from: DateTime<Utc>,
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
        known: &KnownListening,
        echo_latency_seconds: EchoLatency,
    ) -> Self {
        let KnownListening { coverage, since } = known;
        let gaps = coverage.gaps(*since, to);
        let listened = coverage.intervals().within(Interval { from: *since, until: to });
        let oldest_listed = listened.len().checked_sub(LISTED).filter(|left_out| *left_out > 0);
        let listed_from = oldest_listed.map_or(*since, |oldest| listened[oldest].from);
        let listed_gaps = gaps.iter().rev().take_while(|gap| gap.interval.until > listed_from);
        let listed_gaps: Vec<_> = listed_gaps.take(LISTED).map(GapInWords::from).collect();
        Self {
            from,
            to,
            known_from: *since,
            listed_from,
            instance: instance.to_owned(),
            listened_seconds: listened.iter().map(Interval::length).sum(),
            more: gaps.len() - listed_gaps.len(),
            gaps: listed_gaps,
            intervals: listened.into_iter().rev().take(LISTED).map(IntervalItem::from).collect(),
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
