//! Logs one line for one step of the clock.
//!
//! A heartbeat, an echo and a check each notice a step, and each knows a part of it: the
//! amount, the gap, the devices that were last seen in what is now the future. The step is
//! logged once a check has succeeded and something was proven after it, or when that takes
//! too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use log::{info, warn};

use super::TARGET;
use crate::board::ClockSet;
use crate::domain::{ClockStep, GapCause, Interval, Reading};
use crate::logging::instant;
use crate::views::text;

/// The time that a step may wait to be logged. Longer than the default
/// `heartbeat.check_interval`.
const TOLD_WITHIN: Duration = Duration::from_secs(90);

/// The number of checks, successful or not, after which a step is logged even if not
/// everything is known about it.
const CHECKS: u32 = 2;

/// The step that was noticed last, until it is logged.
#[derive(Default)]
pub(super) struct ClockSteps {
    untold: Option<Step>,
    /// The number of devices that were clamped and not logged yet. A sweep counts them.
    clamped: Arc<AtomicU64>,
}

/// A step of the clock, with everything that is known about it so far.
struct Step {
    noticed: Instant,
    /// The time that the clock showed when the step was noticed.
    at: DateTime<Utc>,
    /// The last reading before it.
    before: Option<Reading>,
    /// The amount by which the clock was set; negative if it was set back.
    by: Option<TimeDelta>,
    /// The time in which no silence counts because of it.
    gap: Option<Interval>,
    /// True once something was proven after it.
    proven: bool,
    /// The number of checks that have ended since then.
    checks: u32,
}

/// A step that is to be logged, with everything that is known about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Told {
    at: DateTime<Utc>,
    by: Option<TimeDelta>,
    gap: Option<Interval>,
    devices: u64,
}

impl ClockSteps {
    /// The counter of the devices that a sweep clamps.
    pub(super) fn clamped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.clamped)
    }

    /// Notes a step. Returns an earlier one that this one is not part of.
    #[must_use]
    pub(super) fn note(&mut self, ClockStep { by, at, before }: ClockStep) -> Option<Told> {
        let is_other = |known: TimeDelta| (known < TimeDelta::zero()) != (by < TimeDelta::zero());
        let other = self.untold.as_ref().and_then(|step| step.by).is_some_and(is_other);
        let told = if other { self.take() } else { None };
        let step = self.untold.get_or_insert_with(|| Step::noticed(at));
        // An observer that noticed it later sees only a part of the amount.
        step.by = step.by.into_iter().chain([by]).max_by_key(TimeDelta::abs);
        step.before = step.before.or(before);
        told
    }

    /// The facts known so far of a step that is not logged yet.
    pub(super) fn known(&self) -> Option<ClockSet> {
        let Step { at, by, .. } = self.untold.as_ref()?;
        Some(ClockSet { at: *at, by: (*by)? })
    }

    /// Notes the gap that a step has caused. Returns an earlier step that this one is not
    /// part of.
    #[must_use]
    pub(super) fn note_gap(&mut self, gap: Interval) -> Option<Told> {
        let other = self.untold.as_ref().is_some_and(|step| step.gap.is_some());
        let told = if other { self.take() } else { None };
        let step = self.untold.get_or_insert_with(|| Step::noticed(gap.until));
        step.gap = Some(gap);
        told
    }

    /// Notes that something was proven. Returns a step about which everything is now known.
    #[must_use]
    pub(super) fn proven(&mut self) -> Option<Told> {
        self.untold.as_mut()?.proven = true;
        self.take_if_known()
    }

    /// Notes the end of a check that began at `now`. Returns a step about which everything is
    /// now known.
    #[must_use]
    pub(super) fn checked(&mut self, now: Reading) -> Option<Told> {
        let step = self.untold.as_mut()?;
        step.checks += 1;
        step.measure(now);
        self.take_if_known()
    }

    /// Returns a step that has waited for too long.
    #[must_use]
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Told> {
        let step = self.untold.as_ref()?;
        let due = now.saturating_duration_since(step.noticed) >= TOLD_WITHIN;
        if due { self.take() } else { None }
    }

    /// Returns the step with what is known so far, because nothing more may follow.
    #[must_use]
    pub(super) fn take(&mut self) -> Option<Told> {
        let Step { at, by, gap, .. } = self.untold.take()?;
        Some(Told { at, by, gap, devices: self.clamped.swap(0, Ordering::Relaxed) })
    }

    fn take_if_known(&mut self) -> Option<Told> {
        let step = self.untold.as_ref()?;
        let known = step.checks > 0 && step.proven && step.by.is_some();
        if known || step.checks >= CHECKS { self.take() } else { None }
    }

    /// Logs devices that were clamped without a step. The clock was set back while no
    /// service ran, or the step was logged before a check succeeded.
    pub(super) fn tell_of_others(&self) {
        if self.untold.is_some() {
            return;
        }
        let devices = self.clamped.swap(0, Ordering::Relaxed);
        if devices > 0 {
            info!(
                target: TARGET, devices;
                "counted as seen now: their last_seen_at was in the future of the clock"
            );
        }
    }
}

impl Step {
    fn noticed(at: DateTime<Utc>) -> Self {
        let (noticed, before, by, gap) = (Instant::now(), None, None, None);
        Self { noticed, at, before, by, gap, proven: false, checks: 0 }
    }

    /// Replaces the least amount by the exact one, which follows from the readings before and
    /// after.
    fn measure(&mut self, now: Reading) {
        let measured = self.before.and_then(|before| now.set_since(&before));
        if let (Some(by), Some(measured)) = (self.by, measured)
            && (by < TimeDelta::zero()) == (measured < TimeDelta::zero())
        {
            self.by = Some(measured);
        }
    }
}

impl Told {
    /// The step as people are told it. `None` if only its gap is known.
    pub(super) fn known(self) -> Option<ClockSet> {
        Some(ClockSet { at: self.at, by: self.by? })
    }

    pub(super) fn tell(self) {
        let Self { at, by, gap, devices } = self;
        let amount = by.or(gap.map(|gap| gap.length())).unwrap_or_default();
        let seconds = amount.num_milliseconds().abs() as f64 / 1000.0;
        let in_words = text::duration(rounded(amount.abs()));
        let what = match by {
            Some(by) if by < TimeDelta::zero() => format!(
                "the clock was set back by {in_words}; devices last seen in its future count as \
                 seen now"
            ),
            Some(_) => format!(
                "the clock was set forward by {in_words}, or the machine slept; the step counts \
                 as no silence"
            ),
            None => format!("{}; no device's silence counts in this time", GapCause::ClockStep),
        };
        let at = instant(at);
        match gap {
            None => warn!(target: TARGET, seconds, at, devices; "{what}"),
            Some(gap) => {
                let (from, until) = (instant(gap.from), instant(gap.until));
                warn!(target: TARGET, seconds, at, devices, blind_from = from, blind_until = until; "{what}");
            }
        }
    }
}

/// The amount of a step in whole seconds, from ten seconds on. It is measured to some
/// milliseconds, so an hour would be told as 59 min 59 s.
fn rounded(amount: TimeDelta) -> TimeDelta {
    let millis = amount.num_milliseconds();
    if millis < 10_000 { amount } else { TimeDelta::seconds(millis.saturating_add(500) / 1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).expect("small")
    }

    fn gap(from: i64, until: i64) -> Interval {
        Interval { from: at(from), until: at(until) }
    }

    fn told(
        by: Option<i64>,
        gap: Option<Interval>,
        devices: u64,
        at: DateTime<Utc>,
    ) -> Option<Told> {
        Some(Told { at, by: by.map(TimeDelta::milliseconds), gap, devices })
    }

    /// A machine. Its readings name the time that has passed and the time that its clock
    /// shows, in milliseconds.
    struct Machine(Instant);

    impl Machine {
        fn reading(&self, passed: u64, shows: i64) -> Reading {
            Reading { wall: at(shows), monotonic: self.0 + Duration::from_millis(passed) }
        }
    }

    fn step(by: TimeDelta, at: DateTime<Utc>, before: Option<Reading>) -> ClockStep {
        ClockStep { by, at, before }
    }

    const BACK: TimeDelta = TimeDelta::milliseconds(-9_000);
    const FORWARD: TimeDelta = TimeDelta::milliseconds(90_000);

    #[test]
    fn a_clock_that_was_set_back_is_logged_once_with_what_several_have_noticed() {
        let machine = Machine(Instant::now());
        let mut steps = ClockSteps::default();
        // A late echo sees only a part of the amount, and so does the order of heartbeats.
        assert_eq!(steps.note(step(BACK, at(11_000), Some(machine.reading(20_000, 20_000)))), None);
        assert_eq!(steps.note(step(TimeDelta::milliseconds(-3), at(10_997), None)), None);
        assert_eq!(steps.proven(), None);
        steps.clamped().fetch_add(5, Ordering::Relaxed);
        let said = steps.checked(machine.reading(25_000, 15_000));
        assert_eq!(said, told(Some(-10_000), None, 5, at(11_000)), "measured by both clocks");
        assert_eq!((steps.take(), steps.checked(machine.reading(26_000, 16_000))), (None, None));
    }

    #[test]
    fn a_clock_that_was_set_forward_is_logged_once_with_what_was_not_listened_to() {
        let machine = Machine(Instant::now());
        for echo_first in [true, false] {
            let mut steps = ClockSteps::default();
            let blind = gap(20_000, 110_000);
            let before = Some(machine.reading(20_000, 20_000));
            if echo_first {
                assert_eq!((steps.note_gap(blind), steps.proven()), (None, None));
                assert_eq!(steps.note(step(FORWARD, at(111_000), before)), None);
                let said = steps.checked(machine.reading(21_000, 111_000));
                assert_eq!(said, told(Some(90_000), Some(blind), 0, at(110_000)));
            } else {
                assert_eq!(steps.note(step(FORWARD, at(110_500), before)), None);
                assert_eq!(steps.checked(machine.reading(20_500, 110_500)), None, "no proof yet");
                assert_eq!(steps.note_gap(blind), None);
                assert_eq!(steps.proven(), told(Some(90_000), Some(blind), 0, at(110_500)));
            }
        }
    }

    #[test]
    fn a_step_forward_and_a_step_back_are_two() {
        let mut steps = ClockSteps::default();
        assert_eq!(steps.note(step(FORWARD, at(99_000), None)), None);
        assert_eq!(
            steps.note(step(-FORWARD, at(9_500), None)),
            told(Some(90_000), None, 0, at(99_000))
        );
        assert_eq!(steps.take(), told(Some(-90_000), None, 0, at(9_500)));
        let gaps = [gap(1, 2), gap(3, 4)];
        assert_eq!(steps.note_gap(gaps[0]), None);
        assert_eq!(steps.note_gap(gaps[1]), told(None, Some(gaps[0]), 0, at(2)));
    }

    #[test]
    fn a_step_about_which_nothing_more_becomes_known_is_logged_after_two_checks_or_in_time() {
        let machine = Machine(Instant::now());
        let mut steps = ClockSteps::default();
        assert_eq!(steps.note(step(BACK, at(11_000), None)), None);
        assert_eq!(steps.checked(machine.reading(25_000, 15_000)), None);
        let said = steps.checked(machine.reading(26_000, 16_000));
        assert_eq!(said, told(Some(-9_000), None, 0, at(11_000)));
        assert_eq!(steps.note(step(BACK, at(11_000), None)), None);
        assert_eq!(steps.overdue(Instant::now()), None);
        let late = Instant::now() + TOLD_WITHIN;
        assert_eq!(steps.overdue(late), told(Some(-9_000), None, 0, at(11_000)));
    }
}
