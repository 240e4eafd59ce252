//! The limits of the receiver, against clients that use up whatever they can: each of them
//! bites, says so in a few lines, and keeps no honest device out.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::service::{Place, Service};
use publishers::{RawClient, packet};
use servers::log::Line;
use servers::{PATIENCE, eventually};

/// A connection was refused or ended.
const REFUSED: &str = "WARN receiver address= reason=";

/// Connects without saying anything.
fn silent(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    stream
}

fn device(port: u16, id: &str) -> RawClient {
    RawClient::connect(port, id, None).unwrap_or_else(|| panic!("{id} is refused"))
}

fn heartbeat(device: &mut RawClient, id: &str) {
    device.publish(&format!("devices/{id}/heartbeat"), b"");
}

fn refused(service: &Service, reason: &str) -> f64 {
    service.metric(&format!("heartbeatd_receiver_refused_total{{reason=\"{reason}\"}}"))
}

fn await_refused(service: &Service, reason: &str, at_least: f64) {
    eventually(&format!("{at_least} refused for {reason}"), || {
        (refused(service, reason) >= at_least).then_some(())
    });
}

/// Sends a packet and returns the answer.
fn answer(stream: &mut TcpStream, bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    stream.write_all(bytes).ok()?;
    packet::read(stream)
}

/// Waits until the service closes the connection. Returns what it sent before.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    let timed_out = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!timed_out, "the connection stays open");
    rest
}

/// Starts it with at most so many open files.
fn start_with_files(place: &Place, files: u32) -> Service {
    place.start_after(&format!("{}; ulimit -n {files}", super::limits::CLOSE_INHERITED))
}

fn listening(place: &Place) -> (Service, u16) {
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    (service, port)
}

#[test]
fn silent_sockets_keep_no_device_out_and_stop_no_detection() {
    let place = Place::new();
    let service = start_with_files(&place, 1024);
    service.await_listening();
    let port = service.broker_port();
    let mut pump = device(port, "pump");
    heartbeat(&mut pump, "pump");
    place.await_statuses(&["pump online"]);
    let silent: Vec<_> = (0..1200).map(|_| silent(port)).collect();
    for n in 0..20 {
        let id = format!("fan-{n:02}");
        heartbeat(&mut device(port, &id), &id);
    }
    await_refused(&service, "max_pending", 300.0);
    eventually("the pump is offline and the fans were online", || {
        let list = place.json(&["device", "list", "--json"]);
        let list = list.as_array()?;
        let pump = list.iter().find(|device| device["id"] == "pump")?;
        (list.len() == 21 && pump["status"] == "offline").then_some(())
    });
    assert_eq!(service.get("/healthz").0, 200);
    drop(silent);
}

#[test]
fn a_newcomer_too_many_ends_the_oldest_one() {
    let place = Place::new().with("MQTT__EMBEDDED__MAX_PENDING", "10");
    let (service, port) = listening(&place);
    let mut silent: Vec<_> = (0..11).map(|_| silent(port)).collect();
    assert!(rest(&mut silent[0]).is_empty());
    let line = service.await_words(REFUSED, &["mqtt.embedded.max_pending"]);
    assert_eq!(Line::parse(&line).and_then(|line| line.value("reason")), Some("max_pending"));
    let connect = packet::connect("pump", None);
    for late in &mut silent[1..] {
        assert_eq!(answer(late, &connect), Some((0x20, vec![0, 0])));
    }
}

#[test]
fn a_connect_that_never_ends_is_cut_off_and_a_silent_one_as_well() {
    let place = Place::new().with("MQTT__EMBEDDED__CONNECT_TIMEOUT", "500ms");
    let (service, port) = listening(&place);
    let mut silent = silent(port);
    assert!(rest(&mut silent).is_empty());
    let mut endless = self::silent(port);
    let began = Instant::now();
    // A byte at a time, for as long as it is read.
    for byte in packet::connect(&"x".repeat(16_000), None) {
        if endless.write_all(&[byte]).is_err() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it is read for ever");
        endless.set_read_timeout(Some(Duration::from_millis(20))).expect("it is not zero");
        if endless.read(&mut [0]).is_ok_and(|bytes| bytes == 0) {
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(100), "it was cut off for another reason");
    await_refused(&service, "connect_timeout", 1.0);
    service.await_words(REFUSED, &["mqtt.embedded.connect_timeout"]);
}

#[test]
fn an_announced_length_of_256_megabytes_takes_no_memory() {
    let place = Place::new();
    let (service, port) = listening(&place);
    let before = service.memory_kib();
    let longest = [0xff, 0xff, 0xff, 0x7f];
    // It is refused as soon as its version is known.
    let begin = [&[packet::CONNECT][..], &longest, &packet::text("MQTT"), &[4]].concat();
    let mut connections = Vec::new();
    for _ in 0..200 {
        let mut connect = silent(port);
        connect.write_all(&begin).expect("it is open");
        let mut publish = silent(port);
        let accepted = answer(&mut publish, &packet::connect("", None));
        assert_eq!(accepted, Some((0x20, vec![0, 0])));
        publish.write_all(&[&[packet::PUBLISH][..], &longest].concat()).expect("it is open");
        connections.extend([connect, publish]);
    }
    for connection in &mut connections {
        rest(connection);
    }
    await_refused(&service, "packet_too_large", 400.0);
    service.await_words(REFUSED, &["mqtt.embedded.max_packet"]);
    let grown = service.memory_kib().saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB more");
}

#[test]
fn long_names_and_endless_subscriptions_write_a_few_lines() {
    let place = Place::new();
    let (service, port) = listening(&place);
    let began = Instant::now();
    let subscribe = packet::packet(0x82, &[&[0, 1][..], &packet::text("#"), &[0]].concat());
    let subscribes = subscribe.repeat(1000);
    let mut subscriber = silent(port);
    assert_eq!(answer(&mut subscriber, &packet::connect("greedy", None)), Some((0x20, vec![0, 0])));
    for _ in 0..100 {
        // Longer than a packet may be, and longer than a name may be.
        for size in [60_000, 10_000] {
            let mut long = silent(port);
            let _ = long.write_all(&packet::connect(&"x".repeat(size), None));
            let _ = rest(&mut long);
        }
        subscriber.write_all(&subscribes).expect("it stays connected");
        let mut answers = vec![0; 5 * 1000];
        subscriber.read_exact(&mut answers).expect("each is answered");
        assert!(answers.chunks(5).all(|answer| answer == [0x90, 3, 0, 1, 0x80]));
    }
    assert_eq!(refused(&service, "not_authorized"), 100_000.0);
    assert_eq!(refused(&service, "client_id"), 100.0);
    let lines: Vec<_> = service.log();
    let lines: Vec<_> = lines.iter().filter(|line| line.contains(" receiver] ")).collect();
    // Two kinds of lines, of each five a second, and one about those that were left out.
    let seconds = began.elapsed().as_secs() as usize + 2;
    assert!(lines.len() <= 2 * 6 * seconds, "{} in {seconds} s", lines.len());
    assert!(lines.iter().all(|line| line.len() < 600), "{lines:?}");
}

#[test]
fn clients_with_one_id_that_end_each_other_are_told_of() {
    let place = Place::new();
    let (service, port) = listening(&place);
    let mut connections: Vec<_> = (0..6).map(|_| device(port, "twin")).collect();
    heartbeat(connections.last_mut().expect("there are six"), "twin");
    place.await_statuses(&["twin online"]);
    let line = service.await_event("WARN receiver client=twin address= times=");
    assert!(line.contains("each client needs its own"), "{line}");
    assert_eq!(refused(&service, "taken_over"), 5.0);
}

#[test]
fn a_client_that_never_reads_its_answers_is_ended() {
    let place = Place::new();
    let (service, port) = listening(&place);
    let mut deaf = silent(port);
    deaf.set_write_timeout(Some(PATIENCE)).expect("it is not zero");
    assert_eq!(answer(&mut deaf, &packet::connect("deaf", None)), Some((0x20, vec![0, 0])));
    let pings = [0xc0, 0].repeat(8192);
    // More than all buffers on the way hold.
    while deaf.write_all(&pings).is_ok() {}
    await_refused(&service, "answers", 1.0);
    let line = service.await_event("WARN receiver client=deaf reason=answers");
    assert!(line.contains("does not read its answers"), "{line}");
    heartbeat(&mut device(port, "pump"), "pump");
    place.await_statuses(&["pump online"]);
}

#[test]
fn ten_thousand_quick_reconnects_and_a_thousand_clients_at_once_are_all_let_in() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let (service, port) = listening(&place);
    for _ in 0..10_000 {
        // Gone without a word, and here again.
        drop(device(port, "restless"));
    }
    let connect = |n: usize| packet::connect(&format!("device-{n}"), None);
    let mut all: Vec<_> = (0..1000).map(|_| silent(port)).collect();
    for (n, stream) in all.iter_mut().enumerate() {
        stream.write_all(&connect(n)).expect("it is open");
    }
    // Each connects once more before its old connection is closed.
    let mut again: Vec<_> = (0..1000).map(|_| silent(port)).collect();
    for (n, stream) in again.iter_mut().enumerate() {
        stream.write_all(&connect(n)).expect("it is open");
    }
    for stream in all.iter_mut().chain(&mut again) {
        assert_eq!(packet::read(stream), Some((0x20, vec![0, 0])));
    }
    for reason in ["max_connections", "open_files", "max_connections_per_address", "max_pending"] {
        assert_eq!(refused(&service, reason), 0.0, "{reason}");
    }
}

#[test]
fn two_hundred_connections_a_second_for_twenty_seconds_leave_nothing_behind() {
    let place = Place::new();
    let (service, port) = listening(&place);
    let files = || service.metric("process_open_fds");
    eventually("the files are counted", || (files() > 10.0).then_some(()));
    let (began, mut at, before) = (Instant::now(), Duration::ZERO, service.memory_kib());
    for n in 0..4000 {
        at += Duration::from_millis(5);
        #[expect(clippy::disallowed_methods, reason = "the pace is what is tested")]
        std::thread::sleep(at.saturating_sub(began.elapsed()));
        let id = format!("device-{}", n % 100);
        heartbeat(&mut device(port, &id), &id);
    }
    await_received(&service, 4000.0);
    eventually("only heartbeatd itself is connected", || {
        (service.metric("heartbeatd_receiver_connections") == 1.0).then_some(())
    });
    let grown = service.memory_kib().saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB more");
    assert_eq!(service.get("/readyz").0, 200);
}

fn await_received(service: &Service, at_least: f64) {
    service.await_metric("heartbeatd_heartbeats_total", at_least);
}

#[test]
fn while_devices_are_shut_out_no_silence_counts() {
    let place = Place::new().with("MQTT__EMBEDDED__MAX_CONNECTIONS", "3");
    let (service, port) = listening(&place);
    let mut devices: Vec<_> = (0..3).map(|n| device(port, &format!("device-{n}"))).collect();
    heartbeat(&mut devices[0], "device-0");
    place.await_statuses(&["device-0 online"]);
    let mut stream = silent(port);
    let unavailable = Some((0x20, vec![0, 3]));
    assert_eq!(answer(&mut stream, &packet::connect("one-too-many", None)), unavailable);
    // Many echoes come back, for longer than the timeout of 3 s. None proves anything, because
    // the device that was refused may still want to get in.
    let echoes = "heartbeatd_echo_latency_seconds_count";
    let ignored = "heartbeatd_echoes_ignored_total{reason=\"late\"}";
    let came_back = || service.metric(echoes) + service.metric(ignored);
    let (began, before) = (Instant::now(), came_back());
    eventually("echoes come back", || {
        (came_back() > before + 10.0 && began.elapsed() > Duration::from_secs(6)).then_some(())
    });
    place.await_statuses(&["device-0 online"]);
    assert_eq!(refused(&service, "max_connections"), 1.0);
    let line = service.await_event("WARN receiver client=one-too-many reason=max_connections");
    assert!(line.contains("mqtt.embedded.max_connections allows no more"), "{line}");
    service.await_words("ERROR mqtt_ingest", &["no room", "no device goes offline"]);
    // Whoever watches the service sees it as well.
    assert_eq!(service.metric("heartbeatd_listening"), 0.0);
    let proven = service.metric("heartbeatd_proven_timestamp_seconds");
    let (status, body) = service.get("/readyz");
    assert!(status == 503 && body.contains("kept out"), "{status} {body}");
    let before = came_back();
    eventually("another echo comes back", || (came_back() > before + 1.0).then_some(()));
    assert_eq!(service.metric("heartbeatd_proven_timestamp_seconds"), proven);
    // When there is room again, the silent device is found, and the gap has its reason.
    devices.pop();
    eventually("there is room again", || RawClient::connect(port, "one-too-many", None));
    place.await_statuses(&["device-0 offline"]);
    assert_eq!(service.metric("heartbeatd_listening"), 1.0);
    eventually("it is ready", || (service.get("/readyz").0 == 200).then_some(()));
    let shown = place.json(&["device", "show", "device-0", "--json"]);
    let gaps = shown["evidence"]["gaps"].to_string();
    assert!(gaps.contains("shut_out"), "{shown}");
}

#[test]
fn one_address_leaves_room_to_others_and_to_the_service_itself() {
    let place = Place::new().with("MQTT__EMBEDDED__MAX_CONNECTIONS_PER_ADDRESS", "2");
    let (service, port) = listening(&place);
    let _devices = [device(port, "a"), device(port, "b")];
    let mut third = silent(port);
    let refusal = answer(&mut third, &packet::connect("c", None));
    assert_eq!(refusal, Some((0x20, vec![0, 3])));
    let line = service.await_event("WARN receiver client=c reason=max_connections_per_address");
    assert!(line.contains("mqtt.embedded.max_connections_per_address"), "{line}");
    let from_elsewhere = std::process::Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-A", "127.0.0.2", "-p", &port.to_string(), "-q", "1"])
        .args(["-t", "devices/pump/heartbeat", "-n"])
        .status();
    assert!(from_elsewhere.expect("mosquitto-clients is installed").success());
    place.await_statuses(&["pump online"]);
    assert_eq!(service.get("/readyz").0, 200);
}

#[test]
fn a_client_that_sends_too_fast_is_read_later_and_loses_nothing() {
    let place = Place::new()
        .with("HEARTBEAT__TIMEOUT", "10m")
        .with("MQTT__EMBEDDED__MAX_MESSAGES_PER_SECOND", "1000");
    let (service, port) = listening(&place);
    let mut gateway = device(port, "gateway");
    let began = Instant::now();
    for n in 0..4000 {
        heartbeat(&mut gateway, &format!("device-{}", n % 10));
    }
    // Others are read meanwhile.
    heartbeat(&mut device(port, "pump"), "pump");
    eventually("the pump is there", || {
        let list = place.json(&["device", "list", "--json"]);
        list.as_array()?.iter().any(|device| device["id"] == "pump").then_some(())
    });
    await_received(&service, 4001.0);
    assert!(began.elapsed() >= Duration::from_millis(2500), "{:?}", began.elapsed());
    assert!(refused(&service, "max_messages_per_second") >= 1.0);
    let line = service.await_event("WARN receiver address= client=gateway");
    assert!(line.contains("mqtt.embedded.max_messages_per_second"), "{line}");
}
