//! A fleet, a broker, a network, a clock and a database, simulated second by
//! second, and the real registry, ticker, rounds and store in the middle of them.
//!
//! A schedule is a random course of what can go wrong, made from a seed that is
//! printed when it fails. Two things are held against it. The *model* says what
//! the service has to do with what it is told. The *truth* is what the service
//! cannot know: when a heartbeat would really have reached it.
//!
//! ```sh
//! SIMULATION_SCHEDULES=100000 cargo test --release --test suite simulation
//! SIMULATION_SEED=17 SIMULATION_SCHEDULES=1 cargo test --test suite simulation
//! ```

mod model;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, Utc};
use fastrand::Rng;
use heartbeatd::Config;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::device_registry::{
    ConfirmListening, DeviceRegistry, Flush, Found, RecordHeartbeats,
};
use heartbeatd::actors::ticker::{CheckNow, Schedule, Stop, Ticker};
use heartbeatd::clock::Reading;
use heartbeatd::domain::{EchoToken, GapCause, Heartbeat, Proof, Rounds, Status};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::{DeviceStore, OpenMode};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};

use self::model::Model;
use crate::support::fleet::{at, id, start};

const TIMEOUT: i64 = 20;
const OWN_TIMEOUT: i64 = 11;
const CHECK_INTERVAL: i64 = 6;
const FLUSH_INTERVAL: i64 = 4;
const ECHO_INTERVAL: i64 = 2;
/// As `domain::coverage` has it.
const GRACE: i64 = 3 * ECHO_INTERVAL;
const HEARTBEAT_INTERVAL: i64 = 5;

const DEVICES: usize = 5;
/// The last one has a timeout of its own.
const OWN: usize = DEVICES - 1;

/// Faults begin within so many seconds, and then everything heals.
const FAULTS: i64 = 80;
const FAULT_AT_MOST: i64 = 40;
/// Time enough to find everybody who is dead: a new connection, the timeout, the
/// interval of the checks, and what an echo lags behind.
const QUIET: i64 = 16 + TIMEOUT + CHECK_INTERVAL + GRACE;

/// How many schedules `cargo test` runs.
const SCHEDULES: u64 = 2_000;

#[test]
fn random_schedules_of_faults_take_no_live_device_offline_and_hide_no_dead_one() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let schedules = number("SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let first = number("SIMULATION_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("{schedules} schedules, the seeds begin with {first}");

    let template = tempfile::tempdir().expect("a temporary folder");
    let database = template.path().join("template.db");
    let system = System::new();
    system.block_on(async {
        let url = format!("sqlite://{}?mode=rwc", database.display());
        let store = DeviceStore::open(&url, OpenMode::Create).await.expect("it opens");
        store.close().await.expect("it closes");
    });
    let template = std::fs::read(&database).expect("it is closed");

    let (next, offline) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= schedules {
                        break;
                    }
                    let transitions = run(first.wrapping_add(number), &template);
                    offline.fetch_add(transitions, Ordering::Relaxed);
                }
            });
        }
    });
    let offline = offline.into_inner();
    println!("{schedules} schedules, {offline} offline transitions, {:?}", began.elapsed());
    assert!(offline > schedules / 2, "devices must die for anything to be shown");
}

/// Runs one schedule; returns how many times a device went offline.
fn run(seed: u64, template: &[u8]) -> u64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("simulation.db");
    std::fs::write(&path, template).expect("a file");
    let url = format!("sqlite://{}", path.display());
    System::new().block_on(async {
        let mut world = World::new(seed, &url).await;
        for _ in 0..FAULTS {
            world.something_happens().await;
            world.second().await;
        }
        world.heal().await;
        for _ in 0..QUIET {
            world.second().await;
        }
        world.assert_in_the_end().await;
        world.went_offline.len() as u64
    })
}

thread_local! {
    /// What the service's clock shows.
    static CLOCK: Cell<i64> = const { Cell::new(0) };
}

fn clock() -> DateTime<Utc> {
    at(CLOCK.get())
}

fn reading(monotonic: Instant) -> Reading {
    Reading { wall: clock(), monotonic }
}

fn ticker_clock() -> Reading {
    reading(Instant::now())
}

/// What travels from the broker to the service.
enum Message {
    Heartbeat { device: usize, error: bool },
    Echo(EchoToken),
    Disconnected,
}

/// A table that is gone: each makes a write fail at another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    Devices,
    Transitions,
    Coverage,
}

impl Outage {
    fn table(self) -> &'static str {
        match self {
            Self::Devices => "device",
            Self::Transitions => "status_transition",
            Self::Coverage => "listening_interval",
        }
    }
}

/// How the alert sink behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// It takes nothing and says so.
    Fails,
    /// It takes everything and says so too late.
    Slow,
    /// It takes everything, and the process dies before that is noted.
    Deadly,
}

/// What the sink got: sequence numbers and devices, in order.
#[derive(Default)]
struct Received {
    mood: Cell<Option<Mood>>,
    transitions: std::cell::RefCell<Vec<(i64, String)>>,
    deadly: tokio::sync::Notify,
}

struct Sink(Rc<Received>);

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Sink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        let mood = self.0.mood.get().unwrap_or(Mood::Well);
        if mood != Mood::Fails {
            let got = offline.transitions.iter().map(|t| (t.sequence, t.device_id.to_string()));
            self.0.transitions.borrow_mut().extend(got);
        }
        if mood == Mood::Deadly {
            self.0.deadly.notify_one();
        }
        Box::pin(async move {
            match mood {
                Mood::Well => Ok(()),
                Mood::Fails => Err(AlertError("out of paper".to_owned())),
                Mood::Slow | Mood::Deadly => std::future::pending().await,
            }
        })
    }
}

/// The process of the service.
struct Service {
    registry: Addr<DeviceRegistry>,
    ticker: Addr<Ticker>,
    rounds: Rounds,
    connected: bool,
    /// Until when it waits for the broker's answer to a subscription.
    waits_until: Option<i64>,
    /// Messages that were received and not looked at.
    inbox: VecDeque<Message>,
}

/// What is really so.
#[derive(Default)]
struct Truth {
    /// The seconds whose heartbeats reached the service and cannot be lost any more.
    listened: BTreeSet<i64>,
    /// And those that a crash would lose.
    uncertain: BTreeSet<i64>,
    /// When each device was last heard, so that it cannot be lost any more.
    heard: BTreeMap<usize, i64>,
    /// And where a crash would lose that.
    heard_uncertain: BTreeMap<usize, i64>,
}

impl Truth {
    fn crash(&mut self) {
        self.uncertain.clear();
        self.heard_uncertain.clear();
    }

    /// What was published after that second may be lost already.
    fn missed_since(&mut self, second: i64) {
        self.uncertain.retain(|listened| *listened <= second);
    }

    fn is_written(&mut self) {
        self.listened.append(&mut self.uncertain);
        self.heard.append(&mut self.heard_uncertain);
    }

    fn listened_since_heard(&self, device: usize, now: i64) -> i64 {
        let heard = self.heard[&device];
        let listened = self.listened.range(heard + 1..=now).count();
        (listened + self.uncertain.range(heard + 1..=now).count()) as i64
    }
}

struct World {
    seed: u64,
    rng: Rng,
    /// Seconds since the beginning, whatever a clock shows.
    now: i64,
    monotonic: Instant,
    service: Option<Service>,
    store: DeviceStore,
    database: DatabaseConnection,
    sink: Addr<Sink>,
    received: Rc<Received>,
    alive: [bool; DEVICES],
    broken: [bool; DEVICES],
    /// The broker knows the subscription and can reach the service.
    subscribed: bool,
    /// Messages vanish on the way, and nobody is told.
    cut: bool,
    broker_is_down_until: i64,
    service_is_down_until: i64,
    paused_until: i64,
    /// When the service last looked at its messages.
    ingested_at: i64,
    /// The machine sleeps while it is paused: the monotonic clock stands still.
    sleeps: bool,
    outage: Option<(Outage, i64)>,
    sink_is_ill_until: i64,
    may_be_slow: bool,
    /// Something may have reached the sink twice.
    twice_allowed: bool,
    went_offline: Vec<usize>,
    model: Model,
    truth: Truth,
    events: String,
}

impl World {
    async fn new(seed: u64, url: &str) -> Self {
        let received = Rc::new(Received::default());
        let store = DeviceStore::open(url, OpenMode::Existing).await.expect("it opens");
        let own = Some(Duration::from_secs(OWN_TIMEOUT as u64));
        store.register(&id(&name(OWN)), own, start()).await.expect("it writes");
        let mut rng = Rng::with_seed(seed);
        let may_be_slow = rng.u8(0..4) == 0;
        let mut world = Self {
            seed,
            rng,
            now: 0,
            monotonic: Instant::now(),
            service: None,
            database: Database::connect(url).await.expect("it opens"),
            store,
            sink: Sink(Rc::clone(&received)).start(),
            received,
            alive: [true; DEVICES],
            broken: [false; DEVICES],
            subscribed: false,
            cut: false,
            broker_is_down_until: 0,
            service_is_down_until: 0,
            paused_until: 0,
            ingested_at: 0,
            sleeps: false,
            outage: None,
            sink_is_ill_until: 0,
            may_be_slow,
            twice_allowed: may_be_slow,
            went_offline: Vec::new(),
            model: Model::default(),
            truth: Truth::default(),
            events: String::new(),
        };
        CLOCK.set(0);
        world.model.crash();
        world.start_service().await;
        world
    }

    fn note(&mut self, event: std::fmt::Arguments) {
        let (now, clock) = (self.now, CLOCK.get());
        writeln!(self.events, "{now:4} (clock {clock:5}) {event}").expect("memory");
    }

    #[track_caller]
    fn assert(&self, holds: bool, what: std::fmt::Arguments) {
        assert!(holds, "seed {}: at {} {what}\n{}", self.seed, self.now, self.events);
    }

    // --- What can go wrong ---

    async fn something_happens(&mut self) {
        if !self.rng.bool() || self.rng.bool() {
            return;
        }
        let until = self.now + self.rng.i64(1..=FAULT_AT_MOST);
        match self.rng.u32(0..26) {
            0 if self.service.is_some() => {
                self.note(format_args!("crash until {until}"));
                self.crash(until);
            }
            1 if self.service.is_some() && self.is_running() => {
                self.note(format_args!("stop until {until}"));
                self.flush().await;
                self.crash(until);
            }
            2 => {
                self.note(format_args!("broker down until {until}"));
                self.broker_is_down_until = until;
                self.lose_connection();
            }
            3 if self.subscribed => {
                self.note(format_args!("subscription lost"));
                self.subscribed = false;
            }
            4 => {
                self.note(format_args!("cut without a word"));
                self.cut = true;
                self.lose_messages();
            }
            5 | 6 => {
                self.paused_until = until;
                self.sleeps = self.rng.bool();
                let how = if self.sleeps { "asleep" } else { "paused" };
                self.note(format_args!("{how} until {until}"));
            }
            7 | 8 => {
                let by = self.rng.i64(-100..=100);
                CLOCK.set(CLOCK.get() + by);
                self.note(format_args!("clock set by {by}"));
            }
            9 | 10 if self.outage.is_none() => {
                let outages = [Outage::Devices, Outage::Transitions, Outage::Coverage];
                let outage = outages[self.rng.usize(0..3)];
                self.note(format_args!("{outage:?} gone until {until}"));
                self.outage = Some((outage, until));
                self.rename(outage.table(), &format!("{}_gone", outage.table())).await;
            }
            11..=13 => {
                let moods = [Mood::Fails, Mood::Deadly, Mood::Slow];
                let mood = moods[self.rng.usize(0..if self.may_be_slow { 3 } else { 2 })];
                self.note(format_args!("sink is {mood:?} until {until}"));
                self.received.mood.set(Some(mood));
                self.sink_is_ill_until = until;
            }
            14 if self.is_running() => {
                self.note(format_args!("shed"));
                self.shed();
            }
            15..=17 => {
                let device = self.rng.usize(0..DEVICES);
                self.alive[device] = !self.alive[device];
                let lives = if self.alive[device] { "lives" } else { "dies" };
                self.note(format_args!("{} {lives}", name(device)));
            }
            18 => {
                let device = self.rng.usize(0..DEVICES);
                self.broken[device] = !self.broken[device];
            }
            _ => (),
        }
    }

    /// Everything is well again, only the dead stay dead.
    async fn heal(&mut self) {
        self.note(format_args!("everything heals"));
        self.broker_is_down_until = self.now;
        self.service_is_down_until = self.now;
        self.paused_until = self.now;
        self.sink_is_ill_until = self.now;
        if let Some((outage, _)) = self.outage {
            self.outage = Some((outage, self.now));
        }
    }

    async fn rename(&self, from: &str, to: &str) {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        self.database.execute_unprepared(&sql).await.expect("it is free");
    }

    // --- The service's process ---

    fn is_running(&self) -> bool {
        self.service.is_some() && self.now >= self.paused_until
    }

    fn crash(&mut self, until: i64) {
        if let Some(service) = self.service.take() {
            // Whatever it was about to do is not done.
            service.ticker.do_send(Stop);
        }
        self.subscribed = false;
        self.cut = false;
        self.paused_until = self.now;
        self.service_is_down_until = until;
        self.model.crash();
        self.truth.crash();
    }

    async fn start_service(&mut self) {
        let mut config = Config::default();
        let seconds = |seconds: i64| Duration::from_secs(seconds as u64);
        let never = Duration::from_secs(24 * 60 * 60);
        config.heartbeat.timeout = seconds(TIMEOUT);
        config.heartbeat.flush_interval = never;
        config.mqtt.echo_interval = seconds(ECHO_INTERVAL);
        // A sink that is slow is waited for in real time.
        let delivery_timeout = Duration::from_millis(if self.may_be_slow { 20 } else { 60_000 });
        let found = Found::read(&self.store, &config).await.expect("the database is there");
        let metrics = Arc::new(Metrics::new());
        let registry = DeviceRegistry::new(config, self.store.clone(), found, metrics).start();
        let schedule = Schedule { check_interval: never, delivery_timeout };
        let sink = self.sink.clone().recipient();
        let ticker = Ticker::new(schedule, registry.clone(), sink, ticker_clock).start();
        self.service = Some(Service {
            registry,
            ticker,
            rounds: Rounds::new(Duration::from_secs(ECHO_INTERVAL as u64)),
            connected: false,
            waits_until: None,
            inbox: VecDeque::new(),
        });
        // Its first check comes at once, and the one that is asked for after it.
        actix_rt::task::yield_now().await;
        self.check().await;
        if self.service.is_some() {
            let again = self.model.check(CLOCK.get(), None, timeout);
            self.assert(again.is_empty(), format_args!("{again:?} in the second check only"));
        }
    }

    // --- The network ---

    fn lose_messages(&mut self) {
        if let Some(service) = &mut self.service {
            let kept = self.rng.usize(0..=service.inbox.len());
            service.inbox.truncate(kept);
            self.truth.missed_since(self.ingested_at);
        }
    }

    fn lose_connection(&mut self) {
        self.lose_messages();
        self.subscribed = false;
        if let Some(service) = &mut self.service
            && !self.cut
        {
            service.inbox.push_back(Message::Disconnected);
        }
    }

    fn shed(&mut self) {
        let Some(service) = &mut self.service else { return };
        let before = service.inbox.len();
        let rng = &mut self.rng;
        service.inbox.retain(|message| !matches!(message, Message::Heartbeat { .. }) || rng.bool());
        if service.inbox.len() < before {
            service.rounds.restart(reading(self.monotonic), GapCause::Shed);
            self.truth.missed_since(self.ingested_at);
        }
    }

    fn receive(&mut self, message: Message) {
        if let Some(service) = &mut self.service
            && self.subscribed
            && !self.cut
        {
            service.inbox.push_back(message);
        }
    }

    // --- One second ---

    async fn second(&mut self) {
        self.now += 1;
        CLOCK.set(CLOCK.get() + 1);
        if self.now >= self.paused_until || !self.sleeps {
            self.monotonic += Duration::from_secs(1);
        }
        if let Some((outage, until)) = self.outage
            && self.now >= until
        {
            self.note(format_args!("{outage:?} back"));
            self.rename(&format!("{}_gone", outage.table()), outage.table()).await;
            self.outage = None;
        }
        if self.now >= self.sink_is_ill_until {
            self.received.mood.set(None);
        }
        if self.subscribed && !self.cut && self.service.is_some() {
            self.truth.uncertain.insert(self.now);
        }
        for device in 0..DEVICES {
            if self.alive[device] && (self.now + device as i64) % HEARTBEAT_INTERVAL == 0 {
                self.receive(Message::Heartbeat { device, error: self.broken[device] });
            }
        }
        // It cannot start without its database.
        if self.service.is_none() && self.now >= self.service_is_down_until && self.outage.is_none()
        {
            self.note(format_args!("start"));
            self.start_service().await;
        }
        if self.is_running() {
            self.ingest().await;
        }
        if self.is_running() && self.now % FLUSH_INTERVAL == 0 {
            self.flush().await;
        }
        if self.is_running() && self.now % CHECK_INTERVAL == 0 {
            self.check().await;
        }
    }

    /// What `MqttIngest` does.
    async fn ingest(&mut self) {
        let Some(service) = &mut self.service else { return };
        let (now, clock_shows) = (self.now, CLOCK.get());
        self.ingested_at = now;
        for message in service.inbox.drain(..) {
            match message {
                Message::Heartbeat { device, error } => {
                    let payload = if error { r#"{"error":"hot"}"# } else { "" };
                    let parsed = Heartbeat::parse(id(&name(device)), payload.as_bytes(), clock());
                    let record = RecordHeartbeats { heartbeats: vec![parsed] };
                    service.registry.send(record).await.expect("it lives");
                    self.model.heartbeat(device, clock_shows, error);
                    self.truth.heard_uncertain.insert(device, now);
                }
                Message::Echo(token) => {
                    let taken = service.rounds.take(token, reading(self.monotonic));
                    let Ok(Proof { since, until, after, .. }) = taken else { continue };
                    let confirm = ConfirmListening { since, until, after };
                    service.registry.send(confirm).await.expect("it lives");
                    self.model.confirm(seconds(since), seconds(until));
                }
                Message::Disconnected => {
                    service.connected = false;
                    service.rounds.interrupt(GapCause::Disconnected);
                }
            }
        }
        let broker_is_up = now >= self.broker_is_down_until;
        if !service.connected && broker_is_up && self.rng.u8(0..3) > 0 {
            service.connected = true;
            service.waits_until = None;
            service.rounds.begin(reading(self.monotonic));
            (self.subscribed, self.cut) = (true, false);
        }
        if service.connected && service.waits_until.is_some_and(|until| now >= until) {
            // No answer at all.
            service.waits_until = None;
            service.connected = false;
            service.rounds.interrupt(GapCause::Disconnected);
            self.subscribed = false;
        }
        if service.connected && now % ECHO_INTERVAL == 0 {
            let token = EchoToken::new(self.rng.u128(..));
            if service.rounds.send(token, reading(self.monotonic)).is_some() {
                if self.cut {
                    service.waits_until = service.waits_until.or(Some(now + 3));
                } else if broker_is_up {
                    self.subscribed = true;
                    service.rounds.restart(reading(self.monotonic), GapCause::NoEcho);
                }
            }
            self.receive(Message::Echo(token));
        }
    }

    async fn flush(&mut self) {
        let Some(service) = &self.service else { return };
        let flushed = service.registry.send(Flush).await.expect("it lives");
        let outage = self.outage.map(|(outage, _)| outage);
        let written = self.model.flush(outage);
        self.assert(flushed.is_ok() == written, format_args!("flushed: {flushed:?}"));
        self.note_written();
    }

    fn note_written(&mut self) {
        if self.model.is_flushed() {
            self.truth.is_written();
        }
    }

    async fn check(&mut self) {
        let Some(service) = &self.service else { return };
        let outage = self.outage.map(|(outage, _)| outage);
        let before = self.received.transitions.borrow().len();
        let died = tokio::select! {
            done = service.ticker.send(CheckNow) => { done.expect("it lives"); false }
            () = self.received.deadly.notified() => true,
        };
        let offline = self.model.check(CLOCK.get(), outage, timeout);
        self.note_written();
        for &device in &offline {
            self.note(format_args!("{} is offline", name(device)));
            let listened = self.truth.listened_since_heard(device, self.now);
            self.assert(
                listened > timeout(device),
                format_args!("{} was heard {listened} s of listening ago", name(device)),
            );
        }
        self.went_offline.extend(offline);
        if outage.is_none() {
            self.assert_statuses().await;
        }
        let received = self.received.transitions.borrow().len() > before;
        self.twice_allowed |= received && self.received.mood.get().is_some();
        if died {
            let until = self.now + self.rng.i64(1..=FAULT_AT_MOST);
            self.note(format_args!("crash after a delivery until {until}"));
            self.crash(until);
        }
    }

    // --- What must hold ---

    /// The database has what the model has.
    async fn assert_statuses(&self) {
        let devices = self.store.devices(None, None, 100).await.expect("it reads");
        let rows: Vec<_> = devices
            .iter()
            .filter(|device| device.status != Status::Provisioning)
            .map(|device| (device.id.to_string(), device.status, device.last_seen_at.map(seconds)))
            .collect();
        let expected: Vec<_> = self
            .model
            .rows
            .iter()
            .map(|(&device, row)| (name(device), row.status, Some(row.last_seen)))
            .collect();
        self.assert(rows == expected, format_args!("the database has {rows:?}, not {expected:?}"));
    }

    async fn assert_in_the_end(&mut self) {
        self.assert_statuses().await;
        for (&device, row) in &self.model.rows {
            let expected = match (self.alive[device], self.broken[device]) {
                (false, _) => Status::Offline,
                (true, false) => Status::Online,
                (true, true) => Status::Error,
            };
            self.assert(
                row.status == expected,
                format_args!("{} is {}, not {expected}", name(device), row.status),
            );
        }

        let mut history = self.store.history(None, None, 10_000).await.expect("it reads");
        history.retain(|transition| transition.to == Status::Offline);
        history.reverse();
        let went_offline: Vec<_> = history.iter().map(|t| t.device_id.to_string()).collect();
        let expected: Vec<_> = self.went_offline.iter().copied().map(name).collect();
        self.assert(went_offline == expected, format_args!("{went_offline:?}, not {expected:?}"));
        for transition in &history {
            self.assert(
                transition.delivered_at.is_some(),
                format_args!("{transition:?} was not delivered"),
            );
        }

        let received = self.received.transitions.borrow();
        let mut first: Vec<(i64, String)> = Vec::new();
        for transition in received.iter() {
            if !first.contains(transition) {
                first.push(transition.clone());
            }
        }
        let expected: Vec<_> =
            history.iter().map(|t| (t.sequence, t.device_id.to_string())).collect();
        self.assert(first == expected, format_args!("the sink got {first:?}, not {expected:?}"));
        self.assert(
            self.twice_allowed || received.len() == first.len(),
            format_args!("the sink got {received:?}: some twice"),
        );
    }
}

fn timeout(device: usize) -> i64 {
    if device == OWN { OWN_TIMEOUT } else { TIMEOUT }
}

fn name(device: usize) -> String {
    format!("device-{device}")
}

fn seconds(time: DateTime<Utc>) -> i64 {
    (time - start()).num_seconds()
}
