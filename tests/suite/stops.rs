//! The real binary, stopped by a signal while devices publish: what has waited for it is dated at
//! the stop, and the stop counts for nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::clock::system_clock;
use serde_json::Value;

use crate::support::service::{Place, Service};
use crate::support::waiting::let_pass;
use publishers::{Devices, RawClient};
use servers::eventually;
use servers::mosquitto::Mosquitto;
use servers::process::free_port;

const TIMEOUT: f64 = 4.0;

/// The time that a detection may take beyond the timeout: a check and an echo, and on a busy
/// machine both are late.
const SLACK: f64 = 4.0;

/// The length of a stop: less than the time that echoes may be missing without a gap, so that only
/// the readings of the clocks tell of it.
const SHORT: Duration = Duration::from_secs(4);

/// The longest time from a signal until its process really stands still.
const AT_ONCE: TimeDelta = TimeDelta::milliseconds(500);

/// A place whose echoes are seldom, so that a stop as short as this is no gap by itself.
fn place() -> Place {
    Place::new()
        .with("HEARTBEAT__TIMEOUT", &format!("{TIMEOUT}s"))
        .with("HEARTBEAT__MAX_CLOCK_SKEW", "1s")
        .with("MQTT__ECHO_INTERVAL", "2s")
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().and_then(|text| text.parse().ok()).expect("a time")
}

fn transitions(place: &Place, to: &str) -> Vec<Value> {
    let history = place.json(&["history", "--json"]);
    let all = history.as_array().expect("an array").iter();
    all.filter(|transition| transition["to"] == to).cloned().collect()
}

/// A device that tells its time publishes once before the stop, once within it, and dies. Others
/// live on.
fn what_a_device_published_in_a_stop_is_dated_at_its_beginning(
    place: &Place,
    service: &Service,
    port: u16,
) {
    service.await_listening();
    let live = (0..20).map(|number| format!("live-{number:02}"));
    let _devices = Devices::live(port, live);
    let mut client = RawClient::connect(port, "dying", None).expect("the broker is there");
    let mut publish = || {
        let payload = format!(r#"{{"timestamp":"{}"}}"#, system_clock().wall.to_rfc3339());
        client.publish("devices/dying/heartbeat", payload.as_bytes());
    };
    publish();
    let online = r#"heartbeatd_devices{status="online"}"#;
    service.await_metric(online, 21.0);
    let echoes = "heartbeatd_echo_latency_seconds_count";
    service.await_metric(echoes, service.metric(echoes) + 1.0);

    service.signal("STOP");
    let stopped = system_clock().wall;
    let_pass(SHORT / 2);
    publish();
    let_pass(SHORT / 2);
    service.signal("CONT");
    let went_on = system_clock().wall;

    let mut offline = Vec::new();
    eventually("it is found", || {
        offline = transitions(place, "offline");
        (!offline.is_empty()).then_some(())
    });
    let log = service.log().join("\n");
    let [transition] = &offline[..] else { panic!("{offline:#?} in\n{log}") };
    assert_eq!(transition["device_id"], "dying", "{log}");
    let seen = time(&transition["last_seen_at"]);
    assert!(seen <= stopped + AT_ONCE, "seen at {seen}, stopped at {stopped}: {log}");
    assert!(seen >= stopped - AT_ONCE, "the one within the stop counts: {seen}, {stopped}");
    // Nothing of the stop counts as silence, so it is found a timeout after its end.
    let found = time(&transition["at"]) - went_on;
    let found = found.num_milliseconds() as f64 / 1000.0;
    assert!(found > TIMEOUT - 0.1 && found <= TIMEOUT + SLACK, "found after {found} s in\n{log}");
    let shown = place.json(&["device", "show", "dying", "--json"]);
    let listened = shown["evidence"]["listened_seconds"].as_f64().expect("a number");
    assert!(listened > TIMEOUT && listened <= TIMEOUT + SLACK, "{shown:#}");
    assert!(shown.to_string().contains(r#""cause":"stopped""#), "{shown:#}");
    let skew = shown["clock_skew_seconds"].as_f64().expect("it told its time");
    assert!(skew.abs() < 1.0, "of the heartbeat before the stop: {shown:#}");
    assert!(!log.contains("skew_ms="), "a false warning in\n{log}");
}

#[test]
fn what_waited_in_a_broker_is_dated_at_the_stop() {
    let broker = Mosquitto::start();
    let place = place().with("MQTT__URL", &broker.url());
    let service = place.start();
    what_a_device_published_in_a_stop_is_dated_at_its_beginning(&place, &service, broker.port);
}

#[test]
fn what_waited_in_the_sockets_of_the_embedded_broker_is_dated_at_the_stop() {
    let port = free_port();
    let place = place().with("MQTT__EMBEDDED__LISTEN", &format!("127.0.0.1:{port}"));
    let service = place.start();
    what_a_device_published_in_a_stop_is_dated_at_its_beginning(&place, &service, port);
}

/// Being connected is the evidence, and nothing tells when what has waited has arrived.
#[test]
fn without_echoes_a_stop_counts_for_nothing_and_what_waited_is_dated_when_it_is_read() {
    let broker = Mosquitto::start();
    let place = place().with("MQTT__URL", &broker.url()).with("MQTT__ECHO_INTERVAL", "0s");
    let service = place.start();
    service.await_listening();
    let devices = Devices::live(broker.port, ["pump".to_owned()]);
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 1.0);
    service.signal("STOP");
    let_pass(SHORT);
    devices.die(&["pump"]);
    service.signal("CONT");
    let went_on = system_clock().wall;
    let mut offline = Vec::new();
    eventually("it is found", || {
        offline = transitions(&place, "offline");
        (!offline.is_empty()).then_some(())
    });
    let found = time(&offline[0]["at"]) - went_on;
    assert!(found > TimeDelta::milliseconds((TIMEOUT * 1_000.0) as i64 - 100), "{found}");
    // It may lie before the last heartbeat that was read, and then is no part of the evidence.
    service.await_words("WARN device_registry", &["not listening", "cause=stopped"]);
}
