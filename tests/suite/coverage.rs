//! Silence counts only while listening, in the registry and in the binary.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::events::{DISCONNECTED, GAP};
use crate::support::fleet::{Fleet, at, non_zero, reading};
use crate::support::plans::{Statements, plan};
use crate::support::service::Place;
use crate::support::waiting::until;
use publishers::flood;
use servers::mosquitto::{Mosquitto, heartbeat};

use heartbeatd::actors::device_registry::{CheckOffline, ConfirmListening};
use heartbeatd::clock::Reading;
use heartbeatd::domain::{GapCause, Interval, Status};

on_both_databases! {
    no_silence_counts_while_the_service_was_not_listening
    a_device_that_died_before_the_start_is_found
    a_heartbeat_from_the_future_of_a_clock_set_back_is_clamped
    a_clock_set_back_while_nothing_is_heard_or_proven_is_noticed_too
    a_clock_set_back_and_forward_again_across_crashes_makes_no_silence
    the_database_keeps_the_coverage_that_memory_prunes_until_it_is_old
    a_clock_set_back_over_pruned_coverage_takes_it_out_of_the_database
    a_window_of_the_coverage_is_a_range_of_its_key_and_bounded
    no_limit_takes_a_member_of_a_share_group_away
    the_first_instant_that_was_listened_to_is_that_of_any_instance
}

async fn confirm(fleet: &Fleet, since: i64, until: i64) {
    let after = GapCause::Disconnected;
    let message = ConfirmListening { since: at(since), until: at(until), after };
    fleet.registry.send(message).await.expect("it lives");
}

async fn no_silence_counts_while_the_service_was_not_listening(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["alive", "dead"], "", at(0)).await;
    confirm(&fleet, 0, 100).await;
    // A new connection, an hour later.
    confirm(&fleet, 3700, 3710).await;
    let check = |seconds| CheckOffline { now: reading(at(seconds)) };
    let checked = fleet.registry.send(check(3710)).await.expect("it lives").expect("it checks");
    assert_eq!(checked.newly_offline, 0, "110 s have been listened to");
    fleet.heartbeat("alive", "", at(3750)).await;
    confirm(&fleet, 3700, 3781).await;
    let checked = fleet.registry.send(check(3781)).await.expect("it lives").expect("it checks");
    assert_eq!(checked.newly_offline, 1, "181 s have been");
    assert_eq!(fleet.status("dead").await, Status::Offline);
    assert_eq!(fleet.status("alive").await, Status::Online);
}

async fn a_device_that_died_before_the_start_is_found(database: TestDatabase) {
    drop(database.open().await);
    let long_ago = at(-1_000_000).timestamp_millis();
    let columns = "id, status, last_seen_at, registered_at";
    let row = format!("('dead', 'online', {long_ago}, 0)");
    database.execute(&format!("INSERT INTO device ({columns}) VALUES {row}")).await;
    let fleet = Fleet::on(database).await;
    assert!(fleet.check(at(180)).await.is_empty(), "it may only have been missed");
    assert_eq!(fleet.check(at(181)).await, ["dead"]);
}

async fn a_heartbeat_from_the_future_of_a_clock_set_back_is_clamped(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(86_400)).await;
    confirm(&fleet, 0, 86_400).await;
    fleet.flush().await;
    confirm(&fleet, 10, 10).await;
    assert!(fleet.check(at(20)).await.is_empty());
    assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(20)));
    assert!(fleet.check(at(200)).await.is_empty());
    assert_eq!(fleet.check(at(201)).await, ["pump"]);
}

async fn a_clock_set_back_while_nothing_is_heard_or_proven_is_noticed_too(database: TestDatabase) {
    drop(database.open().await);
    let earlier_process = at(80).timestamp_millis();
    let columns = "id, status, last_seen_at, registered_at";
    let row = format!("('pump', 'online', {earlier_process}, 0)");
    database.execute(&format!("INSERT INTO device ({columns}) VALUES {row}")).await;
    let fleet = Fleet::on(database).await;
    for (now, last_seen) in [(90, 80), (50, 50)] {
        let passed = reading(at(90 + i64::from(now == 50))).monotonic;
        let check = CheckOffline { now: Reading { wall: at(now), monotonic: passed } };
        fleet.registry.send(check).await.expect("it lives").expect("it checks");
        assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(last_seen)), "at {now}");
    }
}

async fn a_clock_set_back_and_forward_again_across_crashes_makes_no_silence(
    database: TestDatabase,
) {
    let first = Fleet::on(database).await;
    first.heartbeat("pump", "", at(290)).await;
    confirm(&first, 0, 300).await;
    first.flush().await;
    // Each process dies after its first check.
    for now in [50, 290] {
        let check = CheckOffline { now: reading(at(now)) };
        let process = first.next_process().await;
        process.send(check).await.expect("it lives").expect("it checks");
        assert_eq!(first.status("pump").await, Status::Online, "at {now}");
    }
}

const DAY: i64 = 24 * 60 * 60;

/// A fleet whose memory has pruned what the database still has: two stretches of listening
/// before one of two days.
async fn fleet_that_has_pruned(database: TestDatabase) -> Fleet {
    let fleet = Fleet::on(database).await;
    confirm(&fleet, 0, 100).await;
    confirm(&fleet, 200, 300).await;
    confirm(&fleet, 1000, 2 * DAY).await;
    fleet.check_only(at(2 * DAY)).await;
    confirm(&fleet, 1000, 2 * DAY + 5).await;
    fleet.flush().await;
    let in_memory = fleet.board.snapshot(reading(at(2 * DAY + 5))).coverage;
    assert_eq!(in_memory.proven_since(), Some(at(1000)), "the rest is pruned");
    fleet
}

/// The stored coverage, in seconds after the beginning.
async fn stored(fleet: &Fleet) -> Vec<(i64, i64)> {
    let (from, until) = (at(-1), DateTime::<Utc>::MAX_UTC);
    let listened = fleet.store.listened("heartbeatd", from, until).await.expect("it reads");
    let seconds = |time: DateTime<Utc>| (time - at(0)).num_seconds();
    listened.iter().map(|l| (seconds(l.interval.from), seconds(l.interval.until))).collect()
}

async fn the_database_keeps_the_coverage_that_memory_prunes_until_it_is_old(
    database: TestDatabase,
) {
    let fleet = fleet_that_has_pruned(database).await;
    assert_eq!(stored(&fleet).await, [(0, 100), (200, 300), (1000, 2 * DAY + 5)]);
    let newest = (at(-1), DateTime::<Utc>::MAX_UTC);
    let newest = fleet.store.newest_stays(newest, 2).await.expect("it reads");
    assert_eq!(newest[0].listened[0].after, Some(GapCause::Disconnected));

    for (now, expected) in [
        (90 * DAY, &[(0, 100), (200, 300), (1000, 90 * DAY)][..]),
        (90 * DAY + 101, &[(200, 300), (1000, 90 * DAY + 101)]),
        (90 * DAY + 301, &[(1000, 90 * DAY + 301)]),
    ] {
        confirm(&fleet, 1000, now).await;
        fleet.check_only(at(now)).await;
        assert_eq!(stored(&fleet).await, expected);
    }
}

async fn a_clock_set_back_over_pruned_coverage_takes_it_out_of_the_database(
    database: TestDatabase,
) {
    let fleet = fleet_that_has_pruned(database).await;
    // It ends where an interval was that is not in memory any more.
    confirm(&fleet, 1000, 250).await;
    fleet.flush().await;
    assert_eq!(stored(&fleet).await, [(0, 100), (200, 250), (250, 250)]);
    confirm(&fleet, 0, 260).await;
    fleet.flush().await;
    assert_eq!(stored(&fleet).await, [(0, 100), (200, 250), (250, 260)]);
}

async fn a_window_of_the_coverage_is_a_range_of_its_key_and_bounded(database: TestDatabase) {
    drop(database.open().await);
    let rows = (0..50).map(|n| {
        let [from, until] = [10 * n, 10 * n + 5].map(|seconds| at(seconds).timestamp_millis());
        format!("(1, {from}, {until})")
    });
    let rows = rows.collect::<Vec<_>>().join(", ");
    let listener = "INSERT INTO listener (id, instance, incarnation, joined_at, left_at) \
                    VALUES (1, 'heartbeatd', 1, 0, 1)";
    database.execute(listener).await;
    let columns = "listener, started_at, ended_at";
    database.execute(&format!("INSERT INTO listening_interval ({columns}) VALUES {rows}")).await;
    let (store, statements) = Statements::of(database.open().await);
    for (from, until, limit, expected) in [
        (100, 130, 10, &[100, 110, 120, 130][..]),
        (103, 129, 10, &[100, 110, 120]),
        (105, 105, 10, &[100]),
        (106, 109, 10, &[]),
        (-50, 10, 10, &[0, 10]),
        (-50, 1000, 3, &[470, 480, 490]),
    ] {
        let window = (at(from), at(until));
        let stays = store.newest_stays(window, limit).await.expect("it reads");
        let listened = stays.iter().flat_map(|stay| &stay.listened);
        let starts: Vec<_> = listened.map(|l| (l.interval.from - at(0)).num_seconds()).collect();
        assert_eq!(starts, expected, "{from} to {until}");
    }
    let sql = statements.take().pop().expect("a statement");
    let plan = plan(&database, &sql).await;
    // Both ends of the range are in the key.
    let is_range = |line: &String| {
        line.contains("started_at>? AND started_at<?")
            || (line.contains("Index Cond") && line.contains(">=") && line.contains("<="))
    };
    assert!(plan.iter().any(is_range), "{plan:#?}");
}

async fn no_limit_takes_a_member_of_a_share_group_away(database: TestDatabase) {
    drop(database.open().await);
    let time = |seconds: i64| at(seconds).timestamp_millis();
    let listener = |id: i64, group: &str, joined: i64, left: Option<i64>| {
        let left = left.map_or("NULL".to_owned(), |left| time(left).to_string());
        format!("({id}, 'hall-{id}', 1, {group}, '00000002', {}, {left})", time(joined))
    };
    let listeners = [
        listener(1, "'halls'", 0, None),
        listener(2, "'halls'", 5_000, Some(5_010)),
        listener(3, "'halls'", 5_000, Some(5_020)),
        // Neither of a group, nor with an interval.
        listener(4, "NULL", 5_000, Some(5_020)),
        // An hour outside of the window may count, and clocks may differ by another one.
        listener(5, "'halls'", -20_000, Some(-2_100)),
        listener(6, "'halls'", -20_000, Some(-2_300)),
        listener(7, "'halls'", 13_100, Some(13_300)),
        listener(8, "'halls'", 13_300, Some(13_400)),
        listener(9, "NULL", -20_000, None),
    ];
    let columns = "id, instance, incarnation, share_group, timeline, joined_at, left_at";
    database
        .execute(&format!("INSERT INTO listener ({columns}) VALUES {}", listeners.join(", ")))
        .await;
    let rows = (0..5).map(|n| format!("(1, {}, {})", time(5_100 + 10 * n), time(5_105 + 10 * n)));
    let older = |id: i64, from, until| format!("({id}, {}, {})", time(from), time(until));
    let rows = rows.chain([older(3, 5_001, 5_002), older(9, 4_000, 5_000)]);
    let rows = rows.collect::<Vec<_>>().join(", ");
    let columns = "listener, started_at, ended_at";
    database.execute(&format!("INSERT INTO listening_interval ({columns}) VALUES {rows}")).await;

    let store = database.open().await;
    let stays = store.newest_stays((at(5_000), at(6_000)), 2).await.expect("it reads");
    let read: Vec<_> = stays.iter().map(|stay| (stay.listener, stay.listened.len())).collect();
    assert_eq!(read, [(1, 2), (2, 0), (3, 0), (5, 0), (7, 0), (9, 0)]);
    let starts = stays[0].listened.iter().map(|listened| listened.interval.from);
    assert_eq!(starts.collect::<Vec<_>>(), [at(5_130), at(5_140)], "the newest, in order");
    let second = &stays[1];
    assert_eq!((second.share_group.as_deref(), &*second.timeline), (Some("halls"), "00000002"));
    assert_eq!((second.joined_at, second.left_at), (at(5_000), Some(at(5_010))));

    // Outside of the window a member of another time may be missing.
    database.execute("UPDATE listening_interval SET gap_cause = 'no_echo'").await;
    let long = format!(
        "UPDATE listening_interval SET started_at = {} WHERE listener IN (3, 9)",
        time(-9_000)
    );
    database.execute(&long).await;
    let longer = format!(
        "UPDATE listening_interval SET ended_at = {} WHERE listener IN (3, 9)",
        time(19_000)
    );
    database.execute(&longer).await;
    let stays = store.newest_stays((at(5_000), at(6_000)), 9).await.expect("it reads");
    let of = |id| stays.iter().find(|stay| stay.listener == id).expect("it is read").listened[0];
    let whole = Interval { from: at(-9_000), until: at(19_000) };
    assert_eq!((of(9).interval, of(9).after), (whole, Some(GapCause::NoEcho)));
    let counted = Interval { from: at(1_400), until: at(9_600) };
    assert_eq!((of(3).interval, of(3).after), (counted, None));
}

#[actix_rt::test]
async fn a_member_of_a_share_group_that_cannot_be_read_is_not_left_out() {
    let database = TestDatabase::sqlite();
    let store = database.open().await;
    let columns = "id, instance, incarnation, share_group, joined_at, clock_offset_ms";
    let listeners = "(1, 'hall-1', 1, NULL, 0, 'fast'), (2, 'hall-2', 1, 'halls', 0, 0)";
    database.execute(&format!("INSERT INTO listener ({columns}) VALUES {listeners}")).await;
    let stays = store.stays(at(0), at(1)).await.expect("it reads what can be read");
    assert_eq!(stays.iter().map(|stay| stay.listener).collect::<Vec<_>>(), [2]);
    database.execute("UPDATE listener SET clock_offset_ms = 'fast' WHERE id = 2").await;
    let error = store.stays(at(0), at(1)).await.expect_err("it would make nothing uncertain");
    assert!(error.to_string().contains("clock_offset_ms"), "{error}");
}

#[test]
fn a_fleet_survives_a_broker_that_is_gone_for_longer_than_the_timeout() {
    let mut broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "2s");
    let service = place.start();
    service.await_listening();
    heartbeat(broker.port, "alive", b"");
    place.await_statuses(&["alive online"]);
    broker.stop();
    service.await_event(DISCONNECTED);
    let checks = "heartbeatd_check_duration_seconds_count";
    // Far longer than the timeout, without listening.
    service.await_metric(checks, service.metric(checks) + 10.0);
    broker.go_on();
    service.await_event(GAP);
    heartbeat(broker.port, "alive", b"");
    let heartbeats = "heartbeatd_heartbeats_total";
    service.await_metric(heartbeats, 2.0);
    let offline = place.json(&["history", "alive", "--json"]);
    assert_eq!(offline.as_array().expect("an array").len(), 1, "{offline}");
    service.await_metric("heartbeatd_blind_seconds_total", 2.0);
    // Now the service listens, and the device is silent.
    place.await_statuses(&["alive offline"]);
}

#[test]
fn a_missing_echo_is_logged_with_the_rights_to_grant() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "topic readwrite devices/#\n").expect("a file");
    // Without queue limits mosquitto 2.0.11 closes the connection instead.
    let limits = "max_queued_messages 1000\nmax_inflight_messages 20";
    let broker = Mosquitto::start_with(&format!("{limits}\nacl_file {}", acl.display()));
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", "1s");
    let service = place.start();
    let missing = "ERROR mqtt_ingest topic=heartbeatd/heartbeatd/echo seconds=";
    service.await_words(missing, &["write and to read"]);
    assert_eq!(service.metric("heartbeatd_listening"), 0.0);
    let (status, body) = service.get("/readyz");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("no echo comes back"), "{body}");
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
    let checks = "heartbeatd_check_duration_seconds_count";
    service.await_metric(checks, service.metric(checks) + 6.0);
    place.await_statuses(&["pump online"]);

    // Now being connected is the evidence.
    drop(service);
    let place = place.with("MQTT__ECHO_INTERVAL", "0s").with("MQTT__CLIENT_ID", "without-echo");
    let without = place.start();
    without.await_listening();
    place.await_statuses(&["pump offline"]);
}

/// Rights for mosquitto's dynamic security, which refuses a subscription, unlike an ACL
/// file. No client may subscribe to `denied`.
fn rights(denied: &str) -> String {
    json!({
        "defaultACLAccess": {
            "publishClientSend": true, "publishClientReceive": true,
            "subscribe": true, "unsubscribe": true
        },
        "clients": [],
        "roles": [{ "rolename": "all", "acls": [
            { "acltype": "subscribeLiteral", "topic": denied, "allow": false }
        ] }],
        "groups": [{ "groupname": "everybody", "roles": [{ "rolename": "all" }] }],
        "anonymousGroup": "everybody"
    })
    .to_string()
}

#[test]
fn one_of_two_subscriptions_that_is_refused_is_named_and_nothing_is_proven() {
    for version in ["5", "3.1.1"] {
        for denied in ["devices/+/heartbeat", "heartbeatd/heartbeatd/echo"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let file = folder.path().join("rights.json");
            std::fs::write(&file, rights(denied)).expect("a file");
            let plugin = dynamic_security();
            let broker = Mosquitto::start_with(&format!(
                "plugin {plugin}\nplugin_opt_config_file {}",
                file.display()
            ));
            let place = Place::new()
                .with("MQTT__URL", &broker.url())
                .with("MQTT__VERSION", version)
                .with("MQTT__ECHO_INTERVAL", "100ms");
            let service = place.start();
            service.await_words("ERROR mqtt_ingest", &[&format!("cannot subscribe to {denied}: ")]);
            assert_eq!(service.metric("heartbeatd_listening"), 0.0, "MQTT {version}, {denied}");
            assert_eq!(service.metric("heartbeatd_echo_latency_seconds_count"), 0.0);
            let (status, body) = service.get("/readyz");
            assert_eq!((status, body.contains("not subscribed")), (503, true), "{body}");
        }
    }
}

/// The path of the plugin, where Debian's package puts it.
fn dynamic_security() -> String {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder");
    let file = "mosquitto_dynamic_security.so";
    let paths = folders.map(|folder| folder.expect("it reads").path().join(file));
    let found = paths.into_iter().find(|path| path.exists());
    found.expect("mosquitto's plugin in /usr/lib/*").display().to_string()
}

#[test]
fn an_ingest_that_sheds_breaks_the_coverage() {
    let broker = Mosquitto::start();
    let place = Place::new().with("MQTT__MAX_BACKLOG", "1").with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    flood(broker.port, "shed", 100, 20, "");
    service.await_words("ERROR mqtt_ingest count=", &["mqtt.max_backlog"]);
    service.await_event("WARN device_registry cause=shed from= until=");
    service.await_metric(SHED, 1.0);
}

const SHED: &str = r#"heartbeatd_heartbeats_rejected_total{reason="shed"}"#;

#[test]
fn the_embedded_broker_sheds_nothing() {
    let place = Place::new().with("MQTT__MAX_BACKLOG", "1");
    let service = place.start();
    service.await_listening();
    flood(service.broker_port(), "kept", 100, 200, "");
    service.await_metric("heartbeatd_heartbeats_total", 20_000.0);
    assert_eq!(service.metric(SHED), 0.0);
}

#[actix_rt::test]
async fn the_service_keeps_listening_when_its_clock_is_set_back() {
    use chrono::TimeDelta;
    use heartbeatd::clock::system_clock;
    use std::sync::atomic::{AtomicI64, Ordering};
    static BEHIND_SECONDS: AtomicI64 = AtomicI64::new(0);
    fn clock() -> Reading {
        let behind = TimeDelta::seconds(BEHIND_SECONDS.load(Ordering::Relaxed));
        let now = system_clock();
        Reading { wall: now.wall - behind, ..now }
    }

    let database = TestDatabase::sqlite();
    let broker = Mosquitto::start();
    let mut config = heartbeatd::Config::default();
    config.mqtt.url = Some(broker.url().parse().expect("a URL"));
    config.mqtt.echo_interval = Some(non_zero(std::time::Duration::from_millis(100)));
    config.heartbeat.timeout = non_zero(std::time::Duration::from_secs(1));
    config.heartbeat.check_interval = non_zero(std::time::Duration::from_millis(100));
    config.heartbeat.flush_interval = non_zero(std::time::Duration::from_millis(50));
    config.database.url = database.url.clone().into();
    config.http.listen = heartbeatd::config::Listen::Off;
    let app = heartbeatd::App::build(config).clock(clock).start().await.expect("it starts");
    let store = database.open().await;
    let status = async |expected: Status| {
        let pump = crate::support::fleet::id("pump");
        until(&format!("it is {expected}"), async || {
            let device = store.device(&pump).await.expect("it reads");
            if device.is_some_and(|device| device.status == expected) {
                return Some(());
            }
            if expected == Status::Online {
                // Repeated, because the service may not be subscribed yet.
                heartbeat(broker.port, "pump", b"");
            }
            None
        })
        .await;
    };
    status(Status::Online).await;
    BEHIND_SECONDS.store(3600, Ordering::Relaxed);
    // Within seconds, not within an hour.
    status(Status::Offline).await;
    app.drain().await.expect("it drains");
}

async fn the_first_instant_that_was_listened_to_is_that_of_any_instance(database: TestDatabase) {
    let store = database.open().await;
    assert_eq!(store.first_listened().await.expect("it reads"), None);
    let listeners = "INSERT INTO listener (id, instance, incarnation, joined_at) \
                     VALUES (1, 'hall-a', 1, 0), (2, 'hall-b', 2, 0), (3, 'hall-c', 3, 0)";
    database.execute(listeners).await;
    assert_eq!(store.first_listened().await.expect("it reads"), None, "they have only joined");
    for (listener, from, first) in [(1, 500, 500), (1, 700, 500), (2, 300, 300), (2, 900, 300)] {
        let [from, until] = [from, from + 10].map(|seconds| at(seconds).timestamp_millis());
        let interval = format!(
            "INSERT INTO listening_interval (listener, started_at, ended_at) \
             VALUES ({listener}, {from}, {until})"
        );
        database.execute(&interval).await;
        assert_eq!(store.first_listened().await.expect("it reads"), Some(at(first)));
    }
}
