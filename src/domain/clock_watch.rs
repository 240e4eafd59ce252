//! Detects that the wall clock was set, and remembers what must therefore not be decided.
//!
//! A time base is the stretch between two settings of the clock. Times of one base can be
//! compared. A snapshot taken in an earlier base is worthless in a later one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Reading;

/// The age at which a reading is replaced as the anchor. It is bounded because the
/// tolerance grows with the time between two readings.
const ANCHORED_FOR: Duration = Duration::from_secs(10);

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

    /// Takes a reading. Returns the amount by which the clock was set since an earlier
    /// one, negative if it was set back.
    ///
    /// The two clocks of a reading belong together, so a reading may be handled late. One
    /// that is older than the newest says nothing.
    pub fn observe(&mut self, now: Reading) -> Option<TimeDelta> {
        if self.newest.is_some_and(|newest| now.monotonic < newest.monotonic) {
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
        set_by
    }

    /// Takes the times at which heartbeats were received, in the order of reception.
    /// Returns the amount by which the clock was set back among them.
    pub fn received(
        &mut self,
        times: impl IntoIterator<Item = DateTime<Utc>>,
    ) -> Option<TimeDelta> {
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
    pub fn was_set(&mut self) {
        self.base += 1;
        self.received = None;
        self.newest = None;
        self.anchor = None;
        self.steady_since = None;
        self.clamp_due = true;
    }

    /// The newest reading in this base.
    pub fn newest(&self) -> Option<Reading> {
        self.newest
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

    /// True if stored heartbeats may lie in the future because the clock was set back.
    /// True at startup too: the clock may have changed while the service was down.
    pub fn is_clamp_due(&self) -> bool {
        self.clamp_due
    }

    /// Returns [`is_clamp_due`](Self::is_clamp_due) and resets it. The caller then clamps
    /// the stored heartbeats.
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
            assert_eq!(watch.observe(machine.reading(passed, shows)), None, "{passed} {shows}");
        }
        assert_eq!(watch.base(), 0);
    }

    #[test]
    fn a_clock_that_is_set_begins_a_new_base_and_has_to_prove_itself_again() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        watch.observe(machine.reading(0, 0));
        assert!(watch.take_clamp_due(), "it may have been set before the start");
        watch.observe(machine.reading(7_000, 7_000));
        assert_eq!(watch.steady_for(), Duration::from_secs(7));
        for (passed, shows, set_by) in [(10_000, 9_000, -1_000), (20_000, 99_000, 80_000)] {
            let now = machine.reading(passed, shows);
            assert_eq!(watch.observe(now), Some(TimeDelta::milliseconds(set_by)));
            assert_eq!(watch.steady_for(), Duration::ZERO);
            assert!(watch.take_clamp_due() && !watch.take_clamp_due());
        }
        assert_eq!(watch.base(), 2);
    }

    #[test]
    fn many_small_steps_are_noticed_once_they_add_up() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        let steps = (0..4).map(|n| watch.observe(machine.reading(n * 1000, n as i64 * 600)));
        let noticed = steps.flatten().next();
        assert_eq!(noticed, Some(TimeDelta::milliseconds(-800)), "400 ms are tolerated");
    }

    #[test]
    fn a_reading_that_is_handled_late_says_nothing() {
        let machine = Machine(Instant::now());
        let mut watch = ClockWatch::default();
        watch.observe(machine.reading(9_000, 9_000));
        assert_eq!(watch.observe(machine.reading(5_000, 5_000)), None);
        assert_eq!(watch.now(), Some(at(9_000)));
        assert_eq!(watch.observe(machine.reading(9_500, 5_500)), Some(TimeDelta::seconds(-4)));
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
}
