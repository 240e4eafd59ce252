//! Coverage: the time in which the service was provably listening. Silence counts
//! only there.
//!
//! ```text
//!           echo echo echo echo        echo echo echo echo
//! time  ──────┴────┴────┴────┴──────────┴────┴────┴────┴──▶
//! coverage    [==============]   gap    [==============]
//!                    ◀─ 2 ─▶                   ◀── 3 ──▶ now
//!                    │
//!                    cutoff(now, timeout 5): a device last seen before it has
//!                    been silent for 5 units of *listening* time
//! ```
//!
//! A confirmation says: everything published until then, on a connection that has
//! been listening without a break since some earlier instant, has been received.
//! Whatever comes between two confirmations that are too far apart, or belong to
//! different connections, is a gap and counts for nothing: a restart, a lost
//! broker, a suspended machine, a clock that jumps forward. Nobody has to notice
//! these; they are where the proof is missing. Why it is missing is kept for
//! people only.

mod intervals;
mod saved;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

pub use self::intervals::{Interval, Intervals};
pub use self::saved::{Saved, Saving};

/// How many echo intervals two confirmations may be apart and still belong
/// together: one echo that is lost or late is no gap.
const GRACE: u32 = 3;

/// How many intervals are kept at most, some 40 bytes each.
pub const MAX_INTERVALS: usize = 10_000;

/// Why nothing is proven for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The service was not running, or had not reached the broker yet.
    NotRunning,
    /// The connection to the broker was lost.
    Disconnected,
    /// The connection stood, but no echo came back in time: the process, the
    /// machine or the broker was stuck or stopped, or the subscription was lost.
    NoEcho,
    /// Messages were thrown away: more were waiting than `mqtt.max_backlog`.
    Shed,
    /// The clock was set, or the machine slept.
    ClockStep,
}

impl GapCause {
    /// The name in the database, in JSON and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRunning => "not_running",
            Self::Disconnected => "disconnected",
            Self::NoEcho => "no_echo",
            Self::Shed => "shed",
            Self::ClockStep => "clock_step",
        }
    }
}

/// As a person would say it.
impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotRunning => "the service was not running or not connected yet",
            Self::Disconnected => "the connection to the broker was lost",
            Self::NoEcho => "no echo came back in time",
            Self::Shed => "messages were thrown away, too many were waiting",
            Self::ClockStep => "the clock was set, or the machine slept",
        })
    }
}

/// An interval of listening, and why nothing is proven just before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listened {
    /// What is proven.
    pub interval: Interval,
    /// `None`: nothing is known about the time before.
    pub after: Option<GapCause>,
}

/// A stretch of time that counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// From the last proof to the next.
    pub interval: Interval,
    /// Why; `None` if nothing is known, as about the time after the newest proof.
    pub cause: Option<GapCause>,
}

/// The coverage of one instance, as it grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    intervals: Intervals,
    /// Why there is a gap before the interval that begins then.
    causes: BTreeMap<DateTime<Utc>, GapCause>,
    grace: TimeDelta,
    /// The last interruption that no confirmation has gone beyond yet.
    broken: Option<(DateTime<Utc>, GapCause)>,
    /// The earliest instant to which the clock was turned back since this was saved, and
    /// how often it was.
    turned_back: Option<(DateTime<Utc>, u32)>,
}

/// What has to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Everything that began at this instant or later is replaced.
    pub from: DateTime<Utc>,
    /// By these intervals, oldest first.
    pub intervals: Vec<Listened>,
}

/// What a confirmation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The newest interval goes on.
    Extended,
    /// A new interval has begun. The gap before it is blind: its silence counts
    /// for nothing. `None`: it is the first.
    Began {
        /// From the last proof to the first new one, and why.
        gap: Option<(Interval, GapCause)>,
    },
    /// The clock was turned back: what it called later is forgotten.
    SteppedBack {
        /// By how much at least.
        by: TimeDelta,
    },
}

impl Coverage {
    /// Nothing is proven yet; confirmations are expected every `echo_interval`.
    pub fn new(echo_interval: Duration) -> Self {
        let grace = TimeDelta::from_std(echo_interval.saturating_mul(GRACE));
        Self {
            intervals: Intervals::default(),
            causes: BTreeMap::new(),
            grace: grace.unwrap_or(TimeDelta::MAX),
            broken: None,
            turned_back: None,
        }
    }

    /// Takes up what an earlier process, or this one, has proven.
    #[must_use]
    pub fn with(mut self, proven: impl IntoIterator<Item = Listened>) -> Self {
        for Listened { interval, after } in proven {
            self.intervals.add(interval);
            self.causes.extend(after.map(|cause| (interval.from, cause)));
        }
        self
    }

    /// Everything published before `until` has been received, and nothing has
    /// interrupted the listening since `since`, when `after` had done so.
    pub fn confirm(
        &mut self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        after: GapCause,
    ) -> Confirmed {
        if let Some(by) = self.step_back(until) {
            return Confirmed::SteppedBack { by };
        }
        let (since, after) = match self.broken {
            Some((at, _)) if until <= at => return Confirmed::Extended,
            Some((at, cause)) if since <= at => (at, cause),
            _ => (since, after),
        };
        self.broken = None;
        let last = self.intervals.last().map(|interval| interval.until);
        // Proven is only what the last proof and this one enclose, on one
        // connection, and close enough together that nothing was stuck between.
        let begin = last.map_or(since, |last| last.max(since)).min(until);
        let from = if until - begin <= self.grace { begin } else { until };
        self.intervals.add(Interval { from, until });
        let Some(last) = last else { return Confirmed::Began { gap: None } };
        if last == from {
            return Confirmed::Extended;
        }
        let cause = if begin > last { after } else { GapCause::NoEcho };
        self.causes.insert(from, cause);
        Confirmed::Began { gap: Some((Interval { from: last, until: from }, cause)) }
    }

    /// If something is proven after `now`, the clock was turned back: what it
    /// called later is forgotten, and has been found out again at `now`. Returns by
    /// how much it was turned back at least.
    pub fn step_back(&mut self, now: DateTime<Utc>) -> Option<TimeDelta> {
        let last = self.intervals.last()?.until;
        if last <= now {
            return None;
        }
        // One that is later may be of the new clock.
        self.broken = self.broken.filter(|(at, _)| *at > now);
        let (earliest, times) = self.turned_back.unwrap_or((now, 0));
        self.turned_back = Some((earliest.min(now), times.saturating_add(1)));
        self.intervals.forget_after(now);
        self.intervals.add(Interval { from: now, until: now });
        let begun = self.intervals.last()?.from;
        let _of_the_future = self.causes.split_off(&(begun + TimeDelta::milliseconds(1)));
        if begun == now {
            self.causes.insert(now, GapCause::ClockStep);
        }
        Some(last - now)
    }

    /// The clock was set and shows `now`: whatever it called later has been before.
    pub fn forget_the_future(&mut self, now: DateTime<Utc>) {
        self.step_back(now);
        if let Some((at, _)) = &mut self.broken {
            *at = now.min(*at);
        }
    }

    /// Until when something is proven.
    pub fn proven_until(&self) -> Option<DateTime<Utc>> {
        self.intervals.last().map(|interval| interval.until)
    }

    /// What is proven.
    pub fn intervals(&self) -> &Intervals {
        &self.intervals
    }

    /// What is proven, with why it began when it did, oldest first.
    pub fn listened(&self) -> impl DoubleEndedIterator<Item = Listened> {
        self.intervals.iter().map(|&interval| {
            let after = self.causes.get(&interval.from).copied();
            Listened { interval, after }
        })
    }

    /// The change that makes this coverage of `earlier`, one that was saved. `None` if
    /// they are the same.
    pub fn since(&self, earlier: &Self) -> Option<Change> {
        let same = self.intervals.iter().zip(earlier.intervals.iter());
        let same = same.take_while(|(now, then)| now == then).count();
        let now = self.intervals.iter().nth(same);
        let then = earlier.intervals.iter().nth(same);
        let from = now.into_iter().chain(then).map(|interval| interval.from).min()?;
        Some(Change { from, intervals: self.listened().skip(same).collect() })
    }

    /// The change that makes this coverage of whatever was saved: what is in the
    /// database is not known. `None` if nothing is proven.
    pub fn whole(&self) -> Option<Change> {
        Some(Change { from: self.proven_since()?, intervals: self.listened().collect() })
    }

    /// The part of `earlier` that is still proven: what shrinks must be saved before
    /// the heartbeats of a clock that was turned back, what grows after them. What that
    /// clock has proven a second time is another time.
    #[must_use]
    pub fn kept_of(&self, earlier: &Self) -> Self {
        let mut intervals = self.intervals.intersection(&earlier.intervals);
        if let Some((earliest, _)) = self.turned_back {
            intervals.forget_after(earliest);
        }
        Self {
            intervals,
            causes: earlier.causes.clone(),
            grace: self.grace,
            broken: None,
            turned_back: None,
        }
    }

    /// Notes that `saved`, a copy of this coverage, was saved.
    pub fn is_saved(&mut self, saved: &Self) {
        if self.turned_back == saved.turned_back {
            self.turned_back = None;
        }
    }

    /// Breaks the listening at `at`: something that was received then was thrown away.
    pub fn interrupt(&mut self, at: DateTime<Utc>, cause: GapCause) {
        self.broken = Some((at, cause));
    }

    /// What is not proven of the time from `from` until `until`, oldest first.
    pub fn gaps(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<Gap> {
        let gaps = self.intervals.gaps(from, until).into_iter();
        gaps.map(|interval| Gap { interval, cause: self.causes.get(&interval.until).copied() })
            .collect()
    }

    /// Forgets what no timeout up to `longest` needs, and of a connection that
    /// breaks all the time, all but the newest `count` intervals.
    pub fn prune(&mut self, longest: Duration, count: usize) {
        self.intervals.prune(longest);
        self.intervals.keep_newest(count);
        if let Some(oldest) = self.intervals.iter().next() {
            self.causes = self.causes.split_off(&oldest.from);
        }
    }

    /// Since when something is proven, of what is not forgotten.
    pub fn proven_since(&self) -> Option<DateTime<Utc>> {
        self.intervals.iter().next().map(|interval| interval.from)
    }

    /// The cutoff of the default timeout and of each one that devices have of
    /// their own.
    pub fn cutoffs(&self, now: DateTime<Utc>, default: Duration, own: &[Duration]) -> Cutoffs {
        let cutoff = |timeout| Cutoff { timeout, instant: self.intervals.cutoff(now, timeout) };
        Cutoffs { default: cutoff(default), own: own.iter().copied().map(cutoff).collect() }
    }
}

/// The instant before which a device's last heartbeat means that it is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// For devices with this timeout.
    pub timeout: Duration,
    /// `None`: there is not enough coverage, nobody is silent.
    pub instant: Option<DateTime<Utc>>,
}

/// The cutoffs of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// For devices without a timeout of their own.
    pub default: Cutoff,
    /// For each timeout that some device has of its own.
    pub own: Vec<Cutoff>,
}

impl Cutoffs {
    /// Nobody who was last seen at this instant or later is silent, whatever his
    /// timeout. `None`: nobody is at all.
    pub fn latest(&self) -> Option<DateTime<Utc>> {
        let all = self.own.iter().chain([&self.default]);
        all.filter_map(|cutoff| cutoff.instant).max()
    }
}

#[cfg(test)]
mod tests {
    use super::intervals::tests::{at, interval, intervals};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A coverage that confirmations every five seconds extend.
    struct Growing(Coverage);

    impl Growing {
        fn new() -> Self {
            Self(Coverage::new(5 * SECOND))
        }

        fn confirm(&mut self, since: i64, until: i64) -> Confirmed {
            self.0.confirm(at(since), at(until), GapCause::Disconnected)
        }

        fn proves(&self, list: &[(i64, i64)]) {
            assert_eq!(self.0.intervals(), &intervals(list));
        }
    }

    fn began(from: i64, until: i64, cause: GapCause) -> Confirmed {
        Confirmed::Began { gap: Some((interval(from, until), cause)) }
    }

    #[test]
    fn confirmations_that_follow_each_other_are_one_interval() {
        let mut coverage = Growing::new();
        assert_eq!(coverage.confirm(0, 2), Confirmed::Began { gap: None });
        for until in [7, 12, 27, 42] {
            assert_eq!(coverage.confirm(0, until), Confirmed::Extended);
        }
        coverage.proves(&[(0, 42)]);
    }

    #[test]
    fn the_time_between_confirmations_too_far_apart_is_a_gap() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        assert_eq!(coverage.confirm(0, 26), began(10, 26, GapCause::NoEcho));
        coverage.proves(&[(0, 10), (26, 26)]);
    }

    #[test]
    fn a_new_connection_is_a_gap_however_short() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        assert_eq!(coverage.confirm(11, 13), began(10, 11, GapCause::Disconnected));
        coverage.proves(&[(0, 10), (11, 13)]);
    }

    #[test]
    fn a_clock_turned_back_forgets_what_it_called_later() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.confirm(100, 105);
        let by = TimeDelta::seconds(102);
        assert_eq!(coverage.confirm(100, 3), Confirmed::SteppedBack { by });
        coverage.proves(&[(0, 3)]);
        assert_eq!(coverage.confirm(0, 8), Confirmed::Extended);
        assert_eq!(coverage.0.gaps(at(0), at(8)), [], "the causes of the future are forgotten");
    }

    #[test]
    fn a_break_of_a_clock_that_was_turned_back_breaks_nothing_later() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.0.interrupt(at(90), GapCause::Shed);
        // It may yet come.
        assert_eq!(coverage.confirm(0, 12), Confirmed::Extended);
        coverage.proves(&[(0, 10)]);
        coverage.0.forget_the_future(at(13));
        assert_eq!(coverage.confirm(0, 17), began(10, 13, GapCause::Shed));
        coverage.proves(&[(0, 10), (13, 17)]);
    }

    #[test]
    fn a_break_that_is_later_than_a_proof_of_a_clock_turned_back_breaks_what_follows() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 100);
        coverage.0.interrupt(at(99), GapCause::Shed);
        coverage.confirm(0, 98);
        assert_eq!(coverage.confirm(0, 103), began(98, 99, GapCause::Shed));
    }

    #[test]
    fn a_clock_turned_back_into_a_gap_or_before_everything_leaves_proofs_of_no_length() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.confirm(100, 105);
        coverage.confirm(100, 50);
        coverage.proves(&[(0, 10), (50, 50)]);
        let cause = Some(GapCause::ClockStep);
        assert_eq!(coverage.0.gaps(at(0), at(50)), [Gap { interval: interval(10, 50), cause }]);
        coverage.confirm(-99, -7);
        coverage.proves(&[(-7, -7)]);
    }

    fn change(from: i64, intervals: &[Listened]) -> Option<Change> {
        Some(Change { from: at(from), intervals: intervals.to_vec() })
    }

    #[test]
    fn what_has_to_be_saved_is_what_was_not_there_before() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        let saved = coverage.0.clone();
        assert_eq!(coverage.0.since(&saved), None);
        coverage.confirm(0, 15);
        coverage.confirm(20, 25);
        let extended = Listened { interval: interval(0, 15), after: None };
        let after = Some(GapCause::Disconnected);
        let begun = Listened { interval: interval(20, 25), after };
        assert_eq!(coverage.0.since(&saved), change(0, &[extended, begun]));
        let saved = coverage.0.clone();
        coverage.confirm(20, 12);
        let shortened = Listened { interval: interval(0, 12), after: None };
        assert_eq!(coverage.0.since(&saved), change(0, &[shortened]));
        let mut coverage = Growing(saved.clone());
        coverage.confirm(0, 15);
        assert_eq!(
            coverage.0.since(&saved),
            change(20, &[]),
            "what came later is not true any more"
        );
    }

    #[test]
    fn a_clock_turned_back_before_everything_replaces_everything_that_was_saved() {
        let mut coverage = Growing::new();
        coverage.confirm(100, 110);
        let saved = coverage.0.clone();
        coverage.confirm(50, 60);
        let kept = coverage.0.kept_of(&saved);
        assert_eq!(kept.since(&saved), change(100, &[]), "first, what is not true any more goes");
        let after = Some(GapCause::ClockStep);
        let begun = Listened { interval: interval(60, 60), after };
        assert_eq!(coverage.0.since(&kept), change(60, &[begun]), "then comes what is true now");
    }

    #[test]
    fn what_was_thrown_away_breaks_the_listening_at_that_instant() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.0.interrupt(at(12), GapCause::Shed);
        assert_eq!(coverage.confirm(0, 11), Confirmed::Extended);
        coverage.proves(&[(0, 10)]);
        assert_eq!(coverage.confirm(0, 14), began(10, 12, GapCause::Shed));
        coverage.proves(&[(0, 10), (12, 14)]);
        assert_eq!(coverage.confirm(0, 19), Confirmed::Extended);
    }

    #[test]
    fn what_was_saved_is_taken_up_again_with_the_causes() {
        let mut coverage = Growing::new();
        coverage.confirm(0, 10);
        coverage.confirm(20, 25);
        let restored = Coverage::new(5 * SECOND).with(coverage.0.listened());
        assert_eq!(restored, coverage.0);
    }
}
