//! Two or three registries on one database, under the faults of a pair: instances that are
//! killed, stopped between two transactions, or hang while their connection lives; that read their
//! socket slowly, or are cut off from the broker or from the database; a broker that restarts; a
//! database that is away, or fails over to a server that has not received the last commits;
//! instances that leave; answers to COMMIT that are lost. Their clocks differ.
//!
//! In half of the schedules one instance is spared. Then there must be no moment that nobody has
//! listened to, whatever happens to the others. Times are a twentieth of the defaults.

pub mod schedules;

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use fastrand::Rng;
use heartbeatd::Config;
use heartbeatd::actors::device_registry::{DeviceRegistry, Flush, Found, Leave, Settings};
use heartbeatd::domain::{EchoToken, GapCause};
use heartbeatd::metrics::Metrics;
use heartbeatd::store::{DeviceStore, OpenMode};

use super::clocks_apart::{self, CLOCKS, now, shown};
use super::failover::Failover;
use super::instance_faults::{Course, Fault, Planned};
use super::intake::{Intake, Message};
use super::observer::{Observer, Tally, instance_name};
use super::schedule::{Fleet, Schedule, Times};
use super::wire::Wire;
use super::work::{Every, Work};

/// All times are in milliseconds.
const STEP: i64 = 50;
const PERIOD: i64 = 3_000;
const ECHO: i64 = 500;
const EVERY: Every = Every { flush: 400, look: ECHO, check: 2_000 };
const TIMES: Times = Times { timeout: 9_000, echo_interval: ECHO, way: 60 };
const FAULTS: Range<i64> = 4_000..40_000;
const HORIZON: i64 = 75_000;
/// The time in which somebody must have listened at each moment, if an instance is spared.
const HEARD: Range<i64> = 5_000..HORIZON - 4_000;
/// The longest stop that is not noticed.
const UNNOTICED: i64 = 1_000;
const DEVICES: usize = 30;
const DEAD: usize = 6;
/// The messages that a slow instance reads at once.
const SLOWLY: usize = 4;

/// One process of an instance.
struct Process {
    registry: Addr<DeviceRegistry>,
    wire: Arc<Wire>,
    intake: Intake,
    work: Work,
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

pub struct World {
    rng: Rng,
    url: String,
    config: Config,
    nodes: Vec<Node>,
    broker_up: bool,
    lost_answers: u8,
    tokens: u128,
    standby_server: Failover,
    course: Course,
    receptions: VecDeque<i64>,
    fleet: Fleet,
    spared: Option<usize>,
    observer: Observer,
}

impl World {
    /// A random schedule on an empty database.
    pub async fn random(seed: u64, url: &str, folder: &Path) -> Self {
        let mut rng = Rng::with_seed(seed);
        let schedule = schedules::random(&mut rng);
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
        let mut observer = Observer::new(what, TIMES, &schedule.fleet, url).await;
        observer.note(format_args!("clocks {:?}, {spared:?} is spared", schedule.offsets));
        Self {
            rng,
            url: url.to_owned(),
            config: TIMES.config(),
            nodes: nodes.map(|(number, at)| Node::new(number, *at)).collect(),
            broker_up: true,
            lost_answers: schedule.lost_answers,
            tokens: 0,
            standby_server: Failover::of(url, folder).await,
            receptions: schedule.receptions(),
            course: Course::new(schedule.faults),
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
        while let Some(planned) = self.course.begins(now()) {
            self.begin(planned).await;
        }
        for planned in self.course.end(now()) {
            self.end(planned);
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
        self.set_wires(false);
    }

    fn end(&mut self, Planned { fault, number, .. }: Planned) {
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
                process.wire.set_away(all || self.course.cuts_off(node.number));
            }
        }
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
        wire.set_away(self.course.cuts_off(number));
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
            work: Work::new(number, EVERY, &mut self.rng),
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
        process.work.begin_what_is_due(&process.registry);
        process.work.is_done(&process.wire).await;
    }
}
