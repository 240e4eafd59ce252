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
//! these; they are where the proof is missing.
//!
//! Everything here is a set of instants and can be checked by stating some.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A stretch of time in which the service was listening, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first instant.
    pub from: DateTime<Utc>,
    /// The last instant that is proven; not before `from`.
    pub until: DateTime<Utc>,
}

impl Interval {
    fn length(&self) -> TimeDelta {
        self.until - self.from
    }
}

/// A set of instants as disjoint intervals, oldest first. Two intervals never
/// touch; they would be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<Interval>);

impl Intervals {
    /// The intervals, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Interval> {
        self.0.iter()
    }

    /// The newest interval.
    pub fn last(&self) -> Option<&Interval> {
        self.0.last()
    }

    /// Adds an interval, joining it with those that it touches. One that ends
    /// before it begins is empty.
    pub fn add(&mut self, mut added: Interval) {
        if added.until < added.from {
            return;
        }
        let first = self.0.partition_point(|interval| interval.until < added.from);
        let end = self.0.partition_point(|interval| interval.from <= added.until);
        if let (Some(oldest), Some(newest)) = (self.0.get(first), self.0[..end].last())
            && first < end
        {
            added.from = added.from.min(oldest.from);
            added.until = added.until.max(newest.until);
        }
        self.0.splice(first..end, [added]);
    }

    /// Takes an interval out. Its ends stay in if they were: what is uncertain is
    /// what lies strictly between two proofs.
    pub fn remove(&mut self, removed: Interval) {
        if removed.until <= removed.from {
            return;
        }
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for interval in self.0.drain(..) {
            if interval.until <= removed.from || interval.from >= removed.until {
                left.push(interval);
                continue;
            }
            if interval.from <= removed.from {
                left.push(Interval { from: interval.from, until: removed.from });
            }
            if interval.until >= removed.until {
                left.push(Interval { from: removed.until, until: interval.until });
            }
        }
        self.0 = left;
    }

    /// What is in this set or in `other`: several instances listen for one
    /// another.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for &interval in &other.0 {
            self.add(interval);
        }
        self
    }

    /// What is in this set but not inside an interval of `other`: the time in
    /// which a vanished instance may have swallowed heartbeats.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        for &interval in &other.0 {
            self.remove(interval);
        }
        self
    }

    /// How much of the time from `from` until `until` is in the set.
    pub fn covered(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> TimeDelta {
        let clipped = self.0.iter().map(|interval| {
            (interval.until.min(until) - interval.from.max(from)).max(TimeDelta::zero())
        });
        clipped.sum()
    }

    /// What of the time from `from` until `until` is not in the set, oldest
    /// first.
    pub fn gaps(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<Interval> {
        let mut gaps = Vec::new();
        let mut reached = from;
        for interval in self.0.iter().filter(|interval| interval.until >= from) {
            if interval.from > until {
                break;
            }
            if interval.from > reached {
                gaps.push(Interval { from: reached, until: interval.from });
            }
            reached = reached.max(interval.until);
        }
        if reached < until {
            gaps.push(Interval { from: reached, until });
        }
        gaps
    }

    /// The instant before which everything has more than `timeout` of covered time
    /// between itself and `now`. `None`: there is no more than that in all.
    pub fn cutoff(&self, now: DateTime<Utc>, timeout: Duration) -> Option<DateTime<Utc>> {
        let mut missing = TimeDelta::from_std(timeout).ok()?;
        for interval in self.0.iter().rev().filter(|interval| interval.from <= now) {
            let until = interval.until.min(now);
            let length = until - interval.from;
            if length > missing {
                return Some(until - missing);
            }
            missing -= length;
        }
        None
    }

    /// Forgets what lies after `instant`: the clock was turned back to it, what
    /// the old clock called later has not happened yet.
    pub fn forget_after(&mut self, instant: DateTime<Utc>) {
        self.0.retain(|interval| interval.from <= instant);
        if let Some(last) = self.0.last_mut() {
            last.until = last.until.min(instant);
        }
    }

    /// Forgets what is not needed to find the cutoff of `longest`: the oldest
    /// intervals, as long as `longest` of covered time is left.
    pub fn prune(&mut self, longest: Duration) {
        let Ok(mut missing) = TimeDelta::from_std(longest) else { return };
        let needed = self.0.iter().rev().take_while(|interval| {
            let needed = missing > TimeDelta::zero();
            missing -= interval.length();
            needed
        });
        let needed = needed.count().max(1);
        self.0.drain(..self.0.len().saturating_sub(needed));
    }
}

impl FromIterator<Interval> for Intervals {
    fn from_iter<I: IntoIterator<Item = Interval>>(intervals: I) -> Self {
        let mut set = Self::default();
        intervals.into_iter().for_each(|interval| set.add(interval));
        set
    }
}

/// How many echo intervals two confirmations may be apart and still belong
/// together: one echo that is lost or late is no gap.
const GRACE: u32 = 3;

/// How many intervals are kept at most, 16 bytes each.
const MAX_INTERVALS: usize = 10_000;

/// The coverage of one instance, as it grows.
#[derive(Clone, Debug)]
pub struct Coverage {
    intervals: Intervals,
    grace: TimeDelta,
}

/// What a confirmation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The newest interval goes on.
    Extended,
    /// A new interval has begun. The gap before it is blind: its silence counts
    /// for nothing. `None`: it is the first.
    Began {
        /// From the last proof to the first new one.
        gap: Option<Interval>,
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
        Self { intervals: Intervals::default(), grace: grace.unwrap_or(TimeDelta::MAX) }
    }

    /// Everything published before `until` has been received, and nothing has
    /// interrupted the listening since `since`.
    pub fn confirm(&mut self, since: DateTime<Utc>, until: DateTime<Utc>) -> Confirmed {
        let last = self.intervals.last().map(|interval| interval.until);
        if let Some(last) = last
            && until < last
        {
            self.intervals.forget_after(until);
            self.intervals.add(Interval { from: until, until });
            return Confirmed::SteppedBack { by: last - until };
        }
        // Proven is only what the last proof and this one enclose, on one
        // connection, and close enough together that nothing was stuck between.
        let from = last.map_or(since, |last| last.max(since)).min(until);
        let from = if until - from <= self.grace { from } else { until };
        self.intervals.add(Interval { from, until });
        match last {
            Some(last) if last == from => Confirmed::Extended,
            Some(last) => Confirmed::Began { gap: Some(Interval { from: last, until: from }) },
            None => Confirmed::Began { gap: None },
        }
    }

    /// What is proven.
    pub fn intervals(&self) -> &Intervals {
        &self.intervals
    }

    /// Forgets what no timeout up to `longest` needs, and of a connection that
    /// breaks all the time, the oldest.
    pub fn prune(&mut self, longest: Duration) {
        self.intervals.prune(longest);
        let surplus = self.intervals.0.len().saturating_sub(MAX_INTERVALS);
        self.intervals.0.drain(..surplus);
    }

    /// The cutoff of the default timeout and of each one that devices have of
    /// their own.
    pub fn cutoffs(&self, now: DateTime<Utc>, default: Duration, own: &[Duration]) -> Cutoffs {
        let cutoff = |timeout| self.intervals.cutoff(now, timeout);
        Cutoffs {
            default: cutoff(default),
            own: own.iter().map(|&timeout| (timeout, cutoff(timeout))).collect(),
        }
    }
}

/// The instants before which a device's last heartbeat means that it is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// For devices without a timeout of their own; `None`: nobody is silent.
    pub default: Option<DateTime<Utc>>,
    /// For each timeout that some device has of its own.
    pub own: Vec<(Duration, Option<DateTime<Utc>>)>,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn interval(from: i64, until: i64) -> Interval {
        Interval { from: at(from), until: at(until) }
    }

    fn intervals(list: &[(i64, i64)]) -> Intervals {
        list.iter().map(|&(from, until)| interval(from, until)).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn confirmations_that_follow_each_other_are_one_interval() {
        let mut coverage = Coverage::new(5 * SECOND);
        assert_eq!(coverage.confirm(at(0), at(2)), Confirmed::Began { gap: None });
        for until in [7, 12, 27, 42] {
            assert_eq!(coverage.confirm(at(0), at(until)), Confirmed::Extended);
        }
        assert_eq!(coverage.intervals(), &intervals(&[(0, 42)]));
    }

    #[test]
    fn the_time_between_confirmations_too_far_apart_is_a_gap() {
        let mut coverage = Coverage::new(5 * SECOND);
        coverage.confirm(at(0), at(10));
        let gap = Some(interval(10, 26));
        assert_eq!(coverage.confirm(at(0), at(26)), Confirmed::Began { gap });
        assert_eq!(coverage.intervals(), &intervals(&[(0, 10), (26, 26)]));
    }

    #[test]
    fn a_new_connection_is_a_gap_however_short() {
        let mut coverage = Coverage::new(5 * SECOND);
        coverage.confirm(at(0), at(10));
        let gap = Some(interval(10, 11));
        assert_eq!(coverage.confirm(at(11), at(13)), Confirmed::Began { gap });
        assert_eq!(coverage.intervals(), &intervals(&[(0, 10), (11, 13)]));
    }

    #[test]
    fn a_clock_turned_back_forgets_what_it_called_later() {
        let mut coverage = Coverage::new(5 * SECOND);
        coverage.confirm(at(0), at(10));
        coverage.confirm(at(100), at(105));
        let by = TimeDelta::seconds(102);
        assert_eq!(coverage.confirm(at(100), at(3)), Confirmed::SteppedBack { by });
        assert_eq!(coverage.intervals(), &intervals(&[(0, 3)]));
        assert_eq!(
            coverage.confirm(at(100), at(8)),
            Confirmed::Began { gap: Some(interval(3, 8)) }
        );
    }

    #[test]
    fn a_gap_counts_for_nothing() {
        let set = intervals(&[(0, 100), (500, 560)]);
        assert_eq!(set.cutoff(at(560), 50 * SECOND), Some(at(510)));
        assert_eq!(set.cutoff(at(560), 60 * SECOND), Some(at(100)), "not more than 60 s since");
        assert_eq!(set.cutoff(at(560), 100 * SECOND), Some(at(60)));
        assert_eq!(set.cutoff(at(560), 160 * SECOND), None, "there is no more than that");
        assert_eq!(set.cutoff(at(1000), 100 * SECOND), Some(at(60)), "nothing is proven since");
        assert_eq!(set.cutoff(at(520), 50 * SECOND), Some(at(70)));
        assert_eq!(set.gaps(at(50), at(600)), [interval(100, 500), interval(560, 600)]);
        assert_eq!(set.covered(at(50), at(600)), TimeDelta::seconds(110));
    }

    /// Sets of half-open seconds: the model that the intervals are held against.
    const SPAN: i64 = 40;

    fn some_intervals() -> impl Strategy<Value = Vec<(i64, i64)>> {
        vec((0..SPAN, 0..12_i64), 0..8)
            .prop_map(|list| list.into_iter().map(|(from, len)| (from, from + len)).collect())
    }

    fn seconds(list: &[(i64, i64)]) -> Vec<bool> {
        let inside = |second| list.iter().any(|&(from, until)| (from..until).contains(&second));
        (0..SPAN + 12).map(inside).collect()
    }

    fn seconds_of(set: &Intervals) -> Vec<bool> {
        let list: Vec<_> = set.iter().map(|i| (i.from.timestamp(), i.until.timestamp())).collect();
        seconds(&list)
    }

    fn assert_normal(set: &Intervals) {
        for interval in set.iter() {
            assert!(interval.from <= interval.until, "{set:?}");
        }
        for pair in set.0.windows(2) {
            assert!(pair[0].until < pair[1].from, "{set:?}");
        }
    }

    fn zip(a: &[bool], b: &[bool], f: fn(bool, bool) -> bool) -> Vec<bool> {
        a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
    }

    proptest! {
        #[test]
        fn union_and_difference_are_those_of_sets(a in some_intervals(), b in some_intervals()) {
            let (set_a, set_b) = (intervals(&a), intervals(&b));
            assert_normal(&set_a);
            prop_assert_eq!(seconds_of(&set_a), seconds(&a));
            let union = set_a.clone().union(&set_b);
            assert_normal(&union);
            prop_assert_eq!(seconds_of(&union), zip(&seconds(&a), &seconds(&b), |a, b| a || b));
            let difference = set_a.difference(&set_b);
            prop_assert_eq!(seconds_of(&difference), zip(&seconds(&a), &seconds(&b), |a, b| a && !b));
        }

        #[test]
        fn before_the_cutoff_is_what_was_silent_for_more_than_the_timeout(
            list in some_intervals(), now in 0..SPAN, timeout in 0..30_u64,
        ) {
            let set = intervals(&list);
            let cutoff = set.cutoff(at(now), Duration::from_secs(timeout));
            for seen in -1..=now {
                let silent = set.covered(at(seen), at(now)) > TimeDelta::seconds(timeout as i64);
                prop_assert_eq!(silent, cutoff.is_some_and(|cutoff| at(seen) < cutoff), "{}", seen);
            }
        }

        #[test]
        fn gaps_and_coverage_make_up_the_whole(
            list in some_intervals(), from in 0..SPAN, length in 0..SPAN,
        ) {
            let set = intervals(&list);
            let (from, until) = (at(from), at(from + length));
            let blind: TimeDelta = set.gaps(from, until).iter().map(Interval::length).sum();
            prop_assert_eq!(blind + set.covered(from, until), until - from);
        }

        #[test]
        fn pruning_changes_no_cutoff_that_is_still_needed(
            list in some_intervals(), timeout in 0..30_u64,
        ) {
            let set = intervals(&list);
            let mut pruned = set.clone();
            pruned.prune(Duration::from_secs(timeout));
            let now = at(2 * SPAN);
            for needed in 0..timeout {
                let needed = Duration::from_secs(needed);
                prop_assert_eq!(pruned.cutoff(now, needed), set.cutoff(now, needed));
            }
        }

        #[test]
        fn forgetting_leaves_what_lies_before(list in some_intervals(), instant in 0..SPAN) {
            let mut set = intervals(&list);
            set.forget_after(at(instant));
            assert_normal(&set);
            let before = seconds(&[(0, instant)]);
            prop_assert_eq!(seconds_of(&set), zip(&seconds(&list), &before, |a, b| a && b));
        }
    }
}
