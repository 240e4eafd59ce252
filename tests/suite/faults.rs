//! The real binary with fifty living devices and some that die, while each fault lasts
//! for longer than the timeout. No live device ever goes offline, and each dead one is
//! reported once.

use std::time::Duration;

use serde_json::Value;

use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::events::{
    CHECK_FAILED, ECHOES_AGAIN, LISTENING, NO_ECHO, NOT_WRITTEN, UNANSWERED, WRITTEN_AGAIN,
};
use crate::support::proxy::Proxy;
use crate::support::service::{Place, Service};
use crate::support::waiting::let_pass;
use publishers::Devices;
use servers::eventually;
use servers::log::is_event;
use servers::mosquitto::Mosquitto;
use servers::process::free_port;

const TIMEOUT: f64 = 4.0;
const CHECK_INTERVAL: f64 = 0.5;
/// The time that a detection may take beyond the timeout and the check interval, in
/// listened time. An echo is late, and two cores run many tests at once.
const SLACK: f64 = 2.5;

/// The length of a fault. It is longer than timeout, interval and slack. If it counted as
/// silence, the bound of the devices that died before it would be broken.
const FAULT: Duration = Duration::from_secs(9);

/// The length of the fault, plus the time that a write waits for a lock before it is
/// retried.
const DATABASE_LATE: Duration = FAULT.saturating_add(Duration::from_secs(5));

const LIVE: usize = 50;
/// The devices that die before the fault, during it, and after it.
const DEAD: [&str; 6] = ["dead-1a", "dead-1b", "dead-2a", "dead-2b", "dead-3a", "dead-3b"];

/// A service that watches the fleet.
struct Scene {
    place: Place,
    service: Service,
    devices: Devices,
    /// The log of earlier processes of the service.
    log: Vec<String>,
    /// The time for which the service listened but could not mark any device.
    late: Duration,
}

impl Scene {
    fn start(place: Place, port: u16) -> Self {
        let place = place
            .with("HEARTBEAT__TIMEOUT", &format!("{TIMEOUT}s"))
            .with("HEARTBEAT__CHECK_INTERVAL", &format!("{}ms", CHECK_INTERVAL * 1000.0))
            .with("MQTT__ECHO_INTERVAL", "300ms");
        let service = place.start();
        service.await_listening();
        let live = (0..LIVE).map(|number| format!("live-{number:02}"));
        let devices = Devices::live(port, live.chain(DEAD.map(str::to_owned)));
        let online = r#"heartbeatd_devices{status="online"}"#;
        service.await_metric(online, (LIVE + DEAD.len()) as f64);
        Self { place, service, devices, log: Vec::new(), late: Duration::ZERO }
    }

    fn on(broker: &Mosquitto) -> Self {
        Self::start(Place::new().with("MQTT__URL", &broker.url()), broker.port)
    }

    fn with_embedded_broker() -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        Self::start(Place::new().with("MQTT__EMBEDDED__LISTEN", &listen), port)
    }

    /// Starts the service again after it was killed.
    fn restart(&mut self) {
        self.service.await_exit();
        self.log.extend(self.service.log());
        self.service = self.place.start();
    }

    /// Lets a fault last. Devices have died just before it, and others die during it.
    fn endure(&self) {
        let_pass(FAULT / 2);
        self.devices.die(&DEAD[2..4]);
        let_pass(FAULT / 2);
    }

    /// Asserts what must be true after any fault.
    fn assert_no_live_device_is_missed_and_no_dead_one_forgotten(&self) {
        self.service.await_listening();
        let confirmed = "heartbeatd_echo_latency_seconds_count";
        self.service.await_metric(confirmed, self.service.metric(confirmed) + 2.0);
        self.devices.die(&DEAD[4..]);
        let mut went_offline = Vec::new();
        eventually("the dead are found", || {
            went_offline = self.went_offline();
            (went_offline.len() >= DEAD.len()).then_some(())
        });
        // By then, any device that is wrongly missed would be offline.
        let checks = "heartbeatd_check_duration_seconds_count";
        let more = 1.5 * TIMEOUT / CHECK_INTERVAL;
        self.service.await_metric(checks, self.service.metric(checks) + more);
        went_offline = self.went_offline();
        went_offline.sort();
        let log = [self.log.as_slice(), &self.service.log()].concat();
        assert_eq!(went_offline, DEAD, "{}", log.join("\n"));

        for device in DEAD {
            let reported = format!("INFO alert_sink device={device}");
            let reports = log.iter().filter(|line| is_event(line, &reported)).count();
            assert_eq!(reports, 1, "{device} in\n{}", log.join("\n"));
            let shown = self.place.json(&["device", "show", device, "--json"]);
            let listened = shown["evidence"]["listened_seconds"].as_f64().expect("a number");
            let bound = TIMEOUT + CHECK_INTERVAL + SLACK + self.late.as_secs_f64();
            assert!(listened > TIMEOUT && listened <= bound, "{shown:#}");
        }
    }

    /// The ids that went offline, each as often as it did.
    fn went_offline(&self) -> Vec<String> {
        let history = self.place.json(&["history", "--json"]);
        let offline = history.as_array().expect("an array").iter().filter(|t| t["to"] == "offline");
        let id = |t: &Value| t["device_id"].as_str().expect("text").to_owned();
        offline.map(id).collect()
    }
}

fn a_process_that_is_killed_and_comes_back_late(mut scene: Scene) {
    scene.devices.die(&DEAD[..2]);
    scene.service.signal("KILL");
    scene.endure();
    scene.restart();
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
    let shown = scene.place.run(&["device", "show", DEAD[0]]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("the service was not running"), "{shown}");
}

#[test]
fn killed_and_restarted_late_on_mosquitto() {
    let broker = Mosquitto::start();
    a_process_that_is_killed_and_comes_back_late(Scene::on(&broker));
}

#[test]
fn killed_and_restarted_late_with_its_embedded_broker() {
    a_process_that_is_killed_and_comes_back_late(Scene::with_embedded_broker());
}

fn a_process_that_is_stopped_and_goes_on(scene: Scene) {
    scene.devices.die(&DEAD[..2]);
    scene.service.signal("STOP");
    scene.endure();
    scene.service.signal("CONT");
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

#[test]
fn stopped_by_a_signal_on_mosquitto() {
    let broker = Mosquitto::start();
    a_process_that_is_stopped_and_goes_on(Scene::on(&broker));
}

#[test]
fn stopped_by_a_signal_with_its_embedded_broker() {
    a_process_that_is_stopped_and_goes_on(Scene::with_embedded_broker());
}

#[test]
fn a_broker_that_is_gone_and_comes_back_empty() {
    let mut broker = Mosquitto::start();
    let scene = Scene::on(&broker);
    scene.devices.die(&DEAD[..2]);
    broker.stop();
    scene.endure();
    broker.go_on();
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

#[test]
fn a_broker_that_restarts_at_once_and_knows_no_client() {
    let mut broker = Mosquitto::start();
    let scene = Scene::on(&broker);
    scene.devices.die(&DEAD[..2]);
    broker.stop();
    broker.go_on();
    scene.endure();
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

#[test]
fn a_subscription_that_is_lost_without_a_word() {
    let broker = Mosquitto::start();
    let proxy = Proxy::to(broker.port);
    let url = format!("mqtt://127.0.0.1:{}", proxy.port);
    let place = Place::new().with("MQTT__URL", &url);
    let scene = Scene::start(place, broker.port);
    scene.devices.die(&DEAD[..2]);
    // Whenever the service subscribes again.
    proxy.interject(&unsubscribe(&["devices/+/heartbeat", "heartbeatd/heartbeatd/echo"]));
    scene.service.await_event(NO_ECHO);
    scene.endure();
    proxy.heal();
    scene.service.await_event(ECHOES_AGAIN);
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

/// An echo with its own subscription would still come back.
#[test]
fn a_subscription_to_the_heartbeats_alone_that_is_lost_is_noticed_by_an_echo_within_it() {
    let broker = Mosquitto::start();
    let proxy = Proxy::to(broker.port);
    let place = Place::new()
        .with("MQTT__URL", &format!("mqtt://127.0.0.1:{}", proxy.port))
        .with("MQTT__ECHO_TOPIC", "devices/heartbeatd-echo-heartbeatd/heartbeat");
    let scene = Scene::start(place, broker.port);
    scene.devices.die(&DEAD[..2]);
    proxy.interject(&unsubscribe(&["devices/+/heartbeat"]));
    scene.service.await_event(NO_ECHO);
    scene.endure();
    proxy.heal();
    scene.service.await_event(ECHOES_AGAIN);
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

/// An UNSUBSCRIBE of MQTT 5.
fn unsubscribe(topics: &[&str]) -> Vec<u8> {
    let mut rest = vec![0xff, 0xff, 0];
    for topic in topics {
        rest.extend((topic.len() as u16).to_be_bytes());
        rest.extend(topic.as_bytes());
    }
    let length = u8::try_from(rest.len()).ok().filter(|length| *length < 128);
    [vec![0xa2, length.expect("a short packet")], rest].concat()
}

#[test]
fn a_connection_that_is_cut_without_a_word() {
    let broker = Mosquitto::start();
    let proxy = Proxy::to(broker.port);
    let url = format!("mqtt://127.0.0.1:{}", proxy.port);
    let scene = Scene::start(Place::new().with("MQTT__URL", &url), broker.port);
    scene.devices.die(&DEAD[..2]);
    proxy.swallow();
    scene.endure();
    proxy.heal();
    scene.service.await_event(UNANSWERED);
    eventually("it listens again", || (scene.service.events(LISTENING).len() == 2).then_some(()));
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

async fn a_sqlite_database_that_is_locked(mut scene: Scene) {
    scene.devices.die(&DEAD[..2]);
    let lock = lock_sqlite(&scene.place.database_url()).await;
    let heartbeats = scene.service.metric("heartbeatd_heartbeats_total");
    scene.endure();
    scene.service.await_words(NOT_WRITTEN, &["locked"]);
    scene.service.await_event(CHECK_FAILED);
    let accepted = scene.service.metric("heartbeatd_heartbeats_total") - heartbeats;
    // For each device the heartbeat that could not be written, and the newest.
    let bound = (2 * (LIVE + DEAD.len())) as f64;
    assert!(accepted > bound, "only {accepted} heartbeats were accepted meanwhile");
    let pending = scene.service.metric("heartbeatd_pending_heartbeats");
    assert!(pending <= bound, "{pending} heartbeats wait");
    lock.rollback().await.expect("it is released");
    scene.service.await_event(WRITTEN_AGAIN);
    scene.late = DATABASE_LATE;
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}

#[actix_rt::test]
async fn a_locked_database_on_mosquitto() {
    let broker = Mosquitto::start();
    a_sqlite_database_that_is_locked(Scene::on(&broker)).await;
}

#[actix_rt::test]
async fn a_locked_database_with_its_embedded_broker() {
    a_sqlite_database_that_is_locked(Scene::with_embedded_broker()).await;
}

#[test]
fn a_postgresql_that_is_gone() {
    let broker = Mosquitto::start();
    let database = TestDatabase::postgres();
    let (proxy, through) = Proxy::to_database(&database);
    let place = Place::new().with("MQTT__URL", &broker.url());
    let mut scene = Scene::start(place.with("DATABASE__URL", &through), broker.port);
    scene.devices.die(&DEAD[..2]);
    proxy.refuse();
    scene.endure();
    proxy.heal();
    scene.service.await_event(WRITTEN_AGAIN);
    scene.late = DATABASE_LATE;
    scene.assert_no_live_device_is_missed_and_no_dead_one_forgotten();
}
