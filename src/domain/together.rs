//! Devices that fell silent together: one thing that happened, and not many.
//!
//! A power failure stops all devices of a hall at one instant. Their last heartbeats lie within
//! one period before it, and several checks may find them. So devices belong together by the
//! times at which they fell silent, whichever check found them:
//!
//! - They fell silent within a [`window`] of half the timeout. A device that sends three
//!   heartbeats in each timeout, with the usual jitter, does so within four tenths of it.
//! - They are at [`least`] three, a thousandth of the fleet, or a hundred. If each of 2,000
//!   devices fails once in a month, three of them share a window of 90 s by chance once in two
//!   months; of 10,000 devices, ten never do.
//! - They are at least as many as fell silent in the ten windows around them together. That is
//!   ten times as dense, which a fleet that always loses some does not reach by chance.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The number of windows before a group, and after it, in which few others fall silent.
const AROUND: i32 = 5;

/// The maximum number of groups.
const MOST: usize = 100;

/// Devices that fell silent together and are still offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// The time of the first check that found one of them.
    pub found_at: DateTime<Utc>,
    /// The time of the last check that found one of them.
    pub found_until: DateTime<Utc>,
    /// The number of them that are still offline.
    pub devices: u64,
    /// The time at which the first of them was last heard.
    pub silent_since: DateTime<Utc>,
    /// The time at which the last of them was last heard.
    pub silent_until: DateTime<Utc>,
}

impl Burst {
    /// One device, last heard at `silent_since`.
    fn of_one(silent_since: DateTime<Utc>, found_at: DateTime<Utc>) -> Self {
        let (found_until, silent_until) = (found_at, silent_since);
        Self { found_at, found_until, devices: 1, silent_since, silent_until }
    }

    fn with(self, other: &Self) -> Self {
        Self {
            found_at: self.found_at.min(other.found_at),
            found_until: self.found_until.max(other.found_until),
            devices: self.devices + other.devices,
            silent_since: self.silent_since.min(other.silent_since),
            silent_until: self.silent_until.max(other.silent_until),
        }
    }
}

/// The time within which devices of a timeout fall silent that stop at one instant.
pub fn window(timeout: Duration) -> TimeDelta {
    TimeDelta::from_std(timeout / 2).unwrap_or(TimeDelta::MAX)
}

/// The least number of devices of a fleet that can be more than a coincidence.
pub fn least(fleet: u64) -> u64 {
    (fleet / 1000).clamp(3, 100)
}

/// The outages that last, by the second in which each silence began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outages(BTreeMap<i64, Burst>);

impl Outages {
    /// Adds the outage of a device that was last heard at `silent_since`.
    pub fn fell(&mut self, silent_since: DateTime<Utc>, found_at: DateTime<Utc>) {
        self.add(Burst::of_one(silent_since, found_at));
    }

    /// Adds outages that began within a second.
    pub fn add(&mut self, more: Burst) {
        let second = more.silent_since.timestamp();
        self.0.entry(second).and_modify(|known| *known = known.with(&more)).or_insert(more);
    }

    /// Removes the outage of a device that was last heard at `silent_since`.
    pub fn ended(&mut self, silent_since: DateTime<Utc>) {
        let second = silent_since.timestamp();
        if let Some(known) = self.0.get_mut(&second) {
            known.devices = known.devices.saturating_sub(1);
            if known.devices == 0 {
                self.0.remove(&second);
            }
        }
    }

    /// The number of outages.
    pub fn count(&self) -> u64 {
        self.0.values().map(|burst| burst.devices).sum()
    }

    /// The groups of those that fell silent within a `window`, in a fleet of so many devices,
    /// the newest first. No outage is in two of them. If there are more than a hundred, the
    /// largest. Takes less than a microsecond for each second in which a device fell silent.
    pub fn together(&self, window: TimeDelta, fleet: u64) -> Vec<Burst> {
        let line = Line::of(self.0.values().copied().collect(), window);
        let mut groups: Vec<Range<usize>> = Vec::new();
        for candidate in line.candidates(least(fleet)) {
            let overlaps = |group: &Range<usize>| !common(group, &candidate).is_empty();
            if !groups.iter().any(overlaps) && line.stands_out(&candidate, &groups) {
                groups.push(candidate);
                if groups.len() == MOST {
                    break;
                }
            }
        }
        groups.sort_unstable_by_key(|group| Reverse(group.start));
        groups.into_iter().map(|group| line.burst(group)).collect()
    }
}

/// The outages in the order in which they began. A group is a range of them.
struct Line {
    all: Vec<Burst>,
    /// The number of devices before each of them, and of all.
    before: Vec<u64>,
    window: TimeDelta,
}

impl Line {
    fn of(all: Vec<Burst>, window: TimeDelta) -> Self {
        let mut before = vec![0];
        for one in &all {
            before.push(before.last().copied().unwrap_or_default() + one.devices);
        }
        Self { all, before, window }
    }

    fn devices(&self, range: &Range<usize>) -> u64 {
        self.before[range.end] - self.before[range.start]
    }

    /// The group in each window that begins with an outage, if it has at least `least` devices, the
    /// largest first.
    fn candidates(&self, least: u64) -> impl Iterator<Item = Range<usize>> {
        let (mut end, mut found) = (0, Vec::new());
        for (first, begins) in self.all.iter().enumerate() {
            while self.all.get(end).is_some_and(|next| within(begins, next, self.window)) {
                end += 1;
            }
            let devices = self.devices(&(first..end));
            if devices >= least {
                found.push((Reverse(devices), first, end));
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, first, end)| first..end)
    }

    /// True if a group is at least as many as those around it that belong to no larger one.
    fn stands_out(&self, group: &Range<usize>, larger: &[Range<usize>]) -> bool {
        let around = self.window.checked_mul(AROUND).unwrap_or(TimeDelta::MAX);
        let from = self.all[group.start].silent_since.checked_sub_signed(around);
        let until = self.all[group.end - 1].silent_until.checked_add_signed(around);
        let is_before = |one: &Burst| from.is_some_and(|from| one.silent_until < from);
        let begins = |one: &Burst| until.is_none_or(|until| one.silent_since <= until);
        let near = self.all.partition_point(is_before)..self.all.partition_point(begins);
        let explained = larger.iter().map(|group| self.devices(&common(group, &near)));
        let own = self.devices(group);
        self.devices(&near) - own - explained.sum::<u64>() <= own
    }

    fn burst(&self, group: Range<usize>) -> Burst {
        let (first, more) = (self.all[group.start], group.start + 1..group.end);
        self.all[more].iter().fold(first, |all, one| all.with(one))
    }
}

/// The part that two ranges have in common.
fn common(one: &Range<usize>, other: &Range<usize>) -> Range<usize> {
    let start = one.start.max(other.start);
    start..one.end.min(other.end).max(start)
}

/// True if the seconds lie within a window, or are the same.
fn within(first: &Burst, other: &Burst, window: TimeDelta) -> bool {
    other.silent_until - first.silent_since <= window
        || other.silent_since.timestamp() == first.silent_since.timestamp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: TimeDelta = TimeDelta::seconds(90);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).expect("small")
    }

    /// A check every minute finds a device that has been silent for 180 s.
    fn outages(silences: impl IntoIterator<Item = i64>) -> Outages {
        let mut outages = Outages::default();
        for second in silences {
            outages.fell(at(second), at((second + 180).div_euclid(60) * 60 + 60));
        }
        outages
    }

    /// The sizes of the groups and their first second, newest first.
    fn groups(silences: impl IntoIterator<Item = i64>, fleet: u64) -> Vec<(u64, i64)> {
        let groups = outages(silences).together(WINDOW, fleet);
        let seconds = |time: DateTime<Utc>| (time - at(0)).num_seconds();
        groups.iter().map(|group| (group.devices, seconds(group.silent_since))).collect()
    }

    #[test]
    fn those_that_several_checks_found_are_one_group() {
        // The power fails at 60 s; the last heartbeats lie within a minute before.
        let hall = (0..204).map(|n| n * 60 / 204);
        let all = outages(hall.chain([-4_000, 3_000]));
        let burst = Burst {
            found_at: at(240),
            found_until: at(240),
            devices: 204,
            silent_since: at(0),
            silent_until: at(59),
        };
        assert_eq!(all.together(WINDOW, 2_000), [burst]);
        let hall = outages((0..60).map(|n| 30 + n));
        let group = hall.together(WINDOW, 2_000)[0];
        assert_eq!((group.found_at, group.found_until, group.devices), (at(240), at(300), 60));
    }

    #[test]
    fn a_few_that_only_share_a_check_are_not_together() {
        assert_eq!(groups([0, 10], 24), []);
        assert_eq!(groups([0, 10, 20], 24), [(3, 0)]);
        assert_eq!(groups([0, 10, 20], 5_000), [], "a thousandth of the fleet are five");
        assert_eq!(groups(0..5, 5_000), [(5, 0)]);
        assert_eq!(groups(0..99, 1_000_000), []);
        assert_eq!(groups((0..100).map(|n| n / 2), 1_000_000), [(100, 0)]);
        assert_eq!(groups([0, 60, 120, 180, 240], 24), [], "one after another");
    }

    #[test]
    fn a_fleet_that_always_loses_some_has_no_groups_but_a_larger_one() {
        let noise = || (-1_000..1_000).step_by(10);
        assert_eq!(groups(noise(), 1_000), []);
        let hall = (0..120).map(|n| n / 2);
        let found = groups(noise().chain(hall), 1_000);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 >= 120, "{found:?}");
    }

    #[test]
    fn two_halls_that_fall_one_after_the_other_are_two_groups() {
        let halls = (0..50).chain((0..20).map(|n| 200 + n));
        assert_eq!(groups(halls, 1_000), [(20, 200), (50, 0)]);
    }

    #[test]
    fn those_that_are_back_do_not_count() {
        let mut outages = outages([0, 1, 1, 2]);
        outages.ended(at(1));
        assert_eq!((outages.count(), outages.together(WINDOW, 24)[0].devices), (3, 3));
        outages.ended(at(1));
        assert_eq!((outages.count(), outages.together(WINDOW, 24)), (2, vec![]));
        outages.ended(at(7));
        assert_eq!(outages.count(), 2, "it was not known");
    }

    proptest! {
        #[test]
        fn groups_are_disjoint_large_enough_and_no_longer_than_a_window(
            silences in prop::collection::vec(0..2_000_i64, 0..200), fleet in 0..200_000_u64,
        ) {
            let all = outages(silences.iter().copied());
            let groups = all.together(WINDOW, fleet);
            for group in &groups {
                prop_assert!(group.devices >= least(fleet));
                prop_assert!(group.silent_until - group.silent_since <= WINDOW);
                let within = silences.iter().filter(|second| {
                    (group.silent_since..=group.silent_until).contains(&at(**second))
                });
                prop_assert_eq!(within.count() as u64, group.devices);
            }
            for pair in groups.windows(2) {
                prop_assert!(pair[1].silent_until < pair[0].silent_since, "newest first");
            }
        }
    }
}
