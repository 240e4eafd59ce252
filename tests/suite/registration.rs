//! Registering devices, rejecting them and removing them.

use std::time::Instant;

use heartbeatd::actors::device_registry::Flush;
use heartbeatd::domain::Status;
use heartbeatd::store::{REMOVED_AT_ONCE, Selection};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id};
use crate::support::service::Place;
use crate::support::waiting::until;
use servers::mosquitto::{Mosquitto, heartbeat};

on_both_databases! {
    a_heartbeat_from_before_a_removal_does_not_bring_the_device_back
    a_heartbeat_that_waits_out_an_outage_does_not_bring_a_removed_device_back
    a_device_that_is_removed_and_added_again_keeps_its_new_timeout
    a_removal_from_the_future_keeps_its_device_away_until_the_next_check
    a_removal_is_forgotten_after_a_day_and_when_the_clock_was_set_back
    devices_are_selected_by_all_conditions_together
    many_devices_are_removed_in_bounded_portions
    a_flood_registers_a_burst_and_then_the_rate_each_second
    a_device_over_the_rate_leaves_no_trace_and_the_known_ones_go_on
}

async fn a_flood_registers_a_burst_and_then_the_rate_each_second(database: TestDatabase) {
    const BURST: u64 = 12_000;
    let began = Instant::now();
    let fleet = Fleet::configured(database, |config| {
        config.devices.registration_burst = BURST;
        config.devices.registration_rate = 1;
    })
    .await;
    // More than one portion of a flush, and more than one flush.
    let names: Vec<String> = (0..25_000).map(|n| format!("noisy-{n:05}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for flood in names.chunks(15_000) {
        fleet.heartbeats(flood, "", at(0)).await;
        fleet.flush().await;
    }
    let counts = fleet.store.count_by_status().await.expect("it counts");
    let registered: u64 = counts.values().sum();
    let most = BURST + began.elapsed().as_secs() + 1;
    assert!((BURST..=most).contains(&registered), "{registered}");
    assert_eq!(registered + rejected(&fleet, "registration_rate"), 25_000);
    assert_eq!(rejected(&fleet, "fleet_full"), 0);
    assert_eq!(counts[&Status::Provisioning], 0);
    let metrics = fleet.metrics.encode().expect("it prints");
    let online = format!("heartbeatd_devices{{status=\"online\"}} {registered}");
    assert!(metrics.contains(&online), "{metrics}");
}

async fn a_device_over_the_rate_leaves_no_trace_and_the_known_ones_go_on(database: TestDatabase) {
    let fleet = Fleet::configured(database, |config| {
        config.devices.registration_burst = 2;
        config.devices.registration_rate = 1;
    })
    .await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    fleet.flush().await;
    // The rate may have made room for one or two of them by now.
    let new = ["c", "d", "e", "f", "g", "h"];
    let all = [&["a", "b"], &new[..]].concat();
    let mut second = 0;
    let mut waited = 0;
    until("the last one is registered", async || {
        if is_registered(&fleet, "h").await {
            return Some(());
        }
        second += 1;
        fleet.heartbeats(&all, r#"{"error":"hot"}"#, at(second)).await;
        fleet.flush().await;
        for device in &all {
            let found = fleet.store.device(&id(device)).await.expect("it reads");
            let changes = fleet.changes(device).await;
            match found {
                Some(found) => assert_eq!(found.last_seen_at, Some(at(second)), "{device}"),
                None => assert_eq!((changes.len(), waited += 1), (0, ()), "{device}"),
            }
        }
        None
    })
    .await;
    assert!(waited > 0);
    assert_eq!(rejected(&fleet, "registration_rate"), waited);
    assert_eq!(fleet.changes("a").await, ["provisioning -> online", "online -> error"]);
    assert_eq!(fleet.changes("h").await, ["provisioning -> error"]);
}

async fn is_registered(fleet: &Fleet, device: &str) -> bool {
    fleet.store.device(&id(device)).await.expect("it reads").is_some()
}

fn rejected(fleet: &Fleet, reason: &str) -> u64 {
    let metric = format!("heartbeatd_heartbeats_rejected_total{{reason=\"{reason}\"}} ");
    let page = fleet.metrics.encode().expect("it prints");
    let line = page.lines().find_map(|line| line.strip_prefix(&*metric));
    line.map_or(0, |count| count.parse().expect("a number"))
}

async fn a_heartbeat_from_before_a_removal_does_not_bring_the_device_back(database: TestDatabase) {
    let fleet = Fleet::configured(database, |config| config.devices.max_devices = 5).await;
    fleet.store.register(&id("added"), None, at(0)).await.expect("it writes");
    fleet.heartbeats(&["fan", "pump", "valve"], "", at(0)).await;
    fleet.flush().await;

    fleet.heartbeats(&["fan", "pump"], "", at(10)).await;
    assert!(fleet.remove("pump", at(10)).await);
    fleet.flush().await;
    assert!(!is_registered(&fleet, "pump").await);
    assert_eq!(rejected(&fleet, "removed"), 1);
    assert_eq!(fleet.changes("pump").await, ["provisioning -> online"]);

    // One flush has devices that are known, new, removed before and removed after.
    assert!(fleet.remove("valve", at(12)).await);
    fleet.check(at(12)).await;
    fleet.heartbeats(&["valve"], "", at(12)).await;
    fleet.heartbeats(&["fan", "new", "pump", "z-new"], "", at(13)).await;
    fleet.flush().await;
    for device in ["fan", "new", "pump", "z-new"] {
        assert_eq!(fleet.device(device).await.last_seen_at, Some(at(13)), "{device}");
    }
    assert!(!is_registered(&fleet, "valve").await);
    assert_eq!((rejected(&fleet, "removed"), rejected(&fleet, "fleet_full")), (2, 0));

    // Only a heartbeat from after the removal registers a device again.
    assert_eq!(fleet.device("pump").await.registered_at, at(13));
    fleet.heartbeats(&["valve"], "", at(14)).await;
    fleet.flush().await;
    assert!(!is_registered(&fleet, "valve").await);
    assert_eq!((rejected(&fleet, "removed"), rejected(&fleet, "fleet_full")), (2, 1));
}

async fn a_heartbeat_that_waits_out_an_outage_does_not_bring_a_removed_device_back(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    fleet.heartbeats(&["gone", "stays"], "", at(0)).await;
    fleet.flush().await;
    // A flush inserts transitions, which a removal does not.
    let failing = "ALTER TABLE status_transition RENAME COLUMN from_status TO elsewhere";
    let working = "ALTER TABLE status_transition RENAME COLUMN elsewhere TO from_status";
    fleet.database.execute(failing).await;
    fleet.heartbeats(&["gone", "stays"], r#"{"error":"hot"}"#, at(5)).await;
    fleet.registry.send(Flush).await.expect("it lives").expect_err("a column is missing");
    fleet.heartbeats(&["gone", "stays"], r#"{"error":"hot"}"#, at(6)).await;
    assert!(fleet.remove("gone", at(7)).await);
    fleet.database.execute(working).await;
    fleet.flush().await;
    assert!(!is_registered(&fleet, "gone").await);
    assert_eq!(fleet.status("stays").await, Status::Error);
}

async fn a_device_that_is_removed_and_added_again_keeps_its_new_timeout(database: TestDatabase) {
    use std::time::Duration;
    let fleet = Fleet::on(database).await;
    let timeout = Some(Duration::from_secs(500));
    fleet.heartbeat("pump", "", at(0)).await;
    fleet.flush().await;
    fleet.heartbeat("pump", "", at(9)).await;
    assert!(fleet.remove("pump", at(10)).await);
    assert!(fleet.store.register(&id("pump"), timeout, at(11)).await.expect("it writes"));
    fleet.flush().await;
    assert_eq!(fleet.device("pump").await.timeout(), timeout);
    fleet.heartbeat("pump", "", at(12)).await;
    fleet.flush().await;
    let device = fleet.device("pump").await;
    assert_eq!((device.timeout(), device.registered_at), (timeout, at(11)));
}

async fn a_removal_from_the_future_keeps_its_device_away_until_the_next_check(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    assert!(fleet.store.register(&id("pump"), None, at(0)).await.expect("it writes"));
    assert!(fleet.remove("pump", at(86_400)).await);
    assert!(fleet.check(at(20)).await.is_empty());
    for (heard, is_back) in [(20, false), (21, true)] {
        fleet.heartbeat("pump", "", at(heard)).await;
        fleet.flush().await;
        assert_eq!(is_registered(&fleet, "pump").await, is_back, "{heard}");
    }
}

async fn a_removal_is_forgotten_after_a_day_and_when_the_clock_was_set_back(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    let day = 24 * 60 * 60;
    for (removed, pruned, is_forgotten) in [
        (100, 100 + day, false),
        (100, 101 + day, true),
        // The clock of another machine may be a little ahead.
        (100, 100 - 60, false),
        (100, 100 - 61, true),
    ] {
        fleet.heartbeat("pump", "", at(removed)).await;
        fleet.flush().await;
        assert!(fleet.remove("pump", at(removed)).await);
        let forgotten = fleet.store.prune_removals(at(pruned)).await.expect("it writes");
        assert_eq!(forgotten, u64::from(is_forgotten), "{removed} {pruned}");
        fleet.heartbeat("pump", "", at(removed)).await;
        fleet.flush().await;
        assert_eq!(is_registered(&fleet, "pump").await, is_forgotten, "{removed} {pruned}");
        fleet.remove("pump", at(removed)).await;
        fleet.store.prune_removals(at(pruned + 10 * day)).await.expect("it writes");
    }
}

async fn devices_are_selected_by_all_conditions_together(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let never = ["a%b", "a*b", "a[0]", "a\\b", "a_b", "ab", "aäb"];
    for device in never {
        fleet.store.register(&id(device), None, at(0)).await.expect("it writes");
    }
    fleet.heartbeats(&["A-heard", "a-heard"], "", at(100)).await;
    fleet.flush().await;
    let selected = async |selection: Selection| {
        let selected = fleet.store.selected(&selection, None).await.expect("it reads");
        let mut ids: Vec<_> = selected.into_iter().map(|device| device.id.to_string()).collect();
        ids.sort();
        ids
    };
    let matching =
        |pattern: &str| Selection { matching: Some(pattern.to_owned()), ..Default::default() };
    for (pattern, expected) in [
        ("a?b", &["a%b", "a*b", "a\\b", "a_b", "aäb"][..]),
        ("a%b", &["a%b"]),
        ("a_b", &["a_b"]),
        ("a\\b", &["a\\b"]),
        ("a[0]", &["a[0]"]),
        ("a[*", &["a[0]"]),
        ("A*", &["A-heard"]),
        ("*heard", &["A-heard", "a-heard"]),
        ("??", &["ab"]),
        ("ab", &["ab"]),
        ("b*", &[]),
    ] {
        assert_eq!(selected(matching(pattern)).await, expected, "{pattern}");
    }
    assert_eq!(selected(Selection::default()).await.len(), 9);
    let silent_since = Some(at(100));
    let silent = Selection { silent_since, ..Default::default() };
    assert_eq!(selected(silent).await, never, "never heard, and registered before");
    let silent_since = Some(at(101));
    assert_eq!(selected(Selection { silent_since, ..matching("*heard") }).await.len(), 2);
    let registered_since = Some(at(100));
    let late = Selection { registered_since, ..Default::default() };
    assert_eq!(selected(late.clone()).await, ["A-heard", "a-heard"]);
    let ids = Some(["a-heard", "ab", "nobody"].map(str::to_owned).to_vec());
    assert_eq!(
        selected(Selection { ids: ids.clone(), ..Default::default() }).await,
        ["a-heard", "ab"]
    );
    assert_eq!(selected(Selection { ids, ..late }).await, ["a-heard"]);
}

async fn many_devices_are_removed_in_bounded_portions(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    let names: Vec<String> = (0..2 * REMOVED_AT_ONCE + 7).map(|n| format!("d-{n:05}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.heartbeats(&names, "", at(0)).await;
    fleet.heartbeats(&["other"], "", at(0)).await;
    fleet.flush().await;
    let selection = Selection { matching: Some("d-*".to_owned()), ..Default::default() };
    let (mut after, mut sizes) = (None, Vec::new());
    while let Some(last) = {
        let removed = fleet.store.remove(&selection, after.as_ref(), at(1)).await;
        let removed = removed.expect("it writes");
        sizes.push(removed.len());
        removed.last().map(|device| device.id.clone())
    } {
        after = Some(last);
    }
    assert_eq!(sizes, [REMOVED_AT_ONCE, REMOVED_AT_ONCE, 7, 0]);
    fleet.heartbeats(&names, "", at(1)).await;
    fleet.flush().await;
    let left = fleet.store.devices(None, None, 10).await.expect("it reads");
    assert_eq!(left.iter().map(|device| device.id.as_str()).collect::<Vec<_>>(), ["other"]);
}

#[actix_rt::test]
async fn devices_are_removed_by_id_by_pattern_and_by_age_after_a_dry_run() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let out = place.run(&[&["device", "remove"], arguments].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (out.status.code(), text(out.stdout), text(out.stderr))
    };
    for device in ["keep", "noisy-1", "noisy-2", "old"] {
        assert!(place.run(&["device", "add", device]).status.success());
    }
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    // An id that an earlier version would have accepted, and a device long silent.
    database.execute("INSERT INTO device (id, status, registered_at) VALUES ('e\u{202e}vil', 'provisioning', 0)").await;
    database
        .execute("UPDATE device SET last_seen_at = 0, status = 'offline' WHERE id = 'old'")
        .await;

    let (code, _, usage) = run(&["--dry-run"]);
    assert_eq!(code, Some(64), "it wants to know which: {usage}");
    assert_eq!(run(&["--silent-for", "soon"]).0, Some(64));
    let some = |text: &str| (Some(0), text.to_owned(), String::new());
    let dry = run(&["--matching", "noisy-*", "--dry-run"]);
    assert_eq!(dry, some("noisy-1\nnoisy-2\n2 devices would be removed\n"));
    let dry = run(&["--registered-since", "1h", "--dry-run"]);
    assert_eq!(dry, some("keep\nnoisy-1\nnoisy-2\nold\n4 devices would be removed\n"));
    assert_eq!(run(&["keep", "--matching", "noisy-*"]), some("removed 0 devices\n"));
    assert_eq!(run(&["--matching", "noisy-*"]), some("removed 2 devices\n"));
    assert_eq!(run(&["--silent-for", "30d", "--matching", "?ld"]), some("removed 1 device\n"));
    let dry = run(&["--silent-for", "30d", "--dry-run"]);
    assert_eq!(dry, some("\"e\\u{202e}vil\"\n1 device would be removed\n"));
    assert_eq!(run(&["e\u{202e}vil"]), some("removed \"e\\u{202e}vil\"\n"));
    let (code, out, errors) = run(&["keep", "nobody"]);
    assert_eq!((code, out.as_str()), (Some(1), "removed keep\n"));
    assert!(errors.contains("there is no device nobody"), "{errors}");
    assert_eq!(place.json(&["device", "list", "--json"]), serde_json::json!([]));
}

#[test]
fn removing_a_device_that_still_sends_says_that_it_comes_back() {
    let broker = Mosquitto::start();
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    for device in ["pump-17", "pump-18"] {
        heartbeat(broker.port, device, b"");
    }
    place.await_statuses(&["pump-17 online", "pump-18 online"]);
    let removed = |arguments: &[&str]| {
        let out = place.run(&[&["device", "remove"], arguments].concat());
        String::from_utf8(out.stdout).expect("text")
    };
    let said = removed(&["pump-17"]);
    for part in [
        "removed pump-17; it was heard ",
        "s ago and will be registered again",
        "the default timeout",
        "devices.auto_register = false",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let said = removed(&["--matching", "pump-*"]);
    assert!(said.starts_with("removed 1 device; 1 of them were heard"), "{said}");
    heartbeat(broker.port, "pump-17", b"");
    place.await_statuses(&["pump-17 online"]);
}

#[test]
fn a_heartbeat_in_the_buffer_of_the_running_service_does_not_bring_a_removed_device_back() {
    let broker = Mosquitto::start();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("HEARTBEAT__FLUSH_INTERVAL", "1h")
        .with("HEARTBEAT__CHECK_INTERVAL", "1h");
    for device in ["gone", "stays"] {
        assert!(place.run(&["device", "add", device]).status.success());
    }
    let mut service = place.start();
    service.await_listening();
    for device in ["gone", "stays"] {
        heartbeat(broker.port, device, b"");
    }
    service.await_metric("heartbeatd_pending_heartbeats", 2.0);
    assert!(place.run(&["device", "remove", "gone"]).status.success());
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0), "{:?}", service.log());
    service.await_event("WARN device_registry device=gone reason=removed");
    place.await_statuses(&["stays online"]);
}
