//! A shortage of open files stops nothing important, and too low a limit ends the start.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::events::CANNOT_CONNECT;
use crate::support::http;
use crate::support::service::{Place, Service};
use publishers::RawClient;
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};
use servers::postgresql::PostgreSql;
use servers::process::run_to_end;

/// The exit code after which a supervisor should not start the process again.
const CONFIGURATION: Option<i32> = Some(78);

/// Closes the sockets of clients in other tests. paho's C library lets child processes
/// inherit them, so they would be counted.
pub const CLOSE_INHERITED: &str = "for file in /proc/self/fd/*; do file=${file##*/}; \
                               [ $file -le 2 ] || eval \"exec $file>&-\"; done";

/// Starts the service with these limits on open files.
fn start(place: &Place, soft: u32, hard: u32) -> Service {
    place.start_after(&format!("{CLOSE_INHERITED}; ulimit -Sn {soft}; ulimit -Hn {hard}"))
}

/// A device that publishes over a connection of its own.
struct Device(RawClient);

impl Device {
    /// Connects. `None` if the broker refuses.
    fn connect(port: u16, id: &str) -> Option<Self> {
        RawClient::connect(port, id, None).map(Self)
    }

    fn heartbeat(&mut self, id: &str) {
        self.0.publish(&format!("devices/{id}/heartbeat"), b"");
    }
}

fn healthy(service: &Service) {
    let began = Instant::now();
    assert_eq!(service.get("/healthz").0, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Starts the service with too few open files. Returns the number that it says it needs.
fn start_with_too_few(place: &Place, limit: u32) -> u32 {
    let mut service = start(place, limit, limit);
    let code = service.await_exit();
    let line = service.await_words(
        "ERROR heartbeatd",
        &["the limit of open files is", "LimitNOFILE", "ulimit -n"],
    );
    assert_eq!((code, service.log().len()), (CONFIGURATION, 1), "{:?}", service.log());
    assert!(line.contains(&format!("the limit of open files is {limit}, ")), "{line}");
    least_in(&line)
}

fn least_in(line: &str) -> u32 {
    let (_, rest) = line.split_once("at least ").expect(line);
    rest.split(' ').next().and_then(|number| number.parse().ok()).expect(line)
}

/// Opens event streams.
fn open_streams(service: &Service, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| http::open_stream(service)).collect()
}

/// Checks that too few open files end the start, that the number which the error names is
/// enough, and that one less is not.
fn the_least_number_is_right(place: &Place, streams: usize, publish: impl Fn(&Service)) {
    let least = start_with_too_few(place, 48);
    for limit in [8, 16, 32, least - 1] {
        assert_eq!(start_with_too_few(place, limit), least, "at {limit}");
    }
    let mut service = start(place, least, least);
    service.await_listening();
    let _streams = open_streams(&service, streams);
    publish(&service);
    place.await_statuses(&["pump online"]);
    place.await_statuses(&["pump offline"]);
    let failed = |line: &String| line.contains("Too many open") || line.contains("unable to open");
    assert!(!service.log().iter().any(failed), "{:?}", service.log());
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
}

#[test]
fn too_few_open_files_for_the_embedded_broker_end_the_start() {
    the_least_number_is_right(&Place::new(), 64, |service| {
        let devices: Vec<_> = (0..10)
            .map(|n| Device::connect(service.broker_port(), &format!("device-{n}")))
            .collect();
        assert!(devices.iter().all(Option::is_some), "devices are let in");
        let mut pump = Device::connect(service.broker_port(), "pump").expect("it is let in");
        pump.heartbeat("pump");
        healthy(service);
    });
}

#[test]
fn too_few_open_files_for_many_connections_to_the_database_end_the_start() {
    let broker = Mosquitto::start();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("DATABASE__URL", &PostgreSql::shared().new_database())
        .with("DATABASE__MAX_CONNECTIONS", "30")
        .with("DATABASE__MAX_READ_CONNECTIONS", "20");
    the_least_number_is_right(&place, 64, |_| {
        heartbeat(broker.port, "pump", b"");
    });
}

#[test]
fn too_few_open_files_for_an_external_broker_end_the_start() {
    let broker = Mosquitto::start();
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    for http in ["127.0.0.1:0", "off"] {
        let place = Place::new().with("MQTT__URL", &url).with("HTTP__LISTEN", http);
        let place = place.with("HTTP__MAX_STREAMS", "100");
        let streams = if http == "off" { 0 } else { 100 };
        the_least_number_is_right(&place, streams, |service| {
            let mut pump = Device::connect(broker.port, "pump").expect("it is let in");
            pump.heartbeat("pump");
            if http != "off" {
                healthy(service);
            }
        });
    }
}

#[test]
fn each_event_stream_needs_one_more_open_file() {
    let broker = Mosquitto::start();
    let least = |http: &str, streams: &str| {
        let place = Place::new().with("MQTT__URL", &broker.url()).with("HTTP__LISTEN", http);
        start_with_too_few(&place.with("HTTP__MAX_STREAMS", streams), 48)
    };
    assert_eq!(least("127.0.0.1:0", "1000"), least("127.0.0.1:0", "10") + 990);
    assert_eq!(least("off", "1000"), least("off", "10"));
}

#[test]
fn too_few_open_files_end_a_command_with_the_number_that_is_right() {
    let place = Place::new();
    assert!(place.run(&["device", "add", "pump"]).status.success());
    let run = |limit: u32, command: &str| {
        let script = format!("{CLOSE_INHERITED}; ulimit -n {limit}; exec \"$0\" {command}");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_heartbeatd")]);
        run_to_end(&mut place.prepared(shell))
    };
    for command in ["device list", "device show pump", "history", "check-config"] {
        let refused = run(8, command);
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), CONFIGURATION, "{command}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        let least = least_in(&errors);
        assert_eq!(run(least - 1, command).status.code(), CONFIGURATION, "{command}");
        let done = run(least, command);
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_allowed() {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = start(&place, 300, 700);
    service.await_event("INFO heartbeatd from=300 to=700");
    eventually("the limit is a metric", || {
        (service.metric("process_max_fds") == 700.0).then_some(())
    });
    assert!(service.metric("process_open_fds") > 10.0);
    // If there is nothing to raise, nothing is logged.
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = start(&place, 700, 700);
    service.await_event(CANNOT_CONNECT);
    for raised in ["INFO heartbeatd from= to=", "INFO heartbeatd limit="] {
        assert_eq!(service.events(raised).len(), 0, "{raised}");
    }
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
    service.await_event("WARN receiver address= reason=max_pending");
    for _ in 0..30 {
        healthy(&service);
    }
    // The fan's heartbeats are stored, and the pump's silence is found.
    eventually("the fan is online and the pump offline", || {
        fan.heartbeat("fan");
        let list = place.json(&["device", "list", "--json"]);
        let statuses: Vec<_> =
            list.as_array()?.iter().filter_map(|d| d["status"].as_str()).collect();
        (statuses == ["online", "offline"]).then_some(())
    });
    // They have not even come near the limit.
    assert!(service.metric("process_open_fds") < 230.0);
    assert!(Device::connect(port, "valve").is_some(), "a device is let in meanwhile");
    drop(silent);
}

/// Sets the limit of open files of a running service.
fn set_limit(service: &Service, files: usize) {
    let limits = format!("--nofile={files}:1000");
    let pid = service.process.0.id().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &limits]).status();
    assert!(set.expect("util-linux has it").success());
}

#[test]
fn while_no_file_can_be_opened_devices_replace_silent_sockets_and_silence_is_found() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "2s");
    let service = start(&place, 1000, 1000);
    service.await_listening();
    let port = service.broker_port();
    let mut pump = Device::connect(port, "pump").expect("it is let in");
    pump.heartbeat("pump");
    place.await_statuses(&["pump online"]);
    let files = format!("/proc/{}/fd", service.process.0.id());
    let open = std::fs::read_dir(files).expect("it runs").count();
    set_limit(&service, open + 3);

    // More than there are files for. The kernel takes them, and the service cannot.
    let silent: Vec<_> =
        (0..30).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    let refused = "heartbeatd_receiver_refused_total{reason=\"open_files\"}";
    service.await_metric(refused, 1.0);
    service.await_event("ERROR heartbeatd open= max=");
    healthy(&service);
    let mut fan = eventually("a device gets in", || Device::connect(port, "fan"));
    fan.heartbeat("fan");
    place.await_statuses(&["fan online", "pump offline"]);
    healthy(&service);

    set_limit(&service, 1000);
    drop(silent);
    service.await_event("INFO heartbeatd open= max=1000");
    eventually("it is ready", || (service.get("/readyz").0 == 200).then_some(()));
}

#[test]
fn connected_devices_leave_files_to_the_service() {
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "10m").with("HTTP__MAX_STREAMS", "1");
    let service = start(&place, 256, 256);
    service.await_listening();
    let port = service.broker_port();
    let devices: Vec<_> =
        (0..160).filter_map(|n| Device::connect(port, &format!("device-{n}"))).collect();
    // 128 files are reserved for the service.
    assert!((100..=130).contains(&devices.len()), "{}", devices.len());
    service
        .await_words("WARN receiver client= reason=open_files", &["as many as open files allow"]);
    healthy(&service);
    assert!(service.metric("process_open_fds") < 230.0);
    let limits = Command::new("prlimit")
        .args(["--nofile", "--raw", "--noheadings", "--output", "SOFT"])
        .args(["--pid", &service.process.0.id().to_string()])
        .output()
        .expect("util-linux has it");
    assert_eq!(String::from_utf8_lossy(&limits.stdout).trim(), "256");
}
