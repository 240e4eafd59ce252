//! A clock that is set: before, during and after a check.

use std::time::Duration;

use heartbeatd::actors::device_registry::{CheckError, CheckOffline, RecordHeartbeats};
use heartbeatd::clock::Reading;
use heartbeatd::domain::{Heartbeat, Status};

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::fleet::{Fleet, at, id, reading};

on_both_databases! {
    a_check_that_is_handled_late_is_no_step_of_the_clock
    a_clock_that_is_wrong_for_a_moment_deletes_no_history
    history_is_deleted_by_a_clock_that_has_proven_itself
    a_clock_set_back_for_a_moment_leaves_what_is_known_of_an_offline_device
}

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// A clock that shows `wall` once `passed` seconds have passed.
fn set(wall: i64, passed: i64) -> Reading {
    Reading { wall: at(wall), monotonic: reading(at(passed)).monotonic }
}

async fn heard(fleet: &Fleet, devices: &[&str], now: Reading) {
    let heartbeats = devices.iter().map(|device| Heartbeat::parse(id(device), b"", now.wall));
    let record = RecordHeartbeats { heartbeats: heartbeats.collect(), now };
    fleet.registry.send(record).await.expect("it lives");
}

#[actix_rt::test]
async fn a_clock_set_back_while_a_check_waits_takes_no_device_offline() {
    let database = TestDatabase::sqlite();
    let url = database.url.clone();
    let fleet = Fleet::on(database).await;
    let devices: Vec<_> = (0..200).map(|number| format!("d-{number:03}")).collect();
    let devices: Vec<_> = devices.iter().map(String::as_str).collect();
    let now = 2 * HOUR;
    heard(&fleet, &devices, set(now - 100, now - 100)).await;
    fleet.flush().await;
    fleet.listening(at(now)).await;

    let lock = lock_sqlite(&url).await;
    heard(&fleet, &["waits"], set(now - 1, now - 1)).await;
    let check = fleet.registry.send(CheckOffline { now: set(now, now) });
    let meanwhile = async {
        heard(&fleet, &devices, set(now - HOUR, now + 1)).await;
        lock.rollback().await.expect("it is released");
    };
    let (checked, ()) = futures::join!(check, meanwhile);
    let checked = checked.expect("it lives");
    assert!(matches!(checked, Err(CheckError::ClockSet)), "{checked:?}");
    let check = CheckOffline { now: set(now - HOUR + 1, now + 2) };
    let checked = fleet.registry.send(check).await.expect("it lives").expect("it checks");
    assert_eq!(checked.newly_offline, 0);
    for device in devices {
        let row = fleet.device(device).await;
        assert_eq!((row.status, row.last_seen_at), (Status::Online, Some(at(now - HOUR))));
    }
    let waits = fleet.device("waits").await.last_seen_at;
    assert_eq!(waits, Some(at(now - HOUR + 1)), "of the future, so it counts as seen now");
}

async fn a_check_that_is_handled_late_is_no_step_of_the_clock(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["late", "dead"], "", at(0)).await;
    fleet.flush().await;
    // The ticker has read the clock; until its message comes, 20 s pass.
    fleet.heartbeat("late", "", at(210)).await;
    fleet.listening(at(209)).await;
    assert_eq!(fleet.check_only(at(190)).await.newly_offline, 1);
    let late = fleet.device("late").await;
    assert_eq!((late.status, late.last_seen_at), (Status::Online, Some(at(210))));
    fleet.heartbeat("late", "", at(390)).await;
    fleet.listening(at(391)).await;
    assert_eq!(fleet.check_only(at(391)).await.newly_offline, 0, "nothing was forgotten");
}

/// Transitions of a device that comes and goes, and the clocks after the last.
async fn with_history(database: TestDatabase) -> Fleet {
    let retention = Duration::from_secs(90 * DAY as u64);
    let fleet = Fleet::configured(database, |config| config.history.retention = retention).await;
    for round in 0..2 {
        fleet.heartbeat("pump", "", at(round * 300)).await;
        assert_eq!(fleet.check(at(round * 300 + 181)).await, ["pump"]);
    }
    assert_eq!(fleet.changes("pump").await.len(), 4);
    fleet
}

async fn a_clock_that_is_wrong_for_a_moment_deletes_no_history(database: TestDatabase) {
    let fleet = with_history(database).await;
    // Two hours of a right clock make it trusted, and then it is 200 days ahead.
    fleet.check_only(at(2 * HOUR)).await;
    for (wall, passed) in [(200 * DAY, 1), (200 * DAY + 3, 4), (2 * HOUR + 6, 6)] {
        let now = set(wall, 2 * HOUR + passed);
        let checked = fleet.registry.send(CheckOffline { now }).await.expect("it lives");
        checked.expect("it checks");
    }
    assert_eq!(fleet.changes("pump").await.len(), 4);
}

async fn history_is_deleted_by_a_clock_that_has_proven_itself(database: TestDatabase) {
    let fleet = with_history(database).await;
    let later = 200 * DAY;
    fleet.check_only(at(later)).await;
    assert_eq!(fleet.changes("pump").await.len(), 1, "the transition that it is offline by");
}

async fn a_clock_set_back_for_a_moment_leaves_what_is_known_of_an_offline_device(
    database: TestDatabase,
) {
    let fleet = with_history(database).await;
    let before = fleet.device("pump").await;
    for (wall, passed) in [(10, 1), (13, 4), (2 * HOUR + 6, 6)] {
        let now = set(wall, 2 * HOUR + passed);
        let checked = fleet.registry.send(CheckOffline { now }).await.expect("it lives");
        checked.expect("it checks");
    }
    assert_eq!(fleet.device("pump").await, before);
}
