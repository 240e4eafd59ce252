//! The listening: when it is proven, and why it was not.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::as_seconds;
use crate::domain::{Coverage, Gap, GapCause, Interval, Listener};
use crate::views::{as_millis, as_optional_millis, gap_of};

/// The maximum number of gaps and of intervals that are listed.
const LISTED: usize = 1000;

/// The listening that was read for a stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct KnownListening {
    pub(crate) coverage: Coverage,
    /// The beginning of the stretch, or that of the oldest interval that was read if there are
    /// too many.
    pub(crate) since: DateTime<Utc>,
    /// The beginning of the oldest interval that is kept, also if it is before the stretch.
    /// `None` if the service never listened.
    pub(crate) first: Option<DateTime<Utc>>,
    /// The time from which on what is not proven may be proven by the next echo. `None` if
    /// echoes are missing, so that it is a gap already.
    pub(crate) provable_from: Option<DateTime<Utc>>,
    /// The instances that have listened in the stretch, if there are several.
    pub(crate) listeners: Vec<Listener>,
}

impl KnownListening {
    /// The beginning of what can be known in a stretch that ends at `to`: nothing was, before
    /// the service listened for the first time.
    pub(super) fn begins(&self, to: DateTime<Utc>) -> DateTime<Utc> {
        self.first.map_or(to, |first| first.clamp(self.since, to.max(self.since)))
    }

    /// The gaps in what can be known until `to`, oldest first. The moments after the newest
    /// proof are not one while the next echo is awaited.
    pub(super) fn gaps(&self, to: DateTime<Utc>) -> Vec<Gap> {
        let mut gaps = self.coverage.gaps(self.begins(to), to);
        gaps.pop_if(|gap| self.is_awaited(gap.interval, to));
        gaps
    }

    /// The end of what can be known until `to`: the newest proof while the next echo is awaited.
    pub(super) fn ends(&self, to: DateTime<Utc>) -> DateTime<Utc> {
        let newest = self.coverage.gaps(self.begins(to), to).pop();
        let awaited = newest.filter(|gap| self.is_awaited(gap.interval, to));
        awaited.map_or(to, |gap| gap.interval.from)
    }

    /// True if the next echo may prove an interval, which ends now.
    fn is_awaited(&self, interval: Interval, now: DateTime<Utc>) -> bool {
        let Interval { from, until } = interval;
        until == now && self.provable_from.is_some_and(|provable| from >= provable)
    }
}

/// The listening in a stretch of time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListeningView {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    /// The time from which on all is counted. Later than `from` if the service had not listened
    /// yet, or if there are too many intervals.
    #[serde(serialize_with = "as_millis")]
    known_from: DateTime<Utc>,
    /// The time until which all is counted: the newest proof while the next echo is awaited, else
    /// `to`.
    #[serde(serialize_with = "as_millis")]
    known_until: DateTime<Utc>,
    /// The beginning of all that is kept; null if the service never listened.
    #[serde(serialize_with = "as_optional_millis")]
    first_listened_at: Option<DateTime<Utc>>,
    /// The time from which on all intervals and gaps are listed.
    #[serde(serialize_with = "as_millis")]
    listed_from: DateTime<Utc>,
    /// The instance that answers.
    instance: String,
    /// The instances that have listened, if there are several.
    listeners: Vec<ListenerItem>,
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
    /// The instances whose gap it is; empty if there is only one, or it is not known.
    instances: Vec<String>,
    sentence: String,
}

/// One of several instances that have listened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListenerItem {
    instance: String,
    /// The first moment.
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    /// The last moment.
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    listened_seconds: TimeDelta,
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
        let (coverage, since) = (&known.coverage, known.begins(to));
        let gaps = known.gaps(to);
        let listened = coverage.intervals().within(Interval { from: since, until: to });
        let oldest_listed = listened.len().checked_sub(LISTED).filter(|left_out| *left_out > 0);
        let listed_from = oldest_listed.map_or(since, |oldest| listened[oldest].from);
        let listed_gaps = gaps.iter().rev().take_while(|gap| gap.interval.until > listed_from);
        let listed_gaps = listed_gaps.take(LISTED);
        let in_words = |gap| GapInWords::new(gap, &known.listeners);
        let listed_gaps: Vec<_> = listed_gaps.map(in_words).collect();
        Self {
            from,
            to,
            known_from: since,
            known_until: known.ends(to),
            first_listened_at: known.first,
            listed_from,
            instance: instance.to_owned(),
            listeners: known.listeners.iter().map(ListenerItem::from).collect(),
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

impl From<&Listener> for ListenerItem {
    fn from(listener: &Listener) -> Self {
        let Interval { from, until } = listener.whole();
        let instance = listener.instance.clone();
        Self { instance, from, to: until, listened_seconds: listener.listened() }
    }
}

impl GapInWords {
    fn new(gap: &Gap, listeners: &[Listener]) -> Self {
        Self {
            from: gap.interval.from,
            to: gap.interval.until,
            cause: gap.cause.map(GapCause::as_str),
            instances: Listener::whose(listeners, gap),
            sentence: gap_of(listeners, gap),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::Listened;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    /// The first 1,000 seconds of a service that listened in one interval, if at all.
    fn listening(interval: Option<(i64, i64)>) -> Value {
        listening_while(interval, None)
    }

    fn listening_while(
        interval: Option<(i64, i64)>,
        provable_from: Option<DateTime<Utc>>,
    ) -> Value {
        let listened = interval.map(|(from, until)| Listened {
            interval: Interval { from: at(from), until: at(until) },
            after: None,
        });
        let known = KnownListening {
            coverage: Coverage::new(Duration::from_secs(5)).with(listened),
            since: at(0),
            first: interval.map(|(from, _)| at(from)),
            provable_from,
            listeners: Vec::new(),
        };
        let view = ListeningView::new((at(0), at(1_000)), "x", &known, EchoLatency::default());
        serde_json::to_value(view).expect("it is JSON")
    }

    #[test]
    fn the_moments_after_the_newest_proof_are_a_gap_once_the_next_echo_is_missing() {
        for (proven, provable_from, gaps) in [
            (990, Some(at(980)), 0),
            (980, Some(at(980)), 0),
            (979, Some(at(980)), 1),
            (990, None, 1),
        ] {
            let view = listening_while(Some((0, proven)), provable_from);
            let listed = view["gaps"].as_array().map(Vec::len);
            assert_eq!(listed, Some(gaps), "{proven}, {provable_from:?}: {view}");
            assert_eq!(view["listened_seconds"], f64::from(proven as i32));
            let known_until = if gaps == 0 { at(proven) } else { at(1_000) };
            let known_until = known_until.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            assert_eq!(view["known_until"], known_until, "{proven}, {provable_from:?}");
        }
    }

    #[test]
    fn time_before_the_first_start_is_neither_listened_to_nor_a_gap() {
        let fresh = listening(Some((900, 960)));
        assert_eq!(fresh["from"], "1970-01-01T00:00:00.000Z");
        assert_eq!(fresh["known_from"], "1970-01-01T00:15:00.000Z");
        assert_eq!(fresh["first_listened_at"], fresh["known_from"]);
        assert_eq!(fresh["listed_from"], fresh["known_from"]);
        assert_eq!(fresh["listened_seconds"], 60.0);
        assert_eq!(fresh["gaps"].as_array().map(Vec::len), Some(1), "{fresh}");
        assert_eq!(fresh["gaps"][0]["from"], "1970-01-01T00:16:00.000Z");
        let older = listening(Some((-50, 960)));
        assert_eq!(older["known_from"], older["from"]);
        let never = listening(None);
        assert_eq!((&never["known_from"], &never["gaps"]), (&never["to"], &json!([])));
        assert_eq!(never["first_listened_at"], Value::Null);
    }
}
