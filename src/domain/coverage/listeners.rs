//! The instances that have listened, where several have: for people to read. Nothing is decided by
//! it.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::{Gap, Interval, Intervals, Judge, Stay};

/// One of several instances, and the time in which it has listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The instance, by its `mqtt.client_id`.
    pub instance: String,
    /// The time, as far as it is certain by the clock of whoever judges.
    intervals: Intervals,
    whole: Interval,
}

impl Listener {
    /// The instances that have listened `within` a stretch of time, in the order in which they
    /// began. Empty if all stays are of one instance, which then needs no name.
    pub fn of_stays(stays: &[Stay], judge: Judge<'_>, within: Interval) -> Vec<Self> {
        let mut proven: BTreeMap<&str, Intervals> = BTreeMap::new();
        for stay in stays {
            let proven = proven.entry(&stay.instance).or_default();
            let certain = judge.certain(stay);
            certain.iter().for_each(|interval| proven.add(*interval));
        }
        if proven.len() < 2 {
            return Vec::new();
        }
        let named = proven.into_iter().filter_map(|(instance, proven)| {
            let within = proven.within(within);
            let (first, last) = (within.first()?, within.last()?);
            let whole = Interval { from: first.from, until: last.until };
            let instance = instance.to_owned();
            Some(Self { instance, intervals: within.into_iter().collect(), whole })
        });
        let mut listeners: Vec<_> = named.collect();
        listeners.sort_by_key(|listener| listener.whole.from);
        listeners
    }

    /// The first and the last moment at which it has listened, whatever it has missed in between.
    pub fn whole(&self) -> Interval {
        self.whole
    }

    /// For how long it has listened.
    pub fn listened(&self) -> TimeDelta {
        self.intervals.iter().map(Interval::length).sum()
    }

    /// The instances whose gap it is: the members of a share group that have not proven it, or the
    /// one whose listening ends it, and so whose cause it has.
    pub fn whose(listeners: &[Self], gap: &Gap) -> Vec<String> {
        if !gap.unproven_by.is_empty() {
            return gap.unproven_by.iter().map(ToString::to_string).collect();
        }
        let begins = |interval: &Interval| interval.from == gap.interval.until;
        let after = listeners.iter().find(|listener| listener.intervals.iter().any(begins));
        after.map(|listener| listener.instance.clone()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::intervals::tests::{at, interval};
    use super::super::{ClockOffset, Coverage, Listened};
    use super::*;
    use crate::domain::GapCause;

    fn stay(listener: i64, instance: &str, listened: &[(i64, i64)]) -> Stay {
        let listened = listened.iter().map(|&(from, until)| Listened {
            interval: interval(from, until),
            after: Some(GapCause::Stopped),
        });
        Stay {
            listener,
            instance: instance.to_owned(),
            clock: ClockOffset::default(),
            share_group: None,
            timeline: String::new(),
            subscription: None,
            joined_at: at(0),
            ended_by_itself: false,
            left_at: Some(at(100)),
            listened: listened.collect(),
        }
    }

    fn told(stays: &[Stay], within: Interval) -> Vec<(String, Interval, i64)> {
        let judge = Judge { instance: "a", clock: ClockOffset::default(), subscription: None };
        let told = |l: &Listener| (l.instance.clone(), l.whole(), l.listened().num_milliseconds());
        Listener::of_stays(stays, judge, within).iter().map(told).collect()
    }

    #[test]
    fn one_instance_needs_no_name_however_often_it_came() {
        let stays = [stay(1, "a", &[(0, 10)]), stay(2, "a", &[(20, 30)])];
        assert_eq!(told(&stays, interval(0, 30)), []);
        assert_eq!(told(&[], interval(0, 30)), []);
    }

    #[test]
    fn of_several_each_that_listened_in_the_stretch_is_named_in_order() {
        let stays = [
            stay(1, "b", &[(0, 10), (20, 30)]),
            stay(2, "a", &[(29, 50)]),
            stay(3, "b", &[(60, 70)]),
            stay(4, "c", &[]),
        ];
        let millis = chrono::TimeDelta::milliseconds;
        let (from, until) = (at(20) + millis(100), at(30) - millis(100));
        let expected = [
            ("b".to_owned(), Interval { from, until }, 9_800),
            ("a".to_owned(), interval(29, 40), 11_000),
        ];
        assert_eq!(told(&stays, interval(15, 40)), expected, "what is certain by the clock of a");
        assert_eq!(told(&stays, interval(52, 55)), []);
    }

    #[test]
    fn a_gap_belongs_to_the_one_that_came_back() {
        let stays = [stay(1, "b", &[(0, 10), (20, 30)]), stay(2, "a", &[(40, 50), (55, 60)])];
        let judge = Judge { instance: "a", clock: ClockOffset::default(), subscription: None };
        let coverage = Coverage::of_stays(std::time::Duration::from_secs(5), &stays, judge);
        let listeners = Listener::of_stays(&stays, judge, interval(0, 70));
        let gaps = coverage.gaps(at(0), at(70));
        let owners: Vec<_> = gaps.iter().map(|gap| Listener::whose(&listeners, gap)).collect();
        let owners: Vec<_> = owners.iter().map(|owners| owners.join(", ")).collect();
        assert_eq!(owners, ["b", "b", "a", "a", ""], "{gaps:?}");
        let of_a_group = Gap { unproven_by: vec!["c".into()], ..gaps[0].clone() };
        assert_eq!(Listener::whose(&listeners, &of_a_group), ["c"]);
    }
}
