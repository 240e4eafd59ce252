//! Two or three registries on one database, under the faults of a pair: instances that are
//! killed, stopped between two transactions, or hang while their connection lives; that are cut
//! off from the broker or from the database; a broker that restarts; a database that is away, or
//! fails over to a server that has not received the last commits; instances that leave; answers
//! to COMMIT that are lost. Their clocks differ.
//!
//! A mark is *unsound* if the rows claim that somebody was listening when the device published,
//! and its heartbeat was not known. Times are a twentieth of the defaults.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use futures::stream::{FuturesUnordered, StreamExt};
use heartbeatd::Config;
use heartbeatd::actors::device_registry::{
    CheckOffline, DeviceRegistry, Flush, Found, Leave, LookAround, Settings,
};
use heartbeatd::domain::{
    ClockOffset, Coverage, EchoToken, GapCause, Intervals, Judge, Status, Transition,
};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::{DeviceStore, OpenMode};

use super::clocks_apart::{self, CLOCKS, now, shown};
use super::failover::Failover;
use super::intake::{Intake, Message, name, number_of};
use super::wire::{Gate, Wire};
use crate::support::fleet::non_zero;

/// All times are in milliseconds.
const STEP: i64 = 50;
const PERIOD: i64 = 3_000;
const TIMEOUT: i64 = 9_000;
const CHECK: i64 = 2_000;
const ECHO: i64 = 500;
const FLUSH: i64 = 400;
const FAULTS: std::ops::Range<i64> = 4_000..40_000;
const HORIZON: i64 = 75_000;
/// The time that a heartbeat takes.
const WAY: i64 = 60;
const DEVICES: usize = 30;
const DEAD: usize = 6;
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
}

struct Node {
    number: usize,
    process: Option<Process>,
    starts_at: i64,
    /// What the broker has sent, or would have. `None` if it is not subscribed.
    socket: Option<VecDeque<Message>>,
    connects_at: i64,
    net: bool,
    hangs: bool,
}

impl Node {
    fn name(&self) -> String {
        format!("hall-{}", self.number)
    }

    fn is_stopped(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.wire.is_stopped())
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    Hang,
    Net,
    Wire,
    Away,
    FailOver,
    Broker,
    Leave,
    Lossy,
}

/// A fault of an instance, and how long it lasts.
struct Planned {
    at: i64,
    fault: Fault,
    node: usize,
    lasts: i64,
}

/// Something that ends a fault.
type Later = (i64, usize, Fault);

pub struct World {
    seed: u64,
    rng: Rng,
    url: String,
    config: Config,
    nodes: Vec<Node>,
    broker_up: bool,
    tokens: u128,
    standby_server: Failover,
    commands: DeviceStore,
    faults: VecDeque<Planned>,
    /// The failovers to come: when, and the time of which the commits are lost.
    snapshots: VecDeque<i64>,
    later: Vec<Later>,
    publishes_at: Vec<i64>,
    dies_at: Vec<i64>,
    published: Vec<Vec<i64>>,
    known: i64,
    marks: BTreeMap<usize, Vec<i64>>,
    failed_over: bool,
    was_stopped: bool,
    events: RefCell<String>,
    pub outcome: Tally,
}

/// What a schedule has shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub marks: usize,
    pub unsound: usize,
    pub live_marked: usize,
    pub twice: usize,
    pub takeovers: usize,
}

impl World {
    pub async fn new(seed: u64, url: &str, folder: &std::path::Path) -> Self {
        let mut rng = Rng::with_seed(seed);
        clocks_apart::begin(clocks_apart::some_offsets(&mut rng));
        let mut config = Config::default();
        let millis = |millis: i64| non_zero(Duration::from_millis(millis.unsigned_abs()));
        config.heartbeat.timeout = millis(TIMEOUT);
        config.heartbeat.flush_interval = non_zero(NEVER);
        config.mqtt.echo_interval = Some(millis(ECHO));
        let nodes = if rng.u8(0..4) == 0 { 3 } else { 2 };
        let (faults, snapshots) = plan(&mut rng, nodes);
        let nodes = (0..nodes).map(|number| Node {
            number,
            process: None,
            starts_at: rng.i64(0..300),
            socket: None,
            connects_at: 0,
            net: true,
            hangs: false,
        });
        let nodes = nodes.collect();
        let dies = 8_000..FAULTS.end + 2_000;
        Self {
            seed,
            url: url.to_owned(),
            config,
            nodes,
            broker_up: true,
            tokens: 0,
            standby_server: Failover::of(url, folder).await,
            commands: DeviceStore::open(url, OpenMode::Existing).await.expect("it opens"),
            faults,
            snapshots,
            later: Vec::new(),
            publishes_at: (0..DEVICES).map(|_| rng.i64(0..PERIOD)).collect(),
            dies_at: (0..DEAD).map(|_| rng.i64(dies.clone())).collect(),
            published: vec![Vec::new(); DEVICES],
            known: 0,
            marks: BTreeMap::new(),
            failed_over: false,
            was_stopped: false,
            events: RefCell::default(),
            outcome: Tally::default(),
            rng,
        }
    }

    fn note(&self, event: std::fmt::Arguments) {
        writeln!(self.events.borrow_mut(), "{:6} {event}", now()).expect("memory");
    }

    pub async fn run(mut self) -> Tally {
        while now() < HORIZON {
            self.step().await;
            clocks_apart::pass(STEP);
        }
        self.assert_in_the_end().await;
        self.outcome
    }

    async fn step(&mut self) {
        let now = now();
        while self.snapshots.front().is_some_and(|at| *at <= now) {
            self.snapshots.pop_front();
            self.standby_server.receive().await;
        }
        while let Some(planned) = self.faults.pop_front_if(|planned| planned.at <= now) {
            self.begin(planned.fault, planned.node, planned.lasts).await;
        }
        let over: Vec<_> = self.later.extract_if(.., |later| later.0 <= now).collect();
        for (_, node, fault) in over {
            self.end(fault, node);
        }
        self.publish();
        for number in 0..self.nodes.len() {
            self.run_node(number).await;
        }
        self.look_for_marks().await;
    }

    // --- What happens around the instances ---

    fn publish(&mut self) {
        let now = now();
        for device in 0..DEVICES {
            if self.publishes_at[device] > now {
                continue;
            }
            if self.dies_at.get(device).is_some_and(|dies| *dies <= now) {
                self.publishes_at[device] = i64::MAX;
                continue;
            }
            self.publishes_at[device] += PERIOD + self.rng.i64(-300..300);
            if !self.broker_up {
                continue;
            }
            self.published[device].push(now);
            for node in &mut self.nodes {
                if let Some(socket) = &mut node.socket {
                    socket.push_back(Message::Heartbeat(device));
                }
            }
        }
    }

    async fn begin(&mut self, fault: Fault, number: usize, lasts: i64) {
        self.note(format_args!("{fault:?} of {number} for {lasts}"));
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
                    let after = self.rng.i64(0..12);
                    process.wire.stop_after(after);
                    self.was_stopped = true;
                }
            }
            Fault::Hang => self.nodes[number].hangs = true,
            Fault::Net => self.nodes[number].net = false,
            Fault::Wire => self.set_away(&[number], true),
            Fault::Away => self.set_away(&[0, 1, 2], true),
            Fault::FailOver => {
                self.set_away(&[0, 1, 2], true);
                self.fail_over().await;
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
            Fault::Lossy => {
                if let Some(process) = &self.nodes[number].process {
                    process.wire.lose_answers(30);
                }
            }
        }
        self.later.push((until, number, fault));
    }

    fn end(&mut self, fault: Fault, number: usize) {
        let node = &mut self.nodes[number];
        let wire = node.process.as_ref().map(|process| Arc::clone(&process.wire));
        match (fault, wire) {
            (Fault::Stop, Some(wire)) => wire.go_on(),
            (Fault::Lossy, Some(wire)) => wire.lose_answers(0),
            (Fault::Hang, _) => node.hangs = false,
            (Fault::Net, _) => node.net = true,
            (Fault::Wire, _) => self.set_away(&[number], false),
            (Fault::Away | Fault::FailOver, _) => self.set_away(&[0, 1, 2], false),
            (Fault::Broker, _) => {
                self.broker_up = true;
                for node in &mut self.nodes {
                    node.connects_at = now() + 200;
                }
            }
            _ => (),
        }
    }

    fn set_away(&self, numbers: &[usize], away: bool) {
        for node in self.nodes.iter().filter(|node| numbers.contains(&node.number)) {
            if let Some(process) = &node.process {
                process.wire.set_away(away);
            }
        }
    }

    fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.socket = None;
        (node.hangs, node.net) = (false, true);
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
        self.take_in(number).await;
        self.hand_over(number).await;
        if let Some(process) = &self.nodes[number].process {
            let flushed = process.registry.send(Flush).await;
            if matches!(flushed, Ok(Ok(()))) {
                let _left = process.registry.send(Leave).await;
            }
        }
        self.kill(number);
    }

    // --- The database ---

    async fn fail_over(&mut self) {
        self.failed_over = true;
        self.standby_server.promote().await;
        // The numbers of the transitions that were lost are given again.
        let newest = self.transitions(None).await;
        self.known = newest.first().map_or(0, |transition| transition.sequence);
    }

    async fn transitions(&self, before: Option<i64>) -> Vec<Transition> {
        self.commands.history(None, before, 50).await.expect("it reads")
    }

    // --- The instances ---

    async fn start(&mut self, number: usize) {
        self.note(format_args!("{number} starts"));
        let mut config = self.config.clone();
        config.mqtt.client_id = self.nodes[number].name();
        let mut settings = Settings::from(&config);
        settings.look_interval = Duration::from_millis(ECHO.unsigned_abs());
        let wire = Wire::new();
        let store = DeviceStore::open(&self.url, OpenMode::Existing).await.expect("it opens");
        let store = store.standing_by().interfere(Arc::new(Gate(Arc::clone(&wire))));
        let found = Found::read(&store, &settings).await.expect("it reads nothing");
        let registry = DeviceRegistry::new(settings, store, found, Arc::new(Metrics::new()))
            .with_clock(CLOCKS[number])
            .with_clock_offset(clocks_apart::offset(number))
            .start();
        let now = now();
        let away = self.later.iter().any(|(_, other, fault)| match fault {
            Fault::Wire => *other == number,
            Fault::Away | Fault::FailOver => true,
            _ => false,
        });
        wire.set_away(away);
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
        self.take_in(number).await;
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

    /// What paho's thread and that of the ticks do, also while the actors hang.
    async fn take_in(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(process) = &mut node.process else { return };
        let socket = node.socket.as_mut().filter(|_| node.net);
        process.intake.take_in(socket.into_iter().flat_map(|socket| socket.drain(..)));
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
                    socket.push_back(Message::Echo(token));
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
            assert!(waited.is_ok(), "seed {}: stuck\n{}", self.seed, self.events.borrow());
        }
    }

    // --- What must hold ---

    async fn look_for_marks(&mut self) {
        let mut new: Vec<_> = self.transitions(None).await;
        new.retain(|transition| transition.sequence > self.known);
        for transition in new.into_iter().rev() {
            self.known = self.known.max(transition.sequence);
            if transition.to == Status::Offline {
                self.is_marked(&transition).await;
            } else {
                self.note(format_args!("{} is {}", transition.device_id, transition.to));
            }
        }
    }

    async fn is_marked(&mut self, transition: &Transition) {
        let device = number_of(transition.device_id.as_str());
        let marker = transition.instance.as_deref().unwrap_or_default();
        self.note(format_args!("{} is offline by {marker}", transition.device_id));
        self.outcome.marks += 1;
        self.marks.entry(device).or_default().push(now());
        let coverage = self.coverage(marker).await;
        let marker = number_of_node(marker);
        // In the time of the one that has marked it.
        let here = |true_time: i64| shown(marker, true_time);
        let until = here(now());
        let seen = transition.last_seen_at.expect("it was heard");
        let error = TimeDelta::milliseconds(WAY) + clocks_apart::apart();
        self.is_not_too_early(transition, device, error, here(0));
        for &published in self.published[device].iter().rev() {
            let at = here(published);
            let silent = coverage.covered(at, until);
            if silent > TimeDelta::milliseconds(TIMEOUT) + error * 2 {
                break;
            }
            let listened = coverage.iter().any(|i| i.from + error <= at && at + error <= i.until);
            if listened && seen < at - error {
                self.outcome.unsound += 1;
                println!(
                    "seed {}: {} was heard at {published} and marked at {}: {transition:?}\n{}",
                    self.seed,
                    transition.device_id,
                    now(),
                    self.events.borrow()
                );
                break;
            }
        }
    }

    /// Checks that the last heartbeat that was known is truly older than the timeout, whosever
    /// clock has dated it.
    fn is_not_too_early(
        &mut self,
        transition: &Transition,
        device: usize,
        error: TimeDelta,
        beginning: DateTime<Utc>,
    ) {
        let seen = transition.last_seen_at.expect("it was heard");
        let is_known = |published: &&i64| {
            let at = beginning + TimeDelta::milliseconds(**published);
            (seen - at).abs() <= error
        };
        let Some(&published) = self.published[device].iter().rev().find(is_known) else { return };
        if now() - published <= TIMEOUT - STEP {
            self.outcome.unsound += 1;
            println!(
                "seed {}: {} published at {published} and is marked at {}: {transition:?}",
                self.seed,
                transition.device_id,
                now()
            );
        }
    }

    async fn coverage(&self, name: &str) -> Intervals {
        let ever = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        let stays = self.commands.stays(ever.0, ever.1).await.expect("it reads");
        let offset = clocks_apart::offset(number_of_node(name));
        let clock = ClockOffset { offset, spread: TimeDelta::zero() };
        let judge = Judge { instance: name, clock, subscription: None };
        let coverage = Coverage::of_stays(Duration::from_secs(1), &stays, judge);
        coverage.intervals().into_owned()
    }

    async fn assert_in_the_end(&mut self) {
        let events = self.events.borrow().clone();
        let seed = self.seed;
        let fleet = self.commands.devices(None, None, 1_000).await.expect("it reads");
        for device in &fleet {
            let number = number_of(device.id.as_str());
            let offline = device.status == Status::Offline;
            if number < DEAD {
                assert!(offline, "seed {seed}: {} is dead and not found\n{events}", device.id);
            } else {
                assert!(!offline, "seed {seed}: {} lives and is offline\n{events}", device.id);
            }
        }
        for (device, marks) in &self.marks {
            self.outcome.live_marked += usize::from(*device >= DEAD);
            if *device < DEAD && marks.len() > 1 {
                self.outcome.twice += 1;
                assert!(
                    self.failed_over || self.was_stopped,
                    "seed {seed}: {} was found at {marks:?}\n{events}",
                    name(*device)
                );
            }
        }
        let listeners = self.commands.listeners().await.expect("it reads");
        let active = listeners.iter().filter(|listener| listener.is_active).count();
        assert_eq!(active, 1, "seed {seed}: {listeners:?}\n{events}");
        let fenced = listeners.iter().filter(|l| l.left_how.as_deref() == Some("fenced"));
        self.outcome.takeovers = fenced.count();
    }
}

/// The faults of a schedule, and the times of which a failover loses the commits.
fn plan(rng: &mut Rng, nodes: usize) -> (VecDeque<Planned>, VecDeque<i64>) {
    let kinds = [
        Fault::Kill,
        Fault::Stop,
        Fault::Hang,
        Fault::Net,
        Fault::Wire,
        Fault::Away,
        Fault::Broker,
        Fault::Leave,
        Fault::Lossy,
        Fault::FailOver,
    ];
    let kinds = if rng.bool() { &kinds[..] } else { &kinds[..9] };
    let (mut faults, mut snapshots, mut failed_over) = (VecDeque::new(), VecDeque::new(), 0);
    let mut at = FAULTS.start;
    while at < FAULTS.end {
        let fault = kinds[rng.usize(0..kinds.len())];
        let lasts = if rng.bool() { rng.i64(100..2_000) } else { rng.i64(1_000..9_000) };
        let lasts = match fault {
            Fault::Away => lasts.min(5_000),
            Fault::FailOver => lasts.min(2_000),
            Fault::Broker => lasts.min(3_000),
            _ => lasts,
        };
        if matches!(fault, Fault::FailOver) {
            // What was lost once does not come back.
            let back = at - rng.i64(0..2_000);
            snapshots.push_back(back.max(failed_over + STEP));
            failed_over = at;
        }
        faults.push_back(Planned { at, fault, node: rng.usize(0..nodes), lasts });
        at += rng.i64(300..7_000);
    }
    (faults, snapshots)
}

fn number_of_node(name: &str) -> usize {
    name.strip_prefix("hall-").and_then(|number| number.parse().ok()).unwrap_or(0)
}
