//! A million registered devices.

use std::time::{Duration, Instant};

use heartbeatd::actors::device_registry::{CheckOffline, RecordHeartbeats, ReportHealth};
use heartbeatd::domain::{Heartbeat, Status};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id, reading};
use crate::support::service::{Place, Service};
use crate::support::waiting::until;
use servers::mosquitto::{Mosquitto, heartbeat};

on_both_databases! {
    a_check_of_a_million_devices_does_not_keep_heartbeats_waiting
    a_burst_of_heartbeats_is_written_when_it_ends
}

/// Devices `d-0000001` and so on, all online and seen at `seconds`.
async fn register(database: &TestDatabase, count: u32, seconds: i64) {
    drop(database.open().await);
    let seen = at(seconds).timestamp_millis();
    let sql = if database.url.starts_with("sqlite") {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             INSERT INTO device (id, status, last_seen_at, registered_at) \
             SELECT printf('d-%07d', i), 'online', {seen}, 0 FROM n"
        )
    } else {
        format!(
            "INSERT INTO device (id, status, last_seen_at, registered_at) \
             SELECT 'd-' || lpad(i::text, 7, '0'), 'online', {seen}, 0 \
             FROM generate_series(1, {count}) AS i"
        )
    };
    database.execute(&sql).await;
}

async fn a_check_of_a_million_devices_does_not_keep_heartbeats_waiting(database: TestDatabase) {
    register(&database, 1_000_000, 0).await;
    let fleet = Fleet::on(database).await;
    fleet.listening(at(100)).await;

    // No device is stale. The check is sent first, and everything else is answered before it.
    let began = Instant::now();
    let check = fleet.registry.send(CheckOffline { now: reading(at(100)) });
    let answers = async {
        let mut answered = Vec::new();
        for second in 0..100 {
            let received_at = at(100 + second);
            let heartbeat = Heartbeat::parse(id("d-0000007"), b"", received_at);
            let now = reading(received_at);
            let record = RecordHeartbeats { heartbeats: vec![heartbeat], now };
            fleet.registry.send(record).await.expect("it lives");
            fleet.registry.send(ReportHealth).await.expect("it lives");
            answered.push(began.elapsed());
        }
        answered
    };
    let (checked, answered) = futures::join!(
        async { (check.await.expect("it lives").expect("it checks"), began.elapsed()) },
        answers
    );
    let (checked, check_took) = checked;
    assert_eq!(checked.newly_offline, 0);
    let last = answered.last().expect("a hundred");
    assert!(*last < check_took, "answered after {last:?}, the check took {check_took:?}");

    assert!(fleet.check(at(180)).await.is_empty(), "no device is past the deadline");
    let counts = fleet.store.count_by_status().await.expect("it counts");
    assert_eq!(counts[&Status::Online], 1_000_000);
}

async fn a_burst_of_heartbeats_is_written_when_it_ends(database: TestDatabase) {
    const BURST: u64 = 10_000;
    // Its flushes are a day apart.
    let fleet = Fleet::configured(database, |config| {
        config.devices.registration_burst = BURST;
    })
    .await;
    let received_at = at(1);
    let heartbeat = |n| Heartbeat::parse(id(&format!("d-{n:07}")), b"", received_at);
    let heartbeats = (0..BURST).map(heartbeat).collect();
    let record = RecordHeartbeats { heartbeats, now: reading(received_at) };
    fleet.registry.send(record).await.expect("it lives");
    until("the burst is written without a flush that is due", async || {
        let online = fleet.store.count_by_status().await.expect("it counts")[&Status::Online];
        (online >= BURST).then_some(())
    })
    .await;
}

/// The peak memory of the process, in bytes.
fn peak_memory(service: &Service) -> u64 {
    let path = format!("/proc/{}/status", service.process.0.id());
    let status = std::fs::read_to_string(path).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux");
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kilobytes.expect("a number") * 1024
}

#[actix_rt::test]
async fn memory_does_not_grow_with_the_number_of_registered_devices() {
    const MARGIN: u64 = 16 * 1024 * 1024;
    let broker = Mosquitto::start();
    let mut peaks = Vec::new();
    // More than fits into the database's page caches, and ten times that.
    for count in [100_000, 1_000_000] {
        let database = TestDatabase::sqlite();
        register(&database, count, 10 * 365 * 24 * 60 * 60).await;
        let place = Place::new()
            .with("MQTT__URL", &broker.url())
            .with("HEARTBEAT__TIMEOUT", "1h")
            .with("MQTT__CLIENT_ID", &format!("memory-{count}"))
            .with("DATABASE__URL", &database.url);
        let service = place.start();
        service.await_listening();
        heartbeat(broker.port, "d-0000001", b"");
        service.await_metric("heartbeatd_flush_duration_seconds_count", 1.0);
        service.await_metric("heartbeatd_check_duration_seconds_count", 3.0);
        service.await_metric(r#"heartbeatd_devices{status="online"}"#, f64::from(count));
        peaks.push(peak_memory(&service));
    }
    assert!(peaks[1] < peaks[0] + MARGIN, "from {} to {} bytes", peaks[0], peaks[1]);
}

#[actix_rt::test]
async fn a_hundred_thousand_devices_that_fall_silent_at_once_are_all_reported() {
    // Ten times as many devices take ten times as long, and not a hundred times. Other tests
    // run meanwhile, and may slow down one of the two: then it is measured again.
    const ATTEMPTS: usize = 3;
    let mut ratios = Vec::new();
    while ratios.len() < ATTEMPTS && ratios.iter().all(|ratio| *ratio >= 40.0) {
        let few = check_that_finds_all_of(15_000).await;
        let many = check_that_finds_all_of(150_000).await;
        ratios.push(many.as_secs_f64() / few.as_secs_f64());
    }
    assert!(ratios.iter().any(|ratio| *ratio < 40.0), "{ratios:?}");
}

/// The time of a check in which `count` devices are silent, all of which it finds.
async fn check_that_finds_all_of(count: u32) -> Duration {
    let database = TestDatabase::sqlite();
    register(&database, count, 0).await;
    let fleet = Fleet::on(database).await;
    let began = Instant::now();
    assert_eq!(fleet.check(at(181)).await.len(), count as usize);
    began.elapsed()
}
