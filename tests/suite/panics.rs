//! A panic in an actor ends the process with 70 and names the actor. A panic in a connection
//! to the embedded broker ends that connection.
//!
//! Each test runs itself again in another process, which panics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};

use actix::prelude::*;
use chrono::{DateTime, Utc};
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::on_own_thread;
use heartbeatd::clock::system_clock;
use heartbeatd::panics::this_actor;
use heartbeatd::{App, Config, cli, panics};
use publishers::{RawClient, packet};
use servers::log::is_event;
use servers::process::run_to_end;
use servers::{PATIENCE, eventually};

const CHILD: &str = "SUITE_PANIC_CHILD";

/// Runs `child` in another process, in which panics are handled as in the service. Returns its
/// exit code and its log; in that process itself, `None`.
fn run(test: &str, child: impl AsyncFnOnce()) -> Option<(Option<i32>, String)> {
    if std::env::var_os(CHILD).is_some() {
        cli::init_logger();
        panics::end_the_process();
        actix_rt::System::new().block_on(child());
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = Command::new(std::env::current_exe().expect("it runs"));
    child
        .args(["--exact", "--nocapture", &format!("panics::{test}")])
        .env(CHILD, "1")
        .current_dir(folder.path());
    let out = run_to_end(&mut child);
    Some((out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned()))
}

/// Runs `child` in another process and checks that its panic ends that with 70.
fn assert_ends_the_process(test: &str, actor: &str, child: impl AsyncFnOnce()) {
    let ended = run(test, async || {
        child().await;
        std::future::pending::<()>().await;
    });
    let Some((code, log)) = ended else { return };
    assert_eq!(code, Some(70), "{log}");
    let line = log.lines().find(|line| line.contains("panicked: on purpose"));
    let line = line.unwrap_or_else(|| panic!("no such line in {log}"));
    assert!(line.contains(&format!("actor={actor}")), "{line}");
}

fn config() -> Config {
    let mut config = Config::default();
    config.mqtt.embedded.listen = ([127, 0, 0, 1], 0).into();
    config.http.listen = heartbeatd::config::Listen::Off;
    config.heartbeat.check_interval =
        crate::support::fleet::non_zero(std::time::Duration::from_millis(10));
    config
}

#[test]
fn a_panic_in_the_ticker_names_it() {
    fn broken() -> heartbeatd::clock::Reading {
        assert!(this_actor() != Some("ticker"), "on purpose");
        system_clock()
    }
    assert_ends_the_process("a_panic_in_the_ticker_names_it", "ticker", async || {
        let mut config = config();
        config.mqtt.url = Some("mqtt://127.0.0.1:1".parse().expect("a URL"));
        App::build(config).clock(broken).start().await.expect("it starts");
    });
}

#[test]
fn a_panic_in_a_custom_sink_names_it() {
    struct Broken;
    impl Actor for Broken {
        type Context = Context<Self>;
    }
    impl Handler<DevicesOffline> for Broken {
        type Result = Result<(), AlertError>;
        fn handle(&mut self, _: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
            panic!("on purpose")
        }
    }
    assert_ends_the_process("a_panic_in_a_custom_sink_names_it", "pager", async || {
        use heartbeatd::domain::{Coverage, Cutoff, Cutoffs, Heartbeat};
        use heartbeatd::store::{DeviceStore, Grounds, OpenMode, RecordingRules, StaleFrom};
        let url = config().database.url;
        let store = DeviceStore::open(url.reveal(), OpenMode::Create).await.expect("it opens");
        let id = "pump".parse().expect("an id");
        let heartbeat = Heartbeat::parse(id, b"", system_clock().wall);
        let rules = RecordingRules {
            auto_register: true,
            room: 1,
            registrations: 1,
            max_clock_skew: Default::default(),
            now: system_clock().wall,
        };
        store.update_last_seen(&[heartbeat], rules, &Default::default()).await.expect("it writes");
        // Leaves an outbox as of an earlier run, which the first check delivers.
        let timeout = std::time::Duration::from_secs(180);
        let default = Cutoff { timeout, instant: Some(DateTime::<Utc>::MAX_UTC) };
        let cutoffs = Cutoffs { default, own: vec![] };
        let from = StaleFrom::default();
        let stale = store.get_stale_devices(&cutoffs, &from, 10).await.expect("it reads").devices;
        let coverage = Coverage::new(timeout);
        let grounds = Grounds { cutoffs: &cutoffs, coverage: &coverage, instance: "heartbeatd" };
        store.mark_devices_offline(&stale, grounds, system_clock().wall).await.expect("it writes");
        let sink = on_own_thread("pager", || Broken);
        App::build(config()).alert_sink(sink.recipient()).start().await.expect("it starts");
    });
}

/// The number of readings on the receiver's threads after which the clock panics, once.
static BREAKS_AFTER: AtomicI64 = AtomicI64::new(-1);

fn fragile_clock() -> heartbeatd::clock::Reading {
    let is_receiver = std::thread::current().name() == Some("receiver");
    assert!(!is_receiver || BREAKS_AFTER.fetch_sub(1, Ordering::Relaxed) != 0, "on purpose");
    system_clock()
}

/// Connects as `pump`, and publishes at QoS 1. False if the connection is closed before the
/// answer.
fn is_heard(broker: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(broker).expect("the broker listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let topic = packet::text("devices/pump/heartbeat");
    let heartbeat = packet::packet(0x32, &[&topic[..], &[0, 7]].concat());
    for (packet, answer) in [
        (packet::connect("pump", None), (0x20, vec![0, 0])),
        (heartbeat, (packet::PUBACK, vec![0, 7])),
    ] {
        // It may be closed already.
        let _ = stream.write_all(&packet);
        if packet::read(&mut stream) != Some(answer) {
            return false;
        }
    }
    // Its seat is free once it is closed.
    let _ = stream.write_all(&[0xe0, 0]);
    packet::read(&mut stream).is_none()
}

fn metric(http: SocketAddr, name: &str) -> f64 {
    let mut stream = TcpStream::connect(http).expect("HTTP is served");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it is read");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("it answers");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).expect(name)
}

#[test]
fn a_panic_in_a_connection_ends_that_connection_and_nothing_else() {
    const PANICS: i64 = 4;
    const PANICKED: &str = "heartbeatd_receiver_refused_total{reason=\"panic\"}";
    const CONNECTED: &str = "heartbeatd_receiver_connections";
    let test = "a_panic_in_a_connection_ends_that_connection_and_nothing_else";
    let ended = run(test, async || {
        let mut config = config();
        config.http.listen = ([127, 0, 0, 1], 0).into();
        // Echoes read the clock on the same threads.
        config.mqtt.echo_interval = None;
        config.mqtt.embedded.max_connections = Some(2);
        let app = App::build(config).clock(fragile_clock).start().await.expect("it starts");
        let broker = app.broker_address().expect("it listens");
        let http = app.http_address().expect("it listens");
        // The service's own connection is served on these threads, too, until it has subscribed.
        let proofs = "heartbeatd_echo_latency_seconds_count";
        eventually("it is subscribed", || (metric(http, proofs) > 0.5).then_some(()));
        let mut witness = RawClient::connect(broker.port(), "fan", None).expect("it gets in");
        // In the reading of the CONNECT, in the decision, and in the two halves of a turn.
        for readings in 0..PANICS {
            BREAKS_AFTER.store(readings, Ordering::Relaxed);
            assert!(!is_heard(broker), "after {readings}");
            // The same client gets in with the same seat.
            assert!(is_heard(broker), "after {readings}");
        }
        eventually("all panics are counted", || {
            (metric(http, PANICKED) == PANICS as f64).then_some(())
        });
        eventually("two are connected", || (metric(http, CONNECTED) == 2.0).then_some(()));
        witness.publish("devices/fan/heartbeat", b"");
        eventually("five are heard", || {
            (metric(http, "heartbeatd_heartbeats_total") == 1.0 + PANICS as f64).then_some(())
        });
        app.drain().await.expect("it drains");
    });
    let Some((code, log)) = ended else { return };
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("on purpose")).collect();
    assert_eq!(lines.len(), PANICS as usize, "{log}");
    for line in lines {
        assert!(is_event(line, "ERROR receiver address= place="), "{line}");
    }
}
