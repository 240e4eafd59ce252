//! The cases of the specification, each on SQLite and on PostgreSQL. Each test states the
//! time.

use std::time::Duration;

use heartbeatd::domain::Status;

use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id, non_zero};

macro_rules! on_both_databases {
    ($($name:ident)*) => {
        mod on_sqlite {
            $(#[actix_rt::test] async fn $name() {
                super::$name(crate::support::database::TestDatabase::sqlite()).await;
            })*
        }
        mod on_postgresql {
            $(#[actix_rt::test] async fn $name() {
                super::$name(crate::support::database::TestDatabase::postgres()).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

on_both_databases! {
    a_heartbeat_updates_last_seen_at
    a_heartbeat_sets_the_status_online
    a_device_without_a_heartbeat_for_180_s_goes_offline
    the_check_returns_exactly_the_ids_that_went_offline
    several_devices_go_offline_at_once
    a_provisioning_device_never_goes_offline
    a_device_can_have_its_own_timeout
    an_error_report_and_its_recovery
    a_device_in_error_goes_offline_too
    a_returning_device_is_online_again
    a_clock_that_is_off_by_a_day_changes_only_the_skew
    a_heartbeat_keeps_the_fields_that_it_does_not_report
    a_heartbeat_that_waits_to_be_written_prevents_offline
    an_unknown_device_is_rejected_without_auto_register
    a_full_fleet_takes_no_more_devices
    an_offline_transition_is_delivered_until_it_is_acknowledged
    old_history_is_deleted_but_never_what_still_matters
    a_device_can_be_removed_and_comes_back_as_new
}

async fn a_heartbeat_updates_last_seen_at(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.flush().await;
    assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(0)));
    fleet.heartbeat("pump", "", at(60)).await;
    fleet.flush().await;
    assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(60)));
}

async fn a_heartbeat_sets_the_status_online(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    assert!(fleet.store.register(&id("pump"), None, at(0)).await.expect("it writes"));
    assert_eq!(fleet.status("pump").await, Status::Provisioning);
    fleet.heartbeat("pump", "", at(1)).await;
    fleet.flush().await;
    assert_eq!(fleet.status("pump").await, Status::Online);
    fleet.heartbeat("pump", "", at(61)).await;
    fleet.flush().await;
    assert_eq!(fleet.changes("pump").await, ["provisioning -> online"]);
}

async fn a_device_without_a_heartbeat_for_180_s_goes_offline(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(0)).await;
    assert!(fleet.check(at(60)).await.is_empty());
    assert!(fleet.check(at(180)).await.is_empty(), "180 s are not more than 180 s");
    assert_eq!(fleet.status("pump").await, Status::Online);
    assert_eq!(fleet.check(at(181)).await, ["pump"]);
    assert_eq!(fleet.status("pump").await, Status::Offline);
    assert_eq!(fleet.device("pump").await.last_seen_at, Some(at(0)));
    assert!(fleet.check(at(241)).await.is_empty(), "it is reported once");
}

async fn the_check_returns_exactly_the_ids_that_went_offline(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a-silent", "b-late", "c-alive", "d-silent"], "", at(0)).await;
    fleet.heartbeat("b-late", "", at(100)).await;
    fleet.heartbeats(&["c-alive"], "", at(190)).await;
    assert_eq!(fleet.check(at(200)).await, ["a-silent", "d-silent"]);
    fleet.heartbeat("c-alive", "", at(250)).await;
    assert_eq!(fleet.check(at(300)).await, ["b-late"]);
    assert!(fleet.check(at(360)).await.is_empty());
    assert_eq!(fleet.status("c-alive").await, Status::Online);
}

async fn several_devices_go_offline_at_once(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let names: Vec<String> = (0..25_000).map(|n| format!("pump-{n:05}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.heartbeats(&names, "", at(0)).await;
    // More than are marked, and delivered, at once.
    assert_eq!(fleet.check(at(181)).await, names);
    let counts = fleet.store.count_by_status().await.expect("it counts");
    assert_eq!(counts[&Status::Offline], 25_000);
    assert_eq!(counts[&Status::Online], 0);
}

async fn a_provisioning_device_never_goes_offline(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.store.register(&id("pump"), None, at(0)).await.expect("it writes");
    fleet.store.register(&id("fan"), Some(Duration::from_secs(5)), at(0)).await.expect("it writes");
    assert!(fleet.check(at(1_000_000)).await.is_empty());
    assert_eq!(fleet.status("pump").await, Status::Provisioning);
    assert_eq!(fleet.status("fan").await, Status::Provisioning);
}

async fn a_device_can_have_its_own_timeout(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let seconds = |n| Some(Duration::from_secs(n));
    fleet.store.register(&id("hasty"), seconds(10), at(0)).await.expect("it writes");
    fleet.store.register(&id("sleepy"), seconds(3600), at(0)).await.expect("it writes");
    fleet.heartbeats(&["hasty", "sleepy", "usual"], "", at(0)).await;
    assert!(fleet.check(at(10)).await.is_empty());
    assert_eq!(fleet.check(at(11)).await, ["hasty"]);
    assert_eq!(fleet.check(at(181)).await, ["usual"]);
    assert_eq!(fleet.check(at(3601)).await, ["sleepy"]);

    fleet.heartbeats(&["hasty", "usual"], "", at(4000)).await;
    fleet.flush().await;
    assert!(fleet.store.set_timeout(&id("usual"), seconds(30)).await.expect("it writes"));
    assert!(fleet.store.set_timeout(&id("hasty"), None).await.expect("it writes"));
    assert!(!fleet.store.set_timeout(&id("nobody"), None).await.expect("it writes"));
    assert_eq!(fleet.check(at(4031)).await, ["usual"]);
    assert_eq!(fleet.check(at(4181)).await, ["hasty"]);
}

async fn an_error_report_and_its_recovery(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.flush().await;
    fleet.heartbeat("pump", r#"{"error":"valve stuck"}"#, at(60)).await;
    fleet.flush().await;
    let device = fleet.device("pump").await;
    assert_eq!((device.status, device.error.as_deref()), (Status::Error, Some("valve stuck")));
    fleet.heartbeat("pump", r#"{"error":"still stuck"}"#, at(120)).await;
    fleet.flush().await;
    assert_eq!(fleet.device("pump").await.error.as_deref(), Some("still stuck"));
    fleet.heartbeat("pump", "{}", at(180)).await;
    fleet.flush().await;
    let device = fleet.device("pump").await;
    assert_eq!((device.status, device.error), (Status::Online, None));
    let changes = ["provisioning -> online", "online -> error", "error -> online"];
    assert_eq!(fleet.changes("pump").await, changes);
}

async fn a_device_in_error_goes_offline_too(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", r#"{"error":"hot"}"#, at(0)).await;
    assert_eq!(fleet.check(at(181)).await, ["pump"]);
    fleet.heartbeat("pump", r#"{"error":"hot"}"#, at(200)).await;
    fleet.flush().await;
    let changes = ["provisioning -> error", "error -> offline", "offline -> error"];
    assert_eq!(fleet.changes("pump").await, changes);
}

async fn a_returning_device_is_online_again(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(0)).await;
    assert_eq!(fleet.check(at(181)).await, ["pump"]);
    fleet.heartbeat("pump", "", at(500)).await;
    assert!(fleet.check(at(501)).await.is_empty());
    assert_eq!(fleet.status("pump").await, Status::Online);
    assert_eq!(fleet.check(at(700)).await, ["pump"], "and can go offline again");
    let changes =
        ["provisioning -> online", "online -> offline", "offline -> online", "online -> offline"];
    assert_eq!(fleet.changes("pump").await, changes);
}

async fn a_clock_that_is_off_by_a_day_changes_only_the_skew(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("early", r#"{"timestamp":"2026-11-24T12:00:00Z"}"#, at(0)).await;
    fleet.heartbeat("late", r#"{"timestamp":"2026-11-22T12:00:00Z"}"#, at(0)).await;
    fleet.heartbeat("right", r#"{"timestamp":"2026-11-23T12:00:00Z"}"#, at(0)).await;
    fleet.heartbeat("silent", "", at(0)).await;
    fleet.flush().await;
    let day = 86_400_000;
    for (device, skew) in
        [("early", Some(day)), ("late", Some(-day)), ("right", Some(0)), ("silent", None)]
    {
        let device = fleet.device(device).await;
        assert_eq!(device.clock_skew_ms, skew, "{}", device.id);
        assert_eq!((device.status, device.last_seen_at), (Status::Online, Some(at(0))));
    }
    assert!(fleet.check(at(180)).await.is_empty());
    assert_eq!(fleet.check(at(181)).await, ["early", "late", "right", "silent"]);
}

async fn a_heartbeat_keeps_the_fields_that_it_does_not_report(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let payload = r#"{"uptime_seconds":60,"free_memory":1024,"timestamp":"2026-11-23T12:00:01Z"}"#;
    fleet.heartbeat("pump", payload, at(0)).await;
    fleet.flush().await;
    fleet.heartbeat("pump", r#"{"uptime_seconds":120}"#, at(60)).await;
    fleet.heartbeat("pump", "", at(61)).await;
    fleet.flush().await;
    let device = fleet.device("pump").await;
    assert_eq!(device.uptime_seconds, Some(120));
    assert_eq!(device.free_memory, Some(1024));
    assert_eq!(device.clock_skew_ms, Some(1000));
    assert_eq!(device.last_seen_at, Some(at(61)));
    assert_eq!(device.registered_at, at(0));
}

async fn a_heartbeat_that_waits_to_be_written_prevents_offline(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.flush().await;
    fleet.heartbeat("pump", "", at(170)).await;
    assert!(fleet.check(at(200)).await.is_empty());
}

async fn an_unknown_device_is_rejected_without_auto_register(database: TestDatabase) {
    let fleet = Fleet::configured(database, |config| config.devices.auto_register = false).await;
    fleet.store.register(&id("known"), None, at(0)).await.expect("it writes");
    fleet.heartbeats(&["known", "unknown"], "", at(0)).await;
    fleet.flush().await;
    assert_eq!(fleet.status("known").await, Status::Online);
    assert_eq!(fleet.store.device(&id("unknown")).await.expect("it reads"), None);
    let metrics = fleet.metrics.encode().expect("it prints");
    assert!(metrics.contains(r#"rejected_total{reason="unknown_device"} 1"#), "{metrics}");
}

async fn a_full_fleet_takes_no_more_devices(database: TestDatabase) {
    let fleet = Fleet::configured(database, |config| config.devices.max_devices = 3).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    fleet.flush().await;
    fleet.heartbeats(&["a", "b", "c"], "", at(1)).await;
    fleet.heartbeats(&["d", "e"], "", at(1)).await;
    fleet.flush().await;
    let devices = fleet.store.devices(None, None, 10).await.expect("it reads");
    assert_eq!(devices.len(), 3);
    fleet.heartbeats(&["a", "b", "f"], "", at(60)).await;
    fleet.flush().await;
    assert_eq!(fleet.device("a").await.last_seen_at, Some(at(60)), "who is in stays in");
    let metrics = fleet.metrics.encode().expect("it prints");
    assert!(metrics.contains(r#"rejected_total{reason="fleet_full"} 3"#), "{metrics}");
}

async fn an_offline_transition_is_delivered_until_it_is_acknowledged(database: TestDatabase) {
    use heartbeatd::actors::device_registry::Acknowledge;
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    fleet.flush().await;
    let check = async |seconds| {
        fleet.listening(at(seconds)).await;
        fleet.check_only(at(seconds)).await
    };
    let first = check(181).await;
    assert_eq!((first.newly_offline, first.undelivered), (2, 2));
    let found = fleet.undelivered().await;
    let again = check(241).await;
    assert_eq!((again.newly_offline, again.undelivered), (0, 2));
    assert_eq!(fleet.undelivered().await, found, "they are not acknowledged yet");

    let acknowledge = Acknowledge { keys: vec![found[0].key()], alerts: 1, at: at(242) };
    fleet.registry.send(acknowledge).await.expect("it lives").expect("it writes");
    assert_eq!(fleet.undelivered().await, found[1..]);
    let history = fleet.store.history(None, None, 10).await.expect("it reads");
    let delivered: Vec<_> = history.iter().filter_map(|t| t.delivered_at).collect();
    assert_eq!(delivered, [at(242)]);
}

async fn old_history_is_deleted_but_never_what_still_matters(database: TestDatabase) {
    let day = 24 * 60 * 60;
    let retention = Duration::from_secs(90 * 24 * 60 * 60);
    let fleet =
        Fleet::configured(database, |config| config.history.retention = non_zero(retention)).await;
    fleet.heartbeats(&["back", "gone"], "", at(0)).await;
    assert_eq!(fleet.check(at(181)).await, ["back", "gone"]);
    fleet.heartbeats(&["back", "undelivered"], "", at(200)).await;
    fleet.flush().await;
    fleet.listening(at(500)).await;
    fleet.check_only(at(500)).await;
    assert_eq!(fleet.recoveries().await.len(), 1, "that of back at 200");
    fleet.heartbeats(&["back", "undelivered"], "", at(600)).await;
    fleet.flush().await;

    fleet.check_only(at(91 * day)).await;
    let kept = ["online -> offline"];
    assert_eq!(fleet.changes("gone").await, kept, "what took a device offline that still is");
    let kept = ["online -> offline", "offline -> online"];
    assert_eq!(fleet.changes("undelivered").await, kept, "what the sink has not taken");
    assert_eq!(fleet.changes("back").await, kept, "the undelivered ones of the two");
}

async fn a_device_can_be_removed_and_comes_back_as_new(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeat("pump", r#"{"free_memory":5}"#, at(0)).await;
    fleet.flush().await;
    assert!(!fleet.store.register(&id("pump"), None, at(1)).await.expect("it writes"));
    assert!(fleet.remove("pump", at(2)).await);
    assert!(!fleet.remove("pump", at(2)).await);
    fleet.heartbeat("pump", "", at(60)).await;
    fleet.flush().await;
    let device = fleet.device("pump").await;
    assert_eq!((device.free_memory, device.registered_at), (None, at(60)));
    assert_eq!(fleet.changes("pump").await.len(), 2, "the history stays");
}
