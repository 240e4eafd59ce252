//! Outages of the database.

use heartbeatd::actors::device_registry::{CheckOffline, Flush, ReportHealth};
use heartbeatd::domain::Status;
use sea_orm::{ConnectionTrait, Database};

use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::fleet::{Fleet, at, reading};

#[actix_rt::test]
async fn a_check_during_an_outage_fails_marks_no_device_and_loses_nothing() {
    let database = TestDatabase::sqlite();
    let url = database.url.clone();
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["alive", "dead"], "", at(0)).await;
    fleet.flush().await;
    fleet.listening(at(300)).await;

    // The lock is held for longer than the service waits for it.
    let lock = lock_sqlite(&url).await;
    fleet.heartbeat("alive", "", at(290)).await;
    let check = fleet.registry.send(CheckOffline { now: reading(at(300)) });
    let meanwhile = async {
        fleet.heartbeat("alive", r#"{"uptime_seconds":1}"#, at(295)).await;
        fleet.heartbeat("new", "", at(295)).await;
    };
    let (checked, ()) = futures::join!(check, meanwhile);
    let error = checked.expect("it lives").expect_err("the database is locked");
    assert!(error.to_string().contains("locked"), "{error}");
    assert_eq!(fleet.status("dead").await, Status::Online, "no device was marked");
    let health = fleet.registry.send(ReportHealth).await.expect("it lives");
    assert!(health.database.is_err());
    assert_eq!(health.pending, 2, "both are kept, once each");

    lock.rollback().await.expect("it is released");
    assert_eq!(fleet.check(at(300)).await, ["dead"]);
    let alive = fleet.device("alive").await;
    assert_eq!((alive.last_seen_at, alive.uptime_seconds), (Some(at(295)), Some(1)));
    assert_eq!(fleet.status("new").await, Status::Online);
    let health = fleet.registry.send(ReportHealth).await.expect("it lives");
    assert_eq!((health.database, health.pending), (Ok(()), 0));
}

#[actix_rt::test]
async fn a_flush_that_fails_halfway_keeps_the_rest() {
    let database = TestDatabase::sqlite();
    let other = Database::connect(&database.url).await.expect("the database opens");
    let fleet = Fleet::on(database).await;
    let ids: Vec<_> = (0..25_000).map(|number| format!("d-{number:05}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    // An error that is not about the data.
    let full = "CREATE TRIGGER full BEFORE INSERT ON device WHEN new.id = 'd-15000' \
                BEGIN SELECT json_extract('{}', 'the disk is full'); END";
    other.execute_unprepared(full).await.expect(full);

    fleet.heartbeats(&ids, "", at(0)).await;
    let failed = fleet.registry.send(Flush).await.expect("it lives").expect_err("it is full");
    assert!(failed.to_string().contains("the disk is full"), "{failed}");
    let health = fleet.registry.send(ReportHealth).await.expect("it lives");
    let counted = async || fleet.store.count_by_status().await.expect("it counts")[&Status::Online];
    let written = counted().await;
    assert!(written > 0 && written < 25_000, "{written}");
    assert_eq!(health.pending as u64 + written, 25_000);

    other.execute_unprepared("DROP TRIGGER full").await.expect("it is there");
    fleet.flush().await;
    assert_eq!(counted().await, 25_000);
    let health = fleet.registry.send(ReportHealth).await.expect("it lives");
    assert_eq!((health.database, health.pending), (Ok(()), 0));
}
