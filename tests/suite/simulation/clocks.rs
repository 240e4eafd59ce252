//! The two clocks of the machine on which the service runs.

use std::cell::Cell;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::clock::Reading;

use crate::support::fleet::start;

thread_local! {
    /// The milliseconds since the beginning, by the wall clock.
    static WALL: Cell<i64> = const { Cell::new(0) };
    /// The milliseconds since the beginning, by the monotonic clock.
    static MONOTONIC: Cell<i64> = const { Cell::new(0) };
    static BEGINNING: Instant = Instant::now();
}

/// The clock of the service.
pub fn read() -> Reading {
    let passed = Duration::from_millis(MONOTONIC.get() as u64);
    Reading { wall: wall(), monotonic: BEGINNING.with(|beginning| *beginning) + passed }
}

pub fn wall() -> DateTime<Utc> {
    start() + TimeDelta::milliseconds(WALL.get())
}

pub fn begin() {
    WALL.set(0);
    MONOTONIC.set(0);
}

/// Lets time pass. If the machine is `asleep`, the monotonic clock stands still.
pub fn pass(millis: i64, asleep: bool) {
    WALL.set(WALL.get() + millis);
    if !asleep {
        MONOTONIC.set(MONOTONIC.get() + millis);
    }
}

pub fn set_by(millis: i64) {
    WALL.set(WALL.get() + millis);
}
