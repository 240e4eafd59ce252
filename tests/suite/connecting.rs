//! Connecting, and what is said when that does not work; topics that no broker should
//! pass on.

use crate::support::fake_broker::{Behaviour, FakeBroker};
use crate::support::service::Place;

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
