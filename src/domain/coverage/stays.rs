//! The stays of listeners, and what several of them have listened to together.
//!
//! A listener without a share group hears everything, so an instant counts if any of them has
//! proven it. Members of a share group each hear a part, so that an instant counts by the rule of
//! [`group`](super::group). Between groups, and between groups and other listeners, any one is
//! enough.
//!
//! Only what was proven of the same subscription counts: who listens to another topic, or at fewer
//! nodes, has not heard the devices in question, however well it has listened.
//!
//! Their clocks differ a little. So what another clock has measured counts only as far as it is
//! certain by one's own, and a device is silent only if its silence exceeds the timeout by as
//! much.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Coverage, Interval, Intervals, Listened};
use crate::domain::Subscription;

/// The time by which two clocks may differ beyond what was measured: half a round trip to the
/// database for each, and what they drift until the next measurement.
const UNMEASURED: TimeDelta = TimeDelta::milliseconds(100);

/// The clock of a listener, as the database's tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset {
    /// The listener's clock minus the database's.
    pub offset: TimeDelta,
    /// The most by which that has changed during its stay, because the clock was set.
    pub spread: TimeDelta,
}

impl ClockOffset {
    /// The most by which two clocks may differ.
    pub fn width(self, other: Self) -> TimeDelta {
        self.checked_width(other).unwrap_or(TimeDelta::MAX)
    }

    /// The same, unless it is longer than can be said.
    fn checked_width(self, other: Self) -> Option<TimeDelta> {
        let apart = self.offset.checked_sub(&other.offset)?.abs();
        apart.checked_add(&self.spread)?.checked_add(&other.spread)?.checked_add(&UNMEASURED)
    }
}

/// One stay of a listener: from its start, or from the moment at which it began to stand by,
/// until it left or was taken for gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// The number of the listener.
    pub listener: i64,
    /// The instance, by its `mqtt.client_id`. All its stays have the same clock.
    pub instance: String,
    /// Its clock.
    pub clock: ClockOffset,
    /// The group that shares the heartbeats; `None` if it hears all of them.
    pub share_group: Option<String>,
    /// The timeline of the database when it joined; empty if the database has none.
    pub timeline: String,
    /// Its subscription; `None` for a stay of an earlier version, which did not say.
    pub subscription: Option<Subscription>,
    /// Its beginning by its own clock, before it subscribed to anything.
    pub joined_at: DateTime<Utc>,
    /// Its end, by its own clock or by that of whoever has found it gone. `None` while it may be
    /// listening.
    pub left_at: Option<DateTime<Utc>>,
    /// True if its end is by its own clock: it has left, or has come back.
    pub ended_by_itself: bool,
    /// The time in which it has provably listened, oldest first.
    pub listened: Vec<Listened>,
}

impl Stay {
    /// True if it has not left.
    pub fn is_open(&self) -> bool {
        self.left_at.is_none()
    }
}

/// The instance for which something is judged, with its clock.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The instance, by its `mqtt.client_id`.
    pub instance: &'a str,
    /// Its clock.
    pub clock: ClockOffset,
    /// Its subscription; `None` if that is not known, and then everything counts.
    pub subscription: Option<&'a Subscription>,
}

impl<'a> Judge<'a> {
    /// The judge by the name of an instance, with the clock of its newest stay, and the subscription
    /// of the newest that has listened. An instance without any takes the newest stay's of all.
    pub fn named(instance: &'a str, stays: &'a [Stay]) -> Self {
        let newest = |of_it: &dyn Fn(&&Stay) -> bool| {
            stays.iter().filter(of_it).max_by_key(|stay| stay.listener)
        };
        let of_it = |stay: &&Stay| stay.instance == instance;
        let has_listened = |stay: &&Stay| !stay.listened.is_empty();
        let clock = newest(&of_it).or_else(|| newest(&|_| true));
        let listens = newest(&|stay| of_it(stay) && has_listened(stay));
        let listens = listens.or_else(|| newest(&of_it)).or_else(|| newest(&has_listened));
        Self {
            instance,
            clock: clock.map(|stay| stay.clock).unwrap_or_default(),
            subscription: listens.and_then(|stay| stay.subscription.as_ref()),
        }
    }

    /// True if what a stay has proven counts, because it was of the same subscription.
    pub(super) fn counts(&self, stay: &Stay) -> bool {
        let both = self.subscription.zip(stay.subscription.as_ref());
        both.is_none_or(|(own, other)| own.differs_from(other).is_none())
    }

    /// True if the broker may have given a member of a share group what is in question: a group with
    /// another topic is another one there.
    pub(super) fn shares_with(&self, stay: &Stay) -> bool {
        let both = self.subscription.zip(stay.subscription.as_ref());
        both.is_none_or(|(own, other)| own.topic == other.topic)
    }

    /// The most by which the clock of a stay may differ from the judge's.
    pub fn width(&self, stay: &Stay) -> TimeDelta {
        let same = stay.instance == self.instance;
        if same { TimeDelta::zero() } else { self.clock.width(stay.clock) }
    }

    /// The time in which a stay has listened to the same, as far as it is certain by the judge's
    /// clock.
    pub(super) fn certain(&self, stay: &Stay) -> Intervals {
        if !self.counts(stay) {
            return Intervals::default();
        }
        let width = self.width(stay);
        let proven: Intervals = stay.listened.iter().map(|listened| listened.interval).collect();
        if width.is_zero() { proven } else { proven.shortened(width) }
    }
}

impl Coverage {
    /// The time that all listeners have listened to together, as it is certain by the judge's clock.
    ///
    /// Of a share group `stays` has to have each stay that lasted in the time that is asked for,
    /// also if it has no intervals. Intervals may be missing: each one less is less that counts.
    pub fn of_stays(echo_interval: Duration, stays: &[Stay], judge: Judge<'_>) -> Self {
        let mut coverage = Self::new(echo_interval);
        let plain = stays.iter().filter(|stay| stay.share_group.is_none());
        for stay in plain.filter(|stay| judge.counts(stay)) {
            let width = judge.width(stay);
            if width.is_zero() {
                coverage = coverage.with(stay.listened.iter().copied());
            } else {
                coverage.count_also(stay, width);
            }
        }
        coverage.count_groups(stays, &judge);
        coverage
    }

    /// Counts what another listener has proven, whose clock differs by at most `width`.
    fn count_also(&mut self, stay: &Stay, width: TimeDelta) {
        let joined: Intervals = stay.listened.iter().map(|listened| listened.interval).collect();
        joined.shortened(width).iter().for_each(|interval| self.others.add(*interval));
        let causes = stay.listened.iter().filter_map(|Listened { interval, after }| {
            let shortened = interval.shortened(width)?;
            Some((shortened.from, (*after)?))
        });
        for (from, cause) in causes {
            self.causes.entry(from).or_insert(cause);
        }
        self.others_width = self.others_width.max(width);
        if stay.is_open() {
            self.beside_width = self.beside_width.max(width);
        }
    }
}

impl Intervals {
    /// The intervals without `width` at both ends. Those that touch are one, of which only the
    /// ends are uncertain.
    fn shortened(&self, width: TimeDelta) -> Self {
        self.iter().filter_map(|interval| interval.shortened(width)).collect()
    }
}

impl Interval {
    /// The interval without `width` at both ends. `None` if nothing is left.
    pub(super) fn shortened(&self, width: TimeDelta) -> Option<Self> {
        let from = self.from.checked_add_signed(width)?;
        let until = self.until.checked_sub_signed(width)?;
        (from <= until).then_some(Self { from, until })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::intervals::tests::{at, interval};
    use super::*;
    use crate::domain::GapCause;

    const SECOND: Duration = Duration::from_secs(1);

    pub(in crate::domain::coverage) fn clock(offset: i64) -> ClockOffset {
        ClockOffset { offset: TimeDelta::milliseconds(offset), spread: TimeDelta::zero() }
    }

    /// A stay without a share group that lasted for all of its intervals.
    pub(in crate::domain::coverage) fn stay(
        listener: i64,
        instance: &str,
        offset: i64,
        listened: &[(i64, i64)],
    ) -> Stay {
        let ends = listened.iter().map(|&(_, until)| until).max();
        let listened = listened.iter().map(|&(from, until)| Listened {
            interval: interval(from, until),
            after: Some(GapCause::Disconnected),
        });
        Stay {
            listener,
            instance: instance.to_owned(),
            clock: clock(offset),
            share_group: None,
            timeline: String::new(),
            subscription: None,
            joined_at: at(0),
            left_at: Some(at(ends.unwrap_or_default())),
            ended_by_itself: false,
            listened: listened.collect(),
        }
    }

    fn of(stays: &[Stay]) -> Coverage {
        Coverage::of_stays(5 * SECOND, stays, Judge::named("a", stays))
    }

    #[test]
    fn an_instance_alone_counts_all_of_its_stays_as_they_are() {
        let coverage = of(&[stay(1, "a", 300, &[(0, 10)]), stay(2, "a", -300, &[(20, 30)])]);
        let before = Coverage::new(5 * SECOND).with([(0, 10), (20, 30)].map(|(from, until)| {
            Listened { interval: interval(from, until), after: Some(GapCause::Disconnected) }
        }));
        assert_eq!(coverage, before);
    }

    #[test]
    fn what_another_clock_has_measured_counts_as_far_as_it_is_certain() {
        let coverage = of(&[
            stay(1, "b", 900, &[(0, 50), (50, 100), (200, 201)]),
            stay(2, "a", 0, &[(97, 120)]),
        ]);
        let list: Vec<_> = coverage.intervals().iter().copied().collect();
        assert_eq!(list, [interval(1, 120)], "1 s less, joined first, and one too short to count");
        assert_eq!(coverage.width(), TimeDelta::seconds(1));
    }

    #[test]
    fn a_device_is_silent_once_its_timeout_and_the_width_were_listened_to() {
        let coverage = of(&[stay(1, "b", 900, &[(0, 101)]), stay(2, "a", 0, &[(99, 200)])]);
        let cutoffs = coverage.cutoffs(at(200), 20 * SECOND, &[]);
        assert_eq!(cutoffs.default.instant, Some(at(179)));
        assert_eq!(cutoffs.default.timeout, 20 * SECOND);
    }

    #[test]
    fn a_clock_that_was_set_during_a_stay_differs_by_that_much_more() {
        let set = ClockOffset { spread: TimeDelta::seconds(9), ..clock(0) };
        assert_eq!(set.width(clock(900)), TimeDelta::seconds(10));
        let damaged = ClockOffset { offset: TimeDelta::MAX, spread: TimeDelta::MAX };
        assert_eq!(damaged.width(clock(-900)), TimeDelta::MAX);
        let stays =
            [stay(1, "a", 0, &[(0, 10)]), Stay { clock: damaged, ..stay(2, "b", 0, &[(0, 9)]) }];
        assert_eq!(
            of(&stays).intervals().iter().count(),
            1,
            "what nothing is certain of is left out"
        );
    }

    #[test]
    fn an_open_stay_that_has_proven_nothing_counts_for_the_width() {
        let standby = Stay { left_at: None, ..stay(2, "b", 1_900, &[]) };
        let coverage = of(&[stay(1, "a", 0, &[(0, 10)]), standby]);
        assert_eq!(coverage.width(), TimeDelta::seconds(2));
        let gone = stay(2, "b", 1_900, &[]);
        assert_eq!(of(&[stay(1, "a", 0, &[(0, 10)]), gone]).width(), TimeDelta::zero());
    }

    /// A stay that listened to this topic, at so many nodes.
    pub(in crate::domain::coverage) fn of_topic(topic: &str, nodes: usize, stay: Stay) -> Stay {
        let entry_urls: Vec<_> =
            (0..nodes).map(|node| format!("mqtt://node-{node}:1883")).collect();
        let broker = entry_urls.first().cloned();
        let subscription = Subscription { topic: topic.to_owned(), broker, entry_urls };
        Stay { subscription: Some(subscription), ..stay }
    }

    #[test]
    fn only_what_was_proven_of_the_same_subscription_counts() {
        let of_it = |stay| of_topic("devices/+/heartbeat", 2, stay);
        let stays = [
            stay(1, "a", 0, &[(0, 10)]),
            of_it(stay(2, "a", 0, &[(20, 30)])),
            of_topic("halls/+/heartbeat", 2, stay(3, "a", 0, &[(20, 110)])),
            of_topic("devices/+/heartbeat", 1, stay(4, "b", 0, &[(20, 110)])),
            of_it(stay(5, "b", 0, &[(40, 60)])),
            of_it(stay(6, "a", 0, &[(100, 110)])),
        ];
        let by = |stays: &[Stay]| {
            let judge = Judge::named("a", stays);
            let coverage = Coverage::of_stays(5 * SECOND, stays, judge);
            coverage.intervals().iter().map(|i| (i.from, i.until)).collect::<Vec<_>>()
        };
        let tenth = TimeDelta::milliseconds(100);
        let shared = (at(40) + tenth, at(60) - tenth);
        let whole = |from, until| (at(from), at(until));
        // The first is of an earlier version, which did not say to what it listened.
        assert_eq!(by(&stays), [whole(0, 10), whole(20, 30), shared, whole(100, 110)]);
        assert_eq!(by(&stays[..3]), [whole(0, 10), whole(20, 110)]);
    }

    #[test]
    fn a_gap_between_two_listeners_has_the_cause_of_the_later_one() {
        let coverage =
            of(&[stay(1, "b", -900, &[(0, 10), (20, 30)]), stay(2, "a", 0, &[(40, 50)])]);
        let gaps = coverage.gaps(at(0), at(50));
        let causes: Vec<_> = gaps.iter().map(|gap| (gap.interval, gap.cause)).collect();
        let cause = Some(GapCause::Disconnected);
        let expected =
            [(interval(0, 1), cause), (interval(9, 21), cause), (interval(29, 40), cause)];
        assert_eq!(causes, expected);
    }

    const SPAN: i64 = 60;

    fn some_stay() -> impl Strategy<Value = (bool, i64, Vec<(i64, i64)>)> {
        let listened = vec((0..SPAN, 0..20_i64), 0..5);
        (any::<bool>(), -3_i64..4, listened).prop_map(|(own, offset, list)| {
            (own, offset, list.into_iter().map(|(from, length)| (from, from + length)).collect())
        })
    }

    proptest! {
        /// The model: instances whose clocks differ from the true time by whole seconds. A
        /// second counts only if some listener was truly listening in it.
        #[test]
        fn a_second_counts_only_if_some_listener_has_proven_it_whatever_its_clock_shows(
            some in vec(some_stay(), 1..5),
        ) {
            // The judge's clock is the true one, and so are those of its own stays.
            let stays: Vec<_> = some.iter().enumerate().map(|(number, (own, offset, list))| {
                let offset = if *own { 0 } else { *offset };
                let shifted: Vec<_> =
                    list.iter().map(|(from, until)| (from + offset, until + offset)).collect();
                let instance = if *own { "a".to_owned() } else { format!("b{number}") };
                stay(number as i64, &instance, offset * 1000, &shifted)
            }).collect();
            let judge = Judge { instance: "a", clock: ClockOffset::default(), subscription: None };
            let coverage = Coverage::of_stays(5 * SECOND, &stays, judge);
            for tenth in -50..10 * (SPAN + 25) {
                let instant = at(0) + TimeDelta::milliseconds(100 * tenth);
                let counts = |interval: &Interval| {
                    interval.from <= instant && instant <= interval.until
                };
                let truly = some.iter().any(|(_, _, list)| {
                    list.iter().any(|&(from, until)| counts(&interval(from, until)))
                });
                let counted = coverage.intervals().iter().any(counts);
                prop_assert!(truly || !counted, "{} counts", instant);
            }
        }

        #[test]
        fn without_differing_clocks_the_union_counts_but_for_the_ends(
            some in vec(some_stay(), 1..5),
        ) {
            let stays: Vec<_> = some.iter().enumerate().map(|(number, (_, _, list))| {
                stay(number as i64, &format!("b{number}"), 0, list)
            }).collect();
            let judge = Judge { instance: "a", clock: ClockOffset::default(), subscription: None };
            let coverage = Coverage::of_stays(5 * SECOND, &stays, judge);
            for second in 0..SPAN + 20 {
                let instant = at(second) + TimeDelta::milliseconds(500);
                let counts = |i: &Interval| i.from <= instant && instant <= i.until;
                let proven = some.iter().any(|(_, _, list)| {
                    list.iter().any(|&(from, until)| counts(&interval(from, until)))
                });
                prop_assert_eq!(coverage.intervals().iter().any(counts), proven);
            }
        }
    }
}
