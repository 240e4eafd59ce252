//! A reading of both clocks.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};

/// The difference between the two clocks that is tolerated between two readings. NTP
/// slews by at most 0.5 ms a second and steps the clock by anything more.
const TOLERANCE: TimeDelta = TimeDelta::milliseconds(500);

/// The slewing that is tolerated on top, as a divisor of the time between the readings.
/// It is twice what NTP does.
const SLEW: i32 = 1000;

/// Both clocks of the machine, read together.
///
/// A wall clock can be set, a monotonic one cannot. Two readings tell whether the wall
/// clock was set between them. A wall time and a monotonic time that were read at
/// different moments tell nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, in whole milliseconds.
    pub wall: DateTime<Utc>,
    /// The monotonic clock. It stands still while the machine sleeps.
    pub monotonic: Instant,
}

impl Reading {
    /// The amount by which the wall clock was set since an earlier reading, negative if
    /// it was set back. `None` if it only ran or was slewed.
    pub fn set_since(&self, earlier: &Self) -> Option<TimeDelta> {
        let passed = self.monotonic.saturating_duration_since(earlier.monotonic);
        let passed = TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX);
        let set_by = (self.wall - earlier.wall).checked_sub(&passed).unwrap_or(TimeDelta::MIN);
        (set_by.abs() > TOLERANCE + passed / SLEW).then_some(set_by)
    }
}
