//! The service's own reports about faults that break no connection.

use std::fs;
use std::sync::Arc;

use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::events::{
    DISCONNECTED, FLEET_HEARD, FLEET_SILENT, GAP, NOT_WRITTEN, WRITTEN_AGAIN,
};
use crate::support::fleet::{Fleet, at};
use crate::support::next_commit::NextCommit;
use crate::support::proxy::Proxy;
use crate::support::service::Place;
use crate::support::waiting::until;
use heartbeatd::actors::device_registry::{Flush, ReportHealth};
use heartbeatd::store::Interference;
use publishers::Devices;
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};

#[test]
fn a_database_that_vanishes_silently_is_reported_and_the_drain_is_bounded_and_honest() {
    let broker = Mosquitto::start();
    let database = TestDatabase::postgres();
    let (proxy, through) = Proxy::to_database(&database);
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("HEARTBEAT__TIMEOUT", "10m")
        .with("DATABASE__URL", &through);
    let mut service = place.start();
    service.await_listening();
    heartbeat(broker.port, "pump", b"");
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 1.0);
    eventually("it is ready", || (service.get("/readyz").0 == 200).then_some(()));

    proxy.swallow();
    heartbeat(broker.port, "pump", b"");
    service.await_event(NOT_WRITTEN);
    eventually("it is not ready", || {
        let (status, body) = service.get("/readyz");
        (status == 503 && body.contains("cannot record heartbeats")).then_some(())
    });
    assert_eq!(service.get("/healthz").0, 200, "a restart would not help");

    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(69), "{:#?}", service.log());
    service.await_words("ERROR heartbeatd", &["1 heartbeat is lost"]);
}

#[actix_rt::test]
async fn a_statement_that_waits_is_a_fault_after_ten_seconds_and_heartbeats_are_kept() {
    let database = TestDatabase::sqlite();
    let next_commit = Arc::new(NextCommit::default());
    let store = database.open().await.interfere(Arc::clone(&next_commit) as Arc<dyn Interference>);
    let fleet = Fleet::with_store(database, store, |_| ()).await;
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.flush().await;
    fleet.heartbeat("pump", "", at(60)).await;
    let _never_released = next_commit.waits();
    let flush = fleet.registry.send(Flush);
    let watching = until("the fault is told", async || {
        let health = fleet.registry.send(ReportHealth).await.expect("it lives");
        let why = health.database.err()?;
        Some((why, health.pending, fleet.metrics.encode().expect("it prints")))
    });
    let (flushed, (why, pending, metrics)) = futures::join!(flush, watching);
    let seconds = why.strip_prefix("no answer for ").expect(&why).split(' ').next();
    let seconds: u64 = seconds.expect(&why).parse().expect(&why);
    assert!((10..20).contains(&seconds), "{why}");
    assert!(why.ends_with(" s, asked to record heartbeats"), "{why}");
    assert_eq!(pending, 1);
    let stalled = metrics.lines().find_map(|line| {
        line.strip_prefix("heartbeatd_database_stalled_seconds ")?.parse::<f64>().ok()
    });
    assert!(stalled.is_some_and(|stalled| (10.0..20.0).contains(&stalled)), "{metrics}");

    // In the end the transaction is given up, and the next one succeeds.
    flushed.expect("it lives").expect_err("it was bounded");
    fleet.flush().await;
    assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(60)));
}

#[test]
fn a_fleet_that_falls_silent_as_a_whole_while_echoes_return_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let acl = folder.path().join("acl");
    let all = "topic readwrite #\n";
    fs::write(&acl, all).expect("a file");
    let broker = Mosquitto::start_with(&format!("acl_file {}", acl.display()));
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "6s");
    let service = place.start();
    service.await_listening();
    let _devices = Devices::live(broker.port, ["a", "b", "c"].map(str::to_owned));
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 3.0);
    let checks = "heartbeatd_check_duration_seconds_count";
    service.await_metric(checks, service.metric(checks) + 1.0);
    assert!(service.get("/readyz").1.contains(r#""fleet":"ok""#));

    // Devices may publish, but no client may read.
    fs::write(&acl, "topic readwrite heartbeatd/#\ntopic write devices/#\n").expect("a file");
    broker.reload();
    service.await_event(FLEET_SILENT);
    // Even when all of them have gone offline because of it.
    service.await_metric(r#"heartbeatd_devices{status="offline"}"#, 3.0);
    service.await_metric(checks, service.metric(checks) + 2.0);
    let (status, body) = service.get("/readyz");
    assert!(status == 200 && body.contains("no device has been heard for"), "{status} {body}");

    fs::write(&acl, all).expect("a file");
    broker.reload();
    eventually("devices are heard", || {
        service.get("/readyz").1.contains(r#""fleet":"ok""#).then_some(())
    });
    service.await_event(FLEET_HEARD);
}

#[test]
fn the_silence_of_the_only_device_is_a_warning() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "6s");
    let service = place.start();
    service.await_listening();
    heartbeat(broker.port, "pump", b"");
    service.await_event("WARN device_registry topic=devices/+/heartbeat devices=1 seconds=");
    assert!(service.get("/readyz").1.contains("no device has been heard for"));
}

#[test]
fn an_outage_of_the_broker_is_not_a_silence_of_the_fleet() {
    let mut broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "6s");
    let service = place.start();
    service.await_listening();
    let devices = Devices::live(broker.port, ["a", "b", "c"].map(str::to_owned));
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 3.0);
    broker.stop();
    service.await_event(DISCONNECTED);
    let checks = "heartbeatd_check_duration_seconds_count";
    // For longer than half the timeout.
    service.await_metric(checks, service.metric(checks) + 10.0);
    let heartbeats = service.metric("heartbeatd_heartbeats_total");
    broker.go_on();
    service.await_event(GAP);
    service.await_metric("heartbeatd_heartbeats_total", heartbeats + 3.0);
    assert_eq!(service.events(FLEET_SILENT).len(), 0);
    drop(devices);
}

#[actix_rt::test]
async fn a_device_that_the_database_refuses_to_mark_does_not_stop_the_others() {
    for database in [TestDatabase::sqlite(), TestDatabase::postgres()] {
        let url = database.url.clone();
        let fleet = Fleet::on(database).await;
        fleet.heartbeats(&["a", "bad", "c", "d", "e"], "", at(0)).await;
        fleet.flush().await;
        let refuse = if url.starts_with("sqlite") {
            "CREATE TRIGGER refuse BEFORE UPDATE ON device WHEN new.id = 'bad' \
             BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        } else {
            "ALTER TABLE device ADD CONSTRAINT refuse CHECK (id <> 'bad') NOT VALID"
        };
        let other = sea_orm::Database::connect(&url).await.expect("the database opens");
        sea_orm::ConnectionTrait::execute_unprepared(&other, refuse).await.expect(refuse);
        assert_eq!(fleet.check(at(181)).await, ["a", "c", "d", "e"]);
    }
}

#[actix_rt::test]
async fn registered_devices_are_heard_however_few_heartbeats_may_register() {
    const DEVICES: usize = 40;
    let broker = Mosquitto::start();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("HEARTBEAT__TIMEOUT", "4s")
        .with("DEVICES__MAX_DEVICES", "10");
    let ids: Vec<_> = (0..DEVICES).map(|number| format!("d-{number:02}")).collect();
    for id in &ids {
        assert!(place.run(&["device", "add", id]).status.success());
    }
    let service = place.start();
    service.await_listening();
    let _devices = Devices::live(broker.port, ids);
    let online = r#"heartbeatd_devices{status="online"}"#;
    service.await_metric(online, DEVICES as f64);

    let lock = lock_sqlite(&place.database_url()).await;
    // For longer than the timeout; 20 rounds of heartbeats are 10 s.
    let heartbeats = "heartbeatd_heartbeats_total";
    service.await_metric(heartbeats, service.metric(heartbeats) + (20 * DEVICES) as f64);
    lock.rollback().await.expect("it is released");
    service.await_event(WRITTEN_AGAIN);
    let checks = "heartbeatd_check_duration_seconds_count";
    service.await_metric(checks, service.metric(checks) + 4.0);
    assert_eq!(service.metric(online), DEVICES as f64);
    let offline = r#"heartbeatd_transitions_total{from="online",to="offline"}"#;
    assert_eq!(service.metric(offline), 0.0, "{:#?}", service.log());
}
