//! Evidence: the reason why a device is offline, or why it is not.

mod parts;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use self::parts::Parts;
use super::{Coverage, Gap, Interval, Judge, Listener, Status, Stay, Transition};

/// The facts that a device's status rests on: its silence, and the part of it that was
/// listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The conclusion from the other fields.
    pub verdict: Verdict,
    /// The time of the last heartbeat, when the silence began.
    pub silent_since: DateTime<Utc>,
    /// For an offline device the time of the check that found it, otherwise now.
    pub until: DateTime<Utc>,
    /// The timeout that decides, or decided.
    pub timeout: TimeDelta,
    /// The part of the silence that was listened to, as it was known at `until`.
    pub listened: TimeDelta,
    /// The parts that were not, oldest first; empty if they are not known any more. With what was
    /// listened to they make up the silence.
    pub gaps: Vec<Gap>,
    /// The end of what was known at `until`. A gap of an unknown cause that begins there or later
    /// was not proven yet.
    pub known_until: DateTime<Utc>,
    /// The instances that have listened in it, if there are several.
    pub listeners: Vec<Listener>,
}

/// The conclusion from the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not more than its timeout has been listened to since its last heartbeat.
    NotSilent,
    /// More than its timeout has been listened to since its last heartbeat. The next check
    /// takes the device offline.
    Silent,
    /// A check has taken it offline.
    Offline,
}

impl Evidence {
    /// Weighs a device that was last heard at `last_seen_at` and may be silent for
    /// `timeout`, as of `now`. For one that is offline, `newest` is its newest
    /// transition.
    ///
    /// `None` if it was never heard, because then it cannot fall silent.
    pub fn weigh(
        status: Status,
        last_seen_at: Option<DateTime<Utc>>,
        timeout: Duration,
        newest: Option<&Transition>,
        coverage: &Coverage,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let timeout = TimeDelta::from_std(timeout).unwrap_or(TimeDelta::MAX);
        let found = found(status, newest);
        let last_seen_at = found.and_then(|found| found.last_seen_at).or(last_seen_at)?;
        let silence = Self::silence(status, last_seen_at, newest, now);
        let Interval { from: silent_since, until } = silence;
        let timeout = found.and_then(|found| found.timeout).unwrap_or(timeout);
        // What was known when the device was marked counts, not what is left of that today.
        let kept = found.and_then(|found| found.listened);
        let listened = kept.unwrap_or_else(|| coverage.intervals().covered(silent_since, until));
        let verdict = match status {
            Status::Offline => Verdict::Offline,
            Status::Provisioning | Status::Online | Status::Error => {
                if listened - coverage.width() > timeout {
                    Verdict::Silent
                } else {
                    Verdict::NotSilent
                }
            }
        };
        let parts = Parts::of(silence, listened, coverage);
        let parts = parts.unwrap_or(Parts { gaps: Vec::new(), known_until: until });
        let (Parts { gaps, known_until }, listeners) = (parts, Vec::new());
        Some(Self { verdict, silent_since, until, timeout, listened, gaps, known_until, listeners })
    }

    /// The same evidence with the instances that have listened, as one of them judges them, in the
    /// time of which that was known.
    #[must_use]
    pub fn listened_by(self, stays: &[Stay], judge: Judge<'_>) -> Self {
        let known = Interval { from: self.silent_since, until: self.known_until };
        Self { listeners: Listener::of_stays(stays, judge, known), ..self }
    }

    /// The silence that [`weigh`](Self::weigh) looks at, for which it needs the coverage.
    pub fn silence(
        status: Status,
        last_seen_at: DateTime<Utc>,
        newest: Option<&Transition>,
        now: DateTime<Utc>,
    ) -> Interval {
        let found = found(status, newest);
        Interval {
            from: found.and_then(|found| found.last_seen_at).unwrap_or(last_seen_at),
            until: found.map_or(now, |found| found.at),
        }
    }
}

/// The transition that took an offline device offline.
fn found(status: Status, newest: Option<&Transition>) -> Option<&Transition> {
    newest.filter(|newest| status == Status::Offline && newest.to == Status::Offline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GapCause, Listened};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn interval(from: i64, until: i64) -> Interval {
        Interval { from: at(from), until: at(until) }
    }

    /// Listened to from 0 to 100 and from 500 to 560.
    fn coverage() -> Coverage {
        let after = Some(GapCause::NotRunning);
        Coverage::new(Duration::from_secs(5)).with([
            Listened { interval: interval(0, 100), after: None },
            Listened { interval: interval(500, 560), after },
        ])
    }

    const TIMEOUT: Duration = Duration::from_secs(180);

    fn online(last_seen_at: Option<i64>, now: i64) -> Option<Evidence> {
        let last_seen_at = last_seen_at.map(at);
        Evidence::weigh(Status::Online, last_seen_at, TIMEOUT, None, &coverage(), at(now))
    }

    #[test]
    fn a_device_that_was_never_heard_has_no_evidence() {
        assert_eq!(online(None, 560), None);
    }

    #[test]
    fn the_gaps_in_a_silence_do_not_count_and_say_why() {
        let evidence = online(Some(40), 565).expect("it was heard");
        assert_eq!(evidence.verdict, Verdict::NotSilent);
        assert_eq!(evidence.listened, TimeDelta::seconds(120));
        let restart = Gap::new(interval(100, 500), Some(GapCause::NotRunning));
        let newest = Gap::new(interval(560, 565), None);
        assert_eq!(evidence.gaps, [restart, newest]);
        assert_eq!(evidence.known_until, at(560));
    }

    #[test]
    fn a_silence_longer_than_the_timeout_waits_for_the_next_check() {
        let timeout = Duration::from_secs(100);
        let weigh = |now| {
            let seen = Some(at(50));
            Evidence::weigh(Status::Error, seen, timeout, None, &coverage(), at(now))
        };
        assert_eq!(weigh(550).expect("it was heard").verdict, Verdict::NotSilent);
        assert_eq!(weigh(551).expect("it was heard").verdict, Verdict::Silent);
    }

    #[test]
    fn an_offline_device_is_weighed_as_of_the_check_that_found_it() {
        let offline = Transition {
            sequence: 1,
            timeline: crate::domain::DatabaseTimeline::NONE,
            device_id: "pump".parse().expect("an id"),
            from: Status::Online,
            to: Status::Offline,
            at: at(540),
            last_seen_at: Some(at(10)),
            cutoff: Some(at(80)),
            timeout: Some(TimeDelta::seconds(60)),
            listened: Some(TimeDelta::seconds(125)),
            instance: Some("heartbeatd".to_owned()),
            ended_at: None,
            ends: None,
            delivered_at: None,
            given_up: None,
        };
        let weigh = |coverage: &Coverage| {
            let (status, seen) = (Status::Offline, Some(at(10)));
            let evidence =
                Evidence::weigh(status, seen, TIMEOUT, Some(&offline), coverage, at(9999));
            evidence.expect("it was heard")
        };
        let evidence = weigh(&coverage());
        let restart = Gap::new(interval(100, 500), Some(GapCause::NotRunning));
        assert_eq!(evidence.gaps, [restart, Gap::new(interval(535, 540), None)]);
        assert_eq!(evidence.known_until, at(535), "the echo that proves the rest came later");
        let pruned = Coverage::new(Duration::from_secs(5));
        let forgotten = Evidence { gaps: Vec::new(), known_until: at(540), ..evidence.clone() };
        assert_eq!(weigh(&pruned), forgotten);
        assert_eq!((evidence.verdict, evidence.until), (Verdict::Offline, at(540)));
        assert_eq!(evidence.timeout, TimeDelta::seconds(60), "not today's");
        assert_eq!(evidence.listened, TimeDelta::seconds(125), "as far as it was proven then");
    }
}
