//! A clock that is set before, during or after a check.

use std::sync::Arc;
use std::time::Duration;

use chrono::SecondsFormat;
use heartbeatd::actors::device_registry::{
    CheckError, CheckOffline, ConfirmListening, Flush, RecordHeartbeats, ReportHealth,
};
use heartbeatd::clock::Reading;
use heartbeatd::domain::{GapCause, Heartbeat, Status};

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::fleet::{Fleet, at, id, non_zero, reading};
use crate::support::log_lines::{keep_lines, take_lines};
use crate::support::next_commit::NextCommit;
use servers::log::is_event;

on_both_databases! {
    a_check_that_is_handled_late_is_not_a_clock_step
    a_clock_that_is_wrong_for_a_moment_deletes_no_history
    history_is_deleted_by_a_clock_that_has_proven_itself
    a_clock_set_back_for_a_moment_leaves_what_is_known_of_an_offline_device
    a_heartbeat_that_is_written_while_a_check_waits_is_not_in_the_future
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
    assert_eq!(waits, Some(at(now - HOUR + 1)), "it was in the future, so it counts as seen now");
}

async fn a_check_that_is_handled_late_is_not_a_clock_step(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["late", "dead"], "", at(0)).await;
    fleet.flush().await;
    // The ticker has read the clock, but its message arrives 20 s later.
    fleet.heartbeat("late", "", at(210)).await;
    fleet.listening(at(209)).await;
    assert_eq!(fleet.check_only(at(190)).await.newly_offline, 1);
    let late = fleet.device("late").await;
    assert_eq!((late.status, late.last_seen_at), (Status::Online, Some(at(210))));
    fleet.heartbeat("late", "", at(390)).await;
    fleet.listening(at(391)).await;
    assert_eq!(fleet.check_only(at(391)).await.newly_offline, 0, "nothing was forgotten");
}

/// Confirms the listening after a step of the clock.
async fn proven_after_a_step(fleet: &Fleet, until: i64) {
    let (since, until) = (at(until), at(until));
    let confirm = ConfirmListening { since, until, after: GapCause::ClockStep };
    fleet.registry.send(confirm).await.expect("it lives");
}

async fn checked(fleet: &Fleet, now: Reading) {
    let checked = fleet.registry.send(CheckOffline { now }).await.expect("it lives");
    checked.expect("it checks");
}

#[actix_rt::test]
async fn a_clock_set_back_is_one_line_with_all_that_is_known() {
    let fleet = Fleet::on(TestDatabase::sqlite()).await;
    heard(&fleet, &["a", "b", "c"], set(2 * HOUR, 2 * HOUR)).await;
    fleet.check_only(at(2 * HOUR)).await;
    fleet.listening(at(2 * HOUR)).await;
    keep_lines();
    // A batch of both clocks, an echo that was sent before it was read, and a check.
    let now = set(HOUR + 5, 2 * HOUR + 5);
    let times = [2 * HOUR + 1, HOUR + 3, HOUR + 4];
    let heartbeats = times.map(|time| Heartbeat::parse(id("a"), b"", at(time))).to_vec();
    fleet.registry.send(RecordHeartbeats { heartbeats, now }).await.expect("it lives");
    proven_after_a_step(&fleet, HOUR + 2).await;
    proven_after_a_step(&fleet, HOUR + 6).await;
    checked(&fleet, set(HOUR + 7, 2 * HOUR + 7)).await;
    checked(&fleet, set(HOUR + 70, 2 * HOUR + 70)).await;
    let lines = take_lines();
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    assert!(is_event(line, "WARN device_registry seconds=3600 at= devices=2"), "{line}");
    assert!(line.contains("set back"), "{line}");
}

#[actix_rt::test]
async fn a_clock_set_forward_is_one_line_with_all_that_is_known() {
    let fleet = Fleet::on(TestDatabase::sqlite()).await;
    heard(&fleet, &["a"], set(60, 60)).await;
    fleet.check_only(at(61)).await;
    fleet.listening(at(62)).await;
    keep_lines();
    proven_after_a_step(&fleet, HOUR + 64).await;
    heard(&fleet, &["a"], set(HOUR + 65, 65)).await;
    checked(&fleet, set(HOUR + 66, 66)).await;
    checked(&fleet, set(HOUR + 120, 120)).await;
    let lines = take_lines();
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    let text = |seconds| at(seconds).to_rfc3339_opts(SecondsFormat::Millis, true);
    let (from, until) = (text(62), text(HOUR + 64));
    let gap = format!("blind_from={from} blind_until={until}");
    assert!(is_event(line, &format!("WARN device_registry seconds=3600 {gap}")), "{line}");
    assert!(line.contains("set forward"), "{line}");
}

#[actix_rt::test]
async fn a_clock_set_forward_and_back_between_two_checks_is_two_lines() {
    let fleet = Fleet::on(TestDatabase::sqlite()).await;
    heard(&fleet, &["a", "b"], set(60, 60)).await;
    fleet.check_only(at(61)).await;
    keep_lines();
    heard(&fleet, &["a"], set(HOUR + 62, 62)).await;
    fleet.flush().await;
    heard(&fleet, &["b"], set(64, 64)).await;
    proven_after_a_step(&fleet, 65).await;
    checked(&fleet, set(66, 66)).await;
    let lines = take_lines();
    let [forward, back] = &lines[..] else { panic!("not two lines: {lines:#?}") };
    assert!(is_event(forward, "WARN device_registry seconds=3600"), "{forward}");
    assert!(forward.contains("set forward"), "{forward}");
    assert!(is_event(back, "WARN device_registry seconds=3600 devices=1"), "{back}");
    assert!(back.contains("set back"), "{back}");
}

#[actix_rt::test]
async fn devices_in_the_future_that_are_found_at_startup_are_one_line() {
    let fleet = Fleet::on(TestDatabase::sqlite()).await;
    heard(&fleet, &["a", "b"], set(HOUR, HOUR)).await;
    fleet.flush().await;
    let registry = fleet.next_process().await;
    keep_lines();
    let now = set(60, HOUR + 60);
    registry.send(CheckOffline { now }).await.expect("it lives").expect("it checks");
    let lines = take_lines();
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    assert!(is_event(line, "INFO device_registry devices=2"), "{line}");
}

/// A fleet with the transitions of a device that came and went twice.
async fn with_history(database: TestDatabase) -> Fleet {
    let retention = Duration::from_secs(90 * DAY as u64);
    let fleet =
        Fleet::configured(database, |config| config.history.retention = non_zero(retention)).await;
    for round in 0..2 {
        fleet.heartbeat("pump", "", at(round * 300)).await;
        assert_eq!(fleet.check(at(round * 300 + 181)).await, ["pump"]);
    }
    assert_eq!(fleet.changes("pump").await.len(), 4);
    // What nobody was told of would be kept.
    assert_eq!(fleet.recoveries().await.len(), 1);
    fleet
}

async fn a_clock_that_is_wrong_for_a_moment_deletes_no_history(database: TestDatabase) {
    let fleet = with_history(database).await;
    // After two hours the clock is trusted, and then it is 200 days ahead.
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
    assert_eq!(fleet.changes("pump").await.len(), 1, "the transition that took it offline");
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

/// The first check of a process clamps, because the clock may have changed before its start.
async fn a_heartbeat_that_is_written_while_a_check_waits_is_not_in_the_future(
    database: TestDatabase,
) {
    let next_commit = Arc::new(NextCommit::default());
    let store = database.open().await.interfere(next_commit.clone());
    let fleet = Fleet::with_store(database, store, |_| ()).await;
    fleet.heartbeat("pump", "", at(10)).await;
    let release = next_commit.waits();
    let check = fleet.registry.send(CheckOffline { now: reading(at(20)) });
    let later = async {
        fleet.heartbeat("pump", "", at(25)).await;
        let flush = fleet.registry.send(Flush);
        // Once this is answered, the flush has been handled too, and takes the next turn.
        fleet.registry.send(ReportHealth).await.expect("it lives");
        release.send(()).expect("the check's own flush waits");
        flush.await.expect("it lives").expect("it writes");
    };
    let (checked, ()) = futures::join!(check, later);
    checked.expect("it lives").expect("it checks");
    assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(25)));
}
