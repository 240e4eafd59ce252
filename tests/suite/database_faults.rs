//! Databases that fail in the middle: between two statements, in COMMIT or after it, by not
//! answering, or because the disk is full.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::prelude::*;
use heartbeatd::actors::device_registry::{
    DeviceRegistry, Flush, Found, LookAround, RecordHeartbeats, Settings,
};
use heartbeatd::clock::system_clock;
use heartbeatd::domain::{Change, Heartbeat, Interval, Listened, Status};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::{
    DeviceStore, Interference, Interfering, Member, OpenMode, Outcome, Point, Proven, Recorded,
    RecordingRules, StoreError,
};

use publishers::Devices;
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::events::{CHECK_FAILED, NOT_WRITTEN, WRITTEN_AGAIN};
use crate::support::fleet::{at, id, start};
use crate::support::proxy::Proxy;
use crate::support::service::{Place, Service};
use sea_orm::{ConnectionTrait, Database, TransactionTrait};

on_both_databases! {
    whatever_fails_the_next_flush_writes_everything_and_nothing_twice
    heartbeats_that_the_database_refuses_are_rejected_and_the_others_written
    a_batch_of_which_the_database_refuses_everything_ends
}

type IsMeant = fn(&Point) -> bool;

/// Interferes once, at the first matching point.
struct Once(Mutex<Option<(IsMeant, Outcome)>>);

impl Interference for Once {
    fn at(&self, point: Point) -> Interfering {
        let mut planned = self.0.lock().expect("no test panics");
        let outcome = match planned.take_if(|(is_meant, _)| is_meant(&point)) {
            Some((_, outcome)) => outcome,
            None => Outcome::GoOn,
        };
        Box::pin(std::future::ready(outcome))
    }
}

fn heartbeats(devices: &[&str]) -> Vec<Heartbeat> {
    devices.iter().map(|device| Heartbeat::parse(id(device), b"", at(1))).collect()
}

/// Opens the database for a listener of the instance `test`, which has the number 1.
async fn open(database: &TestDatabase) -> DeviceStore {
    let store = database.open().await;
    let interval = Duration::from_secs(5);
    let member = Member {
        instance: "test".to_owned(),
        incarnation: 1,
        interval,
        share_group: None,
        configured: None,
    };
    assert_eq!(store.join(&member).await.expect("it joins"), 1);
    store
}

fn proven() -> Proven {
    let interval = Interval { from: start(), until: at(1) };
    let intervals = vec![Listened { interval, after: None }];
    let change = Some(Change { from: interval.from, is_set_back: false, intervals });
    // The listener that [`open`] has joined first.
    Proven { listener: 1, change, ..Proven::default() }
}

async fn write(store: &DeviceStore, heartbeats: &[Heartbeat]) -> Result<Recorded, StoreError> {
    let rules = RecordingRules {
        auto_register: true,
        room: 10_000,
        registrations: 10_000,
        max_clock_skew: Duration::from_secs(30),
        now: at(1),
    };
    store.update_last_seen(heartbeats, rules, &proven()).await
}

async fn whatever_fails_the_next_flush_writes_everything_and_nothing_twice(database: TestDatabase) {
    let points: [IsMeant; 6] = [
        |point| matches!(point, Point::Begin(_)),
        |point| matches!(point, Point::Statement(_)),
        |point| matches!(point, Point::Statement(sql) if sql.contains("listening_interval")),
        |point| matches!(point, Point::Commit(_)),
        |point| matches!(point, Point::AfterCommit(_)),
        |point| matches!(point, Point::Read(_)),
    ];
    let outcomes = [Outcome::Fail, Outcome::CommitThenFail, Outcome::Hang];
    let once = Arc::new(Once(Mutex::new(None)));
    let store = open(&database).await.interfere(once.clone());
    for (number, point) in points.into_iter().enumerate() {
        for outcome in outcomes {
            let names = ["a", "b", "c"].map(|device| format!("{device}-{number}-{outcome:?}"));
            let [first, second, third] = names.each_ref().map(String::as_str);
            *once.0.lock().expect("no test panics") = Some((point, outcome));
            // Only a read fails at this point, because writing reads only after a failure.
            if number == 5 {
                store.device(&id(first)).await.expect_err("it is interfered with");
            } else {
                write(&store, &heartbeats(&[first, second]))
                    .await
                    .expect_err("it is interfered with");
            }
            write(&store, &heartbeats(&[first, second, third])).await.expect("it writes");
            for device in [first, second, third] {
                let row = store.device(&id(device)).await.expect("it reads").expect(device);
                assert_eq!((row.status, row.last_seen_at), (Status::Online, Some(at(1))));
                let history = store.history(Some(&id(device)), None, 10).await.expect("it reads");
                assert_eq!(history.len(), 1, "{device}: {history:?}");
            }
        }
    }
    let listened = store.listened("test", start(), at(1)).await.expect("it reads");
    assert_eq!(Some(listened), proven().change.map(|change| change.intervals));
}

#[actix_rt::test]
async fn after_a_failure_a_flush_succeeds_only_if_another_connection_reads_what_it_wrote() {
    let database = TestDatabase::sqlite();
    let once = Arc::new(Once(Mutex::new(None)));
    let store = open(&database).await.interfere(once.clone());
    let plan = |point, outcome| *once.0.lock().expect("no test panics") = Some((point, outcome));
    write(&store, &heartbeats(&["early"])).await.expect("it writes");

    plan(|point| matches!(point, Point::Commit(_)), Outcome::Fail);
    write(&store, &heartbeats(&["device"])).await.expect_err("it does not commit");
    // To others, a transaction that never ends looks like this.
    plan(|point| matches!(point, Point::Read("read what was written")), Outcome::Fail);
    write(&store, &heartbeats(&["device"])).await.expect_err("another connection cannot read it");
    write(&store, &heartbeats(&["device"])).await.expect("another connection has read it");

    let never_written = heartbeats(&["device", "other"]).split_off(1);
    let missing = store.confirm_written(&never_written, &Proven::default()).await;
    assert!(matches!(missing, Err(StoreError::Unconfirmed)), "{missing:?}");
    store.confirm_written(&heartbeats(&["device"]), &proven()).await.expect("it is there");
}

#[actix_rt::test]
async fn after_a_failure_a_heartbeat_that_a_later_one_has_overtaken_counts_as_written() {
    let database = TestDatabase::sqlite();
    let once = Arc::new(Once(Mutex::new(None)));
    let store = database.open().await.interfere(once.clone());
    let later = Heartbeat::parse(id("device"), b"", at(2));
    write(&store, &[later]).await.expect("it writes");
    let fails: (IsMeant, Outcome) = (|point| matches!(point, Point::Commit(_)), Outcome::Fail);
    *once.0.lock().expect("no test panics") = Some(fails);
    write(&store, &heartbeats(&["device"])).await.expect_err("it does not commit");
    write(&store, &heartbeats(&["device"])).await.expect("there is nothing left to write");
    let row = store.device(&id("device")).await.expect("it reads").expect("it is registered");
    assert_eq!(row.last_seen_at, Some(at(2)));
}

/// Limits the size of files that the service may write.
fn limit_file_size(service: &Service, bytes: &str) {
    let id = service.process.0.id().to_string();
    let limit = format!("--fsize={bytes}:");
    let limited = std::process::Command::new("prlimit").args(["--pid", &id, &limit]).status();
    assert!(limited.expect("prlimit is part of util-linux").success(), "prlimit {limit}");
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    let devices = Devices::live(broker.port, ["live", "dead"].map(str::to_owned));
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 2.0);

    // Less than a page, so every write of SQLite fails, in COMMIT or before.
    limit_file_size(&service, "4096");
    service.await_event(NOT_WRITTEN);
    devices.die(&["dead"]);
    eventually("checks fail for longer than the timeout", || {
        (service.events(CHECK_FAILED).len() > 8).then_some(())
    });
    #[expect(clippy::disallowed_methods, reason = "the service reads the same clock")]
    let full_until = chrono::Utc::now();
    limit_file_size(&service, "unlimited");

    service.await_event(WRITTEN_AGAIN);
    service.await_event("INFO alert_sink device=dead");
    let seen = |device: &str| -> chrono::DateTime<chrono::Utc> {
        let shown = place.json(&["device", "show", device, "--json"]);
        shown["last_seen_at"].as_str().and_then(|time| time.parse().ok()).expect("a time")
    };
    eventually("the live device's row is fresh", || (seen("live") > full_until).then_some(()));
    assert!(place.run(&["device", "add", "by-command"]).status.success(), "the lock is free");

    heartbeat(broker.port, "last", br#"{"uptime_seconds":4711}"#);
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 2.0);
    let mut service = service;
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
    let shown = place.json(&["device", "show", "last", "--json"]);
    assert_eq!(shown["uptime_seconds"], 4711, "{shown:#}");
    place.await_statuses(&[
        "by-command provisioning",
        "dead offline",
        "last online",
        "live online",
    ]);
}

#[actix_rt::test]
async fn a_table_that_is_locked_fails_a_flush_within_seconds_and_names_the_lock() {
    let database = TestDatabase::postgres();
    let other = Database::connect(&database.url).await.expect("the database opens");
    let store = open(&database).await;
    write(&store, &heartbeats(&["a"])).await.expect("it writes");
    let lock = other.begin().await.expect("it begins");
    let exclusive = "LOCK TABLE device IN ACCESS EXCLUSIVE MODE";
    lock.execute_unprepared(exclusive).await.expect(exclusive);

    let began = Instant::now();
    let error = write(&store, &heartbeats(&["a", "b"])).await.expect_err("it is locked");
    assert!(error.to_string().contains("lock timeout"), "{error}");
    let error = store.count_by_status().await.expect_err("it is locked");
    assert!(error.to_string().contains("lock timeout"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    lock.rollback().await.expect("it is released");
    write(&store, &heartbeats(&["a", "b"])).await.expect("it writes");
    assert_eq!(store.count_by_status().await.expect("it reads")[&Status::Online], 2);
}

#[actix_rt::test]
async fn a_postgresql_server_that_vanishes_silently_is_written_to_once_it_is_back() {
    let database = TestDatabase::postgres();
    open(&database).await.close().await.expect("it closes");
    let (proxy, through) = Proxy::to_database(&database);
    let store = DeviceStore::open(&through, OpenMode::Migrate).await.expect("it opens");
    write(&store, &heartbeats(&["a"])).await.expect("it writes");

    proxy.swallow();
    let began = Instant::now();
    write(&store, &heartbeats(&["a", "b"])).await.expect_err("there is no answer");
    store.count_by_status().await.expect_err("there is no answer");
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());

    proxy.heal();
    write(&store, &heartbeats(&["a", "b"])).await.expect("it writes");
    let direct = database.open().await;
    assert_eq!(direct.count_by_status().await.expect("it reads")[&Status::Online], 2);
}

/// Makes the database refuse devices whose ids begin with `bad`.
async fn refuse_bad_ones(database: &TestDatabase) {
    let sql = if database.url.starts_with("sqlite") {
        "CREATE TRIGGER refuse BEFORE INSERT ON device WHEN new.id LIKE 'bad%' \
         BEGIN SELECT RAISE(ABORT, 'no bad ones'); END"
    } else {
        "ALTER TABLE device ADD CONSTRAINT no_bad_ones CHECK (id NOT LIKE 'bad%')"
    };
    database.execute(sql).await;
}

fn refused(recorded: &Recorded) -> Vec<String> {
    let refused = recorded.rejections.iter().inspect(|rejection| {
        assert_eq!(rejection.reason(), "refused_by_database");
        assert!(rejection.to_string().contains("no"), "{rejection}");
    });
    refused.filter_map(|rejection| rejection.device_id().map(ToString::to_string)).collect()
}

async fn heartbeats_that_the_database_refuses_are_rejected_and_the_others_written(
    database: TestDatabase,
) {
    let store = open(&database).await;
    refuse_bad_ones(&database).await;
    let bad = ["bad-first", "bad-middle", "bad-next", "bad-zlast"];
    let mut ids: Vec<String> = (0..1_500).map(|number| format!("d-{number:04}")).collect();
    ids.extend(bad.map(str::to_owned));
    ids.extend((0..700).map(|number| format!("a-{number:04}")));
    ids.sort();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();

    let recorded = write(&store, &heartbeats(&ids)).await.expect("it writes the others");
    assert_eq!(refused(&recorded), bad);
    assert_eq!((recorded.registered, recorded.transitions.len()), (2_200, 2_200));
    assert_eq!(store.count_by_status().await.expect("it reads")[&Status::Online], 2_200);
    let listened = store.listened("test", start(), at(1)).await.expect("it reads");
    assert_eq!(listened.len(), 1, "it is proven with what could be written");
    // This has damaged nothing.
    write(&store, &heartbeats(&["good"])).await.expect("it writes");
}

async fn a_batch_of_which_the_database_refuses_everything_ends(database: TestDatabase) {
    let store = open(&database).await;
    refuse_bad_ones(&database).await;
    let ids: Vec<String> = (0..300).map(|number| format!("bad-{number:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let recorded = write(&store, &heartbeats(&ids)).await.expect("it ends");
    assert_eq!(refused(&recorded), ids);
    let listened = store.listened("test", start(), at(1)).await.expect("it reads");
    assert_eq!(listened.len(), 1);
}

/// It does not wait for its next look at the others, a whole echo interval later.
#[actix_rt::test]
async fn whoever_finds_that_the_database_has_lost_its_saves_is_not_the_active_one_at_once() {
    let database = TestDatabase::postgres();
    let store = database.open().await.standing_by();
    let day = Duration::from_secs(24 * 60 * 60);
    let settings = Settings {
        look_interval: day,
        flush_interval: day,
        ..Settings::from(&heartbeatd::Config::default())
    };
    let found = Found::read(&store, &settings).await.expect("it reads");
    let metrics = Arc::new(Metrics::new());
    let registry = DeviceRegistry::new(settings, store, found, Arc::clone(&metrics)).start();
    let is_active = |value: &str| {
        let page = metrics.encode().expect("it prints");
        assert!(page.contains(&format!("heartbeatd_active {value}")), "{page}");
    };
    registry.send(LookAround { now: system_clock() }).await.expect("it lives");
    is_active("1");
    database.execute("UPDATE listener SET saves = saves - 1").await;
    let now = system_clock();
    let heartbeats = vec![Heartbeat::parse(id("pump"), b"", now.wall)];
    registry.send(RecordHeartbeats { heartbeats, now }).await.expect("it lives");
    // The burst may have ended and been written before.
    let _written_or_not = registry.send(Flush).await.expect("it lives");
    is_active("0");
}
