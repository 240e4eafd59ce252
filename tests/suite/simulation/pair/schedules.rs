//! The schedules of a pair, each with the instance that it spares: random ones, and some that were made
//! for a purpose.

use fastrand::Rng;

use super::{DEAD, DEVICES, FAULTS, PERIOD};
use crate::simulation::clocks_apart;
use crate::simulation::instance_faults::{Fault, Planned, plan, plan_without};
use crate::simulation::schedule::{Fleet, Schedule, some_lost_answers};

/// A random schedule, in half of the cases with an instance that it spares.
pub(super) fn random(rng: &mut Rng) -> (Schedule, Option<usize>) {
    let offsets = clocks_apart::some_offsets(rng);
    let instances = if rng.u8(0..4) == 0 { 3 } else { 2 };
    let spared = rng.bool().then(|| rng.usize(0..instances));
    let faults = match spared {
        Some(spared) => plan_without(spared, rng, FAULTS, instances),
        None => plan(rng, FAULTS, instances),
    };
    let starts_at = (0..instances).map(|_| rng.i64(0..300)).collect();
    let fleet = Fleet::random([DEVICES, DEAD], PERIOD, 8_000..FAULTS.end + 2_000, rng);
    let lost_answers = some_lost_answers(rng);
    (Schedule { offsets, starts_at, faults, fleet, lost_answers }, spared)
}

/// A schedule in which all devices publish at the same times, and those that die do so after they
/// have published `last`, within 180 ms.
fn with_last_heartbeats(
    last: i64,
    period: i64,
    starts_at: &[i64],
    faults: &[(i64, Fault, usize, i64)],
) -> Schedule {
    let mut begin_at: Vec<_> = (0..DEVICES as i64).map(|device| device * 100).collect();
    for (device, begins) in begin_at[..DEAD].iter_mut().enumerate() {
        *begins = last % period + device as i64 * 30;
    }
    let faults = faults.iter();
    let planned = |&(at, fault, number, lasts)| Planned { at, fault, number, lasts };
    Schedule {
        offsets: [0; 3],
        starts_at: starts_at.into(),
        faults: faults.map(planned).collect(),
        fleet: Fleet::new(begin_at, vec![last + 200; DEAD], period),
        lost_answers: 0,
    }
}

/// The active one has the fastest clock and is killed. By that it has proven the time of heartbeats
/// that only the others have received. They are the last ones of some devices, and those before
/// are older than its clock is fast.
pub fn a_fast_clock_that_is_killed() -> (Schedule, Option<usize>) {
    let killed = (12_000, Fault::Kill, 0, 50_000);
    let schedule = with_last_heartbeats(12_100, PERIOD * 3 / 2, &[0, 50, 100], &[killed]);
    (Schedule { offsets: [1_400, 0, -700], ..schedule }, Some(1))
}

/// The active one is cut off from the broker for so short a time that nobody takes over for that.
pub fn an_active_one_that_hears_nothing_for_a_moment() -> (Schedule, Option<usize>) {
    let deaf = (12_000, Fault::Net, 0, 1_500);
    (with_last_heartbeats(20_000, PERIOD, &[0, 50], &[deaf]), Some(1))
}

/// Each of two is cut off from the broker for a moment, in turn. The other one hears it.
pub fn two_that_hear_nothing_in_turn() -> (Schedule, Option<usize>) {
    let deaf = |at, number| (at, Fault::Net, number, 1_500);
    let faults = [deaf(12_000, 0), deaf(20_000, 1), deaf(28_000, 0)];
    (with_last_heartbeats(33_000, PERIOD, &[0, 50], &faults), None)
}

/// A standby is stopped, and devices die whose last heartbeats wait for it. When it goes on, the
/// active one has found them and is killed.
pub fn a_stopped_standby_that_takes_over() -> (Schedule, Option<usize>) {
    let faults = [(8_000, Fault::Stop, 1, 21_000), (29_100, Fault::Kill, 0, 50_000)];
    (with_last_heartbeats(15_100, PERIOD, &[0, 50], &faults), None)
}

/// An instance that is alone was stopped. When it goes on it does not reach the broker at first, so
/// its echo is lost, and what is published meanwhile arrives late. Some devices die then.
pub fn a_stop_after_which_the_first_echo_is_lost() -> (Schedule, Option<usize>) {
    let faults = [(10_000, Fault::Stop, 0, 6_000), (15_900, Fault::Net, 0, 1_050)];
    (with_last_heartbeats(16_700, PERIOD, &[0], &faults), None)
}
