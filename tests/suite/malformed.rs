//! Malformed bytes over real sockets, beside devices that live: nothing ends, nothing leaks,
//! and the log stays short. For ten minutes of it, with the release binary:
//!
//! ```sh
//! FUZZ_SECONDS=600 cargo test --release --test suite malformed -- --nocapture
//! ```
//!
//! `FUZZ_SEED` repeats the bytes of an earlier run.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::support::service::{Place, Service};
use publishers::{RawClient, packet};
use servers::eventually;

/// The number of connections, if `FUZZ_SECONDS` does not ask for more.
const CONNECTIONS: u64 = 3000;

/// The number of malformed connections that are open at once.
const OPEN: usize = 200;

/// The number of devices that live.
const DEVICES: usize = 20;

/// The time between two of a device's heartbeats, a fraction of the timeout of 3 s.
const BEAT: Duration = Duration::from_millis(500);

/// Devices that live as long as their connections do.
struct Devices {
    clients: Vec<RawClient>,
    beaten: Instant,
}

impl Devices {
    fn new(port: u16) -> Self {
        let client = |n| RawClient::connect(port, &format!("live-{n}"), None).expect("a place");
        let mut devices =
            Self { clients: (0..DEVICES).map(client).collect(), beaten: Instant::now() };
        devices.beat();
        devices
    }

    fn beat(&mut self) {
        self.beaten = Instant::now();
        for (n, client) in self.clients.iter_mut().enumerate() {
            client.publish(&format!("devices/live-{n}/heartbeat"), b"");
        }
    }

    fn beat_if_due(&mut self) {
        if self.beaten.elapsed() >= BEAT {
            self.beat();
        }
    }
}

/// Packets that a client may send, in any version, with changes that no client should make.
struct Mutations(fastrand::Rng);

impl Mutations {
    fn stream(&mut self) -> Vec<u8> {
        let version = [3, 4, 5][self.0.usize(..3)];
        let mut stream = self.connect(version);
        for _ in 0..self.0.usize(..6) {
            stream.extend(self.packet(version));
        }
        for _ in 0..[0, 1, 1, 2, 8][self.0.usize(..5)] {
            self.change(&mut stream);
        }
        stream
    }

    fn connect(&mut self, version: u8) -> Vec<u8> {
        let name = packet::text(if version == 3 { "MQIsdp" } else { "MQTT" });
        let properties: &[u8] = if version == 5 { &[3, 0x21, 0, 9] } else { &[] };
        let id = packet::text(&format!("odd-{}", self.0.u8(..40)));
        let flags = [2, 0, 6, 0xc2][self.0.usize(..4)];
        let keep_alive = [0, self.0.u8(..)];
        let body = [&*name, &[version, flags], &keep_alive, properties, &id].concat();
        packet::packet(packet::CONNECT, &body)
    }

    fn packet(&mut self, version: u8) -> Vec<u8> {
        let properties: &[u8] = if version == 5 { &[3, 0x23, 0, 1] } else { &[] };
        match self.0.u8(..8) {
            0 => vec![0xc0, 0],
            1 => vec![0xe0, 0],
            2 => packet::packet(0x82, &[&[0, 1][..], &packet::text("#"), &[1]].concat()),
            3 => packet::packet(0x62, &[0, 1]),
            _ => {
                let quality = self.0.u8(..3);
                let id: &[u8] = if quality > 0 { &[0, 1] } else { &[] };
                let topic = format!("devices/odd-{}/heartbeat", self.0.u8(..40));
                let body = [&*packet::text(&topic), id, properties, b"{}"].concat();
                packet::packet(packet::PUBLISH | quality << 1, &body)
            }
        }
    }

    fn change(&mut self, stream: &mut Vec<u8>) {
        if stream.is_empty() {
            return;
        }
        let at = self.0.usize(..stream.len());
        match self.0.u8(..5) {
            0 => stream[at] = self.0.u8(..),
            1 => stream[at] ^= 1 << self.0.u8(..8),
            2 => stream.truncate(at),
            3 => stream.insert(at, [0, 0x7f, 0x80, 0xff][self.0.usize(..4)]),
            _ => {
                let again = stream[at..].to_vec();
                stream.extend(again);
            }
        }
    }

    /// Sends a stream in pieces. The server may close the connection at any time.
    fn send(&mut self, port: u16) -> Option<TcpStream> {
        let stream = self.stream();
        let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let _ = connection.set_nodelay(true);
        for piece in stream.chunks([1, 7, 50, 4096][self.0.usize(..4)]) {
            if connection.write_all(piece).is_err() {
                break;
            }
        }
        if self.0.u8(..10) == 0 {
            let _ = connection.shutdown(Shutdown::Write);
        }
        Some(connection)
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn open_files(service: &Service) -> usize {
    let files = format!("/proc/{}/fd", service.process.0.id());
    std::fs::read_dir(files).expect("it runs").count()
}

#[test]
fn malformed_bytes_leak_nothing_and_disturb_no_device() {
    let seed = from_environment("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("FUZZ_SEED={seed}");
    let duration = from_environment("FUZZ_SECONDS").map_or(Duration::ZERO, Duration::from_secs);
    let place = Place::new();
    let service = place.start();
    service.await_listening();
    let port = service.broker_port();
    let mut devices = Devices::new(port);
    let mut mutations = Mutations(fastrand::Rng::with_seed(seed));
    let (began, mut sent, mut open) = (Instant::now(), 0, VecDeque::new());
    let (files, mut warm) = (open_files(&service), 0);
    while sent < CONNECTIONS || began.elapsed() < duration {
        open.extend(mutations.send(port));
        sent += 1;
        if open.len() > OPEN {
            open.pop_front();
        }
        if sent == CONNECTIONS / 2 {
            warm = service.memory_kib();
        }
        devices.beat_if_due();
    }
    drop(open);
    eventually("all descriptors are closed", || {
        devices.beat_if_due();
        // Those of the database come and go.
        (open_files(&service) <= files + 5).then_some(())
    });
    let grown = service.memory_kib().saturating_sub(warm);
    let seconds = began.elapsed().as_secs() as usize + 2;
    let lines = service.log().len();
    println!("{sent} connections, {seconds} s, {lines} lines, {grown} KiB more");
    assert!(grown < 20_000, "{grown} KiB more");
    assert!(lines < 40 * seconds, "{lines} lines in {seconds} s");

    devices.beat();
    let history = place.json(&["history", "--json"]);
    let is_lost = |change: &&serde_json::Value| {
        change["device_id"].as_str().is_some_and(|id| id.starts_with("live-"))
            && change["to"] == "offline"
    };
    let lost: Vec<_> = history.as_array().expect("an array").iter().filter(is_lost).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let rejected = service.metric("heartbeatd_receiver_refused_total{reason=\"malformed\"}");
    assert!(rejected > 100.0, "what is sent is not malformed: {rejected}");
}
