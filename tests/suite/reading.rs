//! Reads of people and programs that take too long: they end, and nothing waits for them.

use std::cell::RefCell;
use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::DateTime;
use futures::future::{Either, join_all, select};
use heartbeatd::store::{Reader, StoreError};
use sea_orm::{ConnectionTrait, Database, Statement};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at};
use crate::support::http::{get, send};
use crate::support::service::Place;
use crate::support::waiting::until;
use publishers::RawClient;
use servers::eventually;

on_both_databases! {
    reads_that_take_too_long_end_and_delay_neither_a_flush_nor_a_check
}

/// The time limit of a read.
const BOUND: Duration = Duration::from_secs(2);

/// The number of flushes and checks while reads go on.
const ROUNDS: i64 = 3;

/// Lets each read of the fleet's history go on for ever.
async fn never_end_reads(database: &TestDatabase) {
    let columns = "AS at, 0 AS provisioning, 0 AS online, 0 AS offline, 0 AS error, 0 AS late";
    let view = if database.url.starts_with("postgres") {
        format!("SELECT 0::bigint {columns} FROM pg_sleep(600)")
    } else {
        format!(
            "WITH RECURSIVE number(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM number) \
             SELECT n {columns} FROM number WHERE n < 0"
        )
    };
    database.execute("ALTER TABLE fleet_sample RENAME TO kept_sample").await;
    database.execute(&format!("CREATE VIEW fleet_sample AS {view}")).await;
}

/// A read that goes on for ever, and the time after which it was given up.
async fn read(reader: &Reader) -> (StoreError, Duration) {
    let began = Instant::now();
    let bounds = [DateTime::UNIX_EPOCH, at(100)];
    (reader.fleet(&bounds).await.expect_err("it goes on"), began.elapsed())
}

async fn reads_that_take_too_long_end_and_delay_neither_a_flush_nor_a_check(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    // It keeps the sample that is due.
    fleet.check_only(at(0)).await;
    let reader = fleet.store.reader().await.expect("it opens");
    never_end_reads(&fleet.database).await;

    let work = async {
        for second in 1..=ROUNDS {
            fleet.heartbeat("pump", "", at(second)).await;
            fleet.flush().await;
            fleet.listening(at(second)).await;
            fleet.check_only(at(second)).await;
        }
    };
    let ended = RefCell::new(Vec::new());
    let reads = async {
        for _ in 0..ROUNDS {
            // Twice as many as there are connections, so some wait.
            let reads = join_all((0..4).map(|_| read(&reader))).await;
            ended.borrow_mut().extend(reads);
        }
    };
    match select(pin!(work), pin!(reads)).await {
        Either::Left(((), reads)) => reads.await,
        Either::Right(_) => panic!("each flush or check has waited for a read"),
    }
    let ended = ended.into_inner();
    for (error, took) in &ended {
        let limit = match error {
            StoreError::NoConnection { .. } => Duration::from_secs(1),
            StoreError::NoAnswer { .. } | StoreError::Statement { .. } => BOUND,
            other => panic!("{other}"),
        };
        assert!(*took + Duration::from_millis(100) > limit, "{error} after {took:?}");
    }
    let given_up =
        |(error, _): &&(StoreError, Duration)| !matches!(error, StoreError::NoConnection { .. });
    assert!(ended.iter().filter(given_up).count() >= 2, "{ended:?}");
}

#[actix_rt::test]
async fn a_read_that_is_given_up_ends_in_sqlite_too() {
    let fleet = Fleet::on(TestDatabase::sqlite()).await;
    fleet.check_only(at(0)).await;
    let reader = fleet.store.reader().await.expect("it opens");
    never_end_reads(&fleet.database).await;
    let (error, _) = read(&reader).await;
    assert!(matches!(error, StoreError::NoAnswer { .. }), "{error}");
    fleet.heartbeat("pump", "", at(1)).await;
    fleet.flush().await;
    // As long as anybody reads what was there before, the log cannot be shortened.
    let db = Database::connect(&fleet.database.url).await.expect("it opens");
    let shorten = "PRAGMA wal_checkpoint(TRUNCATE)";
    until("nobody reads any more", async || {
        let statement = Statement::from_string(db.get_database_backend(), shorten);
        let row = db.query_one_raw(statement).await.expect("it runs").expect("a row");
        (row.try_get::<i64>("", "busy").expect("a number") == 0).then_some(())
    })
    .await;
}

/// The number of threads on which the service uses SQLite.
fn database_threads(id: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).expect("it runs");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(name).filter(|name| name.starts_with("sqlx-sqlite")).count()
}

#[actix_rt::test]
async fn slow_requests_keep_neither_a_probe_nor_a_heartbeat_waiting_and_leave_nothing_behind() {
    // A check would want to keep a sample.
    let place = Place::new().with("HEARTBEAT__CHECK_INTERVAL", "1h");
    let service = place.start();
    service.await_listening();
    service.await_metric("heartbeatd_check_duration_seconds_count", 1.0);
    let threads = database_threads(service.process.0.id());
    assert!(threads > 0, "they have another name");
    never_end_reads(&TestDatabase::at(&place.path().join("heartbeatd.db"))).await;
    std::thread::scope(|scope| {
        let path = "/api/v1/fleet?from=1970-01-01T00:00:00Z&to=1970-01-02T00:00:00Z";
        let ask = || send(&service, "GET", path, &[], None);
        let slow: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        let mut pump =
            RawClient::connect(service.broker_port(), "pump", None).expect("it is let in");
        pump.publish("devices/pump/heartbeat", b"");
        place.await_statuses(&["pump online"]);
        while !slow.iter().all(|slow| slow.is_finished()) {
            let asked = Instant::now();
            assert_eq!(get(&service, "/healthz").status, 200);
            assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
        }
        for slow in slow {
            let answer = slow.join().expect("it answers");
            assert_eq!((answer.status, answer.problem().as_str()), (503, "database-unavailable"));
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    });
    eventually("the threads of the slow requests end", || {
        (database_threads(service.process.0.id()) <= threads).then_some(())
    });
    get(&service, "/api/v1/devices").ok();
}
