//! Two or three registries on one database, under the faults of a pair: instances that are
//! killed, stopped between two transactions, or hang while their connection lives; that read their
//! socket slowly, or are cut off from the broker or from the database; a broker that restarts; a
//! database that is away, or fails over to a server that has not received the last commits;
//! instances that leave; answers to COMMIT that are lost. Their clocks differ.
//!
//! In half of the schedules one instance is spared. Then there must be no moment that nobody has
//! listened to, whatever happens to the others. Times are a twentieth of the defaults.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use fastrand::Rng;
use futures::stream::{FuturesUnordered, StreamExt};
use heartbeatd::Config;
use heartbeatd::actors::device_registry::{
    CheckOffline, DeviceRegistry, Flush, Found, Leave, LookAround, Settings,
};
use heartbeatd::domain::{EchoToken, GapCause};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::{DeviceStore, OpenMode};

use super::clocks_apart::{self, CLOCKS, now, shown};
use super::failover::Failover;
use super::instance_faults::{Fault, Planned, plan, plan_without};
use super::intake::{Intake, Message};
use super::observer::{Observer, Tally, Terms, instance_name};
use super::schedule::{Fleet, Schedule};
use super::wire::Wire;
use crate::support::fleet::non_zero;

/// All times are in milliseconds.
const STEP: i64 = 50;
const PERIOD: i64 = 3_000;
const TIMEOUT: i64 = 9_000;
const CHECK: i64 = 2_000;
const ECHO: i64 = 500;
const FLUSH: i64 = 400;
const FAULTS: Range<i64> = 4_000..40_000;
const HORIZON: i64 = 75_000;
/// The time in which somebody must have listened at each moment, if an instance is spared.
const HEARD: Range<i64> = 5_000..HORIZON - 4_000;
/// The time that a heartbeat takes.
const WAY: i64 = 60;
/// The longest stop that is not noticed.
const UNNOTICED: i64 = 1_000;
const DEVICES: usize = 30;
const DEAD: usize = 6;
/// The messages that a slow instance reads at once.
const SLOWLY: usize = 4;
/// The percentage of COMMITs whose answer is lost, in a schedule in which some are.
const LOST_ANSWERS: u8 = 20;
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// One process of an instance.
struct Process {
    registry: Addr<DeviceRegistry>,
    wire: Arc<Wire>,
    intake: Intake,
    work: FuturesUnordered<JoinHandle<()>>,
    flush_at: i64,
    look_at: i64,
    check_at: i64,
    /// The last time at which it ran.
    ran_at: i64,
    /// The beginning and the end of its last stop.
    stopped: Range<i64>,
}

struct Node {
    number: usize,
    process: Option<Process>,
    starts_at: i64,
    /// The messages that the broker has sent, or would have, and the times. `None` if it is not
    /// subscribed.
    socket: Option<VecDeque<(i64, Message)>>,
    connects_at: i64,
    net: bool,
    hangs: bool,
    slow: bool,
}

impl Node {
    fn new(number: usize, starts_at: i64) -> Self {
        Self {
            number,
            process: None,
            starts_at,
            socket: None,
            connects_at: 0,
            net: true,
            hangs: false,
            slow: false,
        }
    }

    fn is_stopped(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.wire.is_stopped())
    }
}

/// A random schedule, and the instance that it spares.
fn random_schedule(rng: &mut Rng) -> (Schedule, Option<usize>) {
    let offsets = clocks_apart::some_offsets(rng);
    let instances = if rng.u8(0..4) == 0 { 3 } else { 2 };
    let spared = rng.bool().then(|| rng.usize(0..instances));
    let faults = match spared {
        Some(spared) => plan_without(spared, rng, FAULTS, instances),
        None => plan(rng, FAULTS, instances),
    };
    let starts_at = (0..instances).map(|_| rng.i64(0..300)).collect();
    let begin_at = (0..DEVICES).map(|_| rng.i64(0..PERIOD)).collect();
    let dies = 8_000..FAULTS.end + 2_000;
    let die_at = (0..DEAD).map(|_| rng.i64(dies.clone())).collect();
    let fleet = Fleet::new(begin_at, die_at, PERIOD).with_jitter(300);
    let lost_answers = if rng.u8(0..4) == 0 { LOST_ANSWERS } else { 0 };
    (Schedule { offsets, starts_at, faults, fleet, lost_answers }, spared)
}

pub struct World {
    rng: Rng,
    url: String,
    config: Config,
    nodes: Vec<Node>,
    broker_up: bool,
    lost_answers: u8,
    tokens: u128,
    standby_server: Failover,
    faults: VecDeque<Planned>,
    receptions: VecDeque<i64>,
    /// The faults that end later.
    later: Vec<(i64, usize, Fault)>,
    fleet: Fleet,
    spared: Option<usize>,
    observer: Observer,
}

impl World {
    /// A random schedule on an empty database.
    pub async fn random(seed: u64, url: &str, folder: &Path) -> Self {
        let mut rng = Rng::with_seed(seed);
        let schedule = random_schedule(&mut rng);
        Self::new(&format!("seed {seed}"), schedule, rng, url, folder).await
    }

    pub async fn new(
        what: &str,
        (schedule, spared): (Schedule, Option<usize>),
        rng: Rng,
        url: &str,
        folder: &Path,
    ) -> Self {
        clocks_apart::begin(schedule.offsets);
        let nodes = schedule.starts_at.iter().enumerate();
        let commands = DeviceStore::open(url, OpenMode::Existing).await.expect("it opens");
        let terms = Terms {
            devices: schedule.fleet.devices(),
            dying: schedule.fleet.dying(),
            timeout: TIMEOUT,
            way: WAY,
            echo_interval: ECHO,
        };
        let mut observer = Observer::new(what, terms, commands);
        observer.note(format_args!("clocks {:?}, {spared:?} is spared", schedule.offsets));
        Self {
            rng,
            url: url.to_owned(),
            config: config(),
            nodes: nodes.map(|(number, at)| Node::new(number, *at)).collect(),
            broker_up: true,
            lost_answers: schedule.lost_answers,
            tokens: 0,
            standby_server: Failover::of(url, folder).await,
            receptions: schedule.receptions(),
            faults: schedule.faults,
            later: Vec::new(),
            fleet: schedule.fleet,
            spared,
            observer,
        }
    }

    pub async fn run(mut self) -> Tally {
        while now() < HORIZON {
            self.step().await;
            clocks_apart::pass(STEP);
        }
        if self.spared.is_some() {
            self.observer.look_for_holes(HEARD, self.nodes.len()).await;
        }
        self.observer.look_at_the_end().await
    }

    async fn step(&mut self) {
        while self.receptions.pop_front_if(|at| *at <= now()).is_some() {
            self.standby_server.receive().await;
        }
        while let Some(planned) = self.faults.pop_front_if(|planned| planned.at <= now()) {
            self.begin(planned).await;
        }
        let over: Vec<_> = self.later.extract_if(.., |later| later.0 <= now()).collect();
        for (_, number, fault) in over {
            self.end(fault, number);
        }
        self.publish();
        for number in 0..self.nodes.len() {
            self.run_node(number).await;
        }
        self.observer.look_for_marks().await;
    }

    // --- What happens around the instances ---

    fn publish(&mut self) {
        for device in self.fleet.publish(now(), &mut self.rng) {
            if !self.broker_up {
                continue;
            }
            self.observer.published(device);
            for socket in self.nodes.iter_mut().filter_map(|node| node.socket.as_mut()) {
                socket.push_back((now(), Message::Heartbeat(device)));
            }
        }
    }

    async fn begin(&mut self, Planned { fault, number, lasts, .. }: Planned) {
        self.observer.note(format_args!("{fault:?} of {number} for {lasts}"));
        let until = now() + lasts;
        match fault {
            Fault::Kill => {
                self.kill(number);
                self.nodes[number].starts_at = until;
            }
            Fault::Leave => {
                self.leave(number).await;
                self.nodes[number].starts_at = until;
            }
            Fault::Stop => {
                if let Some(process) = &self.nodes[number].process {
                    process.wire.stop_after(self.rng.i64(0..12));
                }
            }
            Fault::Hang => self.nodes[number].hangs = true,
            Fault::Slow => self.nodes[number].slow = true,
            Fault::Net => self.nodes[number].net = false,
            Fault::Wire | Fault::Away => (),
            Fault::FailOver { .. } => {
                self.set_wires(true);
                self.standby_server.promote().await;
                self.observer.failed_over().await;
            }
            Fault::Broker => {
                self.broker_up = false;
                for node in &mut self.nodes {
                    node.socket = None;
                    if let Some(process) = &mut node.process {
                        process.intake.rounds.interrupt(GapCause::Disconnected);
                    }
                }
            }
        }
        self.later.push((until, number, fault));
        self.set_wires(false);
    }

    fn end(&mut self, fault: Fault, number: usize) {
        let node = &mut self.nodes[number];
        match fault {
            Fault::Stop => {
                if let Some(process) = &node.process {
                    process.wire.go_on();
                }
            }
            Fault::Hang => node.hangs = false,
            Fault::Slow => node.slow = false,
            Fault::Net => node.net = true,
            Fault::Broker => {
                self.broker_up = true;
                for node in &mut self.nodes {
                    node.connects_at = now() + 200;
                }
            }
            Fault::Kill | Fault::Leave | Fault::Wire | Fault::Away | Fault::FailOver { .. } => (),
        }
        self.set_wires(false);
    }

    /// Cuts the ways to the database that are cut now, or all of them.
    fn set_wires(&self, all: bool) {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                process.wire.set_away(all || self.is_cut(node.number));
            }
        }
    }

    fn is_cut(&self, number: usize) -> bool {
        self.later.iter().any(|(_, of, fault)| fault.cuts_off(*of == number))
    }

    fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.socket = None;
        (node.hangs, node.slow, node.net) = (false, false, true);
        if let Some(process) = node.process.take() {
            process.wire.kill();
        }
    }

    /// Unsubscribes, takes one more echo, writes everything, and signs off.
    async fn leave(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let well = node.net && !node.hangs && self.broker_up && !node.is_stopped();
        if !well || node.socket.is_none() {
            return;
        }
        self.take_in(number);
        self.hand_over(number).await;
        if let Some(process) = &self.nodes[number].process {
            let flushed = process.registry.send(Flush).await;
            if matches!(flushed, Ok(Ok(()))) {
                let _left = process.registry.send(Leave).await;
            }
        }
        self.kill(number);
    }

    // --- The instances ---

    async fn start(&mut self, number: usize) {
        self.observer.note(format_args!("{number} starts"));
        // Each process has a number of its own.
        let mut settings = Settings::from(&self.config);
        settings.instance = instance_name(number);
        settings.look_interval = Duration::from_millis(ECHO.unsigned_abs());
        let wire = Wire::new();
        wire.set_away(self.is_cut(number));
        // Whoever is spared has a good database as well.
        let is_spared = self.spared == Some(number);
        wire.lose_answers(if is_spared { 0 } else { self.lost_answers });
        let store = DeviceStore::open(&self.url, OpenMode::Existing).await.expect("it opens");
        let store = store.standing_by().interfere(self.observer.on(&wire, number));
        let found = Found::read(&store, &settings).await.expect("it reads nothing");
        let registry = DeviceRegistry::new(settings, store, found, Arc::new(Metrics::new()))
            .with_clock(CLOCKS[number])
            .with_clock_offset(clocks_apart::offset(number))
            .start();
        let now = now();
        let node = &mut self.nodes[number];
        node.connects_at = now + 100;
        node.process = Some(Process {
            registry,
            wire,
            intake: Intake::new(
                CLOCKS[number],
                Duration::from_millis(ECHO.unsigned_abs()),
                now + self.rng.i64(0..ECHO),
            ),
            work: FuturesUnordered::new(),
            flush_at: now + self.rng.i64(0..FLUSH),
            look_at: now + self.rng.i64(0..ECHO),
            check_at: now + self.rng.i64(0..CHECK),
            ran_at: now,
            stopped: 0..0,
        });
    }

    async fn run_node(&mut self, number: usize) {
        let now = now();
        let node = &self.nodes[number];
        if node.process.is_none() {
            if now < node.starts_at {
                return;
            }
            self.start(number).await;
        }
        if self.nodes[number].is_stopped() {
            return;
        }
        self.connect(number);
        self.take_in(number);
        if !self.nodes[number].hangs {
            self.hand_over(number).await;
            self.timers(number).await;
        }
    }

    fn connect(&mut self, number: usize) {
        let (now, up) = (now(), self.broker_up);
        let node = &mut self.nodes[number];
        if node.socket.is_some() || !up || !node.net || now < node.connects_at {
            return;
        }
        node.socket = Some(VecDeque::new());
        if let Some(process) = &mut node.process {
            process.intake.rounds.begin(CLOCKS[number]());
        }
    }

    /// Does the work of paho's thread and that of the ticks, also while the actors hang.
    fn take_in(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(process) = &mut node.process else { return };
        if now() - process.ran_at > STEP {
            process.stopped = process.ran_at..now();
        }
        process.ran_at = now();
        let at_once = if node.slow { SLOWLY } else { usize::MAX };
        let socket = node.socket.as_mut().filter(|_| node.net);
        let read = socket.into_iter().flat_map(|socket| socket.drain(..at_once.min(socket.len())));
        let read: Vec<_> = read.collect();
        for (came, message) in &read {
            if let Message::Heartbeat(device) = message {
                // What waited for the end of a stop cannot be told from what came in it.
                let waited = *came < process.stopped.end;
                let began = process.stopped.start + UNNOTICED;
                let latest = if waited { began.max(*came) } else { now() };
                self.observer.received(*device, shown(number, latest));
            }
        }
        process.intake.take_in(read.into_iter().map(|(_, message)| message));
    }

    async fn hand_over(&mut self, number: usize) {
        let Some(process) = &mut self.nodes[number].process else { return };
        let _proven = process.intake.hand_over(&process.registry).await;
    }

    async fn timers(&mut self, number: usize) {
        let now = now();
        let (up, reading) = (self.broker_up, CLOCKS[number]());
        self.tokens += 1;
        let token = EchoToken::new(self.tokens);
        let node = &mut self.nodes[number];
        let reached = up && node.net;
        let Some(process) = &mut node.process else { return };
        if now >= process.intake.echo_at {
            process.intake.echo_at = now + ECHO;
            if let Some(socket) = &mut node.socket {
                let missing = process.intake.rounds.send(token, reading);
                if reached {
                    socket.push_back((now, Message::Echo(token)));
                }
                if missing.is_some() {
                    // The connection is dead. It is made anew.
                    process.intake.rounds.interrupt(GapCause::NoEcho);
                    node.socket = None;
                    node.connects_at = now + 200;
                }
            }
        }
        let Some(process) = &mut node.process else { return };
        let registry = process.registry.clone();
        if now >= process.look_at {
            process.look_at = now + ECHO;
            let looking = registry.send(LookAround { now: reading });
            process.work.push(actix_rt::spawn(async { _ = looking.await }));
        }
        if now >= process.flush_at {
            process.flush_at = now + FLUSH;
            let flushing = registry.send(Flush);
            process.work.push(actix_rt::spawn(async { drop(flushing.await) }));
        }
        if now >= process.check_at {
            process.check_at = now + CHECK;
            let checking = registry.send(CheckOffline { now: reading });
            process.work.push(actix_rt::spawn(async { drop(checking.await) }));
        }
        self.await_work(number).await;
    }

    /// Waits until everything is done that was asked for, or the process is stopped in it.
    async fn await_work(&mut self, number: usize) {
        let Some(process) = &mut self.nodes[number].process else { return };
        let wire = Arc::clone(&process.wire);
        {
            let working = std::pin::pin!(async { while process.work.next().await.is_some() {} });
            let stopping = std::pin::pin!(wire.stops());
            let waiting = futures::future::select(working, stopping);
            let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
            assert!(waited.is_ok(), "{} is stuck at {}", instance_name(number), now());
        }
    }
}

fn config() -> Config {
    let mut config = Config::default();
    let millis = |millis: i64| non_zero(Duration::from_millis(millis.unsigned_abs()));
    config.heartbeat.timeout = millis(TIMEOUT);
    config.heartbeat.flush_interval = non_zero(NEVER);
    config.mqtt.echo_interval = Some(millis(ECHO));
    config
}

/// A schedule in which all devices publish at the same times, and those that die do so after they
/// have published `last`, within 180 ms.
fn with_last_heartbeats(
    last: i64,
    period: i64,
    starts_at: &[i64],
    faults: &[(i64, Fault, usize, i64)],
) -> Schedule {
    let mut begin_at: Vec<_> = (0..DEVICES as i64).map(|device| device * 100).collect();
    for (device, begins) in begin_at[..DEAD].iter_mut().enumerate() {
        *begins = last % period + device as i64 * 30;
    }
    let faults = faults.iter();
    let planned = |&(at, fault, number, lasts)| Planned { at, fault, number, lasts };
    Schedule {
        offsets: [0; 3],
        starts_at: starts_at.into(),
        faults: faults.map(planned).collect(),
        fleet: Fleet::new(begin_at, vec![last + 200; DEAD], period),
        lost_answers: 0,
    }
}

/// The active one has the fastest clock and is killed. By that it has proven the time of heartbeats
/// that only the others have received. They are the last ones of some devices, and those before
/// are older than its clock is fast.
pub fn a_fast_clock_that_is_killed() -> (Schedule, Option<usize>) {
    let killed = (12_000, Fault::Kill, 0, 50_000);
    let schedule = with_last_heartbeats(12_100, PERIOD * 3 / 2, &[0, 50, 100], &[killed]);
    (Schedule { offsets: [1_400, 0, -700], ..schedule }, Some(1))
}

/// The active one is cut off from the broker for so short a time that nobody takes over for that.
pub fn an_active_one_that_hears_nothing_for_a_moment() -> (Schedule, Option<usize>) {
    let deaf = (12_000, Fault::Net, 0, 1_500);
    (with_last_heartbeats(20_000, PERIOD, &[0, 50], &[deaf]), Some(1))
}

/// Each of two is cut off from the broker for a moment, in turn. The other one hears it.
pub fn two_that_hear_nothing_in_turn() -> (Schedule, Option<usize>) {
    let deaf = |at, number| (at, Fault::Net, number, 1_500);
    let faults = [deaf(12_000, 0), deaf(20_000, 1), deaf(28_000, 0)];
    (with_last_heartbeats(33_000, PERIOD, &[0, 50], &faults), None)
}

/// A standby is stopped, and devices die whose last heartbeats wait for it. When it goes on, the
/// active one has found them and is killed.
pub fn a_stopped_standby_that_takes_over() -> (Schedule, Option<usize>) {
    let faults = [(8_000, Fault::Stop, 1, 21_000), (29_100, Fault::Kill, 0, 50_000)];
    (with_last_heartbeats(15_100, PERIOD, &[0, 50], &faults), None)
}

/// An instance that is alone was stopped. When it goes on it does not reach the broker at first, so
/// its echo is lost, and what is published meanwhile arrives late. Some devices die then.
pub fn a_stop_after_which_the_first_echo_is_lost() -> (Schedule, Option<usize>) {
    let faults = [(10_000, Fault::Stop, 0, 6_000), (15_900, Fault::Net, 0, 1_050)];
    (with_last_heartbeats(16_700, PERIOD, &[0], &faults), None)
}
