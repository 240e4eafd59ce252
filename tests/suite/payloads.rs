//! Payloads that cannot be read: the device is alive, and the reason is shown.

use std::time::Duration;

use heartbeatd::domain::payload::is_new_payload_error;
use heartbeatd::domain::{Heartbeat, PayloadError, Status};
use heartbeatd::store::{DeviceStore, Proven, Recorded, RecordingRules};

use crate::specification::on_both_databases;
use crate::support::database::TestDatabase;
use crate::support::fleet::{Fleet, at, id};
use crate::support::service::Place;
use servers::mosquitto::{Mosquitto, heartbeat};

on_both_databases! {
    a_device_whose_payload_cannot_be_read_stays_online
    a_payload_error_is_stored_and_told_as_the_function_says
}

/// One payload of each kind. Two of them differ only in the position of the error.
const PAYLOADS: [&str; 5] =
    ["", r#"{"rssi":nan}"#, r#"{"the rssi":nan}"#, "17", r#"{"uptime_seconds":"17"}"#];

async fn a_device_whose_payload_cannot_be_read_stays_online(database: TestDatabase) {
    let fleet = Fleet::on(database).await;
    for (n, payload) in PAYLOADS.into_iter().cycle().take(10).enumerate() {
        let second = 100 * i64::try_from(n).expect("small");
        fleet.heartbeat("pump", payload, at(second)).await;
        assert!(fleet.check(at(second + 1)).await.is_empty());
        let device = fleet.device("pump").await;
        assert_eq!((device.status, device.last_seen_at), (Status::Online, Some(at(second))));
        assert_eq!(device.payload_error.is_some(), !payload.is_empty(), "{payload}");
    }
    assert_eq!(fleet.changes("pump").await, ["provisioning -> online"]);
}

async fn record(store: &DeviceStore, heartbeat: Heartbeat, room: u64) -> Recorded {
    let rules = RecordingRules {
        auto_register: true,
        room,
        registrations: 1,
        max_clock_skew: Duration::from_secs(30),
        now: at(0),
    };
    let recorded = store.update_last_seen(&[heartbeat], rules, &Proven::default()).await;
    recorded.expect("it writes")
}

async fn a_payload_error_is_stored_and_told_as_the_function_says(database: TestDatabase) {
    let store = database.open().await;
    let parse =
        |device: &str, payload: &str| Heartbeat::parse(id(device), payload.as_bytes(), at(0));
    let error =
        |heartbeat: &Heartbeat| heartbeat.payload_error.as_deref().map(PayloadError::to_string);
    // Without room for new devices, SQLite uses another statement.
    for room in [1, 0] {
        for (from, before) in PAYLOADS.into_iter().enumerate() {
            for (to, now) in PAYLOADS.into_iter().enumerate() {
                let device = format!("{room}-{from}-{to}");
                let (before, now) = (parse(&device, before), parse(&device, now));
                let (was, is) = (error(&before), error(&now));

                let told = record(&store, before, 1).await.unreadable;
                let first = was.iter().map(|error| (id(&device), error.clone()));
                assert_eq!(told, first.collect::<Vec<_>>(), "{device} is new");

                let told = record(&store, now, room).await.unreadable;
                let again = is.iter().filter(|is| is_new_payload_error(was.as_deref(), is));
                let again = again.map(|error| (id(&device), error.clone()));
                assert_eq!(told, again.collect::<Vec<_>>(), "{was:?} -> {is:?}");

                let stored = store.device(&id(&device)).await.expect("it reads");
                assert_eq!(stored.expect("it is there").payload_error, is, "{was:?} -> {is:?}");
            }
        }
    }
}

#[test]
fn a_payload_that_cannot_be_read_is_shown_and_warned_about_once_until_it_changes() {
    let broker = Mosquitto::start();
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    let error = |device: &str| {
        let shown = place.json(&["device", "show", device, "--json"]);
        let listed = place.json(&["device", "list", "--json"]);
        let listed = listed.as_array().expect("an array").iter().find(|row| row["id"] == device);
        assert_eq!(listed.expect("it is there")["payload_error"], shown["payload_error"]);
        shown["payload_error"].as_str().map(str::to_owned)
    };
    let beat_and_flush = |payload: &[u8], beats: f64| {
        heartbeat(broker.port, "pump-17", payload);
        service.await_metric("heartbeatd_flush_duration_seconds_count", beats);
    };
    let warned = "WARN device_registry device=pump-17";
    let not_json = "not JSON: expected ident at line 1 column 10";

    beat_and_flush(br#"{"rssi":nan}"#, 1.0);
    service.await_words(warned, &[not_json]);
    assert_eq!(error("pump-17").as_deref(), Some(not_json));
    let shown = place.run(&["device", "show", "pump-17"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(not_json), "{shown:?}");

    // The same error again, and the same error at another position.
    beat_and_flush(br#"{"rssi":nan}"#, 2.0);
    beat_and_flush(br#"{"loss":1.25,"rssi":nan}"#, 3.0);
    beat_and_flush(br#"{"timestamp":"yesterday"}"#, 4.0);
    service.await_words(warned, &["timestamp: not a time"]);
    beat_and_flush(b"{}", 5.0);
    assert_eq!(error("pump-17"), None);
    beat_and_flush(br#"{"rssi":nan}"#, 6.0);
    servers::eventually("it is warned about again", || {
        (service.events(warned).len() == 3).then_some(())
    });
    let dropped = r#"heartbeatd_heartbeat_fields_dropped_total{field="timestamp"}"#;
    assert_eq!(service.metric(dropped), 1.0);
}
