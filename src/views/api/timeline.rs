//! The timeline of a device: how long it was up, offline and in error, in each part of a
//! window. Whatever was not listened to is unknown, and so is the time before its registration.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{KnownListening, ListenerItem, OutageItem, as_seconds};
use crate::domain::{Interval, Status, Transition};
use crate::views::{as_millis, as_optional_millis};

/// A stretch of time in equal parts, of which the last one may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: DateTime<Utc>,
    pub(crate) to: DateTime<Utc>,
    /// The length of each part, at least a millisecond.
    bucket: TimeDelta,
}

impl Window {
    /// The stretch from `from` to `to`, which is later, in at most `buckets` parts of whole
    /// milliseconds.
    pub(crate) fn new(from: DateTime<Utc>, to: DateTime<Utc>, buckets: u64) -> Self {
        let (length, buckets) =
            ((to - from).num_milliseconds().max(1), buckets.max(1).cast_signed());
        let bucket = TimeDelta::milliseconds(length / buckets + i64::from(length % buckets > 0));
        Self { from, to, bucket }
    }

    /// The length of each part but perhaps the last.
    pub(crate) fn bucket(&self) -> TimeDelta {
        self.bucket
    }

    /// The number of parts.
    pub(crate) fn len(&self) -> usize {
        let (length, bucket) = (self.to - self.from, self.bucket.num_milliseconds());
        let parts = length.num_milliseconds() / bucket;
        let rest = length.num_milliseconds() % bucket > 0;
        usize::try_from(parts).unwrap_or(0) + usize::from(rest)
    }

    /// The beginning of a part.
    pub(crate) fn start(&self, part: usize) -> DateTime<Utc> {
        self.from + self.bucket * i32::try_from(part).unwrap_or(i32::MAX)
    }

    /// The end of a part.
    fn end(&self, part: usize) -> DateTime<Utc> {
        self.start(part + 1).min(self.to)
    }

    /// The part in which an instant lies, if it is not before the window.
    pub(crate) fn part(&self, at: DateTime<Utc>) -> usize {
        let parts = (at - self.from).num_milliseconds() / self.bucket.num_milliseconds();
        usize::try_from(parts).unwrap_or(0)
    }
}

/// The timeline of a device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Timeline {
    #[serde(serialize_with = "as_millis")]
    from: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    to: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    bucket_seconds: TimeDelta,
    /// As in [`ListeningView`](super::ListeningView).
    #[serde(serialize_with = "as_millis")]
    known_from: DateTime<Utc>,
    /// As in [`ListeningView`](super::ListeningView).
    #[serde(serialize_with = "as_millis")]
    known_until: DateTime<Utc>,
    /// The beginning of all that is kept; null if the service never listened.
    #[serde(serialize_with = "as_optional_millis")]
    first_listened_at: Option<DateTime<Utc>>,
    buckets: Vec<Bucket>,
    /// The outages that touch the window, newest first.
    outages: Vec<OutageItem>,
    /// The instances that have listened, if there are several.
    listeners: Vec<ListenerItem>,
}

/// A part of the window, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Bucket {
    up_ms: i64,
    offline_ms: i64,
    error_ms: i64,
    /// Not listened to, not proven yet, not registered yet, or in the future.
    unknown_ms: i64,
}

/// The history of a device in a window, as far as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) registered_at: DateTime<Utc>,
    /// Its status now.
    pub(crate) status: Status,
    /// The newest transition before the window, if it is kept.
    pub(crate) before: Option<Transition>,
    /// Those since then, oldest first; the first of those after the window may be among them.
    pub(crate) transitions: Vec<Transition>,
}

/// A stretch of time with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    interval: Interval,
    status: Status,
}

impl Timeline {
    /// The timeline of a device in `window` as of `now`, for which `known` was read.
    pub(crate) fn new(
        window: Window,
        life: &Life,
        known: &KnownListening,
        now: DateTime<Utc>,
    ) -> Self {
        let listened = known.coverage.intervals();
        let mut buckets = vec![Bucket::default(); window.len()];
        for span in life.spans(window.from, window.to.min(now)) {
            let within = Interval { from: span.interval.from, until: span.interval.until };
            for known in listened.within(within) {
                add(&mut buckets, &window, known, span.status);
            }
        }
        for (part, bucket) in buckets.iter_mut().enumerate() {
            let length = (window.end(part) - window.start(part)).num_milliseconds();
            bucket.unknown_ms = length - bucket.up_ms - bucket.offline_ms - bucket.error_ms;
        }
        let begun = life.before.iter().chain(&life.transitions);
        let touches = |outage: &&Transition| {
            let since = outage.last_seen_at.unwrap_or(outage.at);
            outage.to == Status::Offline
                && since < window.to
                && outage.ended_at.is_none_or(|ended| ended > window.from)
        };
        let outages = begun.filter(touches).rev().cloned().map(OutageItem::from).collect();
        let (from, to, bucket_seconds) = (window.from, window.to, window.bucket);
        let listeners = known.listeners.iter().map(ListenerItem::from).collect();
        let end = to.min(now).max(from);
        let (known_from, known_until) = (known.begins(end), known.ends(end));
        let first_listened_at = known.first;
        Self {
            from,
            to,
            bucket_seconds,
            known_from,
            known_until,
            first_listened_at,
            buckets,
            outages,
            listeners,
        }
    }
}

impl Life {
    /// The stretches between `from` and `until` in which the status is known.
    fn spans(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<Span> {
        let mut spans = Vec::new();
        let first = self.transitions.first().map_or(self.status, |first| first.from);
        let mut status = self.before.as_ref().map_or(first, |before| before.to);
        let mut since = from.max(self.registered_at);
        let mut add = |from: DateTime<Utc>, to: DateTime<Utc>, status| {
            let interval = Interval { from, until: to.min(until) };
            // A device that was never heard is neither up nor down.
            if interval.from < interval.until && status != Status::Provisioning {
                spans.push(Span { interval, status });
            }
        };
        for transition in &self.transitions {
            let at = transition.at.max(since);
            // It was silent from its last heartbeat on, not only from the check on.
            let silent = transition.last_seen_at.filter(|_| transition.to == Status::Offline);
            let silent = silent.map_or(at, |silent| silent.clamp(since, at));
            add(since, silent, status);
            add(silent, at, Status::Offline);
            (since, status) = (at, transition.to);
        }
        add(since, until, status);
        spans
    }
}

/// Adds a stretch to the parts that it touches.
fn add(buckets: &mut [Bucket], window: &Window, stretch: Interval, status: Status) {
    let (first, last) = (window.part(stretch.from), window.part(stretch.until));
    for part in first..=last.min(buckets.len().saturating_sub(1)) {
        let from = stretch.from.max(window.start(part));
        let length = (stretch.until.min(window.end(part)) - from).num_milliseconds().max(0);
        let bucket = &mut buckets[part];
        match status {
            Status::Online => bucket.up_ms += length,
            Status::Offline => bucket.offline_ms += length,
            Status::Error => bucket.error_ms += length,
            Status::Provisioning => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{Coverage, DatabaseTimeline, Listened};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn listened(intervals: &[(i64, i64)]) -> KnownListening {
        let interval = |&(from, until): &(i64, i64)| Interval { from: at(from), until: at(until) };
        let intervals = intervals.iter().map(interval);
        let listened = intervals.map(|interval| Listened { interval, after: None });
        let coverage = Coverage::new(Duration::from_secs(5)).with(listened);
        let (since, first) = (at(0), Some(at(0)));
        KnownListening { coverage, since, first, provable_from: None, listeners: Vec::new() }
    }

    fn transition(seconds: i64, from: Status, to: Status, last_seen_at: i64) -> Transition {
        Transition {
            sequence: seconds,
            timeline: DatabaseTimeline::NONE,
            device_id: "pump".parse().expect("an id"),
            from,
            to,
            at: at(seconds),
            last_seen_at: Some(at(last_seen_at)),
            cutoff: None,
            timeout: None,
            listened: None,
            instance: None,
            ended_at: None,
            ends: None,
            delivered_at: None,
            given_up: None,
        }
    }

    fn seconds(timeline: &Timeline) -> Vec<[i64; 4]> {
        let in_seconds = |bucket: &Bucket| {
            [bucket.up_ms, bucket.offline_ms, bucket.error_ms, bucket.unknown_ms]
                .map(|ms| ms / 1000)
        };
        timeline.buckets.iter().map(in_seconds).collect()
    }

    #[test]
    fn a_window_has_equal_parts_and_a_shorter_last_one() {
        for (millis, buckets, expected) in [
            (100, 4, vec![25, 25, 25, 25]),
            (10, 3, vec![4, 4, 2]),
            (10, 4, vec![3, 3, 3, 1]),
            (2, 400, vec![1, 1]),
            (7, 1, vec![7]),
        ] {
            let window = Window::new(at(0), at(0) + TimeDelta::milliseconds(millis), buckets);
            let length = |part| (window.end(part) - window.start(part)).num_milliseconds();
            assert_eq!((0..window.len()).map(length).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_was_not_listened_to_is_unknown() {
        use Status::{Error, Offline, Online, Provisioning};
        let life = Life {
            registered_at: at(10),
            status: Error,
            before: None,
            transitions: vec![
                transition(20, Provisioning, Online, 20),
                transition(70, Online, Offline, 30),
                transition(80, Offline, Error, 80),
            ],
        };
        let window = Window::new(at(0), at(120), 6);
        let whole = Timeline::new(window, &life, &listened(&[(0, 1000)]), at(100));
        let expected = [
            [0, 0, 0, 20],
            [10, 10, 0, 0],
            [0, 20, 0, 0],
            [0, 20, 0, 0],
            [0, 0, 20, 0],
            [0, 0, 0, 20],
        ];
        assert_eq!(seconds(&whole), expected);
        let some = Timeline::new(window, &life, &listened(&[(0, 25), (75, 90)]), at(100));
        let expected = [
            [0, 0, 0, 20],
            [5, 0, 0, 15],
            [0, 0, 0, 20],
            [0, 5, 0, 15],
            [0, 0, 10, 10],
            [0, 0, 0, 20],
        ];
        assert_eq!(seconds(&some), expected);
        assert_eq!(some.outages.len(), 1);
    }

    #[test]
    fn a_device_that_changed_nothing_in_the_window_has_the_status_of_before() {
        let mut life = Life {
            registered_at: at(0),
            status: Status::Online,
            before: Some(transition(5, Status::Online, Status::Offline, 1)),
            transitions: Vec::new(),
        };
        let window = Window::new(at(10), at(20), 1);
        let show =
            |life: &Life| seconds(&Timeline::new(window, life, &listened(&[(0, 100)]), at(100)));
        assert_eq!(show(&life), [[0, 10, 0, 0]]);
        life.before = None;
        assert_eq!(show(&life), [[10, 0, 0, 0]]);
        // It is found after the window, but was silent in it.
        life.transitions = vec![transition(30, Status::Online, Status::Offline, 14)];
        assert_eq!(show(&life), [[4, 6, 0, 0]]);
    }
}
