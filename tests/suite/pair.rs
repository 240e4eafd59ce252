//! Two or three real services on one PostgreSQL, of which one writes and the others stand by,
//! with two hundred living devices and twenty that die before, during and after a fault. No live
//! device ever goes offline, each dead one is found in time and reported once over all logs, and
//! no moment is without a service that listened.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use heartbeatd::clock::system_clock;
use heartbeatd::domain::{
    Coverage, Entry, EventKind, EventPlace, Gap, GapCause, Happening, Judge, Status,
};
use heartbeatd::store::{DeviceStore, OpenMode, TransitionQuery};
use serde_json::Value;

use crate::support::database::TestDatabase;
use crate::support::http;
use crate::support::proxy::Proxy;
use crate::support::service::{Place, Service};
use crate::support::waiting::{let_pass, until};
use publishers::RawClient;
use servers::eventually;
use servers::log::is_event;
use servers::mosquitto::Mosquitto;

pub const TIMEOUT: f64 = 4.0;
const CHECK_INTERVAL: f64 = 0.5;

/// The time for which the row of the active instance stands still before another takes over.
pub const PATIENCE: f64 = 1.0;

/// The time that a detection may take beyond the timeout, the check interval and a take-over:
/// an echo and a look are late, and two cores run many tests at once.
const SLACK: f64 = 3.0;

pub const LIVE: usize = 200;
pub const DEAD: usize = 20;

const STANDING_BY: &str = "INFO standby active=";
const TOOK_OVER: &str = "INFO standby from=";
const TAKEN_OVER: &str = "another instance has taken over";
const ACTIVE: &str = "INFO standby";

/// Devices that publish a heartbeat every half second at QoS 0, until they die.
pub struct Fleet {
    alive: Arc<Mutex<BTreeSet<String>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fleet {
    fn live(port: u16, ids: impl IntoIterator<Item = String>) -> Self {
        let alive = Arc::new(Mutex::new(ids.into_iter().collect::<BTreeSet<_>>()));
        let (stop, stopped) = mpsc::channel();
        let publishing = Arc::clone(&alive);
        let thread = std::thread::spawn(move || {
            let mut client = RawClient::connect(port, "fleet", None);
            assert!(client.is_some(), "the broker is there");
            let pause = Duration::from_millis(500);
            while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                let alive = publishing.lock().expect("no thread panics").clone();
                let mut topics = alive.iter().map(|id| format!("devices/{id}/heartbeat"));
                let lives = |client: &mut RawClient| topics.all(|t| client.try_publish(&t, b""));
                if !client.as_mut().is_some_and(lives) {
                    // The broker is away, as a part of the test.
                    client = RawClient::connect(port, "fleet", None);
                }
            }
        });
        Self { alive, stop: Some(stop), thread: Some(thread) }
    }

    fn die(&self, ids: &[&str]) {
        let mut alive = self.alive.lock().expect("no thread panics");
        alive.retain(|id| !ids.contains(&id.as_str()));
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already failed its own assertion.
            let _ = thread.join();
        }
    }
}

/// One instance, with proxies in front of its broker and its database.
pub struct Instance {
    pub place: Place,
    pub service: Service,
    pub broker: Proxy,
    pub database: Proxy,
    /// The log of its earlier processes.
    log: Vec<String>,
}

impl Instance {
    fn start(broker: &Mosquitto, database: &TestDatabase, name: &str) -> Self {
        Self::start_in(broker, database, name, None)
    }

    /// Starts an instance, as a member of a group if there is one.
    pub fn start_in(
        broker: &Mosquitto,
        database: &TestDatabase,
        name: &str,
        group: Option<&str>,
    ) -> Self {
        Self::start_with(broker, database, name, group, |place| place)
    }

    /// The same with more settings.
    pub fn start_with(
        broker: &Mosquitto,
        database: &TestDatabase,
        name: &str,
        group: Option<&str>,
        more: impl FnOnce(Place) -> Place,
    ) -> Self {
        let to_broker = Proxy::to(broker.port);
        let (to_database, url) = Proxy::to_database(database);
        let place = Place::new()
            .with("MQTT__URL", &format!("mqtt://127.0.0.1:{}", to_broker.port))
            .with("MQTT__CLIENT_ID", name)
            .with("MQTT__KEEP_ALIVE", "2s")
            .with("MQTT__ECHO_INTERVAL", "250ms")
            .with("DATABASE__URL", &url)
            .with("HEARTBEAT__TIMEOUT", &format!("{TIMEOUT}s"))
            .with("HEARTBEAT__CHECK_INTERVAL", &format!("{}ms", CHECK_INTERVAL * 1000.0));
        let place = match group {
            // All of them have to prove at once, so a busy machine gets more time for it.
            Some(group) => place
                .with("MQTT__SHARE_GROUP", group)
                .with("MQTT__SETTLE", "0s")
                .with("MQTT__ECHO_INTERVAL", "500ms"),
            None => place,
        };
        let place = more(place);
        let service = place.start();
        Self { place, service, broker: to_broker, database: to_database, log: Vec::new() }
    }

    pub fn restart(&mut self) {
        self.service.await_exit();
        self.log.extend(self.service.log());
        self.service = self.place.start();
    }

    fn all_of_its_log(&self) -> Vec<String> {
        [self.log.as_slice(), &self.service.log()].concat()
    }

    /// The state in the summary.
    pub fn state(&self) -> String {
        let summary = http::send(&self.service, "GET", "/api/v1/summary", &[], None).ok();
        summary["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until it has proven for a while what it hears, as the one that writes or not.
    pub fn await_proving(&self) {
        self.service.await_listening();
        let echoes = "heartbeatd_echo_latency_seconds_count";
        self.service.await_metric(echoes, self.service.metric(echoes) + 4.0);
    }
}

pub struct Scene {
    pub instances: Vec<Instance>,
    pub database: TestDatabase,
    devices: Fleet,
    dead: Vec<String>,
    /// The times of the deaths so far.
    deaths: Vec<DateTime<Utc>>,
    /// The time at which all instances listened for the first time.
    began: DateTime<Utc>,
    /// The time for which nobody could mark a device.
    pub late: f64,
    pub mosquitto: Mosquitto,
}

impl Scene {
    /// Starts instances one after the other, so that the first is the active one.
    pub fn of(names: &[&str]) -> Self {
        Self::on(names, TestDatabase::postgres())
    }

    pub fn on(names: &[&str], database: TestDatabase) -> Self {
        Self::in_group(names, database, None)
    }

    /// The same with members of a group, if there is one.
    pub fn in_group(names: &[&str], database: TestDatabase, group: Option<&str>) -> Self {
        let broker = Mosquitto::start();
        let mut instances = Vec::new();
        for name in names {
            let instance = Instance::start_in(&broker, &database, name, group);
            instance.await_proving();
            if !instances.is_empty() && group.is_none() {
                instance.service.await_event(STANDING_BY);
            }
            instances.push(instance);
        }
        let live = (0..LIVE).map(|number| format!("live-{number:03}"));
        let dead: Vec<_> = (0..DEAD).map(|number| format!("dead-{number:02}")).collect();
        let devices = Fleet::live(broker.port, live.chain(dead.clone()));
        let online = r#"heartbeatd_devices{status="online"}"#;
        instances[0].service.await_metric(online, (LIVE + DEAD) as f64);
        Self {
            instances,
            database,
            devices,
            dead,
            deaths: Vec::new(),
            began: system_clock().wall,
            // All members have to prove and to save something, on a busy machine.
            late: if group.is_some() { 4.0 } else { 0.0 },
            mosquitto: broker,
        }
    }

    /// Lets the next few devices die.
    pub fn some_die(&mut self, count: usize) {
        let died = self.deaths.len();
        let ids: Vec<_> = self.dead[died..died + count].iter().map(String::as_str).collect();
        self.devices.die(&ids);
        self.deaths.resize(died + count, system_clock().wall);
    }

    /// Lets a fault last for so long. Some have died just before it, and others die in it.
    pub fn endure(&mut self, seconds: f64) {
        let_pass(Duration::from_secs_f64(seconds / 2.0));
        self.some_die(4);
        let_pass(Duration::from_secs_f64(seconds / 2.0));
    }

    pub fn log(&self) -> Vec<String> {
        self.instances.iter().flat_map(Instance::all_of_its_log).collect()
    }

    pub async fn store(&self) -> DeviceStore {
        DeviceStore::open(&self.database.url, OpenMode::Existing).await.expect("it opens")
    }

    /// The times at which nobody has listened, by all rows.
    pub async fn blind(&self) -> Vec<Gap> {
        blind(&self.database).await
    }

    /// The longest time for which nobody has listened, in seconds.
    pub async fn longest_blind(&self) -> f64 {
        let lengths = self.blind().await.into_iter().map(|gap| gap.interval.length());
        lengths.max().unwrap_or_default().num_milliseconds() as f64 / 1000.0
    }

    /// The devices that are offline although they live.
    pub fn offline_alive(&self) -> Vec<String> {
        let place = Place::new().with("DATABASE__URL", &self.database.url);
        let listed = place.json(&["device", "list", "--json"]);
        let listed = listed.as_array().expect("an array").iter();
        let offline = listed.filter(|device| device["status"] == "offline");
        let ids = offline.map(|device| device["id"].as_str().expect("text").to_owned());
        ids.filter(|id| id.starts_with("live-")).collect()
    }

    /// Waits until so many devices are offline.
    pub fn await_found(&self, count: usize) {
        let place = Place::new().with("DATABASE__URL", &self.database.url);
        eventually("the dead are found", || {
            let listed = place.json(&["device", "list", "--json"]);
            let listed = listed.as_array().expect("an array").iter();
            let offline = listed.filter(|device| device["status"] == "offline").count();
            (offline >= count).then_some(())
        });
    }

    /// Asserts what must be true after any fault. `well` is an instance that writes.
    pub async fn assert_all_is_well(&mut self, well: usize) {
        let waiting = Instant::now();
        eventually("an instance writes", || {
            (self.instances[well].service.metric("heartbeatd_active") > 0.0).then_some(())
        });
        println!("active after {:?}", waiting.elapsed());
        self.some_die(DEAD - self.deaths.len());
        let store = self.store().await;
        let query = || TransitionQuery { to: Some(Status::Offline), ..Default::default() };
        let reader = store.reader().await.expect("it opens");
        let offline =
            async || reader.transitions(&query(), None, 1_000).await.expect("it reads").transitions;
        let all_dead = async || (offline().await.len() >= DEAD).then_some(());
        until("all dead devices are found", all_dead).await;
        // By then, any device that is wrongly missed would be offline.
        let checks = "heartbeatd_check_duration_seconds_count";
        let more = 1.5 * TIMEOUT / CHECK_INTERVAL;
        let service = &self.instances[well].service;
        service.await_metric(checks, service.metric(checks) + more);
        let offline = offline().await;
        let log = self.log().join("\n");
        let mut ids: Vec<_> = offline.iter().map(|t| t.device_id.to_string()).collect();
        ids.sort();
        assert_eq!(ids, self.dead, "{log}");
        for device in &self.dead {
            let reported = format!("INFO alert_sink device={device}");
            let reports = log.lines().filter(|line| is_event(line, &reported)).count();
            assert_eq!(reports, 1, "{device} in\n{log}");
        }
        let bound = TIMEOUT + CHECK_INTERVAL + PATIENCE + SLACK + self.late;
        for transition in &offline {
            let seen = transition.last_seen_at.expect("it was heard");
            let took = (transition.at - seen).num_milliseconds() as f64 / 1000.0;
            assert!(took > TIMEOUT && took <= bound, "{transition:?} after {took} s in\n{log}");
        }
        reader.close().await;
        store.close().await.expect("it closes");
    }

    /// Asserts that the last heartbeat of each dead device is in the database.
    pub async fn assert_nothing_lost(&self) {
        let store = self.store().await;
        for (device, died) in self.dead.iter().zip(&self.deaths) {
            let row = store.device(&device.parse().expect("an id")).await.expect("it reads");
            let seen = row.and_then(|row| row.last_seen_at).expect("it was heard");
            // One is published every half second, later on a busy machine.
            let before = (*died - seen).num_milliseconds();
            assert!(before < 1_500, "{device} was last heard {before} ms before its death");
        }
        store.close().await.expect("it closes");
    }

    /// Asserts that at no time nobody has listened, but for echoes that were late on a busy
    /// machine. There a member may also take long to join.
    pub async fn assert_never_blind(&self) {
        let mut blind = blind_for_no_busy_machine(&self.database).await;
        blind.retain(|gap| gap.interval.until > self.began);
        assert_eq!(blind, [], "in\n{}", self.log().join("\n"));
    }

    /// Waits until one of these instances writes, and returns which.
    pub fn await_active(&self, among: &[usize]) -> usize {
        eventually("an instance writes", || {
            let writes = |&&number: &&usize| {
                self.instances[number].service.metric("heartbeatd_active") > 0.0
            };
            among.iter().find(writes).copied()
        })
    }

    /// The listeners as `instance state`, oldest first.
    pub fn listeners(&self) -> Vec<String> {
        // Not through a proxy, which may be broken.
        let place = Place::new().with("DATABASE__URL", &self.database.url);
        let listed = place.json(&["group", "list", "--all", "--json"]);
        let listed = listed.as_array().expect("an array").iter();
        let text = |listener: &Value, key: &str| listener[key].as_str().unwrap_or("?").to_owned();
        listed.map(|l| format!("{} {}", text(l, "instance"), text(l, "state"))).collect()
    }

    /// The take-overs that the journal tells, oldest first.
    async fn take_overs(&self) -> Vec<String> {
        let store = self.store().await;
        let reader = store.reader().await.expect("it opens");
        let events = reader.events(EventPlace::default(), 10_000).await.expect("it reads");
        reader.close().await;
        store.close().await.expect("it closes");
        let told = events.expect("all are kept").into_iter().filter_map(|event| match event.what {
            EventKind::Entry(Entry { what: Happening::TookOver { from, by }, .. }) => {
                Some(format!("{by} from {from}"))
            }
            _ => None,
        });
        told.collect()
    }

    /// Waits until an instance was taken out of the group, or taken over from.
    pub fn await_fenced(&self, instance: &str) {
        self.await_stays(instance, "fenced", 1);
    }

    /// Waits until so many stays of an instance have ended in this way.
    pub fn await_stays(&self, instance: &str, how: &str, at_least: usize) {
        let expected = format!("{instance} {how}");
        eventually("a stay has ended", || {
            let ended = self.listeners().into_iter().filter(|listener| *listener == expected);
            (ended.count() >= at_least).then_some(())
        });
    }

    /// Adds living devices.
    pub fn more_live(&self, count: usize) {
        let ids = (LIVE..LIVE + count).map(|number| format!("live-{number:03}"));
        self.devices.alive.lock().expect("no thread panics").extend(ids);
        let online = r#"heartbeatd_devices{status="online"}"#;
        let all = (LIVE + count + DEAD) as f64;
        eventually("they are online", || {
            let of = |instance: &Instance| instance.service.metric(online);
            self.instances.iter().any(|instance| of(instance) >= all).then_some(())
        });
    }

    /// Waits until each dead device is in some log.
    pub fn await_each_is_reported_at_least_once(&self) {
        eventually("each is reported", || {
            let log = self.log();
            let is_reported = |device: &String| {
                let reported = format!("INFO alert_sink device={device}");
                log.iter().any(|line| is_event(line, &reported))
            };
            self.dead.iter().all(is_reported).then_some(())
        });
    }

    pub fn await_listeners(&self, expected: &[&str]) {
        self.await_listeners_from(0, expected);
    }

    /// Waits until the listeners after the first few are these. On a busy machine the active one may
    /// have a gap that a standby has heard, which then takes over once more than the fault asks for;
    /// then one of them is active.
    fn await_listeners_from(&self, first: usize, expected: &[&str]) {
        let deadline = Instant::now() + servers::PATIENCE;
        loop {
            let last = self.listeners();
            let listed = last.get(first..).unwrap_or_default();
            let active = last.iter().filter(|listener| listener.ends_with(" active")).count();
            if listed == expected || (listed.len() > expected.len() && active == 1) {
                break;
            }
            assert!(Instant::now() < deadline, "{last:?} never became {expected:?}");
        }
    }
}

/// The times at which nobody has listened, by all rows of a database.
pub async fn blind(database: &TestDatabase) -> Vec<Gap> {
    let store = DeviceStore::open(&database.url, OpenMode::Existing).await.expect("it opens");
    let stays = store.stays(DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC).await;
    let stays = stays.expect("it reads");
    let name = &stays.last().expect("somebody has listened").instance;
    let judge = Judge::named(name, &stays);
    let coverage = Coverage::of_stays(Duration::from_millis(250), &stays, judge);
    let (first, last) = (coverage.proven_since(), coverage.intervals().last().copied());
    store.close().await.expect("it closes");
    coverage.gaps(first.expect("it is proven"), last.expect("it is proven").until)
}

/// The same without those that echoes make which are late on a busy machine.
pub async fn blind_for_no_busy_machine(database: &TestDatabase) -> Vec<Gap> {
    let mut blind = blind(database).await;
    blind.retain(|gap| !matches!(gap.cause, Some(GapCause::NoEcho | GapCause::Stopped)));
    blind
}

pub const PAIR: [&str; 2] = ["hall-a", "hall-b"];

async fn the_active_one_is_killed_and_restarted_after(pause: Option<f64>) {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].service.signal("KILL");
    match pause {
        None => scene.endure(6.0),
        Some(pause) => {
            let_pass(Duration::from_secs_f64(pause));
            scene.instances[0].restart();
            scene.endure(6.0);
        }
    }
    scene.instances[1].service.await_event("INFO standby from=hall-a left=false");
    scene.assert_all_is_well(1).await;
    scene.assert_never_blind().await;
    assert_eq!(scene.take_overs().await[0], "hall-b from hall-a");
    match pause {
        None => scene.await_listeners(&["hall-a fenced", "hall-b active"]),
        Some(_) => scene.await_listeners_from(1, &["hall-b active", "hall-a standby"]),
    }
}

#[actix_rt::test]
async fn a_standby_takes_over_from_one_that_was_killed() {
    the_active_one_is_killed_and_restarted_after(None).await;
}

#[actix_rt::test]
async fn one_that_was_killed_and_comes_back_late_stands_by() {
    the_active_one_is_killed_and_restarted_after(Some(6.0)).await;
}

/// Its own predecessor's lock is free at once, so it goes on itself, or the standby is faster.
#[actix_rt::test]
async fn one_that_was_killed_and_comes_back_at_once_takes_nothing_twice() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].service.signal("KILL");
    let_pass(Duration::from_millis(100));
    scene.instances[0].restart();
    scene.endure(4.0);
    let well = usize::from(scene.instances[1].service.metric("heartbeatd_active") > 0.0);
    scene.assert_all_is_well(well).await;
}

#[actix_rt::test]
async fn a_standby_that_was_killed_changes_nothing() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[1].service.signal("KILL");
    scene.endure(1.0);
    scene.instances[1].restart();
    scene.assert_all_is_well(0).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a active", "hall-b restarted", "hall-b standby"]);
    let take_overs = scene.take_overs().await;
    // Unless the active one had a gap, see `await_listeners_from`.
    assert!(take_overs.is_empty() || scene.listeners().len() > 3, "{take_overs:?}");
}

async fn the_active_one_is_stopped_for(seconds: f64) {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].service.signal("STOP");
    scene.endure(seconds);
    if seconds > 2.0 * PATIENCE {
        // On a busy machine the other one may have looked less often.
        scene.instances[1].service.await_event(TOOK_OVER);
    }
    scene.instances[0].service.signal("CONT");
    if seconds > 2.0 * PATIENCE {
        scene.instances[0].service.await_words("WARN standby", &[TAKEN_OVER]);
        // Stopped in a transaction, it kept the row until the server ended that.
        scene.late = 15.0;
    }
    scene.late += seconds.min(PATIENCE);
    let_pass(Duration::from_secs(1));
    let well = usize::from(scene.instances[1].service.metric("heartbeatd_active") > 0.0);
    scene.assert_all_is_well(well).await;
    if well == 1 {
        scene.assert_never_blind().await;
        scene.await_listeners(&["hall-a fenced", "hall-b active", "hall-a standby"]);
    }
}

#[actix_rt::test]
async fn one_that_is_stopped_for_a_moment_goes_on() {
    the_active_one_is_stopped_for(0.5).await;
}

#[actix_rt::test]
async fn a_standby_takes_over_from_one_that_is_stopped_for_three_seconds() {
    the_active_one_is_stopped_for(3.0).await;
}

#[actix_rt::test]
async fn a_standby_takes_over_from_one_that_is_stopped_for_longer_than_the_timeout() {
    the_active_one_is_stopped_for(10.0).await;
}

/// Devices die while one of two is stopped, and are found by the other. The stopped one goes on, reads
/// what they had published, and takes over at once, because the other one is killed.
async fn what_a_stopped_one_reads_late_revives_nobody(stopped: usize) {
    let other = 1 - stopped;
    let mut scene = Scene::of(&PAIR);
    scene.instances[stopped].service.signal("STOP");
    let_pass(Duration::from_secs(1));
    scene.some_die(4);
    let place = &scene.instances[other].place;
    let outages = || {
        let history = place.json(&["history", "--json"]);
        let all = history.as_array().expect("an array").iter();
        // Noted as delivered, or whoever takes over delivers it again.
        let noted = |transition: &&Value| !transition["delivered_at"].is_null();
        all.filter(|transition| transition["to"] == "offline").filter(noted).count()
    };
    eventually("the dead are found", || (outages() == 4).then_some(()));
    scene.instances[stopped].service.signal("CONT");
    if stopped == 0 {
        scene.instances[stopped].service.await_words("WARN standby", &[TAKEN_OVER]);
    }
    scene.instances[other].service.signal("KILL");
    scene.instances[stopped].service.await_event(TOOK_OVER);
    // Stopped in a transaction, it kept the row until the server ended that.
    scene.late = 15.0;
    scene.assert_all_is_well(stopped).await;
}

#[actix_rt::test]
async fn what_a_stopped_standby_reads_late_revives_nobody() {
    what_a_stopped_one_reads_late_revives_nobody(1).await;
}

#[actix_rt::test]
async fn what_the_stopped_active_one_reads_late_revives_nobody() {
    what_a_stopped_one_reads_late_revives_nobody(0).await;
}

/// Its threads wait for the database, and its connection to the broker lives.
#[actix_rt::test]
async fn a_standby_takes_over_from_one_that_hangs_and_hears_everything() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].database.swallow();
    scene.endure(10.0);
    scene.instances[1].service.await_event(TOOK_OVER);
    scene.instances[0].database.heal();
    scene.late = 15.0;
    scene.assert_all_is_well(1).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a fenced", "hall-b active", "hall-a standby"]);
}

#[actix_rt::test]
async fn a_standby_takes_over_from_one_that_is_cut_off_from_its_broker() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].broker.swallow();
    scene.endure(6.0);
    scene.instances[1].service.await_event(TOOK_OVER);
    scene.instances[0].broker.heal();
    scene.assert_all_is_well(1).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a fenced", "hall-b active", "hall-a standby"]);
}

#[actix_rt::test]
async fn nobody_takes_over_while_both_are_cut_off_from_the_broker() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances.iter().for_each(|instance| instance.broker.swallow());
    scene.endure(6.0);
    scene.instances.iter().for_each(|instance| instance.broker.heal());
    for instance in &scene.instances {
        instance.await_proving();
    }
    scene.late = 25.0;
    let well = usize::from(scene.instances[1].service.metric("heartbeatd_active") > 0.0);
    scene.assert_all_is_well(well).await;
    assert!(!scene.blind().await.is_empty(), "nobody has listened");
}

#[actix_rt::test]
async fn a_standby_takes_over_from_one_that_is_cut_off_from_the_database() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].database.refuse();
    scene.endure(10.0);
    scene.instances[1].service.await_event(TOOK_OVER);
    scene.instances[0].database.heal();
    scene.assert_all_is_well(1).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a fenced", "hall-b active", "hall-a standby"]);
}

#[actix_rt::test]
async fn a_database_that_is_away_for_both_costs_nothing_but_time() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances.iter().for_each(|instance| instance.database.refuse());
    scene.endure(8.0);
    scene.instances.iter().for_each(|instance| instance.database.heal());
    scene.late = 8.0 + 5.0;
    eventually("somebody writes again", || {
        let metric = |i: &Instance| i.service.metric("heartbeatd_active");
        let pending = |i: &Instance| i.service.metric("heartbeatd_database_stalled_seconds");
        scene.instances.iter().any(|i| metric(i) > 0.0 && pending(i) == 0.0).then_some(())
    });
    let_pass(Duration::from_secs(3));
    let well = usize::from(scene.instances[1].service.metric("heartbeatd_active") > 0.0);
    scene.assert_all_is_well(well).await;
    scene.assert_never_blind().await;
}

#[actix_rt::test]
async fn a_rolling_restart_leaves_no_moment_without_one_that_listens() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    scene.instances[0].service.signal("TERM");
    assert_eq!(scene.instances[0].service.await_exit(), Some(0));
    scene.instances[1].service.await_event("INFO standby from=hall-a left=true");
    scene.instances[0].restart();
    scene.instances[0].await_proving();
    scene.instances[0].service.await_event(STANDING_BY);
    scene.some_die(4);
    scene.instances[1].service.signal("TERM");
    assert_eq!(scene.instances[1].service.await_exit(), Some(0));
    scene.instances[0].service.await_event("INFO standby from=hall-b left=true");
    scene.instances[1].restart();
    scene.assert_all_is_well(0).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a left", "hall-b left", "hall-a active", "hall-b standby"]);
    assert_eq!(scene.take_overs().await[..2], ["hall-b from hall-a", "hall-a from hall-b"]);
}

#[actix_rt::test]
async fn a_standby_that_is_drained_changes_nothing() {
    let mut scene = Scene::of(&PAIR);
    scene.instances[1].service.signal("TERM");
    assert_eq!(scene.instances[1].service.await_exit(), Some(0));
    scene.assert_all_is_well(0).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a active", "hall-b left"]);
}

#[actix_rt::test]
async fn a_second_process_of_the_same_name_ends_with_78_before_it_connects() {
    let mut scene = Scene::of(&["hall-a"]);
    // It watches the row of the first one for eight seconds, in which that moves on any machine.
    let mut second = scene.instances[0].place.start_with(|command| {
        command.env("HEARTBEATD_MQTT__ECHO_INTERVAL", "2s");
    });
    let code = second.await_exit();
    second.await_words("ERROR heartbeatd", &["\"hall-a\"", "its own mqtt.client_id"]);
    let log = second.log().join("\n");
    assert_eq!(code, Some(78), "{log}");
    assert!(!log.contains("mqtt_ingest"), "it has connected: {log}");
    scene.assert_all_is_well(0).await;
    scene.assert_never_blind().await;
    scene.await_listeners(&["hall-a active"]);
}

/// Both would wait for it, and each would take over from the other.
#[actix_rt::test]
async fn nobody_takes_over_while_a_table_is_locked() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(4);
    // Longer than a statement waits for a lock.
    scene.database.execute("LOCK TABLE device; SELECT pg_sleep(7.5)").await;
    scene.late += 7.5 + 5.0;
    scene.assert_all_is_well(0).await;
    scene.assert_never_blind().await;
    assert_eq!(scene.take_overs().await, [] as [&str; 0]);
}

/// One that starts has the lock of the database for a moment, and the active one tries to get it.
#[actix_rt::test]
async fn a_second_process_of_an_active_one_that_began_beside_another_ends_with_78() {
    let mut scene = Scene::of(&PAIR);
    for instance in &mut scene.instances {
        instance.service.signal("KILL");
        instance.service.await_exit();
    }
    let_pass(Duration::from_secs_f64(TIMEOUT));
    scene.instances[0].restart();
    scene.instances[1].restart();
    let active = scene.await_active(&[0, 1]);
    let mut second = scene.instances[active].place.start();
    let code = second.await_exit();
    let log = second.log().join("\n");
    assert_eq!(code, Some(78), "{log}");
    assert!(!log.contains("mqtt_ingest"), "it has connected: {log}");
    let service = &mut scene.instances[active].service;
    assert!(matches!(service.process.0.try_wait(), Ok(None)), "the first one has ended");
}

/// Two units that were started by mistake: at the same moment, on a database without a table.
#[actix_rt::test]
async fn of_two_that_start_at_the_same_moment_one_stands_by() {
    let broker = Mosquitto::start();
    let database = TestDatabase::postgres();
    let instances = PAIR.map(|name| Instance::start(&broker, &database, name));
    instances.iter().for_each(Instance::await_proving);
    let writes = |instance: &Instance| instance.service.metric("heartbeatd_active") > 0.0;
    eventually("one writes", || instances.iter().any(writes).then_some(()));
    let_pass(Duration::from_secs(2));
    let states: Vec<_> = instances.iter().map(Instance::state).collect();
    assert_eq!(instances.iter().filter(|instance| writes(instance)).count(), 1, "{states:?}");
    assert!(states.contains(&"standby".to_owned()), "{states:?}");
}

/// The oldest standby, unless it is late on a busy machine.
#[actix_rt::test]
async fn of_three_one_standby_takes_over_and_then_the_other() {
    let mut scene = Scene::of(&["hall-a", "hall-b", "hall-c"]);
    scene.some_die(4);
    scene.instances[0].service.signal("KILL");
    let second = scene.await_active(&[1, 2]);
    scene.endure(3.0);
    scene.instances[second].service.signal("KILL");
    let third = scene.await_active(&[3 - second]);
    scene.assert_all_is_well(third).await;
    scene.assert_never_blind().await;
    let listeners = scene.listeners();
    assert_eq!(listeners[0], "hall-a fenced", "{listeners:?}");
    let active = listeners.iter().filter(|listener| listener.ends_with(" active")).count();
    assert_eq!(active, 1, "{listeners:?}");
}

#[actix_rt::test]
async fn it_is_told_who_has_listened() {
    let mut scene = Scene::of(&PAIR);
    scene.some_die(1);
    let_pass(Duration::from_millis(1_500));
    scene.instances[0].service.signal("KILL");
    let standby = &scene.instances[1];
    standby.service.await_event(TOOK_OVER);
    let get = |path: &str| http::send(&standby.service, "GET", path, &[], None).ok();
    let mut device = Value::Null;
    eventually("it is found", || {
        device = get("/api/v1/devices/dead-00");
        (device["status"] == "offline").then_some(())
    });
    let both = |of: &Value| {
        let listeners = of["listeners"].as_array().expect("an array").iter();
        let names: Vec<_> = listeners.map(|l| l["instance"].as_str().unwrap_or("?")).collect();
        assert_eq!(names, PAIR, "{of:#}");
    };
    both(&device["evidence"]);
    both(&get("/api/v1/devices/dead-00/timeline"));
    both(&get("/api/v1/listening"));
    let shown = standby.place.run(&["device", "show", "dead-00"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for name in PAIR {
        let told = |line: &str| {
            line.starts_with("listened ") && line.contains(&format!(" by {name} from "))
        };
        assert!(shown.lines().any(told), "{shown}");
    }
    both(&standby.place.json(&["device", "show", "dead-00", "--json"])["evidence"]);
}

#[actix_rt::test]
async fn a_standby_says_so_everywhere() {
    let scene = Scene::of(&PAIR);
    let standby = &scene.instances[1];
    assert_eq!(standby.state(), "standby");
    let (status, body) = standby.service.get("/readyz");
    assert_eq!(status, 200, "{body}");
    assert_eq!(standby.service.metric("heartbeatd_active"), 0.0);
    assert_eq!(standby.service.metric(r#"heartbeatd_listeners{state="standby"}"#), 1.0);
    assert_eq!(standby.service.metric(r#"heartbeatd_listeners{state="active"}"#), 1.0);
    let address = standby.service.http_address().to_string();
    let told = standby.place.run(&["status", "--address", &address]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success() && text.starts_with("Standing by. "), "{text}");
    assert!(text.contains("hall-a is active"), "{text}");
    // It reads, and devices can be changed by it.
    eventually("it shows the fleet", || {
        let summary = http::send(&standby.service, "GET", "/api/v1/summary", &[], None).ok();
        (summary["devices"]["online"] == (LIVE + DEAD) as u64).then_some(())
    });
    // The next count by the clock alone would be ten seconds later.
    let began = Instant::now();
    assert!(scene.instances[0].place.run(&["device", "add", "spare"]).status.success());
    eventually("its summary follows what the active one and the commands write", || {
        let summary = http::send(&standby.service, "GET", "/api/v1/summary", &[], None).ok();
        (summary["devices"]["provisioning"] == 1).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let shown = standby.place.run(&["device", "show", "live-000"]);
    assert!(shown.status.success());
    assert!(standby.service.events(ACTIVE).len() < 3, "{:?}", standby.service.log());
    // What it keeps is what the active one has not proven yet.
    let pending = standby.service.metric("heartbeatd_pending_heartbeats");
    assert!(pending <= (LIVE + DEAD) as f64, "{pending}");
}
