//! Open files that run short stop nothing that matters.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::service::{Place, Service};
use servers::eventually;

/// Starts the service with these limits of open files.
fn start(place: &Place, soft: u32, hard: u32) -> Service {
    place.start_after(&format!("ulimit -Sn {soft}; ulimit -Hn {hard}"))
}

/// A device's connection, made by hand: MQTT 3.1.1.
struct Device(TcpStream);

impl Device {
    /// Connects; `None` if the broker refuses.
    fn connect(port: u16, id: &str) -> Option<Self> {
        let length = u8::try_from(id.len()).expect("short");
        let header = [0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, length];
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(&[&header, id.as_bytes()].concat()).ok()?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).ok()?;
        (answer == [0x20, 2, 0, 0]).then_some(Self(stream))
    }

    fn heartbeat(&mut self, id: &str) {
        let topic = format!("devices/{id}/heartbeat");
        let length = u8::try_from(topic.len()).expect("short");
        let header = [0x30, 2 + length, 0, length];
        self.0.write_all(&[&header, topic.as_bytes()].concat()).expect("it is connected");
    }
}

fn healthy(service: &Service) {
    let began = Instant::now();
    assert_eq!(service.get("/healthz").0, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = start(&place, 300, 700);
    service.await_log(&["raised the limit of open files from=300 to=700"]);
    eventually("the limit is a metric", || {
        (service.metric("process_max_fds") == 700.0).then_some(())
    });
    assert!(service.metric("process_open_fds") > 10.0);
    // One that is there already is no news.
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = start(&place, 700, 700);
    service.await_log(&["mqtt_ingest"]);
    assert!(!service.log().iter().any(|line| line.contains("limit of open files")));
}

#[test]
fn silent_connections_that_take_all_files_stop_neither_storing_nor_checks_nor_health() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "2s");
    let service = start(&place, 256, 256);
    service.await_listening();
    let port = service.broker_port();
    let mut pump = Device::connect(port, "pump").expect("it is let in");
    let mut fan = Device::connect(port, "fan").expect("it is let in");
    pump.heartbeat("pump");
    place.await_statuses(&["pump online"]);

    let silent: Vec<_> =
        (0..400).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    service.await_log(&["heartbeatd", "open files run short", "max=256"]);
    for _ in 0..30 {
        healthy(&service);
    }
    // It is stored that the one lives, and found that the other does not.
    eventually("the fan is online and the pump offline", || {
        fan.heartbeat("fan");
        let list = place.json(&["device", "list", "--json"]);
        let statuses: Vec<_> =
            list.as_array()?.iter().filter_map(|d| d["status"].as_str()).collect();
        (statuses == ["online", "offline"]).then_some(())
    });
    assert!(service.metric("process_open_fds") >= 230.0);
    healthy(&service);

    drop(silent);
    service.await_log(&["there are enough open files again"]);
    eventually("a device is let in again", || Device::connect(port, "valve"));
}

#[test]
fn connected_devices_leave_files_to_the_service() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m");
    let service = start(&place, 256, 256);
    service.await_listening();
    let port = service.broker_port();
    let devices: Vec<_> =
        (0..160).filter_map(|n| Device::connect(port, &format!("device-{n}"))).collect();
    // 128 files are the service's.
    assert!((100..=130).contains(&devices.len()), "{}", devices.len());
    service.await_log(&["embedded_broker", "refused a connection", "as open files allow"]);
    healthy(&service);
    assert!(service.metric("process_open_fds") < 230.0);
    let limits = Command::new("prlimit")
        .args(["--nofile", "--raw", "--noheadings", "--output", "SOFT"])
        .args(["--pid", &service.process.0.id().to_string()])
        .output()
        .expect("util-linux has it");
    assert_eq!(String::from_utf8_lossy(&limits.stdout).trim(), "256");
}
