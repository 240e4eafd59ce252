//! The clocks of three machines, which differ by a fixed time each. All of them move only when the
//! simulation says so.

use std::cell::Cell;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::clock::{Clock, Reading};

use crate::support::fleet::start;

/// The most by which good clocks differ from the true time, in milliseconds.
const NEAR: i64 = 50;
/// The same of bad ones.
const FAR: i64 = 600;

thread_local! {
    /// The milliseconds since the beginning.
    static NOW: Cell<i64> = const { Cell::new(0) };
    static OFFSETS: Cell<[i64; 3]> = const { Cell::new([0; 3]) };
    static BEGINNING: Instant = Instant::now();
}

/// The clocks, as instances read them.
pub const CLOCKS: [Clock; 3] = [|| read(0), || read(1), || read(2)];

fn read(number: usize) -> Reading {
    let passed = Duration::from_millis(now().unsigned_abs());
    Reading {
        wall: shown(number, now()),
        monotonic: BEGINNING.with(|beginning| *beginning) + passed,
    }
}

/// Begins at 0, with clocks that differ from the true time by so many milliseconds.
pub fn begin(offsets: [i64; 3]) {
    NOW.set(0);
    OFFSETS.set(offsets);
}

/// Differences from the true time, of which some are large.
pub fn some_offsets(rng: &mut fastrand::Rng) -> [i64; 3] {
    let most = if rng.u8(0..3) == 0 { FAR } else { NEAR };
    [0; 3].map(|_: i64| rng.i64(-most..=most))
}

/// The true time, in milliseconds since the beginning.
pub fn now() -> i64 {
    NOW.get()
}

pub fn pass(millis: i64) {
    NOW.set(NOW.get() + millis);
}

/// The reading of a clock at a true time.
pub fn shown(number: usize, true_time: i64) -> DateTime<Utc> {
    start() + TimeDelta::milliseconds(true_time) + offset(number)
}

/// The time by which a clock is ahead of the true one.
pub fn offset(number: usize) -> TimeDelta {
    TimeDelta::milliseconds(OFFSETS.get()[number])
}

/// The most by which two of the clocks differ.
pub fn apart() -> TimeDelta {
    let offsets = OFFSETS.get();
    let [most, least] = [offsets.iter().max(), offsets.iter().min()].map(|end| end.expect("three"));
    TimeDelta::milliseconds(most - least)
}
