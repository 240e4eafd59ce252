//! Connecting, and what is said when that does not work; topics that no broker should
//! pass on.

use crate::support::fake_broker::{Behaviour, FakeBroker};
use crate::support::service::Place;
use servers::mosquitto::{Mosquitto, heartbeat, publish};

const INVALID_TOPICS: &str = r#"heartbeatd_heartbeats_rejected_total{reason="invalid_topic"}"#;

#[test]
fn topics_that_are_not_valid_are_counted_and_ignored() {
    for version in ["3.1.1", "5"] {
        let topics: [&[u8]; 6] = [
            b"devices/a\0b/heartbeat",
            b"devices/\xff/heartbeat",
            b"devices/\0/heartbeat",
            b"devices/\xed\xa0\x80/heartbeat",
            b"\0",
            b"devices/pump/heartbeat",
        ];
        let messages = topics.map(<[u8]>::to_vec).to_vec();
        let broker = FakeBroker::start(Behaviour { messages, ..Behaviour::default() });
        let place = Place::new()
            .with("HEARTBEAT__TIMEOUT", "10m")
            .with("MQTT__VERSION", version)
            .with("MQTT__URL", &broker.url());
        let service = place.start();
        service.await_listening();
        place.await_statuses(&["pump online"]);
        service.await_metric(INVALID_TOPICS, 5.0);
        service.await_log(&["mqtt_ingest", "rejected", "invalid_topic", "U+0000"]);
        // The echoes still come back.
        service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    }
}

#[test]
fn a_first_subscription_that_is_never_answered_leads_to_a_new_connection() {
    let broker = FakeBroker::start(Behaviour { unanswered: 1, ..Behaviour::default() });
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_log(&["mqtt_ingest", "the broker does not answer; connecting anew"]);
    service.await_listening();
    assert_eq!(broker.subscriptions(), 2);
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
}

/// A heartbeatd whose echo comes through the subscription of the heartbeats.
fn with_echo_inside(url: &str) -> Place {
    Place::new()
        .with("HEARTBEAT__TIMEOUT", "10m")
        .with("MQTT__URL", url)
        .with("MQTT__ECHO_TOPIC", "devices/heartbeatd-echo-heartbeatd/heartbeat")
}

#[test]
fn an_echo_within_the_heartbeats_proves_and_is_not_a_device() {
    let broker = Mosquitto::start();
    let place = with_echo_inside(&broker.url());
    let service = place.start();
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    // Another instance's.
    heartbeat(broker.port, "heartbeatd-echo-other", b"0123456789abcdef0123456789abcdef");
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
    service.await_metric("heartbeatd_messages_unmatched_total", 1.0);
    for payload in [&b"0123456789abcdef0123456789abcdef"[..], b"nonsense", b""] {
        publish(broker.port, "devices/heartbeatd-echo-heartbeatd/heartbeat", payload, &[]);
    }
    service.await_metric(r#"heartbeatd_echoes_ignored_total{reason="unknown"}"#, 3.0);
    service.await_log(&["mqtt_ingest", "somebody else publishes to its echo topic"]);
    place.await_statuses(&["pump online"]);
}

#[test]
fn an_echo_within_the_heartbeats_is_missed_with_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let acl = folder.path().join("acl");
    // It may publish its echo, and read everything but heartbeats.
    std::fs::write(&acl, "topic write devices/+/heartbeat\ntopic readwrite heartbeatd/#\n")
        .expect("a file");
    let broker = Mosquitto::start_with(&format!("acl_file {}", acl.display()));
    let place = with_echo_inside(&broker.url()).with("MQTT__VERSION", "3.1.1");
    let service = place.start();
    service.await_log(&["connected"]);
    service.await_log(&["mqtt_ingest", "ERROR"]);
    assert_eq!(service.get("/readyz").0, 503);
    assert_eq!(service.metric("heartbeatd_echo_latency_seconds_count"), 0.0);
}

#[test]
fn an_echo_topic_in_a_share_group_lies_outside_of_it() {
    let place = with_echo_inside("mqtt://localhost").with("MQTT__SHARE_GROUP", "fleet");
    let out = place.run(&["check-config"]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{errors}");
    assert!(errors.contains("mqtt.echo_topic") && errors.contains("mqtt.share_group"), "{errors}");
}
