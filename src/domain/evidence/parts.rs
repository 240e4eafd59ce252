//! The parts of a silence: what was listened to, and what was not. Together they are the whole.
//!
//! ```text
//! silence   [================================================]  the check
//! listened  [======]        [=========]
//! gaps              [stopped]          [not proven yet at the check]
//!                                     known until
//! ```
//!
//! Today more is proven than at the check: the echo that proves its newest seconds comes after it.
//! Those seconds did not count, so they are a gap of the evidence, although there is none in what
//! was listened to.

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::{Coverage, Gap, Interval};

/// The time by which what was listened to may seem shorter than at the check: clocks are measured
/// again and again, and the ends of what other instances have proven move with them.
const MEASURED_AGAIN: TimeDelta = TimeDelta::milliseconds(100);

/// The parts of a silence that were not listened to, as of the check that judged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// They are as long as the silence without what was listened to.
    pub(super) gaps: Vec<Gap>,
    /// The end of what was known at the check. A gap of an unknown cause that begins there or
    /// later was not proven yet.
    pub(super) known_until: DateTime<Utc>,
}

impl Parts {
    /// The parts of a silence of which so much was `listened` to, by what is known today. `None` if
    /// that is less than was known at the check, so that it is not known any more which parts those
    /// were.
    pub(super) fn of(silence: Interval, listened: TimeDelta, coverage: &Coverage) -> Option<Self> {
        let covered = coverage.intervals().within(silence);
        let known_until = reached(&covered, listened, silence.from)?;
        let later = Interval { from: known_until, until: silence.until };
        let proven_later = covered.iter().filter_map(|interval| interval.within(&later));
        let proven_later = proven_later.filter(|interval| interval.from < interval.until);
        let mut gaps = coverage.gaps(silence.from, silence.until);
        gaps.extend(proven_later.map(|interval| Gap::new(interval, None)));
        gaps.sort_by_key(|gap| gap.interval.from);
        Some(Self { gaps: joined(gaps, known_until), known_until })
    }
}

/// The instant at which so much of the covered time had passed; the beginning of the silence if
/// nothing was listened to. `None` if there is less.
fn reached(
    covered: &[Interval],
    listened: TimeDelta,
    silent_since: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let (mut missing, mut reached) = (listened, silent_since);
    for interval in covered {
        if missing <= TimeDelta::zero() {
            break;
        }
        reached = interval.from + missing.min(interval.length());
        missing -= interval.length();
    }
    (missing <= MEASURED_AGAIN).then_some(reached)
}

/// The gaps, of which those that touch and were not proven yet are one.
fn joined(gaps: Vec<Gap>, known_until: DateTime<Utc>) -> Vec<Gap> {
    let is_awaited = |gap: &Gap| gap.cause.is_none() && gap.interval.from >= known_until;
    let mut joined: Vec<Gap> = Vec::with_capacity(gaps.len());
    for gap in gaps {
        match joined.last_mut().filter(|last| is_awaited(last) && is_awaited(&gap)) {
            Some(last) if last.interval.until == gap.interval.from => {
                *last = Gap::new(Interval { until: gap.interval.until, ..last.interval }, None);
            }
            _ => joined.push(gap),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{ClockOffset, GapCause, Judge, Listened, Stay};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("small")
    }

    fn interval(from: i64, until: i64) -> Interval {
        Interval { from: at(from), until: at(until) }
    }

    fn coverage(listened: &[(i64, i64)]) -> Coverage {
        let listened = listened.iter().map(|&(from, until)| Listened {
            interval: interval(from, until),
            after: Some(GapCause::Stopped),
        });
        Coverage::new(SECOND).with(listened)
    }

    /// The parts of the silence from 0 to 100.
    fn parts(listened: i64, coverage: &Coverage) -> Option<Vec<(i64, i64, bool)>> {
        let parts = Parts::of(interval(0, 100), TimeDelta::seconds(listened), coverage)?;
        let told = |gap: &Gap| {
            let Interval { from, until } = gap.interval;
            (from.timestamp(), until.timestamp(), gap.cause.is_some())
        };
        Some(parts.gaps.iter().map(told).collect())
    }

    #[test]
    fn what_was_proven_after_the_check_did_not_count() {
        let known = coverage(&[(-10, 20), (50, 200)]);
        assert_eq!(parts(65, &known), Some(vec![(20, 50, true), (95, 100, false)]));
        assert_eq!(parts(70, &known), Some(vec![(20, 50, true)]));
        assert_eq!(parts(0, &known), Some(vec![(0, 20, false), (20, 50, true), (50, 100, false)]));
        assert_eq!(parts(20, &known), Some(vec![(20, 50, true), (50, 100, false)]));
    }

    #[test]
    fn the_newest_seconds_are_one_gap_even_if_only_some_of_them_are_proven_today() {
        assert_eq!(parts(80, &coverage(&[(0, 95)])), Some(vec![(80, 100, false)]));
        assert_eq!(parts(95, &coverage(&[(0, 95)])), Some(vec![(95, 100, false)]));
    }

    #[test]
    fn of_a_silence_of_which_less_is_known_than_then_no_parts_are_known() {
        assert_eq!(parts(96, &coverage(&[(0, 95)])), None);
        assert_eq!(parts(1, &Coverage::new(SECOND)), None);
        let measured_again = TimeDelta::seconds(95) + MEASURED_AGAIN;
        assert!(Parts::of(interval(0, 100), measured_again, &coverage(&[(0, 95)])).is_some());
    }

    const SPAN: i64 = 60;

    type SomeStay = (bool, i64, Option<i64>, Vec<(i64, i64)>);

    fn some_stay() -> impl Strategy<Value = SomeStay> {
        let listened = vec((0..SPAN, 1..20_i64), 0..4);
        (any::<bool>(), 0..SPAN, proptest::option::of(0..SPAN), listened)
    }

    /// The stays of a group, and of listeners that hear everything.
    fn stays(some: &[SomeStay]) -> Vec<Stay> {
        let stays = some.iter().zip(1..).map(|((is_member, joined, lasts, listened), listener)| {
            let listened = listened.iter().map(|&(from, length)| Listened {
                interval: interval(from, from + length),
                after: Some(GapCause::NoEcho),
            });
            Stay {
                listener,
                instance: format!("hall-{listener}"),
                clock: ClockOffset::default(),
                share_group: is_member.then(|| "fleet".to_owned()),
                timeline: String::new(),
                subscription: None,
                joined_at: at(*joined),
                left_at: lasts.map(|lasts| at(joined + lasts)),
                ended_by_itself: false,
                listened: listened.collect(),
            }
        });
        stays.collect()
    }

    proptest! {
        #[test]
        fn what_was_listened_to_and_the_gaps_make_up_the_silence(
            some in vec(some_stay(), 0..5),
            (since, lasts) in (0..SPAN, 0..SPAN),
            at_the_check in 0..=100_i32,
        ) {
            let stays = stays(&some);
            let coverage = Coverage::of_stays(SECOND, &stays, Judge::named("hall-1", &stays));
            let silence = interval(since, since + lasts);
            let today = coverage.intervals().covered(silence.from, silence.until);
            let listened = today * at_the_check / 100;
            let parts = Parts::of(silence, listened, &coverage).expect("no less is known");
            let missed: TimeDelta = parts.gaps.iter().map(|gap| gap.interval.length()).sum();
            prop_assert_eq!(listened + missed, silence.length());
            let within = parts.gaps.iter().all(|gap| {
                silence.from <= gap.interval.from && gap.interval.until <= silence.until
            });
            prop_assert!(within, "{:?}", parts);
            for pair in parts.gaps.windows(2) {
                prop_assert!(pair[0].interval.until <= pair[1].interval.from, "{:?}", parts);
            }
            // Whatever of today's gaps has a cause is told as it is.
            let caused = |gap: &&Gap| gap.cause.is_some();
            let gaps = coverage.gaps(silence.from, silence.until);
            let told: Vec<_> = parts.gaps.iter().filter(caused).collect();
            prop_assert_eq!(told, gaps.iter().filter(caused).collect::<Vec<_>>());
        }
    }
}
