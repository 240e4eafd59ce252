//! Detects that the wall clock was set, and remembers what must therefore not be decided.
//!
//! A time base is the stretch between two settings of the clock. Times of one base can be
//! compared. A snapshot taken in an earlier base is worthless in a later one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Coverage, Heartbeat, Reading};

/// The age at which a reading is replaced as the anchor. It is bounded because the
/// tolerance grows with the time between two readings.
const ANCHORED_FOR: Duration = Duration::from_secs(10);

/// A step of the clock, as far as it is known when it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// The least amount by which the clock was set. Below zero, it was set back.
    pub by: TimeDelta,
    /// The time that the clock showed after the step.
    pub at: DateTime<Utc>,
    /// The last reading before the step, if one is certain to be older.
    pub before: Option<Reading>,
}

/// The newest readings of a clock, and the time for which it has run undisturbed.
#[derive(Clone, Debug)]
pub struct ClockWatch {
    base: u64,
    /// The latest time at which something was received in this base.
    received: Option<DateTime<Utc>>,
    /// The newest reading in this base.
    newest: Option<Reading>,
    /// The reading in this base that new ones are compared with.
    anchor: Option<Reading>,
    /// The first reading since which the two clocks have agreed.
    steady_since: Option<Reading>,
    /// True if stored heartbeats may lie in the future because the clock was set back. True
    /// at startup too: the clock may have changed while the service was down.
    clamp_due: bool,
}

impl Default for ClockWatch {
    /// A watch for a process that has just started. The clock may have been set while it
    /// was down.
    fn default() -> Self {
        Self {
            base: 0,
            received: None,
            newest: None,
            anchor: None,
            steady_since: None,
            clamp_due: true,
        }
    }
}

impl ClockWatch {
    /// The number of the current time base.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Takes a reading. If it shows that the clock was set, a new time base begins, and
    /// `coverage` forgets what the old clock called later.
    pub fn observe(&mut self, now: Reading, coverage: &mut Coverage) -> Option<ClockStep> {
        let step = self.compare(now)?;
        coverage.forget_the_future(now.wall);
        Some(step)
    }

    /// Takes heartbeats in the order of reception. A new time base begins if the clock was set
    /// back among them, or since the newest proof in `coverage`.
    ///
    /// A heartbeat that lies after the newest reading was received before it, by a clock
    /// that was set back in between. It counts as received at that reading.
    pub fn receive(
        &mut self,
        heartbeats: &mut [Heartbeat],
        coverage: &mut Coverage,
    ) -> Option<ClockStep> {
        if let Some(now) = self.now() {
            for heartbeat in heartbeats.iter_mut() {
                heartbeat.received_at = heartbeat.received_at.min(now);
            }
        }
        let times = || heartbeats.iter().map(|heartbeat| heartbeat.received_at);
        let among = self.received(times());
        let at = times().min()?;
        let by = among.max(coverage.step_back(at))?;
        self.was_set();
        // The newest reading may be from after the step already.
        Some(ClockStep { by: -by, at, before: None })
    }

    /// Begins a new time base because a proof at `at` shows that the clock was set back, by
    /// at least `by`.
    pub fn set_back(&mut self, by: TimeDelta, at: DateTime<Utc>) -> ClockStep {
        let before = self.newest;
        self.was_set();
        ClockStep { by: -by, at, before }
    }

    /// Lets `coverage` forget what is proven of the future if devices are about to be
    /// clamped into it.
    ///
    /// Otherwise, if the clock is set forward again, these devices would seem to have been
    /// silent in that proven time. A process that has crashed in between does not notice the
    /// step.
    pub fn before_clamping(&self, coverage: &mut Coverage) {
        if let (true, Some(now)) = (self.clamp_due, self.now()) {
            coverage.forget_the_future(now);
        }
    }

    /// Compares a reading with earlier ones. Returns the step between them.
    ///
    /// The two clocks of a reading belong together, so a reading may be handled late. One
    /// that is older than the newest says nothing.
    fn compare(&mut self, now: Reading) -> Option<ClockStep> {
        let before = self.newest;
        if before.is_some_and(|newest| now.monotonic < newest.monotonic) {
            return None;
        }
        let set_by = self.anchor.and_then(|anchor| now.set_since(&anchor));
        if set_by.is_some() {
            self.was_set();
        }
        self.newest = Some(now);
        self.steady_since.get_or_insert(now);
        let age = |anchor: Reading| now.monotonic.saturating_duration_since(anchor.monotonic);
        if self.anchor.is_none_or(|anchor| age(anchor) >= ANCHORED_FOR) {
            self.anchor = Some(now);
        }
        set_by.map(|by| ClockStep { by, at: now.wall, before })
    }

    /// Takes the times at which heartbeats were received, in the order of reception.
    /// Returns the amount by which the clock was set back among them.
    fn received(&mut self, times: impl IntoIterator<Item = DateTime<Utc>>) -> Option<TimeDelta> {
        let mut set_back = None;
        for time in times {
            if let Some(latest) = self.received
                && time < latest
            {
                set_back = set_back.max(Some(latest - time));
            }
            self.received = Some(time);
        }
        set_back
    }

    /// Begins a new time base because the clock was set.
    fn was_set(&mut self) {
        self.base += 1;
        self.received = None;
        self.newest = None;
        self.anchor = None;
        self.steady_since = None;
        self.clamp_due = true;
    }

    /// The latest time that has passed for certain in this base. Later times come from
    /// before the clock was set back.
    pub fn now(&self) -> Option<DateTime<Utc>> {
        self.newest.map(|newest| newest.wall)
    }

    /// The latest time at which a heartbeat was received in this base.
    pub fn last_received(&self) -> Option<DateTime<Utc>> {
        self.received
    }

    /// Returns true once if stored heartbeats may lie in the future because the clock was set
    /// back. The caller then clamps them, or calls [`clamp_again`](Self::clamp_again).
    pub fn take_clamp_due(&mut self) -> bool {
        std::mem::take(&mut self.clamp_due)
    }

    /// Records that the stored heartbeats could not be clamped.
    pub fn clamp_again(&mut self) {
        self.clamp_due = true;
    }

    /// The time for which the wall clock has agreed with the monotonic one.
    pub fn steady_for(&self) -> Duration {
        let (Some(newest), Some(since)) = (self.newest, self.steady_since) else {
            return Duration::ZERO;
        };
        newest.monotonic.saturating_duration_since(since.monotonic)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).expect("small")
    }

    fn by(step: Option<ClockStep>) -> Option<TimeDelta> {
        step.map(|step| step.by)
    }

    fn heartbeats(received: &[i64]) -> Vec<Heartbeat> {
        let heartbeat = |millis| Heartbeat::parse("pump".parse().expect("an id"), b"", at(millis));
        received.iter().copied().map(heartbeat).collect()
    }

    /// A coverage that is proven up to then.
    fn proven(until: i64) -> Coverage {
        let mut coverage = Coverage::new(Duration::from_secs(5));
        coverage.confirm(at(0), at(until), crate::domain::GapCause::NotRunning);
        coverage
    }

    /// A machine whose wall clock is set now and then.
    struct Machine(Instant);

    impl Machine {
        fn reading(&self, passed_millis: u64, shows_millis: i64) -> Reading {
            let monotonic = self.0 + Duration::from_millis(passed_millis);
            Reading { wall: at(shows_millis), monotonic }
        }
    }

    #[test]
    fn a_clock_that_runs_or_is_slewed_was_not_set() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        for (passed, shows) in
            [(0, 0), (60_000, 60_000), (120_000, 120_499), (3_600_000, 3_603_000)]
        {
            assert_eq!(watch.compare(machine.reading(passed, shows)), None, "{passed} {shows}");
        }
        assert_eq!(watch.base(), 0);
    }

    #[test]
    fn a_clock_that_is_set_begins_a_new_base_and_has_to_prove_itself_again() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        watch.compare(machine.reading(0, 0));
        assert!(watch.take_clamp_due(), "it may have been set before the start");
        watch.compare(machine.reading(7_000, 7_000));
        assert_eq!(watch.steady_for(), Duration::from_secs(7));
        for (passed, shows, set_by) in [(10_000, 9_000, -1_000), (20_000, 99_000, 80_000)] {
            let now = machine.reading(passed, shows);
            assert_eq!(by(watch.compare(now)), Some(TimeDelta::milliseconds(set_by)));
            assert_eq!(watch.steady_for(), Duration::ZERO);
            assert!(watch.take_clamp_due() && !watch.take_clamp_due());
        }
        assert_eq!(watch.base(), 2);
    }

    #[test]
    fn many_small_steps_are_noticed_once_they_add_up() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        let steps = (0..4).map(|n| watch.compare(machine.reading(n * 1000, n as i64 * 600)));
        let noticed = steps.flatten().next();
        assert_eq!(by(noticed), Some(TimeDelta::milliseconds(-800)), "400 ms are tolerated");
    }

    #[test]
    fn a_reading_that_is_handled_late_says_nothing() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        watch.compare(machine.reading(9_000, 9_000));
        assert_eq!(watch.compare(machine.reading(5_000, 5_000)), None);
        assert_eq!(watch.now(), Some(at(9_000)));
        assert_eq!(by(watch.compare(machine.reading(9_500, 5_500))), Some(TimeDelta::seconds(-4)));
        assert_eq!(watch.now(), Some(at(5_500)));
    }

    #[test]
    fn the_order_of_heartbeats_reveals_that_the_clock_was_set_back() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.received([1000, 1000, 1005].map(at)), None);
        assert_eq!(
            watch.received([1006, 400, 500, 600].map(at)),
            Some(TimeDelta::milliseconds(606))
        );
        assert_eq!(watch.received([at(599)]), Some(TimeDelta::milliseconds(1)));
    }

    #[test]
    fn a_clock_that_was_set_back_makes_the_coverage_forget_its_future() {
        let machine = Machine(Instant::now());
        let (mut watch, mut coverage) = (ClockWatch::default(), proven(9_000));
        assert_eq!(watch.observe(machine.reading(9_000, 9_000), &mut coverage), None);
        assert_eq!(coverage.proven_until(), Some(at(9_000)));
        let before = Some(machine.reading(9_000, 9_000));
        let step = ClockStep { by: TimeDelta::seconds(-4), at: at(6_000), before };
        assert_eq!(watch.observe(machine.reading(10_000, 6_000), &mut coverage), Some(step));
        assert_eq!(coverage.proven_until(), Some(at(6_000)));
    }

    #[test]
    fn a_heartbeat_after_the_newest_reading_counts_as_received_at_it() {
        let machine = Machine(Instant::now());
        let (mut watch, mut coverage) = (ClockWatch::default(), proven(4_000));
        watch.observe(machine.reading(5_000, 5_000), &mut coverage);
        let mut received = heartbeats(&[4_500, 8_000]);
        assert_eq!(watch.receive(&mut received, &mut coverage), None);
        let times: Vec<_> = received.iter().map(|heartbeat| heartbeat.received_at).collect();
        assert_eq!(times, [at(4_500), at(5_000)]);
    }

    #[test]
    fn heartbeats_before_the_newest_proof_tell_that_the_clock_was_set_back() {
        let (mut watch, mut coverage) = (ClockWatch::default(), proven(9_000));
        let step = watch.receive(&mut heartbeats(&[7_000, 7_100]), &mut coverage);
        let expected = ClockStep { by: TimeDelta::seconds(-2), at: at(7_000), before: None };
        assert_eq!(step, Some(expected));
        assert_eq!((watch.base(), coverage.proven_until()), (1, Some(at(7_000))));
        assert_eq!(watch.receive(&mut [], &mut coverage), None);
    }

    #[test]
    fn a_proof_that_steps_back_begins_a_new_base() {
        let machine = Machine(Instant::now());
        let (mut watch, mut coverage) = (ClockWatch::default(), proven(0));
        let before = machine.reading(9_000, 9_000);
        watch.observe(before, &mut coverage);
        let step = watch.set_back(TimeDelta::seconds(3), at(6_000));
        let expected =
            ClockStep { by: TimeDelta::seconds(-3), at: at(6_000), before: Some(before) };
        assert_eq!((step, watch.base(), watch.now()), (expected, 1, None));
    }

    #[test]
    fn the_future_is_forgotten_before_devices_are_clamped_and_only_then() {
        let machine = Machine(Instant::now());
        let (mut watch, mut coverage) = (ClockWatch::default(), proven(9_000));
        watch.before_clamping(&mut coverage);
        assert_eq!(coverage.proven_until(), Some(at(9_000)), "the time is not known yet");
        watch.observe(machine.reading(0, 5_000), &mut coverage);
        assert!(watch.take_clamp_due());
        watch.before_clamping(&mut coverage);
        assert_eq!(coverage.proven_until(), Some(at(9_000)), "nothing is to be clamped");
        watch.clamp_again();
        watch.before_clamping(&mut coverage);
        assert_eq!(coverage.proven_until(), Some(at(5_000)));
    }
}
