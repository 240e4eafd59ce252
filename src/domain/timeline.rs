//! One device over time: how long it was up, offline or in error, and for how long that is not
//! known.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Interval, Intervals, Status};

/// A part of a timeline. The four add up to its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineBucket {
    /// The time in which it was online.
    pub up: TimeDelta,
    /// The time in which it was offline.
    pub offline: TimeDelta,
    /// The time in which it reported an error.
    pub error: TimeDelta,
    /// The time that was not listened to, in which it was not registered, or in which it had
    /// never been heard.
    pub unknown: TimeDelta,
}

/// The timeline of a device in the stretches that begin at `bounds` and end with the next bound.
///
/// `changes` are its status changes, oldest first: times and the statuses that were entered. What
/// was before the first is not known. Each silence that ended in `offline` counts as what it
/// was called then.
pub fn timeline(
    bounds: &[DateTime<Utc>],
    changes: &[(DateTime<Utc>, Status)],
    listened: &Intervals,
) -> Vec<TimelineBucket> {
    let zero = TimeDelta::zero();
    bounds
        .windows(2)
        .map(|bounds| {
            let (from, until) = (bounds[0], bounds[1]);
            let mut bucket = TimelineBucket { up: zero, offline: zero, error: zero, unknown: zero };
            let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([until.max(from)]);
            for (&(since, status), end) in changes.iter().zip(ends) {
                let stretch = Interval { from: since.max(from), until: end.min(until) };
                if stretch.until <= stretch.from {
                    continue;
                }
                let known = listened.covered(stretch.from, stretch.until);
                match status {
                    Status::Online => bucket.up += known,
                    Status::Offline => bucket.offline += known,
                    Status::Error => bucket.error += known,
                    Status::Provisioning => (),
                }
            }
            let known = bucket.up + bucket.offline + bucket.error;
            bucket.unknown = ((until - from).max(zero) - known).max(zero);
            bucket
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn seconds(bucket: &TimelineBucket) -> [i64; 4] {
        let TimelineBucket { up, offline, error, unknown } = bucket;
        [up, offline, error, unknown].map(TimeDelta::num_seconds)
    }

    #[test]
    fn time_that_was_not_listened_to_is_unknown_whatever_the_status() {
        let listened: Intervals = [(0, 100), (150, 400)]
            .into_iter()
            .map(|(from, until)| Interval { from: at(from), until: at(until) })
            .collect();
        let changes = [
            (at(50), Status::Online),
            (at(120), Status::Offline),
            (at(250), Status::Error),
            (at(280), Status::Online),
        ];
        let bounds = [0, 100, 200, 300, 500].map(at);
        let buckets: Vec<_> = timeline(&bounds, &changes, &listened).iter().map(seconds).collect();
        assert_eq!(buckets, [[50, 0, 0, 50], [0, 50, 0, 50], [20, 50, 30, 0], [100, 0, 0, 100]]);
    }

    #[test]
    fn nothing_is_known_of_a_device_before_it_was_heard() {
        let listened: Intervals = [Interval { from: at(0), until: at(100) }].into_iter().collect();
        let bounds = [0, 100].map(at);
        assert_eq!(seconds(&timeline(&bounds, &[], &listened)[0]), [0, 0, 0, 100]);
        let changes = [(at(20), Status::Provisioning), (at(60), Status::Online)];
        assert_eq!(seconds(&timeline(&bounds, &changes, &listened)[0]), [40, 0, 0, 60]);
    }
}
