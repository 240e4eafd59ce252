//! The log stays a list of lines that say what happened, whatever anybody sends.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::service::{Place, Service};
use publishers::flood;
use servers::eventually;
use servers::log::{Line, is_event};
use servers::mosquitto::heartbeat;

#[test]
fn an_id_from_outside_cannot_forge_a_status_change() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    let id = "a device=pump-17 from=online to=offline";
    heartbeat(service.broker_port(), id, b"");
    let line = service.await_event("INFO device_registry from=provisioning to=online");
    assert!(is_event(&line, &format!(r#"INFO device_registry device="{id}""#)), "{line}");
    heartbeat(service.broker_port(), "pump-17", b"");
    service.await_event("INFO device_registry device=pump-17 from=provisioning to=online");
}

#[test]
fn an_error_from_outside_cannot_drive_the_terminal() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    service.await_listening();
    let error = r#"{"error":"\u202e\u2028gone"}"#;
    heartbeat(service.broker_port(), "pump", error.as_bytes());
    place.await_statuses(&["pump error"]);
    for arguments in [&["device", "list"][..], &["device", "show", "pump"]] {
        let out = String::from_utf8(place.run(arguments).stdout).expect("it is text");
        assert!(out.contains(r"\u{202e}\u{2028}gone"), "{out}");
    }
    let shown = place.json(&["device", "show", "pump", "--json"]);
    assert_eq!(shown["error"], "\u{202e}\u{2028}gone");
}

/// A line about a heartbeat that is rejected.
const REJECTED: &str = "WARN device_registry device= reason=unknown_device";

/// A place in which every device is unknown and rejected.
fn rejecting() -> Place {
    Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("DEVICES__AUTO_REGISTER", "false")
}

#[test]
fn a_flood_of_refused_messages_writes_a_few_lines_a_second_and_counts_the_rest() {
    let place = rejecting();
    let service = place.start();
    service.await_listening();
    let began = Instant::now();
    const MESSAGES: usize = 2_000;
    flood(service.broker_port(), "stranger", MESSAGES, 1, "");
    // The rest is counted even if no message follows.
    let shown = || service.events(REJECTED).len();
    eventually("every message is shown or counted", || {
        (shown() + left_out(&service) == MESSAGES).then_some(())
    });
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(shown() <= 5 * seconds, "{} lines in {seconds} s", shown());
}

#[test]
fn lines_that_were_left_out_are_counted_before_the_process_ends() {
    let place = rejecting();
    let mut service = place.start();
    service.await_listening();
    flood(service.broker_port(), "stranger", 20, 1, "");
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
    let all = || (service.events(REJECTED).len() + left_out(&service) == 20).then_some(());
    // The process has ended, but its last lines may still be in the pipe.
    eventually("all 20 are shown or counted", all);
}

#[test]
fn malformed_requests_write_a_few_lines_a_second() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = place.start();
    let address = service.http_address();
    service.await_listening();
    let before = service.log().len() as u64;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let mut stream = TcpStream::connect(address).expect("HTTP is served");
        // The service may close the connection before everything is written.
        let _ = stream.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    let (lines, seconds) = (service.log().len() as u64 - before, began.elapsed().as_secs() + 1);
    assert!(lines <= 8 * seconds, "{lines} lines in {seconds} s");
}

#[test]
fn the_password_is_never_logged_whatever_rust_log_is() {
    const PASSWORD: &str = "correct-horse-battery";
    let place = Place::new()
        .with("MQTT__URL", "mqtt://127.0.0.1:1")
        .with("MQTT__USERNAME", "heartbeatd")
        .with("MQTT__PASSWORD", PASSWORD);
    for filter in ["paho_mqtt=debug", "trace,paho_mqtt=trace,paho_mqtt_c=trace"] {
        let mut service = place.start_with(|command| {
            command.env("RUST_LOG", filter);
        });
        service.await_event("WARN heartbeatd library=paho_mqtt level=");
        service.await_event("ERROR mqtt_ingest broker=mqtt://127.0.0.1:1");
        service.signal("TERM");
        service.await_exit();
        let log = service.log().join("\n");
        // paho prints bytes as numbers.
        let bytes = format!("{:?}", &PASSWORD.as_bytes()[..8]);
        let leaks = log.contains(PASSWORD) || log.contains(bytes.trim_end_matches(']'));
        assert!(!leaks, "{log}");
    }
}

#[test]
fn rust_log_affects_a_library_only_if_it_names_it() {
    let place = Place::new();
    let mut service = place.start_with(|command| {
        command.env("RUST_LOG", "trace");
    });
    service.await_listening();
    service.await_event("DEBUG mqtt_ingest latency_ms=");
    assert_eq!(service.get("/healthz").0, 200);
    service.signal("TERM");
    service.await_exit();
    let own = ["heartbeatd", "device_registry", "mqtt_ingest", "ticker", "courier", "alert_sink"];
    let log = service.log();
    let details = log.iter().filter_map(|line| Line::parse(line));
    let details = details.filter(|line| ["DEBUG", "TRACE"].contains(&line.level));
    let targets: Vec<_> = details.map(|line| line.target).collect();
    assert!(targets.iter().all(|target| own.contains(target)), "{targets:?}");
}

/// Returns how many of those lines were left out, according to the log.
fn left_out(service: &Service) -> usize {
    let counts = service.events(r#"WARN device_registry count= kind="rejected heartbeats""#);
    let count = |line: &String| Line::parse(line)?.number("count");
    counts.iter().map(|line| count(line).expect(line) as usize).sum()
}
