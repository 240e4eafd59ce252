//! The rules of MQTT that need a connection, and the table of all of them.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use crate::support::service::{Place, Service};
use publishers::packet::{self, packet, text};
use servers::{PATIENCE, eventually};

/// A client that knows only bytes.
struct Client(TcpStream);

impl Client {
    fn new(service: &Service) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", service.broker_port())).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Self(stream)
    }

    /// Connects in version 4 or 5, and returns the CONNACK.
    fn connect(service: &Service, level: u8, id: &str, keep_alive: u8) -> (Self, Vec<u8>) {
        let mut client = Self::new(service);
        client.send(&connect(level, id, keep_alive, &[]));
        let (first, connack) = client.read().expect("a CONNACK");
        assert_eq!(first, 0x20);
        (client, connack)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it is connected");
    }

    fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        packet::read(&mut self.0)
    }

    /// Waits for the end of the connection, after no other packet.
    #[track_caller]
    fn await_close(mut self) {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it is not closed: {error}");
        }
        assert_eq!(rest, [0; 0]);
    }
}

/// A CONNECT of version 4 or 5 with these properties.
fn connect(level: u8, id: &str, keep_alive: u8, properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).expect("short");
    let properties = if level == 5 { [&[length], properties].concat() } else { Vec::new() };
    let head = [text("MQTT"), vec![level, 0b10, 0, keep_alive], properties, text(id)];
    packet(0x10, &head.concat())
}

fn start() -> (Place, Service) {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "1h");
    let service = place.start();
    service.await_listening();
    (place, service)
}

#[test]
fn a_client_silent_for_one_and_a_half_times_its_keep_alive_is_closed() {
    let (_place, service) = start();
    for level in [4, 5] {
        let begin = Instant::now();
        let (mut client, _) = Client::connect(&service, level, "quiet", 1);
        if level == 5 {
            let (first, body) = client.read().expect("a DISCONNECT");
            assert_eq!((first, body[0]), (0xe0, 0x8d));
        }
        client.await_close();
        assert!(begin.elapsed().as_secs_f32() > 1.4, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_client_without_a_keep_alive_gets_one_in_5() {
    let (_place, service) = start();
    let (_client, connack) = Client::connect(&service, 5, "quiet", 0);
    assert!(connack.windows(3).any(|window| window == [0x13, 0xfd, 0x20]), "{connack:x?}");
}

#[test]
fn a_new_connection_takes_the_client_id_over() {
    let (place, service) = start();
    for level in [4, 5] {
        let (mut first, _) = Client::connect(&service, level, "device", 60);
        let topic = text(&format!("devices/pump-{level}/heartbeat"));
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        first.send(&packet(0x30, &[&topic, properties].concat()));
        let (mut second, connack) = Client::connect(&service, level, "device", 60);
        assert_eq!(connack[..2], [0, 0]);
        if level == 5 {
            let (packet, body) = first.read().expect("a DISCONNECT");
            assert_eq!((packet, body[0]), (0xe0, 0x8e));
        }
        first.await_close();
        second.send(&[0xc0, 0]);
        assert_eq!(second.read(), Some((0xd0, vec![])));
    }
    place.await_statuses(&["pump-4 online", "pump-5 online"]);
}

#[test]
fn clients_without_an_id_get_different_ones() {
    let (_place, service) = start();
    let (mut one, first) = Client::connect(&service, 5, "", 60);
    let (mut other, second) = Client::connect(&service, 5, "", 60);
    assert!(first.contains(&0x12) && first != second, "{first:x?} {second:x?}");
    for client in [&mut one, &mut other] {
        client.send(&[0xc0, 0]);
        assert_eq!(client.read(), Some((0xd0, vec![])));
    }
}

#[test]
fn an_authentication_method_is_refused() {
    let (_place, service) = start();
    let mut client = Client::new(&service);
    client.send(&connect(5, "device", 60, &[&[0x15][..], &text("SCRAM")].concat()));
    let (first, body) = client.read().expect("a CONNACK");
    assert_eq!((first, &body[..2]), (0x20, &[0, 0x8c][..]));
    client.await_close();
}

#[test]
fn a_connection_is_closed_after_a_refusal() {
    let (_place, service) = start();
    let mut client = Client::new(&service);
    client.send(&connect(9, "device", 60, &[]));
    assert_eq!(client.read(), Some((0x20, vec![0, 1])));
    client.await_close();
    let mut client = Client::new(&service);
    client.send(b"GET / HTTP/1.1\r\n\r\n");
    client.await_close();
}

#[test]
fn a_connection_is_closed_after_a_disconnect() {
    let (_place, service) = start();
    for level in [4, 5] {
        let (mut client, _) = Client::connect(&service, level, "device", 60);
        client.send(&[0xe0, 0]);
        client.await_close();
    }
}

#[test]
fn a_connection_that_breaks_within_a_packet_is_gone() {
    let (_place, service) = start();
    let connections = || service.metric("heartbeatd_receiver_connections");
    let (mut client, _) = Client::connect(&service, 4, "device", 0);
    client.send(&[0x30, 100, 0, 50]);
    eventually("it is counted", || (connections() > 1.5).then_some(()));
    drop(client);
    eventually("it is gone", || (connections() < 1.5).then_some(()));
}

#[test]
fn what_comes_with_a_connect_is_counted_however_much_it_is() {
    let (place, service) = start();
    let mut client = Client::new(&service);
    let heartbeat = packet(0x30, &text("devices/pump/heartbeat"));
    let many = [connect(4, "device", 60, &[]), heartbeat.repeat(10_000), vec![0xc0, 0]].concat();
    client.send(&many);
    assert_eq!(client.read(), Some((0x20, vec![0, 0])));
    assert_eq!(client.read(), Some((0xd0, vec![])));
    service.await_metric("heartbeatd_heartbeats_total", 10_000.0);
    place.await_statuses(&["pump online"]);
}

/// The texts between backticks in the last cell of each row.
fn tests_in(table: &str) -> BTreeSet<String> {
    let last_cell = |row: &str| row.trim_end_matches('|').rsplit('|').next().map(str::to_owned);
    let rows = table.lines().filter(|line| line.starts_with('|'));
    let cells: Vec<_> = rows.filter_map(last_cell).collect();
    let in_backticks = cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2));
    in_backticks.map(str::to_owned).collect()
}

/// All Rust files below a folder, one after the other.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("it is there").path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).expect("it is text");
        }
    }
    text
}

#[test]
fn every_test_that_the_table_of_conformance_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/conformance.md")).expect("it is there");
    let sources = sources(&root.join("src/receiver")) + &sources(&root.join("tests/suite"));
    let tests = tests_in(&table);
    assert!(tests.len() > 80, "{}", tests.len());
    let missing: Vec<_> =
        tests.iter().filter(|test| !sources.contains(&format!("fn {test}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
