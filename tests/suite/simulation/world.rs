//! Everything around the service, and the rules that it is checked against.

mod checks;
mod faults;
mod network;
mod process;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use fastrand::Rng;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use heartbeatd::Config;
use heartbeatd::actors::bounds::Bounds;
use heartbeatd::domain::EchoToken;
use heartbeatd::inbox::Turn;
use heartbeatd::store::{DeviceStore, OpenMode, Outcome, Point};

use self::checks::Alert;
use self::network::{Link, Queued, Subscription, Taken};
use self::process::{Check, Done, Process};
use super::To;
use super::clocks;
use super::database::Held;
use super::sink::Delivery;
use super::truth::{Stretch, Truth};
use crate::support::fleet::id;

/// All times are in milliseconds.
const SECOND: i64 = 1_000;
const TIMEOUT: i64 = 41 * SECOND;
const CHECK_INTERVAL: i64 = 15 * SECOND;
const FLUSH_INTERVAL: i64 = 10 * SECOND;
const ECHO_INTERVAL: i64 = 4 * SECOND;
const HEARTBEAT_INTERVAL: i64 = 12 * SECOND;
/// The time between two readings by which a process notices that it was stopped.
const TICK: i64 = 100;

/// The most by which an echo, or the first proof on a new connection, may be late.
const LAG: i64 = 3 * ECHO_INTERVAL;

/// A time that is long enough to find every dead device and to tell the sink.
const QUIET: i64 = TIMEOUT + 3 * CHECK_INTERVAL + 3 * LAG;

/// The longest time until the service listens again once nothing is wrong. The answer to
/// a subscription may be missing, or a process about to start.
const RECOVERY: i64 = 90 * SECOND;

/// The number of turns after which no task has anything left to do. Greater than the
/// length of any chain of messages between the actors.
const TURNS: u32 = 12;

/// The properties of a schedule, from its beginning to its end.
struct Kind {
    /// The number of devices that send heartbeats, unless they are dead.
    devices: usize,
    /// The number of invented ids, each of which appears once in a while.
    strangers: usize,
    max_devices: u64,
    max_backlog: usize,
    bounds: Bounds,
    /// False if being connected is the evidence.
    echo: bool,
    /// True if another client replays echoes all the time.
    replays: bool,
    /// True if a slow sink is waited for in real time.
    impatient: bool,
    retention: i64,
    /// True if somebody takes the recoveries.
    recovers: bool,
    /// True if little happens and the clock is never set, because that makes every
    /// silence begin again. So a device falls silent over several disturbances.
    gentle: bool,
    /// The number of bursts of faults, each followed by a calm.
    bursts: u32,
    to: To,
}

struct Device {
    alive: bool,
    broken: bool,
    publishes_at: i64,
    timeout: i64,
    /// The time at which a command last changed it.
    changed_at: i64,
    /// The time at which its newest heartbeat was handed to the service.
    handed_at: i64,
    /// The time at which it was removed, and the time at which it had last been heard
    /// before.
    removed: Option<(i64, i64)>,
}

/// The behaviour of the alert sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Fails,
    /// It needs this long for each alert.
    Slow(i64),
    /// It accepts everything, and the process dies before that is recorded.
    Deadly,
}

pub struct World {
    seed: u64,
    rng: Rng,
    kind: Kind,
    config: Config,
    events: String,
    /// Milliseconds since the beginning, whatever a clock shows.
    now: i64,
    store: DeviceStore,
    /// The store that the command line uses.
    commands: DeviceStore,

    process: Option<Process>,
    /// Steps of its database that wait.
    held: Vec<Held>,
    /// Steps that are being done.
    working: u32,
    /// The transaction that is open.
    writing: Option<&'static str>,
    /// True if it was committed, as far as the service knows.
    committed: bool,
    /// True if it was committed, and the service is told that it failed.
    untold: bool,
    asked: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    flushing: bool,
    check: Option<Check>,
    draining: bool,
    echo_at: i64,
    flush_at: i64,
    check_at: i64,
    deliver_at: i64,
    down_until: i64,
    paused_until: i64,
    asleep: bool,
    /// The time until which the database fails, and the percentage of steps that fail.
    outage: (i64, u8),
    /// Steps that are held until `frozen_until`, while the others go on.
    frozen: Vec<Held>,
    frozen_until: i64,
    /// The percentage of steps of the database before which something happens.
    busy: u8,

    broker_down_until: i64,
    wanted: bool,
    link: Option<Link>,
    links: u64,
    connects_at: i64,
    cut: bool,
    broker_closes_at: Option<i64>,
    queue: VecDeque<Queued>,
    subscriptions: Vec<Subscription>,
    /// Echoes on their way to the broker, with the time at which they arrive.
    echoes: Vec<(i64, EchoToken)>,
    recorded: Vec<EchoToken>,
    slow_until: i64,
    shed: f64,
    /// The messages that the receiver has read and the inbox may not have yet.
    taking: Vec<Taken>,
    /// The number of messages whose tasks are not done: those that wait for a turn of the inbox.
    waiting: Rc<Cell<usize>>,
    /// All the room of the inbox, until this time.
    jam: Option<(i64, Turn)>,

    devices: Vec<Device>,
    mood: Mood,
    mood_until: i64,
    /// The device whose alerts the sink never accepts.
    refused: Option<usize>,
    delivery: Option<(i64, Delivery)>,
    /// True if the process dies of a delivery.
    dies: bool,
    /// The offline transitions and the recoveries, by their sequence numbers.
    alerts: BTreeMap<i64, Alert>,
    /// The outages that last, by their devices: the sequence numbers of their transitions.
    open: BTreeMap<usize, i64>,
    /// The ends of the others.
    ended: BTreeMap<i64, DateTime<Utc>>,
    /// For every transition, the time at which it happened, as far as the clock is right,
    /// and the time by that clock.
    written: BTreeMap<i64, (i64, i64)>,

    truth: Truth,
    /// True if nothing more goes wrong for a while.
    is_healed: bool,
    /// The time since which nothing is wrong.
    calm_since: i64,
    /// The time since which everything heard is proven, except for its first proof.
    proving_since: i64,
    /// The earlier stretches in which it was.
    proven: Vec<Stretch>,
    started_at: i64,
}

impl World {
    pub async fn new(seed: u64, to: To, url: &str) -> Self {
        clocks::begin();
        let mut rng = Rng::with_seed(seed);
        let kind = Kind { to, ..Kind::random(&mut rng) };
        let open = || DeviceStore::open(url, OpenMode::Existing);
        let (store, commands) = (open().await.expect("it opens"), open().await.expect("it opens"));
        let devices = (0..kind.devices + kind.strangers).map(|number| Device {
            alive: number < kind.devices,
            broken: false,
            publishes_at: rng.i64(0..HEARTBEAT_INTERVAL),
            timeout: TIMEOUT,
            changed_at: 0,
            handed_at: i64::MIN,
            removed: None,
        });
        let devices: Vec<_> = devices.collect();
        let mut world = Self {
            seed,
            config: kind.config(),
            events: String::new(),
            now: 0,
            store,
            commands,
            process: None,
            held: Vec::new(),
            working: 0,
            writing: None,
            committed: false,
            untold: false,
            asked: FuturesUnordered::new(),
            flushing: false,
            check: None,
            draining: false,
            echo_at: 0,
            flush_at: 0,
            check_at: 0,
            deliver_at: 0,
            down_until: 0,
            paused_until: 0,
            asleep: false,
            outage: (0, 0),
            frozen: Vec::new(),
            frozen_until: 0,
            busy: if kind.gentle { 1 } else { rng.u8(0..30) },
            broker_down_until: 0,
            wanted: false,
            link: None,
            links: 0,
            connects_at: 0,
            cut: false,
            broker_closes_at: None,
            queue: VecDeque::new(),
            subscriptions: Vec::new(),
            echoes: Vec::new(),
            recorded: Vec::new(),
            slow_until: 0,
            shed: 0.0,
            taking: Vec::new(),
            waiting: Rc::default(),
            jam: None,
            devices,
            mood: Mood::Well,
            mood_until: 0,
            refused: (rng.u8(0..4) == 0).then(|| rng.usize(0..kind.devices)),
            delivery: None,
            dies: false,
            alerts: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            written: BTreeMap::new(),
            truth: Truth::default(),
            is_healed: false,
            calm_since: 0,
            proving_since: 0,
            proven: Vec::new(),
            started_at: 0,
            rng,
            kind,
        };
        world.note(format_args!("{:?}", world.kind.describe()));
        for device in 0..if world.kind.strangers > 0 { world.kind.devices } else { 2 } {
            let timeout = (device < 2).then_some(23);
            world.set_timeout(device, timeout).await;
        }
        world
    }

    /// Runs the schedule. Returns how many times a device went offline.
    pub async fn run(mut self) -> u64 {
        for burst in 1..=self.kind.bursts {
            let lasts = if self.kind.gentle { 4 } else { 1 };
            let until = self.now + lasts * self.rng.i64(20 * SECOND..100 * SECOND);
            self.is_healed = false;
            while self.now < until {
                self.turn(true).await;
            }
            self.heal();
            let quiet = if burst == self.kind.bursts { QUIET } else { self.rng.i64(0..QUIET) };
            let healed = self.now;
            self.calm_since = self.now;
            let given_up =
                healed + if self.kind.strangers > 0 { RECOVERY + QUIET } else { i64::MAX / 2 };
            while self.now - self.calm_since < quiet && self.now < given_up {
                self.turn(false).await;
                let recovers = self.calm_since - healed <= RECOVERY || self.kind.strangers > 0;
                self.assert(
                    recovers,
                    format_args!("everything healed at {healed}, but the service is not ready"),
                );
            }
        }
        self.assert_in_the_end().await;
        self.alerts.values().filter(|alert| alert.recovery.is_none()).count() as u64
    }

    fn note(&mut self, event: std::fmt::Arguments) {
        let (now, wall) = (self.now, clocks::wall().format("%T%.3f"));
        writeln!(self.events, "{now:7} ({wall}) {event}").expect("memory");
    }

    #[track_caller]
    fn assert(&self, holds: bool, what: std::fmt::Arguments) {
        assert!(holds, "seed {}: at {} {what}\n{}", self.seed, self.now, self.events);
    }

    // --- What goes on ---

    async fn turn(&mut self, faults: bool) {
        self.settle().await;
        if !self.is_proving() {
            self.proof_breaks();
        }
        if !self.is_calm() {
            self.calm_since = self.now;
        }
        let seldom = if self.kind.gentle { 64 } else { 8 };
        if faults && self.rng.u8(0..seldom) == 0 {
            self.something_happens().await;
            self.settle().await;
        }
        if self.now >= self.frozen_until {
            self.held.append(&mut self.frozen);
        }
        self.await_check_without_database().await;
        let waits = self.now < self.paused_until;
        if self.held.is_empty() || waits {
            if self.draining && self.held.is_empty() {
                // It pauses in real time.
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.settle().await;
                if !self.held.is_empty() {
                    return;
                }
            }
            let pass = self.until_something_is_due();
            self.pass(pass).await;
            return;
        }
        if faults && self.rng.u8(0..100) < self.busy {
            self.something_at_this_very_moment().await;
            if self.held.is_empty() {
                return;
            }
        }
        let next = self.rng.usize(0..self.held.len());
        let held = self.held.swap_remove(next);
        let outcome = self.outcome(&held.point, faults);
        self.let_through(held, outcome);
    }

    /// A check waits for the database and for nothing else, above all not for the sink. Without
    /// a step of the database to wait for it ends, and no time passes before.
    async fn await_check_without_database(&mut self) {
        let began = Instant::now();
        while self.check.is_some()
            && self.process.is_some()
            && !self.draining
            && self.held.is_empty()
            && self.frozen.is_empty()
        {
            let waits = began.elapsed() > Duration::from_secs(30);
            self.assert(!waits, format_args!("a check waits, and not for the database"));
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.settle().await;
        }
    }

    fn let_through(&mut self, held: Held, outcome: Outcome) {
        if outcome != Outcome::GoOn {
            self.note(format_args!("{outcome:?} at {}", shown(&held.point)));
            if let Some(check) = &mut self.check {
                check.clean = false;
            }
        }
        match &held.point {
            Point::End(_) => (),
            Point::Commit(action) if outcome == Outcome::CommitThenFail => {
                self.working += 1;
                self.untold = true;
                if *action == RECORD {
                    self.truth.may_be_flushed();
                    if self.rng.bool() {
                        let by = self.rng.i64(-60 * SECOND..0);
                        self.set_clock(by);
                    }
                }
            }
            Point::Read(CONFIRM) if outcome != Outcome::GoOn => {
                self.working += 1;
                self.truth.flush_failed();
            }
            _ => self.working += 1,
        }
        held.let_through(outcome);
    }

    /// Lets all tasks go on until they wait for the world.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < TURNS {
            if self.working > 0 {
                let process = self.process.as_mut().expect("it works");
                let held = tokio::time::timeout(Duration::from_secs(30), process.points.recv());
                let held = held.await.ok().flatten();
                let held = held.unwrap_or_else(|| panic!("stuck\n{}", self.events));
                self.take(held).await;
                quiet = 0;
                continue;
            }
            // Whatever is done was done before the next step began.
            if let Some(Some(done)) = self.asked.next().now_or_never() {
                self.done(done).await;
                quiet = 0;
                continue;
            }
            let held = self.process.as_mut().and_then(|process| process.points.try_recv().ok());
            if let Some(held) = held {
                self.take(held).await;
                quiet = 0;
                continue;
            }
            if self.answer_broker() || self.take_delivery() {
                quiet = 0;
                continue;
            }
            // Tasks come up a few at a time. While the inbox is kept full they wait for more.
            let comes_up = self.waiting.get() > 0 && self.jam.is_none();
            quiet = if comes_up { 0 } else { quiet + 1 };
            actix_rt::task::yield_now().await;
        }
    }

    /// Takes a step of the database that is about to begin, or has ended.
    async fn take(&mut self, held: Held) {
        match held.point.clone() {
            Point::Begin(action) => {
                (self.writing, self.committed, self.untold) = (Some(action), false, false);
                if action == RECORD {
                    self.portion_begins();
                } else {
                    self.is_sweeping(action);
                }
            }
            Point::Read(action) => self.is_sweeping(action),
            Point::Statement(_) | Point::Commit(_) => self.working -= 1,
            Point::AfterCommit(action) => {
                self.working -= 1;
                self.committed = true;
                if action == RECORD {
                    self.truth.may_be_flushed();
                }
                self.is_committed(action).await;
            }
            Point::End(action) => {
                self.working = self.working.saturating_sub(1);
                if self.writing == Some(action) {
                    self.writing = None;
                    if self.untold {
                        self.is_committed(action).await;
                    }
                    if action == RECORD && !self.committed {
                        self.truth.flush_failed();
                    }
                }
            }
        }
        if matches!(held.point, Point::End(_)) {
            held.let_through(Outcome::GoOn);
        } else {
            self.held.push(held);
        }
    }

    fn portion_begins(&mut self) {
        let flushes_again = !self.flushing && !self.draining;
        if let Some(check) = &mut self.check
            && flushes_again
        {
            check.sweeping = false;
        }
        self.truth.portion_begins(self.now, !self.draining);
    }

    /// Notes that the check sweeps, which it does only after its flush.
    fn is_sweeping(&mut self, action: &str) {
        if let Some(check) = &mut self.check
            && !check.sweeping
            && ![RECORD, CONFIRM].contains(&action)
            && !OF_THE_COURIER.contains(&action)
        {
            check.sweeping = true;
            self.truth.is_flushed();
        }
    }

    /// Lets time pass, and then everything happen that is due.
    async fn pass(&mut self, millis: i64) {
        let from = self.now;
        self.now += millis;
        self.tick(from);
        if self.asleep && from < self.paused_until {
            self.truth.clock_steps(self.now, millis);
        }
        self.listens(from);
        self.publish();
        self.deliver_echoes();
        if self.process.is_none() && self.now >= self.down_until {
            self.start().await;
        }
        if self.process.is_none() || self.now < self.paused_until {
            return;
        }
        self.connect();
        self.answer_subscriptions();
        self.unjam().await;
        self.reply();
        if std::mem::take(&mut self.dies) {
            let until = self.now + self.rng.i64(1..20 * SECOND);
            self.note(format_args!("crash by a delivery until {until}"));
            self.crash(until).await;
            return;
        }
        self.ingest().await;
        self.timers().await;
    }

    /// Lets the clocks run until now, and the process take its readings of them if it runs.
    fn tick(&self, from: i64) {
        let pauses = from < self.paused_until;
        let mut left = self.now - from;
        while left > 0 {
            let step = left.min(TICK);
            clocks::pass(step, self.asleep && pauses);
            left -= step;
            if let Some(process) = &self.process
                && !pauses
            {
                process.asked.inbox.tick(clocks::read());
            }
        }
    }

    fn until_something_is_due(&mut self) -> i64 {
        let mut due = vec![self.now + self.rng.i64(1..=3 * SECOND)];
        if !self.kind.is_crowd() {
            due.extend(self.devices.iter().filter(|d| d.alive).map(|d| d.publishes_at));
        }
        due.extend([self.echo_at, self.flush_at, self.check_at, self.frozen_until]);
        due.extend([self.paused_until, self.down_until, self.connects_at]);
        due.extend(self.echoes.iter().map(|(at, _)| *at));
        due.extend(self.queue.front().map(|queued| queued.arrives));
        due.extend(self.subscriptions.iter().flat_map(|s| [s.at_broker, s.answered_at]));
        due.extend(self.delivery.as_ref().map(|(at, _)| *at));
        due.extend(self.jam.as_ref().map(|(until, _)| *until));
        let due = due.into_iter().filter(|at| *at > self.now).min().expect("there is one");
        due - self.now
    }
}

const RECORD: &str = "record heartbeats";
const CONFIRM: &str = "read what was written";
const MARK: &str = "mark devices offline";
const ACKNOWLEDGE: &str = "acknowledge transitions";
const GIVE_UP: &str = "give up an alert";
const PRUNE: &str = "prune the history";
const OF_THE_COURIER: [&str; 5] = [
    "read the undelivered transitions",
    "read the last delivery",
    "note the delivery",
    ACKNOWLEDGE,
    GIVE_UP,
];

fn shown(point: &Point) -> String {
    match point {
        Point::Statement(sql) => format!("{:.60}", sql.trim_start()),
        other => format!("{other:?}"),
    }
}

fn name(device: usize) -> String {
    format!("device-{device:04}")
}

fn number(device: &str) -> usize {
    device.strip_prefix("device-").and_then(|number| number.parse().ok()).expect(device)
}

fn device_id(device: usize) -> heartbeatd::domain::DeviceId {
    id(&name(device))
}
