//! `heartbeatd status` with the real binary, beside a service that says what a test wants.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::thread::JoinHandle;

use servers::PATIENCE;
use servers::mosquitto::publish;
use servers::process::free_port;

use crate::support::service::Place;

/// A server that gives one answer, and returns what it was asked.
fn answer_once(status: &str, body: &str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}");
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer).expect("it asks");
            assert!(read > 0, "it asks until the end");
            request.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(answer.as_bytes()).expect("it reads");
        String::from_utf8(request).expect("it is text")
    });
    (address, asked)
}

fn summary(state: &str, detail: &str) -> String {
    format!(
        r#"{{"sentence":"Not proven since 14:02:11.","state":"{state}","detail":{detail},
        "since":"2026-11-26T14:02:11.000Z","as_of":null,"now":"2026-11-26T14:08:22.123Z",
        "started_at":"2026-11-26T12:08:22.123Z","version":"0.1.0","instance":"heartbeatd",
        "devices":{{"provisioning":2,"online":1846,"offline":143,"error":9}},"total":2000,"late":4,
        "heartbeats_per_second":33.2,"pending_heartbeats":0,"undelivered_alerts":0,
        "bursts":[{{"found_at":"2026-11-26T14:03:11.000Z","found_until":"2026-11-26T14:03:11.000Z","devices":139,"since":"2026-11-26T14:02:00Z","until":"2026-11-26T14:02:00Z"}}],
        "timeout_seconds":180,"check_interval_seconds":60,"ready_in_seconds":null,
        "broker":{{"ok":true,"error":null}},"database":{{"ok":true,"error":null}},
        "restart_needed":false,"clock_step":null,"fleet_silent_seconds":null}}"#
    )
}

fn said(out: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn the_status_is_the_sentence_of_the_service_and_0_only_while_it_listens_or_stands_by() {
    let place = Place::new();
    for (state, detail, code, lines) in [
        ("listening", "null", 0, "Not proven since 14:02:11.\n"),
        (
            "unproven",
            r#""the broker\u001b[31m returns no echo""#,
            1,
            "Not proven since 14:02:11.\nthe broker\\u{1b}[31m returns no echo\n",
        ),
        ("warming", "null", 0, "Not proven since 14:02:11.\n"),
        ("standby", "null", 0, "Not proven since 14:02:11.\n"),
        (
            "fleet_silent",
            "null",
            1,
            "Not proven since 14:02:11.\nhttp://ADDRESS/readyz and the log of the service say why\n",
        ),
    ] {
        let (address, asked) = answer_once("200 OK", &summary(state, detail));
        let out = said(&place.run(&["status", "--address", &address]));
        let lines = lines.replace("ADDRESS", &address);
        assert_eq!(out, (Some(code), lines, String::new()), "{state}");
        let asked = asked.join().expect("it was asked");
        assert!(asked.starts_with("GET /api/v1/summary HTTP/1."), "{asked}");
        assert!(asked.contains(&format!("\r\nHost: {address}\r\n")), "{asked}");
        assert!(!asked.contains("Authorization"), "{asked}");
    }
}

#[test]
fn the_status_as_json_is_what_the_service_says() {
    let place = Place::new();
    let body = summary("listening", "null");
    let (address, _) = answer_once("200 OK", &body);
    let shown = place.json(&["status", "--json", "--address", &address]);
    assert_eq!(shown, serde_json::from_str::<serde_json::Value>(&body).expect("JSON"));
}

#[test]
fn the_status_is_asked_at_the_configured_address_with_the_configured_token() {
    for (variable, arguments) in
        [(Some("HTTP__TOKEN"), &["status"][..]), (None, &["status", "--token-file", "token"])]
    {
        let (address, asked) = answer_once("200 OK", &summary("listening", "null"));
        let mut place = Place::new().with("HTTP__LISTEN", &address);
        std::fs::write(place.path().join("token"), "a-secret-token\n").expect("a file");
        if let Some(variable) = variable {
            place = place.with(variable, "a-secret-token");
        }
        assert_eq!(place.run(arguments).status.code(), Some(0), "{arguments:?}");
        let asked = asked.join().expect("it was asked");
        assert!(asked.contains("\r\nAuthorization: Bearer a-secret-token\r\n"), "{asked}");
    }
}

#[test]
fn a_service_that_cannot_be_asked_is_1_with_what_to_check() {
    let place = Place::new();
    let nobody = format!("127.0.0.1:{}", free_port());
    let (_, out, log) = said(&place.run(&["status", "--address", &nobody]));
    assert!(out.is_empty() && log.contains("is the service running"), "{log}");
    for (status, body, why) in [
        ("401 Unauthorized", "", "wants a token"),
        (
            "403 Forbidden",
            r#"{"detail":"it is not called\u001b[31m a"}"#,
            r"not called\u{1b}[31m a",
        ),
        ("429 Too Many Requests", r#"{"detail":"wait 3 s"}"#, "answered 429: wait 3 s"),
        ("404 Not Found", "", "an older heartbeatd"),
        ("500 Internal Server Error", "", "answered 500"),
        ("200 OK", "{}", "not a heartbeatd of this version"),
        ("200 OK", "hello", "not a heartbeatd of this version"),
    ] {
        let (address, _) = answer_once(status, body);
        let (code, out, log) = said(&place.run(&["status", "--address", &address]));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{status}: {log}");
        assert!(log.contains(why), "{status}: no {why:?} in {log}");
    }
    for (listen, why) in [("off", "http.listen is off"), ("127.0.0.1:0", "give --address")] {
        let place = Place::new().with("HTTP__LISTEN", listen);
        let (code, _, log) = said(&place.run(&["status"]));
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(why), "no {why:?} in {log}");
    }
}

#[test]
fn a_token_that_the_service_does_not_know_is_said_to_be_so_with_its_place() {
    let place = Place::new();
    std::fs::write(place.path().join("token"), "a-wrong-token\n").expect("a file");
    let from_config = Place::new().with("HTTP__TOKEN", "a-wrong-token");
    let unknown = r#"{"detail":"the token is not a known one"}"#;
    for (place, option, source) in [
        (&place, &["--token-file", "token"][..], "--token-file"),
        (&from_config, &[], "http.token"),
    ] {
        let (address, _) = answer_once("401 Unauthorized", unknown);
        let arguments = [&["status", "--address", &address], option].concat();
        let (code, _, log) = said(&place.run(&arguments));
        let expected = format!("does not take the token of {source}: the token is not a known one");
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(&expected) && !log.contains("a-wrong-token"), "{log}");
    }
}

#[test]
fn the_service_manager_is_told_the_sentence_and_that_the_service_stops() {
    let place = Place::new();
    let path = place.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("it is open");
    let told = || {
        let mut buffer = [0; 1000];
        let length = manager.recv(&mut buffer).expect("the service tells something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut service = place.start_with(|command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    service.await_listening();
    publish(service.broker_port(), "devices/pump/heartbeat", b"", &[]);
    let all = std::iter::repeat_with(told);
    let last = all.take(50).find(|status| status.contains(" of 1 online."));
    assert!(last.as_ref().is_some_and(|status| status.starts_with("STATUS=")), "{last:?}");
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
    let last = std::iter::repeat_with(told).take(50).find(|status| status.contains("stopping"));
    assert_eq!(last.as_deref(), Some("STATUS=Writing what was received, then stopping."));
}
