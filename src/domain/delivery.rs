//! Rules for delivering the outbox: the size of a page, and an alert that the sink never
//! takes.
//!
//! Alerts, and recoveries likewise, go out in the order of their sequence numbers. A page has
//! one kind only. A page that fails is halved
//! until the alert at its head is alone. If that alert fails again and again, the next one
//! is tried. A sink that takes neither is out of order and gets both later. A sink that
//! takes the next one and then refuses the head once more will never take the head, which is
//! given up for the sake of the others.
//!
//! Recoveries prove nothing against an alert, because they may go to another sink. So that they
//! do not wait for ever behind an alert that is refused while no other alert comes, they go past
//! it, and it stays where it is.
//!
//! Each delivery is noted in the database before it begins, so that a delivery over which
//! the process dies counts as failed.

use std::time::Duration;

use super::IdempotencyKey;

/// The maximum number of alerts that are delivered at once. Bounds the memory of a delivery.
pub const MAX_PAGE: usize = 10_000;

/// The number of times that an alert is delivered alone before the next one is tried.
pub const TRIES: u32 = 5;

/// The longest pause between two deliveries that fail.
pub const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A delivery that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The key of the first alert in the outbox.
    pub head: IdempotencyKey,
    /// The number of alerts that were delivered with it.
    pub size: usize,
    /// The number of times that the head was delivered alone.
    pub tries: u32,
    /// The progress in finding out whether the head or the sink is to blame.
    pub probe: Probe,
}

/// The progress in finding out whether an alert or the sink is to blame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// Nothing has been tried yet.
    #[default]
    Not,
    /// Recoveries were about to be delivered past the head.
    Passing,
    /// The alert after the head was about to be delivered.
    UnderWay,
    /// The alert after the head was delivered.
    Delivered,
    /// The head was about to be delivered once more after that.
    Retried,
}

/// The next thing to do with the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Deliver the first `size` alerts of this attempt.
    Page(Attempt),
    /// Deliver the recoveries that may go past the head.
    Pass(Attempt),
    /// Deliver the alert after the head.
    Probe(Attempt),
    /// Give up the head.
    GiveUp,
}

/// The deliveries that can precede a refused head. They only matter if [`asks_for_another`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// True if something is there that proves that the head is to blame if it is taken.
    pub another: bool,
    /// True if the head is an alert and recoveries may go past it.
    pub recoveries: bool,
}

/// Decides what to do with an outbox that begins with `head` and `run - 1` others of its kind, of
/// which at most `limit` go at once. `last` is the delivery that was begun last. If it has the
/// same head, it failed. An alert with the same number on another timeline is another head: a
/// process that was delivering when the database lost commits may have noted a head that is lost.
pub fn next(
    last: Option<Attempt>,
    head: IdempotencyKey,
    run: usize,
    beside: Beside,
    limit: usize,
) -> Step {
    let fresh = Attempt { head, size: run.min(limit), tries: 0, probe: Probe::Not };
    let Some(last) = last.filter(|last| last.head == head) else {
        return Step::Page(Attempt { tries: u32::from(fresh.size == 1), ..fresh });
    };
    if last.size > 1 {
        let size = fresh.size.min(last.size / 2);
        return Step::Page(Attempt { size, tries: u32::from(size == 1), ..fresh });
    }
    let again = Attempt { tries: last.tries.saturating_add(1), ..last };
    match last.probe {
        Probe::Not if last.tries >= TRIES && beside.recoveries => {
            Step::Pass(Attempt { probe: Probe::Passing, ..last })
        }
        // If the recoveries were refused, the head does not wait for them either.
        Probe::Not | Probe::Passing if last.tries >= TRIES && beside.another => {
            Step::Probe(Attempt { probe: Probe::UnderWay, ..last })
        }
        Probe::Not | Probe::Passing => Step::Page(Attempt { probe: Probe::Not, ..again }),
        // The sink took neither, so it is to blame.
        Probe::UnderWay => Step::Page(Attempt { tries: 1, probe: Probe::Not, ..last }),
        Probe::Delivered => Step::Page(Attempt { probe: Probe::Retried, ..again }),
        Probe::Retried => Step::GiveUp,
    }
}

/// True if `head` was delivered alone often enough that something else is tried, if there is
/// anything.
///
/// If there is nothing, earlier processes may have died over this alert, again and again. That
/// cannot be found out then, and the delivery is not urgent.
pub fn asks_for_another(last: Option<Attempt>, head: IdempotencyKey) -> bool {
    let undecided = |probe| matches!(probe, Probe::Not | Probe::Passing);
    let alone = |last: Attempt| last.size == 1 && last.tries >= TRIES && undecided(last.probe);
    last.is_some_and(|last| last.head == head && alone(last))
}

/// The size of a delivery, and the pause that a failing sink is given.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    limit: usize,
    most: usize,
    failures: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self::of_at_most(MAX_PAGE)
    }
}

impl Pace {
    /// The pace of a courier that never delivers more than `most` alerts at once.
    pub fn of_at_most(most: usize) -> Self {
        Self { limit: most, most, failures: 0 }
    }

    /// The maximum number of alerts in the next delivery.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Notes that `size` alerts were taken. `late` is true if that took longer than allowed.
    pub fn took(&mut self, size: usize, late: bool) {
        self.failures = 0;
        self.passed(size, late);
    }

    /// Notes the same of recoveries that went past an alert. The alert sink may still fail, and
    /// is left alone for as long as before.
    pub fn passed(&mut self, size: usize, late: bool) {
        if late {
            self.limit = (size / 2).max(1);
        } else if size >= self.limit {
            self.limit = self.limit.saturating_mul(2).min(self.most);
        }
    }

    /// Notes that a delivery of `size` alerts failed. Returns the pause before the next one.
    pub fn failed(&mut self, size: usize) -> Duration {
        self.limit = (size / 2).max(1);
        let pause = Duration::from_secs(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        pause.min(MAX_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DatabaseTimeline;

    fn key(sequence: i64) -> IdempotencyKey {
        IdempotencyKey { timeline: DatabaseTimeline::NONE, sequence }
    }

    /// Delivers alerts with numbers from 1 up to a sink that takes an alert in a turn if
    /// `takes` says so. Returns the alerts that were taken, in order, and those that were
    /// given up.
    fn deliver(
        alerts: i64,
        takes: impl Fn(i64, usize) -> bool,
        turns: usize,
    ) -> (Vec<i64>, Vec<i64>) {
        let mut outbox: Vec<i64> = (1..=alerts).collect();
        let (mut taken, mut given_up) = (Vec::new(), Vec::new());
        let (mut pace, mut last) = (Pace::default(), None);
        for turn in 0..turns {
            let Some(&head) = outbox.first() else { break };
            let beside = Beside { another: outbox.len() > 1, recoveries: false };
            match next(last, key(head), outbox.len(), beside, pace.limit()) {
                Step::Page(attempt) => {
                    last = Some(attempt);
                    if outbox[..attempt.size].iter().all(|alert| takes(*alert, turn)) {
                        taken.extend(outbox.drain(..attempt.size));
                        pace.took(attempt.size, false);
                    } else {
                        pace.failed(attempt.size);
                    }
                }
                Step::Probe(attempt) => {
                    last = Some(attempt);
                    if takes(outbox[1], turn) {
                        taken.push(outbox.remove(1));
                        last = Some(Attempt { probe: Probe::Delivered, ..attempt });
                    }
                }
                Step::Pass(attempt) => panic!("there are no recoveries for {attempt:?}"),
                Step::GiveUp => given_up.push(outbox.remove(0)),
            }
        }
        (taken, given_up)
    }

    #[test]
    fn alerts_go_out_in_order_and_all_at_once() {
        assert_eq!(deliver(3, |_, _| true, 1), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn one_alert_that_is_never_taken_is_given_up_and_all_others_arrive() {
        for bad in [1, 2, 700, 1000] {
            let (mut taken, given_up) = deliver(1000, |alert, _| alert != bad, 200);
            assert_eq!(given_up, if bad == 1000 { vec![] } else { vec![bad] });
            taken.sort_unstable();
            let others: Vec<_> = (1..=1000).filter(|alert| *alert != bad).collect();
            assert_eq!(taken, others, "bad: {bad}");
        }
    }

    #[test]
    fn a_sink_that_is_out_of_order_for_a_long_time_loses_nothing() {
        for back in [1, 7, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50] {
            let (mut taken, given_up) = deliver(5, |_, turn| turn >= back, 100);
            assert!(given_up.is_empty(), "back at turn {back}: {given_up:?}");
            taken.sort_unstable();
            assert_eq!(taken, [1, 2, 3, 4, 5], "back at turn {back}");
        }
    }

    #[test]
    fn a_process_that_dies_while_it_probes_blames_the_sink() {
        let probing = Attempt { head: key(1), size: 1, tries: TRIES, probe: Probe::UnderWay };
        let again = Attempt { tries: 1, probe: Probe::Not, ..probing };
        let beside = Beside { another: true, recoveries: true };
        assert_eq!(next(Some(probing), key(1), 9, beside, MAX_PAGE), Step::Page(again));
    }

    #[test]
    fn what_was_noted_of_an_alert_on_a_lost_timeline_is_not_held_against_another_one() {
        let timeline = "00000002".parse().expect("a timeline");
        let head = IdempotencyKey { timeline, ..key(1) };
        let beside = Beside { another: true, recoveries: true };
        for probe in [Probe::Not, Probe::Passing, Probe::UnderWay, Probe::Delivered, Probe::Retried]
        {
            let lost = Some(Attempt { head: key(1), size: 1, tries: TRIES, probe });
            let first = Attempt { head, size: 1, tries: 1, probe: Probe::Not };
            assert_eq!(next(lost, head, 1, beside, MAX_PAGE), Step::Page(first), "{probe:?}");
            assert!(!asks_for_another(lost, head), "{probe:?}");
        }
    }

    /// The steps with a head that is never taken, from its first failure alone on. Recoveries
    /// are always there, and taken if `passes`.
    fn steps_of_a_refused_alert(another: bool, passes: bool, count: usize) -> String {
        let mut last = Attempt { head: key(1), size: 1, tries: 1, probe: Probe::Not };
        let mut steps = String::new();
        for _ in 0..count {
            let beside = Beside { another, recoveries: !steps.ends_with("ww") };
            let (step, next) = match next(Some(last), key(1), 1, beside, MAX_PAGE) {
                Step::Page(attempt) => ('.', attempt),
                Step::Pass(attempt) if passes => ('w', Attempt { probe: Probe::Not, ..attempt }),
                Step::Pass(attempt) => ('x', attempt),
                Step::Probe(attempt) => ('p', Attempt { probe: Probe::Delivered, ..attempt }),
                Step::GiveUp => ('g', last),
            };
            steps.push(step);
            last = next;
        }
        steps
    }

    #[test]
    fn recoveries_pass_an_alert_that_was_refused_often_enough_and_prove_nothing() {
        assert_eq!(steps_of_a_refused_alert(false, true, 13), "....ww.ww.ww.");
        assert_eq!(steps_of_a_refused_alert(true, true, 9), "....wwp.g");
    }

    #[test]
    fn recoveries_that_are_refused_keep_no_alert_back() {
        assert_eq!(steps_of_a_refused_alert(false, false, 10), "....x.x.x.");
        assert_eq!(steps_of_a_refused_alert(true, false, 8), "....xp.g");
    }

    #[test]
    fn recoveries_that_pass_leave_the_pause_of_a_failing_sink_as_it_is() {
        let mut pace = Pace::default();
        pace.failed(1);
        pace.passed(1, false);
        assert_eq!((pace.limit(), pace.failed(1)), (2, Duration::from_secs(2)));
    }

    #[test]
    fn pages_shrink_when_the_sink_is_slow_and_grow_again() {
        let mut pace = Pace::default();
        pace.took(3, false);
        assert_eq!(pace.limit(), MAX_PAGE, "a short page proves nothing");
        pace.took(1000, true);
        assert_eq!(pace.limit(), 500);
        pace.took(500, false);
        assert_eq!(pace.limit(), 1000);
    }

    #[test]
    fn a_sink_that_fails_is_left_alone_for_longer_and_longer() {
        let mut pace = Pace::default();
        let pauses: Vec<_> = (0..8).map(|_| pace.failed(1).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.took(1, false);
        assert_eq!(pace.failed(1), Duration::from_secs(1));
    }
}
