//! A reading of both clocks.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};

/// How far the wall clock may run from the monotonic one between two readings and
/// still count as the same clock: NTP slews by at most 0.5 ms a second, and what it
/// does not slew it steps.
const TOLERANCE: TimeDelta = TimeDelta::milliseconds(500);

/// The slewing that is tolerated on top, as a divisor of the time between the
/// readings: twice what NTP does.
const SLEW: i32 = 1000;

/// Both clocks of the machine, read together.
///
/// A wall clock can be set, a monotonic one cannot. Only two readings tell whether
/// the wall clock was set between them; a wall time and a monotonic time that were
/// read at different moments tell nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, in whole milliseconds.
    pub wall: DateTime<Utc>,
    /// The monotonic clock. It stands still while the machine sleeps.
    pub monotonic: Instant,
}

impl Reading {
    /// The amount by which the wall clock was set since an earlier reading: below
    /// zero, it was turned back. `None` if it has only run, or was slewed.
    pub fn set_since(&self, earlier: &Self) -> Option<TimeDelta> {
        let passed = self.monotonic.saturating_duration_since(earlier.monotonic);
        let passed = TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX);
        let set_by = (self.wall - earlier.wall).checked_sub(&passed).unwrap_or(TimeDelta::MIN);
        (set_by.abs() > TOLERANCE + passed / SLEW).then_some(set_by)
    }
}
