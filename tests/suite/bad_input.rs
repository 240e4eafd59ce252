//! Bad input gets a clear answer and does no harm.

use std::process::Command;

use crate::support::service::{Place, Service};
use publishers::{RawClient, flood};
use servers::mosquitto::{Mosquitto, heartbeat, publish};
use servers::process::{output, program};

/// The embedded broker has refused something to a client.
const REFUSED: &str = "WARN receiver address= client=";

/// Returns the exit code and the output on stderr.
fn failure(place: &Place, arguments: &[&str]) -> (Option<i32>, String) {
    let out = place.run(arguments);
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[track_caller]
fn assert_failure(place: &Place, arguments: &[&str], code: i32, parts: &[&str]) {
    let (actual, errors) = failure(place, arguments);
    assert_eq!(actual, Some(code), "{arguments:?}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "{arguments:?}: no {part:?} in {errors}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn an_unknown_key_is_named_with_the_known_ones() {
    let place = Place::new();
    let parts = ["`timout`", "`heartbeat`", "`timeout`", "`check_interval`"];
    std::fs::write(place.path().join("config.toml"), "[heartbeat]\ntimout = \"3s\"\n")
        .expect("a file");
    assert_failure(&place, &["run"], 78, &parts);
    assert_failure(&place, &["check-config"], 78, &parts);
    let place = Place::new().with("HEARTBEAT__TIMOUT", "3s");
    assert_failure(&place, &["run"], 78, &parts);
}

#[test]
fn a_bad_value_is_named_with_its_key_and_the_allowed_ones() {
    for (key, value, parts) in [
        ("HEARTBEAT__TIMEOUT", "3 parsecs", &["heartbeat.timeout", "3 parsecs", "a duration"][..]),
        ("HEARTBEAT__TIMEOUT", "0s", &["heartbeat.timeout", "at least 1ms"]),
        ("HEARTBEAT__CHECK_INTERVAL", "0s", &["heartbeat.check_interval", "at least 1ms"]),
        ("DEVICES__MAX_DEVICES", "many", &["devices.max_devices", "many", "an integer"]),
        ("DEVICES__MAX_DEVICES", "0", &["devices.max_devices", "at least 1"]),
        ("DEVICES__REGISTRATION_RATE", "0", &["devices.registration_rate", "at least 1"]),
        ("DEVICES__REGISTRATION_BURST", "0", &["devices.registration_burst", "at least 1"]),
        ("MQTT__QOS", "3", &["mqtt.qos", "3", "0, 1 or 2"]),
        ("MQTT__URL", "localhost:1883", &["mqtt.url", "mqtt://localhost:1883"]),
        ("MQTT__URL", "192.168.1.5:1883", &["mqtt.url", "mqtt://192.168.1.5:1883"]),
        ("MQTT__URL", "mqtt://me:pw@host", &["mqtt.url", "mqtt.username", "***"]),
        ("MQTT__ENTRY_URLS", "mqtt://a", &["mqtt.entry_urls", "mqtt.url set to a node"]),
        ("MQTT__ENTRY_URLS", "node2:1883", &["mqtt.entry_urls", "mqtt://node2:1883"]),
        ("MQTT__ENTRY_URLS", "mqtt://me:pw@host", &["mqtt.entry_urls", "mqtt.username", "***"]),
        ("MQTT__TOPIC", "devices/#", &["mqtt.topic", "devices/#", "exactly one level must be '+'"]),
        ("MQTT__ECHO_TOPIC", "a/+/b", &["mqtt.echo_topic", "a/+/b", "no '+'"]),
        ("MQTT__ECHO_TOPIC", "", &["mqtt.echo_topic", "1 to 1024 bytes"]),
        (
            "MQTT__ECHO_TOPIC",
            "devices/pump/heartbeat",
            &["mqtt.echo_topic", "mqtt.topic", "devices/heartbeatd-echo-heartbeatd/heartbeat"],
        ),
        ("MQTT__VERSION", "4", &["mqtt.version", "\"4\"", "3.1.1"]),
        ("MQTT__CLIENT_ID", "a/b", &["mqtt.client_id", "a/b", "no '/'"]),
        ("MQTT__KEEP_ALIVE", "1500ms", &["mqtt.keep_alive", "whole seconds"]),
        ("MQTT__PASSWORD", "s3cret", &["mqtt.username", "mqtt.password is set"]),
        ("MQTT__PASSWORD_FILE", "/nowhere", &["mqtt.password_file", "/nowhere"]),
        (
            "MQTT__EMBEDDED__LISTEN",
            "0.0.0.0:0",
            &["mqtt.embedded.listen", "users_file", "loopback"],
        ),
        ("MQTT__EMBEDDED__USERS_FILE", "/nowhere", &["mqtt.embedded.users_file", "/nowhere"]),
        ("DATABASE__URL", "mysql://u:pw@h/d", &["database.url", "postgres://", "***"]),
        ("HTTP__LISTEN", "everywhere", &["http.listen", "everywhere", "\"off\""]),
    ] {
        let place = Place::new().with(key, value);
        assert_failure(&place, &["run"], 78, parts);
        let (_, errors) = failure(&place, &["run"]);
        assert!(!errors.contains("pw@") && !errors.contains("s3cret"), "a secret: {errors}");
    }
}

#[test]
fn nodes_at_which_devices_enter_need_echoes_and_are_few_and_different() {
    let many: Vec<_> = (0..33).map(|number| format!("mqtt://node{number}")).collect();
    for (entries, echo_interval, parts) in [
        ("mqtt://a, mqtt://b, mqtt://A:1883", "1s", ["mqtt://a:1883 twice", "each node once"]),
        ("mqtt://a, mqtt://b:99999", "1s", ["node 2 of 2: mqtt://***", "invalid port number"]),
        ("mqtt://a", "0s", ["mqtt.entry_urls", "mqtt.echo_interval above 0s"]),
        (&many.join(","), "1s", ["at most 32 nodes", "these are 33"]),
    ] {
        let place = Place::new()
            .with("MQTT__URL", "mqtt://a")
            .with("MQTT__ENTRY_URLS", entries)
            .with("MQTT__ECHO_INTERVAL", echo_interval);
        assert_failure(&place, &["check-config"], 78, &parts);
    }
    let place = Place::new();
    let file = "[mqtt]\nurl = \"mqtt://a\"\nentry_urls = [\"mqtt://a\", \"mqtts://b\"]\n";
    std::fs::write(place.path().join("config.toml"), file).expect("a file");
    let printed = place.run(&["check-config"]);
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let expected = "entry_urls = [\"mqtt://a:1883\", \"mqtts://b:8883\"]";
    assert!(printed.replace(['\n', ' '], "").contains(&expected.replace(' ', "")), "{printed}");
}

#[test]
fn a_missing_configuration_file_and_wrong_arguments_are_named() {
    let place = Place::new();
    assert_failure(&place, &["--config", "nowhere.toml", "run"], 78, &["nowhere.toml"]);
    assert_failure(&place, &["fly"], 64, &["fly"]);
    assert_failure(&place, &["device", "add", "a/b"], 64, &["'/'"]);
    assert_failure(&place, &["device", "add", "heartbeatd-echo-1"], 64, &["reserved"]);
    assert_failure(&place, &["device", "add", "a\u{200d}b"], 64, &["U+200D"]);
    assert_failure(&place, &["device", "add", "a "], 64, &["U+0020"]);
    assert_failure(&place, &["device", "add", "a", "--timeout", "1.5"], 64, &["90s"]);
    assert_failure(&place, &["device", "add", "a", "--timeout", "10ms"], 64, &["whole seconds"]);
}

#[test]
fn an_unreachable_database_ends_the_start_with_69() {
    let nowhere = "postgres://nobody:s3cret@127.0.0.1:1/nothing";
    let place = Place::new().with("DATABASE__URL", nowhere);
    assert_failure(&place, &["run"], 69, &["cannot open the database", "nobody:***@127.0.0.1:1"]);
    let place = Place::new().with("DATABASE__URL", "sqlite:///nowhere/at/all.db?mode=rwc");
    assert_failure(&place, &["run"], 69, &["/nowhere/at/all.db"]);
    assert_failure(&place, &["device", "list"], 69, &["/nowhere/at/all.db"]);
}

/// Sends unreadable payloads, each from its own device, messages on topics that no device
/// has, and a payload that can be read in part. The largest payload has `large` bytes.
fn no_message_does_harm(place: &Place, service: &Service, port: u16, large: usize) {
    let long = "x".repeat(10_000);
    for device in [&long, "", "pu\u{202e}mp", " pump"] {
        heartbeat(port, device, b"{}");
    }
    let rejected = r#"heartbeatd_heartbeats_rejected_total{reason="invalid_device_id"}"#;
    service.await_metric(rejected, 4.0);
    let invalid = "WARN mqtt_ingest reason=invalid_device_id";
    service.await_words(invalid, &["U+202E"]);
    service.await_words(invalid, &["U+0020"]);
    service.await_words(invalid, &["this one has 10000"]);

    let unreadable: [(&str, &[u8]); 7] = [
        ("large", &vec![b' '; large]),
        ("no-json", b"{\"uptime_seconds\":"),
        ("no-nan", b"{\"rssi\":nan}"),
        ("no-nul", b"{\"uptime_seconds\":5}\0"),
        ("no-number", b"17"),
        ("no-object", b"[1,2]"),
        ("no-utf8", b"\xff\xfe\xfd"),
    ];
    for (device, payload) in unreadable {
        heartbeat(port, device, payload);
    }
    for (reason, count) in [("too_large", 1), ("not_json", 4), ("not_an_object", 2)] {
        let metric = format!("heartbeatd_payload_errors_total{{reason=\"{reason}\"}}");
        service.await_metric(&metric, f64::from(count));
    }
    let online = unreadable.map(|(device, _)| format!("{device} online"));
    place.await_statuses(&online.each_ref().map(String::as_str));

    // A wrong type drops the field, not the heartbeat.
    heartbeat(port, "sloppy", br#"{"uptime_seconds":"60","free_memory":7}"#);
    heartbeat(port, "K\u{f6}ln 3", br#"{"error":"a\u0000b"}"#);
    let all =
        [&["K\u{f6}ln 3 error"], &online.each_ref().map(String::as_str)[..], &["sloppy online"]];
    place.await_statuses(&all.concat());
    let sloppy = place.json(&["device", "show", "sloppy", "--json"]);
    assert!(sloppy["uptime_seconds"].is_null() && sloppy["free_memory"] == 7, "{sloppy}");
    let dropped = r#"heartbeatd_heartbeat_fields_dropped_total{field="uptime_seconds"}"#;
    assert_eq!(service.metric(dropped), 1.0);
}

#[test]
fn no_message_does_harm_with_the_embedded_broker() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    // A larger packet ends its connection.
    no_message_does_harm(&place, &service, service.broker_port(), 16_000);
}

#[test]
fn no_message_does_harm_behind_mosquitto() {
    let broker = Mosquitto::start();
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("MQTT__URL", &broker.url());
    let service = place.start();
    service.await_listening();
    no_message_does_harm(&place, &service, broker.port, 1_000_000);
}

#[test]
fn a_topic_with_nul_closes_its_connection_and_nothing_else() {
    let mosquitto = Mosquitto::start();
    let embedded = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let external =
        Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("MQTT__URL", &mosquitto.url());
    for (place, port) in [(embedded, None), (external, Some(mosquitto.port))] {
        let service = place.start();
        service.await_listening();
        let port = port.unwrap_or_else(|| service.broker_port());
        for topic in ["devices/a\0b/heartbeat", "devices/\0/heartbeat"] {
            let mut client = RawClient::connect(port, "evil", None).expect("it is let in");
            client.publish(topic, b"{}");
            client.await_close();
        }
        heartbeat(port, "pump", b"");
        place.await_statuses(&["pump online"]);
    }
}

#[test]
fn the_embedded_broker_lets_a_device_with_a_will_in_and_publishes_no_will() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    for will in ["devices/pump/heartbeat", "devices/heartbeatd-echo-heartbeatd/heartbeat"] {
        // Its connection breaks, which is when a broker would publish it.
        let client = RawClient::connect(port, "pump", Some(will));
        drop(client.expect("it is let in"));
    }
    for will in ["devices/a\0b/heartbeat", "a\0b", "devices/+/heartbeat"] {
        assert!(RawClient::connect(port, "pump", Some(will)).is_none(), "{will:?}");
    }
    heartbeat(port, "fan", b"");
    place.await_statuses(&["fan online"]);
}

#[test]
fn the_embedded_broker_refuses_everything_but_heartbeats() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    publish(port, "elsewhere/pump", b"{}", &[]);
    service.await_words(REFUSED, &["refused a message", "elsewhere/pump"]);
    publish(port, "heartbeatd/heartbeatd/echo", b"0", &[]);
    service.await_words(REFUSED, &["refused a message", "heartbeatd/heartbeatd/echo"]);
    publish(port, "devices/heartbeatd-echo-heartbeatd/heartbeat", b"0", &[]);
    service.await_words(REFUSED, &["refused a message", "reserved for echoes"]);
    assert!(RawClient::connect(port, "heartbeatd", None).is_none(), "the service's own id");
    service.await_words(REFUSED, &["refused a connection", "mqtt.client_id"]);
    let mosquitto_sub = program("mosquitto_sub", "mosquitto-clients", &[]);
    let spy = Command::new(mosquitto_sub)
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "#", "-W", "30"])
        .output()
        .expect("mosquitto_sub starts");
    assert!(String::from_utf8_lossy(&spy.stderr).contains("denied"), "{spy:?}");
    service.await_words(REFUSED, &["refused a subscription"]);
    heartbeat(port, "pump", b"");
    place.await_statuses(&["pump online"]);
}

#[test]
fn an_id_may_begin_with_a_dollar_sign() {
    let broker = Mosquitto::start();
    let embedded = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let external = Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("MQTT__URL", &broker.url());
    for (place, port) in [(embedded, None), (external, Some(broker.port))] {
        let service = place.start();
        service.await_listening();
        let port = port.unwrap_or_else(|| service.broker_port());
        for (version, device) in [("5", "$"), ("311", "$pump")] {
            let topic = format!("devices/{device}/heartbeat");
            publish(port, &topic, b"", &["-V", version, "-q", "1"]);
        }
        heartbeat(port, "pump$", b"");
        place.await_statuses(&["$ online", "$pump online", "pump$ online"]);
    }
}

#[test]
fn the_embedded_broker_requires_a_password_if_there_are_users() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let users = place.path().join("users").display().to_string();
    let passwd = program("mosquitto_passwd", "mosquitto", &["/usr/bin"]);
    output(Command::new(passwd).args(["-c", "-b", &users, "pump", "s3cret"]));
    // With users it may listen on all interfaces.
    let place = place
        .with("MQTT__EMBEDDED__USERS_FILE", &users)
        .with("MQTT__EMBEDDED__LISTEN", "127.0.0.1:0");
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    assert!(RawClient::connect(port, "anonymous", None).is_none());
    service.await_words(REFUSED, &["refused a connection", "no user name"]);
    for device in ["fan", "pump"] {
        let topic = format!("devices/{device}/heartbeat");
        publish(port, &topic, b"", &["-u", "pump", "-P", "s3cret"]);
    }
    // A user may publish for the device of its own name only.
    place.await_statuses(&["pump online"]);
    service.await_words(REFUSED, &["refused a message", "may not publish", "fan"]);
    assert!(!service.log().join("\n").contains("s3cret"));
}

#[test]
fn a_flood_of_bad_messages_writes_a_few_lines_a_second() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    let long = "x".repeat(129);
    flood(port, &format!("noisy-{long}"), 10, 2_000, "nonsense");
    let rejected = r#"heartbeatd_heartbeats_rejected_total{reason="invalid_device_id"}"#;
    service.await_metric(rejected, 20_000.0);
    let shown = service.events("WARN mqtt_ingest reason=invalid_device_id").len();
    assert!((1..1000).contains(&shown), "{shown} lines for 20,000 messages");
}
