//! The real binary with a real broker and `mosquitto_pub`.

use std::net::TcpStream;

use serde_json::Value;

use crate::support::database::TestDatabase;
use crate::support::events::{CANNOT_CONNECT, DISCONNECTED, DRAINED, LISTENING};
use crate::support::service::{Place, Service};
use publishers::flood;
use servers::eventually;
use servers::log::Line;
use servers::mosquitto::{Mosquitto, heartbeat, publish};
use servers::process::free_port;

/// Takes a device online, offline and online again, and then stops the service.
fn a_device_comes_goes_and_comes_back(place: &Place, mut service: Service, port: u16) {
    heartbeat(port, "pump-17", br#"{"uptime_seconds":60,"free_memory":1024}"#);
    heartbeat(port, "fan-3", br#"{"error":"stuck"}"#);
    // By the log, because on a busy machine both may be offline before they are listed.
    service.await_event("INFO device_registry device=pump-17 from=provisioning to=online");
    service.await_event("INFO device_registry device=fan-3 from=provisioning to=error");
    let device = place.json(&["device", "show", "pump-17", "--json"]);
    assert_eq!(device["uptime_seconds"], 60);
    assert_eq!(device["free_memory"], 1024);

    // Silent from here on.
    place.await_statuses(&["fan-3 offline", "pump-17 offline"]);
    service.await_event("INFO device_registry device=pump-17 from=online to=offline");
    service.await_event("INFO alert_sink device=pump-17");
    // One check or two, depending on when each device fell silent.
    let found = |line: &String| Line::parse(line)?.number("newly_offline");
    eventually("the ticker reports that both were found", || {
        (service.events("INFO ticker").iter().filter_map(found).sum::<u64>() == 2).then_some(())
    });

    // However long the rest takes on a busy machine, it does not fall silent again.
    place.run(&["device", "set-timeout", "pump-17", "1h"]);
    heartbeat(port, "pump-17", b"");
    place.await_statuses(&["fan-3 offline", "pump-17 online"]);
    service.await_event("INFO device_registry device=pump-17 from=offline to=online");

    service.await_event("INFO alert_sink device=pump-17 silent_since=");
    let history = || place.json(&["history", "pump-17", "--json"]);
    eventually("the recovery is acknowledged", || {
        history()[0]["delivered_at"].is_string().then_some(())
    });
    let history = history();
    let history = history.as_array().expect("an array");
    let change = |t: &Value| {
        let text = |key: &str| t[key].as_str().expect("text").to_owned();
        format!("{} -> {}", text("from"), text("to"))
    };
    let changes: Vec<_> = history.iter().rev().map(change).collect();
    let expected = ["provisioning -> online", "online -> offline", "offline -> online"];
    assert_eq!(changes, expected);
    let delivered: Vec<_> = history.iter().map(|t| t["delivered_at"].is_string()).collect();
    assert_eq!(delivered, [true, true, false], "an offline and its end are delivered");

    assert_eq!(service.get("/healthz").0, 200);
    assert_eq!(service.get("/readyz").0, 200);
    service.await_metric("heartbeatd_heartbeats_total", 3.0);
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 1.0);

    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0), "{:?}", service.log());
}

#[test]
fn the_binary_with_its_embedded_broker() {
    let place = Place::new();
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    a_device_comes_goes_and_comes_back(&place, service, port);
}

#[test]
fn the_binary_against_mosquitto_and_postgresql() {
    let broker = Mosquitto::start();
    let database = TestDatabase::postgres();
    let place = Place::new().with("MQTT__URL", &broker.url()).with("DATABASE__URL", &database.url);
    let service = place.start();
    service.await_listening();
    a_device_comes_goes_and_comes_back(&place, service, broker.port);
}

#[test]
fn the_binary_speaks_mqtt_3_1_1() {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let place = Place::new().with("MQTT__URL", &broker.url()).with("DATABASE__URL", &database.url);
    let old = place.with("MQTT__VERSION", "3.1.1");
    let service = old.start();
    service.await_listening();
    a_device_comes_goes_and_comes_back(&old, service, broker.port);
}

#[test]
fn sigterm_writes_what_is_buffered() {
    let broker = Mosquitto::start();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("HEARTBEAT__FLUSH_INTERVAL", "1h")
        .with("HEARTBEAT__CHECK_INTERVAL", "1h");
    let mut service = place.start();
    service.await_listening();
    for device in ["a", "b", "c"] {
        heartbeat(broker.port, device, b"");
    }
    service.await_metric("heartbeatd_heartbeats_total", 3.0);
    service.await_metric("heartbeatd_pending_heartbeats", 3.0);
    place.await_statuses(&[]);
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
    place.await_statuses(&["a online", "b online", "c online"]);
}

#[test]
fn sigint_drains_too() {
    let place = Place::new();
    let mut service = place.start();
    service.await_listening();
    service.signal("INT");
    assert_eq!(service.await_exit(), Some(0));
    service.await_event(DRAINED);
}

#[test]
fn the_embedded_broker_of_a_killed_process_can_listen_again_at_once() {
    let address = format!("127.0.0.1:{}", free_port());
    let place = Place::new().with("MQTT__EMBEDDED__LISTEN", &address);
    let mut service = place.start();
    service.await_listening();
    // The system keeps the connection of a device that has not noticed yet.
    let _device = TcpStream::connect(&address).expect("the broker listens");
    service.signal("KILL");
    service.await_exit();
    place.start().await_listening();
}

#[test]
fn a_retained_heartbeat_is_not_a_sign_of_life() {
    let broker = Mosquitto::start();
    publish(broker.port, "devices/ghost/heartbeat", b"{}", &["-r"]);
    // MQTT 5 can ask not to be sent retained messages, 3.1.1 cannot.
    for version in ["5", "3.1.1"] {
        let place = Place::new().with("MQTT__URL", &broker.url()).with("MQTT__VERSION", version);
        let service = place.start();
        service.await_listening();
        if version == "3.1.1" {
            service.await_event("WARN mqtt_ingest device=ghost reason=retained");
        }
        heartbeat(broker.port, "alive", b"");
        place.await_statuses(&["alive online"]);
        let retained = r#"heartbeatd_heartbeats_rejected_total{reason="retained"}"#;
        assert_eq!(service.metric(retained), f64::from(u8::from(version == "3.1.1")));
    }
}

#[test]
fn an_unreachable_broker_is_reported_and_waited_for() {
    let mut broker = Mosquitto::start();
    broker.stop();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_words(CANNOT_CONNECT, &["; retrying"]);
    assert_eq!(service.get("/healthz").0, 200, "a restart would not help");
    let (status, body) = service.get("/readyz");
    assert_eq!((status, body.contains("disconnected")), (503, true), "{body}");
    broker.go_on();
    service.await_listening();
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
}

#[test]
fn a_lost_broker_is_subscribed_to_again() {
    let mut broker = Mosquitto::start();
    let place = Place::new().with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    broker.stop();
    service.await_event(DISCONNECTED);
    broker.go_on();
    servers::eventually("it listens again", || {
        (service.events(LISTENING).len() == 2).then_some(())
    });
    heartbeat(broker.port, "pump", b"");
    place.await_statuses(&["pump online"]);
}

#[test]
fn a_burst_of_500_000_heartbeats_at_qos_1_arrives_completely() {
    const PUBLISHERS: usize = 4;
    const DEVICES: usize = 12_500;
    const TIMES: usize = 10;
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    std::thread::scope(|scope| {
        for number in 0..PUBLISHERS {
            scope.spawn(move || flood(port, &format!("burst-{number}"), DEVICES, TIMES, "{}"));
        }
    });
    let all = (PUBLISHERS * DEVICES * TIMES) as f64;
    service.await_metric("heartbeatd_heartbeats_total", all);
    assert_eq!(service.metric("heartbeatd_heartbeats_total"), all);
    let online = r#"heartbeatd_devices{status="online"}"#;
    service.await_metric(online, (PUBLISHERS * DEVICES) as f64);
}

#[test]
fn two_instances_cannot_share_a_port_and_the_second_says_why() {
    let place = Place::new();
    let service = place.start();
    let port = service.broker_port();
    let second = Place::new().with("MQTT__EMBEDDED__LISTEN", &format!("127.0.0.1:{port}"));
    let out = second.run(&["run"]);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{errors}");
    assert!(errors.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{errors}");
    assert!(errors.contains("mqtt.embedded.listen"), "{errors}");
}

#[test]
fn devices_are_managed_from_the_command_line() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let out = place.run(arguments);
        let text = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    assert_eq!(run(&["device", "list"]).0, Some(69), "there is no database yet");
    let (code, said) = run(&["device", "add", "a", "--timeout", "5m"]);
    assert!(code == Some(0) && said.starts_with("added a\n"), "{said}");
    assert!(said.contains("created the database") && said.contains("heartbeatd.db"), "{said}");
    assert_eq!(run(&["device", "add", "a"]).0, Some(1));
    assert_eq!(run(&["device", "add", "b"]).0, Some(0));
    place.await_statuses(&["a provisioning", "b provisioning"]);
    assert_eq!(place.json(&["device", "show", "a", "--json"])["timeout_seconds"], 300);
    assert_eq!(run(&["device", "set-timeout", "a", "default"]).0, Some(0));
    assert!(place.json(&["device", "show", "a", "--json"])["timeout_seconds"].is_null());
    assert_eq!(run(&["device", "remove", "a"]), (Some(0), "removed a\n".to_owned()));
    assert_eq!(run(&["device", "remove", "a"]).0, Some(1));
    assert_eq!(run(&["device", "show", "a"]).0, Some(1));
    assert_eq!(
        place.json(&["device", "list", "--json", "--status", "online"]),
        Value::Array(vec![])
    );
    let table = run(&["device", "list"]).1;
    assert!(table.starts_with("DEVICE  STATUS"), "{table}");
    assert_eq!(place.json(&["history", "--json"]), Value::Array(vec![]));
    for limit in ["0", "10"] {
        let table = run(&["history", "--limit", limit]).1;
        assert!(table.starts_with("SEQUENCE  AT"), "--limit {limit}: {table:?}");
    }
}
