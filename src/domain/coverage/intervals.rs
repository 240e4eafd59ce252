//! Sets of instants, as intervals. All of it is checked by examples and against a model.

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
    /// The length of the interval.
    pub fn length(&self) -> TimeDelta {
        self.until - self.from
    }
}

/// A set of instants as disjoint intervals, oldest first. Intervals that touch are
/// joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<Interval>);

impl Intervals {
    /// The intervals, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Interval> {
        self.0.iter()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest instant of the set that is not after `instant`.
    pub fn newest_until(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let before = self.0.iter().rfind(|interval| interval.from <= instant)?;
        Some(before.until.min(instant))
    }

    /// The newest interval.
    pub fn last(&self) -> Option<&Interval> {
        self.0.last()
    }

    /// The parts of `stretch` that are in the set, oldest first.
    pub fn within(&self, stretch: Interval) -> Vec<Interval> {
        let first = self.0.partition_point(|interval| interval.until <= stretch.from);
        let touching = self.0[first..].iter().take_while(|other| other.from < stretch.until);
        touching
            .map(|other| Interval {
                from: other.from.max(stretch.from),
                until: other.until.min(stretch.until),
            })
            .collect()
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

    /// The instants in this set or in `other`, because several instances listen for one
    /// another.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        self.0.into_iter().chain(other.0.iter().copied()).collect()
    }

    /// The instants in this set that are not inside an interval of `other`: the time in which
    /// somebody may have been given heartbeats that are lost. The ends of those intervals stay in
    /// the set if they were in it, because only the time strictly between two proofs is
    /// uncertain.
    #[must_use]
    pub fn difference(self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().filter(|hole| hole.from < hole.until).peekable();
        for interval in self.0 {
            let mut rest = Some(interval);
            while let (Some(part), Some(hole)) = (rest, holes.peek()) {
                if hole.until <= part.from {
                    holes.next();
                    continue;
                }
                if hole.from >= part.until {
                    break;
                }
                if part.from <= hole.from {
                    left.push(Interval { from: part.from, until: hole.from });
                }
                let is_longer = part.until >= hole.until;
                rest = is_longer.then_some(Interval { from: hole.until, until: part.until });
            }
            left.extend(rest);
        }
        Self(left)
    }

    /// The instants in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&one), Some(&&two)) = (a.peek(), b.peek()) {
            let (from, until) = (one.from.max(two.from), one.until.min(two.until));
            if from <= until {
                both.push(Interval { from, until });
            }
            if one.until <= two.until {
                a.next()
            } else {
                b.next()
            };
        }
        Self(both)
    }

    /// The part of the time from `from` until `until` that is in the set.
    pub fn covered(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> TimeDelta {
        // Silences are mostly recent, and there may be many intervals, so this looks at
        // the newest first.
        let touched = self.0.iter().rev().take_while(|interval| interval.until > from);
        let clipped = touched.map(|interval| {
            (interval.until.min(until) - interval.from.max(from)).max(TimeDelta::zero())
        });
        clipped.sum()
    }

    /// The stretches from `from` until `until` that are not in the set, oldest first.
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

    /// The instant before which everything is more than `timeout` of covered time away
    /// from `now`. `None` if there is not that much covered time in all.
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

    /// Drops what lies after `instant`, because the clock was set back to it and that
    /// time has not come yet.
    pub fn forget_after(&mut self, instant: DateTime<Utc>) {
        self.0.retain(|interval| interval.from <= instant);
        if let Some(last) = self.0.last_mut() {
            last.until = last.until.min(instant);
        }
    }

    /// Drops what lies before `instant`.
    pub fn forget_before(&mut self, instant: DateTime<Utc>) {
        self.drop_before(instant);
        if let Some(first) = self.0.first_mut() {
            first.from = first.from.max(instant);
        }
    }

    /// Drops the intervals that end before `instant`.
    pub fn drop_before(&mut self, instant: DateTime<Utc>) {
        self.0.retain(|interval| interval.until >= instant);
    }

    /// Drops the oldest intervals that are not needed to find the cutoff of `longest`:
    /// more than `longest` of covered time is left.
    pub fn prune(&mut self, longest: Duration) {
        let Ok(mut missing) = TimeDelta::from_std(longest) else { return };
        let needed = self.0.iter().rev().take_while(|interval| {
            let needed = missing > TimeDelta::zero();
            missing -= interval.length();
            needed
        });
        let needed = needed.count().max(1);
        self.keep_newest(needed);
    }

    /// Drops all but the newest `count` intervals.
    pub fn keep_newest(&mut self, count: usize) {
        self.0.drain(..self.0.len().saturating_sub(count));
    }
}

impl FromIterator<Interval> for Intervals {
    fn from_iter<I: IntoIterator<Item = Interval>>(intervals: I) -> Self {
        // In order, each is put at the end.
        let mut sorted: Vec<_> = intervals.into_iter().collect();
        sorted.sort_unstable_by_key(|interval| interval.from);
        let mut set = Self::default();
        sorted.into_iter().for_each(|interval| set.add(interval));
        set
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    pub(in crate::domain::coverage) fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    pub(in crate::domain::coverage) fn interval(from: i64, until: i64) -> Interval {
        Interval { from: at(from), until: at(until) }
    }

    pub(in crate::domain::coverage) fn intervals(list: &[(i64, i64)]) -> Intervals {
        list.iter().map(|&(from, until)| interval(from, until)).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_gap_counts_for_nothing() {
        let set = intervals(&[(0, 100), (500, 560)]);
        assert_eq!(set.cutoff(at(560), 50 * SECOND), Some(at(510)));
        assert_eq!(set.cutoff(at(560), 60 * SECOND), Some(at(100)), "not more than 60 s since");
        assert_eq!(set.cutoff(at(560), 100 * SECOND), Some(at(60)));
        assert_eq!(set.cutoff(at(560), 160 * SECOND), None, "there is no more than that");
        assert_eq!(set.cutoff(at(1000), 100 * SECOND), Some(at(60)), "nothing is proven after 560");
        assert_eq!(set.cutoff(at(520), 50 * SECOND), Some(at(70)));
        assert_eq!(set.gaps(at(50), at(600)), [interval(100, 500), interval(560, 600)]);
        assert_eq!(set.covered(at(50), at(600)), TimeDelta::seconds(110));
    }

    /// Sets of half-open seconds: the model against which the intervals are checked.
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
        fn union_difference_and_intersection_are_those_of_sets(a in some_intervals(), b in some_intervals()) {
            let (set_a, set_b) = (intervals(&a), intervals(&b));
            assert_normal(&set_a);
            prop_assert_eq!(seconds_of(&set_a), seconds(&a));
            let union = set_a.clone().union(&set_b);
            assert_normal(&union);
            prop_assert_eq!(seconds_of(&union), zip(&seconds(&a), &seconds(&b), |a, b| a || b));
            let difference = set_a.clone().difference(&set_b);
            prop_assert_eq!(seconds_of(&difference), zip(&seconds(&a), &seconds(&b), |a, b| a && !b));
            assert_normal(&difference);
            let intersection = set_a.intersection(&set_b);
            assert_normal(&intersection);
            prop_assert_eq!(seconds_of(&intersection), zip(&seconds(&a), &seconds(&b), |a, b| a && b));
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
            let mut set = intervals(&list);
            set.forget_before(at(instant));
            assert_normal(&set);
            prop_assert_eq!(seconds_of(&set), zip(&seconds(&list), &before, |a, b| a && !b));
        }

        #[test]
        fn forgetting_what_is_before_leaves_each_interval_that_lasts_longer(
            list in some_intervals(), instant in 0..SPAN,
        ) {
            let set = intervals(&list);
            let mut left = set.clone();
            left.drop_before(at(instant));
            let expected = set.iter().filter(|interval| interval.until >= at(instant));
            prop_assert!(left.iter().eq(expected));
        }
    }
}
