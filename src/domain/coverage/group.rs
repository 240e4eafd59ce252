//! The time that the members of a share group have listened to together.
//!
//! The broker gives each heartbeat to one of them, to any. So an instant counts if one of them
//! has proven it, and none of the others may have been given something that it has not proven. A
//! member may be given heartbeats from when it has joined, before it subscribes, until it has
//! left, when the broker is known to have let it go.
//!
//! ```text
//! member a   [joined====proven====================================================]
//! member b   [joined====proven====]. . . . . . . . left
//! counts                [=========]                [==============================]
//!                                   uncertain: the broker may have given b what nobody writes
//! ```
//!
//! Stays of one group on different timelines of the database are different groups at the broker,
//! each of which is given every heartbeat. Of a database that has failed over and lost the row of
//! a member, that member alone is left in the group of the old timeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Coverage, Gap, GapCause, Interval, Intervals, Judge, Stay};

/// The most by which clocks may differ for a group to prove anything. A stay that ended earlier
/// than this before an instant, by whichever clock, has no effect on it.
pub const MAX_WIDTH: TimeDelta = TimeDelta::hours(1);

/// A stretch of time in which a member may have been given heartbeats that it has not proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unproven {
    interval: Interval,
    /// The member, by its `mqtt.client_id`.
    instance: Arc<str>,
    /// The cause; `None` if it is not known, as it is after the newest proof.
    cause: Option<GapCause>,
}

/// The time that one member has proven and that it has not, as far as it is certain by the judge's
/// clock.
struct Share {
    proven: Intervals,
    unproven: Vec<Unproven>,
}

impl Stay {
    /// The time in which the broker may give it heartbeats, by the clocks that have dated it.
    fn listed(&self) -> Interval {
        let left_at = self.left_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
        // The end may be by another clock, which is behind, or its own may have been set back.
        Interval { from: self.joined_at.min(left_at), until: self.joined_at.max(left_at) }
    }

    /// The time that it has proven and that it has not, if its clock differs by at most `width`, and
    /// that of whoever has ended it by at most `apart`.
    fn share(&self, width: TimeDelta, apart: TimeDelta) -> Share {
        let listed = self.listed();
        // A successor may keep what an earlier stay has proven, in another group.
        let within = self.listened.iter().map(|listened| listened.interval);
        let within: Intervals = within.filter_map(|interval| interval.within(&listed)).collect();
        let proven = within.iter().filter_map(|interval| interval.shortened(width)).collect();
        let mut unproven = self.unproven(&within, &listed);
        for part in &mut unproven {
            part.interval = part.interval.widened(width);
        }
        // Its own clock has dated its proofs and its beginning, and perhaps its end. If that was
        // set meanwhile, or another one has ended it, even what is proven up to there may not be all.
        let was_set = !self.clock.spread.is_zero();
        let begins = was_set.then_some((listed.from, GapCause::ClockStep));
        let by_another = was_set || !self.ended_by_itself;
        let ends = self.left_at.filter(|_| by_another).map(|_| (listed.until, GapCause::NoEcho));
        for (instant, cause) in begins.into_iter().chain(ends) {
            let around = Interval { from: instant, until: instant }.widened(apart);
            unproven.push(self.unproven_in(around, Some(cause)));
        }
        Share { proven, unproven }
    }

    /// The parts of `listed` that are not `proven`, by its own clock, with their causes.
    fn unproven(&self, proven: &Intervals, listed: &Interval) -> Vec<Unproven> {
        let after = self.listened.iter();
        let after: BTreeMap<_, _> =
            after.filter_map(|listened| Some((listened.interval.from, listened.after?))).collect();
        let cause = |gap: &Interval| match after.get(&gap.until) {
            Some(cause) => Some(*cause),
            None if gap.until == listed.until => (!self.is_open()).then_some(GapCause::NoEcho),
            None => (gap.from == listed.from).then_some(GapCause::NotRunning),
        };
        let gaps = proven.gaps(listed.from, listed.until).into_iter();
        gaps.map(|interval| self.unproven_in(interval, cause(&interval))).collect()
    }

    fn unproven_in(&self, interval: Interval, cause: Option<GapCause>) -> Unproven {
        Unproven { interval, instance: self.instance.as_str().into(), cause }
    }
}

impl Coverage {
    /// Counts what each share group among the stays has listened to.
    pub(super) fn count_groups(&mut self, stays: &[Stay], judge: &Judge<'_>) {
        let mut groups: BTreeMap<_, Vec<&Stay>> = BTreeMap::new();
        for stay in stays.iter().filter(|stay| judge.shares_with(stay)) {
            if let Some(name) = &stay.share_group {
                groups.entry((name, &stay.timeline)).or_default().push(stay);
            }
        }
        if groups.is_empty() {
            return;
        }
        // Any instance may have dated the end of a stay, and the heartbeats that are known.
        let apart = stays.iter().map(|stay| judge.width(stay)).max().unwrap_or_default();
        self.beside_width = self.beside_width.max(apart);
        if apart <= MAX_WIDTH {
            groups.values().for_each(|members| self.count_group(members, judge, apart));
        }
    }

    /// Counts what the members of one group on one timeline have listened to together.
    fn count_group(&mut self, members: &[&Stay], judge: &Judge<'_>, apart: TimeDelta) {
        let (mut proven, mut unproven) = (Vec::new(), Vec::new());
        for member in members {
            // Of another subscription it proves nothing, and still takes its part of the heartbeats.
            let deaf =
                (!judge.counts(member)).then(|| Stay { listened: Vec::new(), ..(*member).clone() });
            let member = deaf.as_ref().unwrap_or(member);
            let share = member.share(judge.width(member), apart);
            proven.extend(share.proven.iter().copied());
            unproven.extend(share.unproven);
        }
        let proven: Intervals = proven.into_iter().collect();
        let counts = proven.difference(&unproven.iter().map(|part| part.interval).collect());
        let ends = unproven.iter().filter_map(|part| Some((part.interval.until, part.cause?)));
        let ends: BTreeMap<_, _> = ends.collect();
        for (from, cause) in counts.iter().filter_map(|i| Some((i.from, *ends.get(&i.from)?))) {
            self.causes.entry(from).or_insert(cause);
        }
        self.others = std::mem::take(&mut self.others).union(&counts);
        self.unproven.extend(unproven);
    }

    /// Names in each gap, of which none overlap and the oldest comes first, the members that have
    /// not proven it.
    pub(super) fn name_unproven(&self, gaps: &mut [Gap]) {
        let mut parts: Vec<_> = self.unproven.iter().collect();
        parts.sort_by_key(|part| part.interval.from);
        let mut parts = parts.into_iter().peekable();
        let mut lasting: Vec<&Unproven> = Vec::new();
        for gap in gaps {
            lasting.retain(|part| part.interval.until > gap.interval.from);
            while let Some(part) = parts.next_if(|part| part.interval.from < gap.interval.until) {
                if part.interval.until > gap.interval.from {
                    lasting.push(part);
                }
            }
            let late = lasting.iter().filter(|part| !self.may_be_proven_yet(part, &gap.interval));
            let mut names: Vec<_> = late.map(|part| Arc::clone(&part.instance)).collect();
            names.sort_unstable();
            names.dedup();
            gap.unproven_by = names;
        }
    }

    /// True for the newest time of a member, of which the echo may still come.
    fn may_be_proven_yet(&self, part: &Unproven, gap: &Interval) -> bool {
        part.interval.until == DateTime::<Utc>::MAX_UTC
            && gap.until - part.interval.from.max(gap.from) <= self.grace
    }
}

impl Interval {
    /// The part of this interval that is in `other`; `None` if there is none.
    pub fn within(&self, other: &Self) -> Option<Self> {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        (from <= until).then_some(Self { from, until })
    }

    /// The interval with `width` more at both ends, as far as there is time.
    #[must_use]
    pub fn widened(&self, width: TimeDelta) -> Self {
        Self {
            from: self.from.checked_sub_signed(width).unwrap_or(DateTime::<Utc>::MIN_UTC),
            until: self.until.checked_add_signed(width).unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::super::Listened;
    use super::super::intervals::tests::{at, interval, intervals};
    use super::super::stays::tests::{clock, of_topic, stay};
    use super::*;
    use crate::domain::ClockOffset;

    const SECOND: Duration = Duration::from_secs(1);

    /// A stay in group g.
    fn member(
        listener: i64,
        instance: &str,
        (joined, left): (i64, Option<i64>),
        listened: &[(i64, i64)],
    ) -> Stay {
        Stay {
            share_group: Some("g".to_owned()),
            timeline: "00000001".to_owned(),
            joined_at: at(joined),
            left_at: left.map(at),
            ..stay(listener, instance, 0, listened)
        }
    }

    fn of(stays: &[Stay]) -> Coverage {
        let judge = Judge { instance: "a", clock: ClockOffset::default(), subscription: None };
        Coverage::of_stays(5 * SECOND, stays, judge)
    }

    fn list(coverage: &Coverage) -> Vec<Interval> {
        coverage.intervals().iter().copied().collect()
    }

    /// An interval in milliseconds.
    fn millis(from: i64, until: i64) -> Interval {
        let at = |millis| at(0) + TimeDelta::milliseconds(millis);
        Interval { from: at(from), until: at(until) }
    }

    #[test]
    fn an_instant_counts_if_every_member_that_may_have_been_given_a_heartbeat_has_proven_it() {
        // b is taken out at 60, and comes back at 80.
        let coverage = of(&[
            member(1, "a", (0, None), &[(0, 100)]),
            member(2, "b", (10, Some(60)), &[(11, 40)]),
            member(3, "b", (80, None), &[(80, 100)]),
        ]);
        let apart = 100;
        let expected = [
            millis(0, 10_000 - apart),
            millis(11_000 + apart, 40_000 - apart),
            // It has proven all of it since it came back.
            millis(60_000 + apart, 100_000 - apart),
        ];
        assert_eq!(list(&coverage), expected);
        assert_eq!(coverage.width(), TimeDelta::milliseconds(apart));
    }

    #[test]
    fn a_member_without_any_proof_makes_the_whole_of_its_stay_uncertain() {
        let coverage =
            of(&[member(1, "a", (0, None), &[(0, 100)]), member(2, "b", (10, None), &[])]);
        assert_eq!(list(&coverage), [millis(0, 9_900)]);
        assert_eq!(
            coverage.cutoffs(at(100), 5 * SECOND, &[]).default.instant,
            Some(at(0) + TimeDelta::milliseconds(4_800))
        );
        assert_eq!(coverage.proven_until(), None, "nothing of a group is saved again");
    }

    #[test]
    fn groups_and_listeners_without_one_count_beside_each_other() {
        let moved = |stay: Stay| Stay { timeline: "00000002".to_owned(), ..stay };
        let other = |stay: Stay| Stay { share_group: Some("h".to_owned()), ..stay };
        let stays = [
            member(1, "a", (0, None), &[(1, 50)]),
            member(2, "a", (0, None), &[]),
            moved(member(3, "a", (30, Some(40)), &[(30, 40)])),
            other(member(4, "a", (50, Some(60)), &[(50, 60)])),
            stay(5, "a", 0, &[(70, 80)]),
        ];
        assert_eq!(
            list(&of(&stays)),
            intervals(&[(30, 40), (50, 60), (70, 80)]).iter().copied().collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_member_with_another_topic_is_of_another_group_and_one_that_hears_fewer_nodes_is_deaf() {
        let of_it = |stay| of_topic("devices/+/heartbeat", 2, stay);
        let a = of_it(member(1, "a", (0, None), &[(0, 100)]));
        let by = |other: Stay| {
            let stays = [a.clone(), other];
            list(&Coverage::of_stays(5 * SECOND, &stays, Judge::named("a", &stays)))
        };
        let elsewhere = |listened| member(2, "b", (10, Some(60)), listened);
        assert_eq!(by(of_topic("halls/+/heartbeat", 2, elsewhere(&[]))), [interval(0, 100)]);
        let deaf = by(of_topic("devices/+/heartbeat", 1, elsewhere(&[(10, 60)])));
        assert_eq!(deaf, [millis(0, 9_900), millis(60_100, 100_000)]);
        let alike = by(of_it(elsewhere(&[(10, 60)])));
        assert_eq!(alike, [millis(0, 59_900), millis(60_100, 100_000)], "but for its end");
    }

    #[test]
    fn a_proof_from_before_a_stay_is_another_groups_and_does_not_count() {
        let coverage = of(&[member(1, "a", (50, Some(70)), &[(0, 60), (65, 90)])]);
        assert_eq!(list(&coverage), [interval(50, 60), interval(65, 70)]);
    }

    #[test]
    fn a_stay_that_ends_before_it_has_begun_makes_the_time_between_uncertain() {
        // Its clock was set back.
        let coverage = of(&[
            member(1, "a", (0, None), &[(0, 100)]),
            member(2, "a", (50, Some(40)), &[(45, 48)]),
        ]);
        assert_eq!(coverage.gaps(at(1), at(100)).len(), 2);
        assert_eq!(coverage.intervals().covered(at(0), at(100)), TimeDelta::seconds(93));
    }

    #[test]
    fn a_gap_says_whose_it_is_and_why() {
        let coverage = of(&[
            member(1, "a", (0, None), &[(0, 120)]),
            member(2, "b", (0, None), &[(0, 20), (30, 118)]),
            member(3, "c", (0, Some(29)), &[(0, 18)]),
            member(4, "d", (50, None), &[(52, 119)]),
            member(5, "e", (0, Some(90)), &[(0, 80)]),
        ]);
        let gaps = coverage.gaps(at(10), at(120));
        let told: Vec<_> = gaps
            .iter()
            .map(|gap| (gap.interval.from.timestamp(), gap.cause, gap.unproven_by.join(" ")))
            .collect();
        let expected = [
            (17, Some(GapCause::Disconnected), "b c".to_owned()),
            (49, Some(GapCause::Disconnected), "d".to_owned()),
            (79, Some(GapCause::NoEcho), "e".to_owned()),
            // The echoes of the newest seconds are still to come.
            (117, None, String::new()),
        ];
        assert_eq!(told, expected);
        let later = coverage.gaps(at(110), at(140));
        let names: Vec<_> = later.iter().flat_map(|gap| &gap.unproven_by).collect();
        assert_eq!(names.iter().map(|name| &***name).collect::<Vec<_>>(), ["a", "b", "d"]);
    }

    #[test]
    fn the_end_of_a_stay_by_another_clock_ends_nothing_too_early() {
        // By the true time b is taken out at 100, and has proven nothing since 99.5. Its clock is
        // a second fast.
        let b = member(2, "b", (0, Some(100)), &[]);
        let b = Stay {
            clock: clock(1_000),
            listened: vec![Listened { interval: millis(1_000, 100_500), after: None }],
            ..b
        };
        let coverage = of(&[member(1, "a", (0, None), &[(0, 200)]), b]);
        let gaps = coverage.gaps(at(50), at(200));
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        assert!(gaps[0].interval.from <= at(99) && gaps[0].interval.until >= at(100), "{gaps:?}");
    }

    #[test]
    fn members_whose_clocks_are_an_hour_apart_prove_nothing_together() {
        let far = |offset| Stay { clock: clock(offset), ..member(2, "b", (0, Some(1)), &[(0, 1)]) };
        let a = member(1, "a", (0, None), &[(0, 10_000)]);
        assert_eq!(list(&of(&[a.clone(), far(3_500_000)])).len(), 1);
        assert_eq!(list(&of(&[a.clone(), far(3_600_000)])), []);
        let damaged = ClockOffset { offset: TimeDelta::MAX, spread: TimeDelta::MAX };
        let damaged = Stay { clock: damaged, ..member(2, "b", (0, None), &[(0, 1)]) };
        assert_eq!(list(&of(&[a, damaged])), []);
    }

    const SPAN: i64 = 60;

    /// A stay, all of whose times are true ones.
    #[derive(Clone, Debug)]
    struct True {
        /// The group and the timeline; `None` for a listener that hears everything.
        view: Option<(usize, usize)>,
        joined: i64,
        left: Option<i64>,
        proven: Vec<(i64, i64)>,
        /// The number of its instance.
        instance: usize,
        /// The number of the stay by whose clock it left.
        ended_by: usize,
    }

    impl True {
        fn has_proven(&self, instant: DateTime<Utc>) -> bool {
            self.proven.iter().any(|&(from, until)| at(from) <= instant && instant <= at(until))
        }

        fn is_listed(&self, instant: DateTime<Utc>) -> bool {
            at(self.joined) < instant && self.left.is_none_or(|left| instant < at(left))
        }
    }

    /// The model: an instant counts if somebody has proven it who hears everything, or a member
    /// of a view of which each other member that is listed has proven it too.
    fn truly_counts(stays: &[True], instant: DateTime<Utc>) -> bool {
        stays.iter().filter(|stay| stay.has_proven(instant)).any(|one| {
            let beside = |other: &&True| other.view == one.view && other.is_listed(instant);
            one.view.is_none() || stays.iter().filter(beside).all(|other| other.has_proven(instant))
        })
    }

    fn some_stay() -> impl Strategy<Value = True> {
        let view = prop_oneof![1 => Just(None), 4 => (0..2_usize, 0..2_usize).prop_map(Some)];
        let stay = (0..SPAN - 20, prop_oneof![Just(None), (0..40_i64).prop_map(Some)]);
        let proofs = vec((0..40_i64, 0..30_i64), 0..5);
        (view, stay, proofs, 0..4_usize, 0..7_usize).prop_map(
            |(view, (joined, lasted), proofs, instance, ended_by)| {
                let left = lasted.map(|lasted| joined + lasted);
                let last = left.unwrap_or(SPAN + 20);
                // A member proves nothing outside of its stay.
                let proofs = proofs.into_iter().map(|(from, length)| {
                    let from = (joined + from).min(last);
                    (from, (from + length).min(last))
                });
                True { view, joined, left, proven: proofs.collect(), instance, ended_by }
            },
        )
    }

    /// The rows of the stays, by clocks that differ from the true time by whole seconds.
    fn rows(stays: &[True], offsets: [i64; 4]) -> Vec<Stay> {
        let ended_by = |stay: &True| stays[stay.ended_by % stays.len()].instance;
        let row = |(number, stay): (usize, &True)| {
            let offset = offsets[stay.instance];
            let listened = |&(from, until): &(i64, i64)| Listened {
                interval: interval(from + offset, until + offset),
                after: None,
            };
            Stay {
                listener: number as i64,
                instance: ["a", "b", "c", "d"][stay.instance].to_owned(),
                clock: clock(offset * 1_000),
                share_group: stay.view.map(|(group, _)| ["g", "h"][group].to_owned()),
                timeline: stay.view.map_or("", |(_, timeline)| ["1", "2"][timeline]).to_owned(),
                subscription: None,
                joined_at: at(stay.joined + offset),
                ended_by_itself: ended_by(stay) == stay.instance,
                left_at: stay.left.map(|left| at(left + offsets[ended_by(stay)])),
                listened: stay.proven.iter().map(listened).collect(),
            }
        };
        stays.iter().enumerate().map(row).collect()
    }

    fn counts(coverage: &Coverage, instant: DateTime<Utc>) -> bool {
        coverage.intervals().iter().any(|i| i.from <= instant && instant <= i.until)
    }

    fn is_within(less: &Coverage, more: &Coverage) -> bool {
        let less = less.intervals();
        less.iter().all(|part| {
            more.intervals().iter().any(|i| i.from <= part.from && part.until <= i.until)
        })
    }

    proptest! {
        /// Of one instance, the clock of which is certain.
        #[test]
        fn a_second_counts_if_a_member_and_each_listed_one_has_proven_it(
            some in vec(some_stay(), 1..7),
        ) {
            let some: Vec<_> = some.into_iter().map(|stay| True { instance: 0, ..stay }).collect();
            let coverage = of(&rows(&some, [0; 4]));
            for second in -1..SPAN + 25 {
                let instant = at(second) + TimeDelta::milliseconds(500);
                prop_assert_eq!(counts(&coverage, instant), truly_counts(&some, instant), "{}", instant);
            }
        }

        #[test]
        fn whatever_the_clocks_show_an_instant_counts_only_if_it_truly_does(
            some in vec(some_stay(), 1..7),
            offsets in [-3_i64..4, -3_i64..4, -3_i64..4, -3_i64..4],
        ) {
            let clock = clock(offsets[0] * 1_000);
            let judge = Judge { instance: "a", clock, subscription: None };
            let coverage = Coverage::of_stays(5 * SECOND, &rows(&some, offsets), judge);
            for tenth in -10..10 * (SPAN + 25) {
                let instant = at(0) + TimeDelta::milliseconds(100 * tenth);
                let shown = instant + TimeDelta::seconds(offsets[0]);
                let is_edge = tenth % 10 == 0;
                prop_assert!(is_edge || truly_counts(&some, instant) || !counts(&coverage, shown), "{}", instant);
            }
        }

        /// As far from the end of each proof and of each stay as the clocks may differ twice.
        #[test]
        fn what_all_members_have_proven_for_long_counts_whatever_their_clocks_show(
            some in vec(some_stay(), 1..7),
            offsets in [-1_i64..2, -1_i64..2, -1_i64..2, -1_i64..2],
        ) {
            let clock = clock(offsets[0] * 1_000);
            let judge = Judge { instance: "a", clock, subscription: None };
            let coverage = Coverage::of_stays(5 * SECOND, &rows(&some, offsets), judge);
            for second in 0..SPAN + 20 {
                let instant = at(second) + TimeDelta::milliseconds(500);
                let around = (-45..=45).map(|tenth| instant + TimeDelta::milliseconds(100 * tenth));
                let long = |stay: &True| around.clone().all(|near| stay.has_proven(near));
                let far = TimeDelta::milliseconds(4_500);
                let near = |stay: &True| {
                    let left = stay.left.map_or(DateTime::<Utc>::MAX_UTC, at);
                    at(stay.joined) <= instant + far && instant - far <= left
                };
                let certain = some.iter().filter(|stay| long(stay)).any(|one| {
                    let beside = |other: &&True| other.view == one.view && near(other);
                    one.view.is_none() || some.iter().filter(beside).all(long)
                });
                let shown = instant + TimeDelta::seconds(offsets[0]);
                prop_assert!(!certain || counts(&coverage, shown), "{}", instant);
            }
        }

        #[test]
        fn without_some_proofs_nothing_more_counts(
            some in vec(some_stay(), 1..7),
            offsets in [-3_i64..4, -3_i64..4, -3_i64..4, -3_i64..4],
            kept in subsequence((0..35_usize).collect::<Vec<_>>(), 0..35),
            now in 0..SPAN + 20,
        ) {
            let all = rows(&some, offsets);
            let mut number = 0..;
            let fewer: Vec<_> = all.iter().map(|stay| {
                let mut fewer = stay.clone();
                fewer.listened.retain(|_| number.next().is_some_and(|n: usize| kept.contains(&n)));
                fewer
            }).collect();
            let (all, fewer) = (of(&all), of(&fewer));
            prop_assert!(is_within(&fewer, &all));
            if some.iter().any(|stay| stay.view.is_some()) {
                let cutoff = |coverage: &Coverage| coverage.cutoffs(at(now), 5 * SECOND, &[]).latest();
                prop_assert!(cutoff(&fewer) <= cutoff(&all));
            }
        }
    }
}
