//! Three members of a group that write to one database, as a model: what each of them does in
//! which order, on a broker and a database that are models too. Real are the rule of what the
//! group has listened to (`Coverage::of_stays`), the proofs and the rounds. A schedule takes some
//! milliseconds.
//!
//! A mark is *unsound* if the rows claim that the group was listening when the device published,
//! and its heartbeat was not known. Times are a twentieth of the defaults.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use heartbeatd::clock::Reading;
use heartbeatd::domain::{
    ClockOffset, Coverage, EchoToken, Echoed, GapCause, Intervals, Judge, Rounds, Stay,
};

use super::claims::Claim;
use super::instance_faults::{Course, Fault, Planned, a_row_is_lost, one_hangs, plan};
use super::schedule::Fleet;
use super::share_broker::{ConnectionId, Routing, ShareBroker, Subscription};
use crate::support::fleet::start;

/// All times are in milliseconds.
const STEP: i64 = 50;
const PERIOD: i64 = 3_000;
const TIMEOUT: i64 = 9_000;
const CHECK: i64 = 2_000;
const ECHO: i64 = 250;
const FLUSH: i64 = 100;
const LOOK: i64 = 250;
const KEEP_ALIVE: i64 = 1_500;
/// The time for which a row stands still before its member is taken out of the group.
const PATIENCE: i64 = 1_500;
const FAULTS: std::ops::Range<i64> = 4_000..55_000;
const HORIZON: i64 = 90_000;
const DEVICES: usize = 36;
const DEAD: usize = 6;
const MEMBERS: usize = 3;

/// The rule by which the members act, and ways to break it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Whole,
    /// An instant counts if any member has proven it.
    Union,
    /// The stay of a member ends although the broker goes on giving it heartbeats.
    WithoutTakeover,
    /// The row of a stay is written after the subscription.
    LateRow,
    /// A flush does not look whether the earlier ones are still there.
    WithoutCount,
    /// The group has one name at the broker, whatever the timeline of the database.
    WithoutTimeline,
    /// All clocks are taken for the same.
    OneClock,
}

/// The findings of a schedule.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub marks: usize,
    pub fences: usize,
    pub live_marked: usize,
    /// The unsound marks, in words.
    pub unsound: Vec<String>,
    /// The other faults that are there in the end, in words.
    pub wrong: Vec<String>,
}

#[derive(Clone)]
enum Message {
    Heartbeat(usize),
    Echo(EchoToken),
}

#[derive(Clone)]
struct Device {
    seen: DateTime<Utc>,
    is_offline: bool,
}

#[derive(Clone)]
struct Row {
    stay: Stay,
    saves: i64,
}

#[derive(Clone, Default)]
struct Rows {
    devices: BTreeMap<usize, Device>,
    stays: BTreeMap<i64, Row>,
    joined: i64,
}

struct Database {
    is_up: bool,
    timeline: u32,
    rows: Rows,
    /// Its contents at earlier times, for a failover.
    history: VecDeque<(i64, Rows)>,
}

impl Database {
    /// Remembers what was committed until now, every now and then.
    fn remember(&mut self, now: i64) {
        if self.history.back().is_none_or(|(at, _)| now - at > 300) {
            self.history.push_back((now, self.rows.clone()));
        }
        while self.history.front().is_some_and(|(at, _)| now - at > 3_000) {
            self.history.pop_front();
        }
    }

    fn fail_over(&mut self, to: i64) {
        self.timeline += 1;
        if let Some((_, rows)) = self.history.iter().rfind(|(at, _)| *at <= to) {
            self.rows = rows.clone();
        }
        self.history.clear();
    }
}

/// Everything around the members.
struct Around {
    rule: Rule,
    now: i64,
    beginning: Instant,
    broker: ShareBroker<Message>,
    database: Database,
    tokens: u128,
    fences: usize,
    /// The marks of this step: the member, the device, when that was last seen, and the coverage.
    marks: Vec<(usize, usize, DateTime<Utc>, Intervals)>,
}

impl Around {
    /// The timeline, as far as the members know of it.
    fn timeline(&self) -> String {
        match self.rule {
            Rule::WithoutTimeline => String::new(),
            _ => format!("{:08X}", self.database.timeline),
        }
    }
}

/// The stay that a process knows itself to be in.
struct Own {
    listener: i64,
    row: Row,
}

/// A member, and its process while it has one.
struct Member {
    number: usize,
    offset: i64,
    rng: Rng,
    is_running: bool,
    starts_at: i64,
    stopped: bool,
    hangs: bool,
    slow: bool,
    net: bool,
    wire: bool,
    connection: Option<ConnectionId>,
    connects_at: i64,
    connected_at: DateTime<Utc>,
    is_subscribed: bool,
    inbox: VecDeque<(Message, Reading)>,
    rounds: Rounds,
    coverage: Coverage,
    pending: BTreeMap<usize, DateTime<Utc>>,
    own: Option<Own>,
    /// The saves of others, and since when they are the same.
    seen: BTreeMap<i64, (i64, i64)>,
    echo_at: i64,
    flush_at: i64,
    look_at: i64,
    check_at: i64,
}

fn millis(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn name(member: usize) -> String {
    format!("hall-{member}")
}

fn no_coverage() -> Coverage {
    Coverage::new(millis(ECHO))
}

impl Member {
    fn new(number: usize, offset: i64, rng: Rng) -> Self {
        Self {
            number,
            offset,
            rng,
            is_running: false,
            starts_at: 0,
            stopped: false,
            hangs: false,
            slow: false,
            net: true,
            wire: true,
            connection: None,
            connects_at: 0,
            connected_at: start(),
            is_subscribed: false,
            inbox: VecDeque::new(),
            rounds: Rounds::new(millis(ECHO)),
            coverage: no_coverage(),
            pending: BTreeMap::new(),
            own: None,
            seen: BTreeMap::new(),
            echo_at: 0,
            flush_at: 0,
            look_at: 0,
            check_at: 0,
        }
    }

    fn clock(&self) -> ClockOffset {
        ClockOffset { offset: TimeDelta::milliseconds(self.offset), spread: TimeDelta::zero() }
    }

    fn reading(&self, around: &Around) -> Reading {
        Reading {
            wall: start() + TimeDelta::milliseconds(around.now + self.offset),
            monotonic: around.beginning + millis(around.now),
        }
    }

    fn reaches_database(&self, around: &Around) -> bool {
        self.wire && around.database.is_up
    }

    fn reaches_broker(&self, around: &Around) -> bool {
        self.net && around.broker.is_up()
    }

    // --- The process ---

    fn start(&mut self, now: i64) {
        let (offset, starts_at, rng) = (self.offset, self.starts_at, self.rng.fork());
        let (net, wire) = (self.net, self.wire);
        *self = Self { net, wire, starts_at, ..Self::new(self.number, offset, rng) };
        self.is_running = true;
        self.connects_at = now;
        let mut soon = || now + self.rng.i64(0..200);
        (self.echo_at, self.flush_at, self.look_at, self.check_at) =
            (soon(), soon(), soon(), soon());
    }

    /// Ends the process, at once and without anything more.
    fn kill(&mut self, around: &mut Around) {
        self.disconnect(around);
        (self.is_running, self.stopped, self.hangs, self.slow) = (false, false, false, false);
    }

    fn step(&mut self, around: &mut Around) {
        if !self.is_running && around.now >= self.starts_at {
            self.start(around.now);
        }
        if !self.is_running || self.stopped {
            return;
        }
        self.read_socket(around);
        if self.hangs {
            return;
        }
        self.take_in(around);
        self.connect(around);
        self.join(around);
        self.timers(around);
    }

    fn timers(&mut self, around: &mut Around) {
        let now = around.now;
        if now >= self.echo_at {
            self.echo_at = now + ECHO;
            self.send_echo(around);
        }
        if now >= self.flush_at {
            self.flush_at = now + FLUSH;
            self.flush(around);
        }
        if now >= self.look_at {
            self.look_at = now + LOOK;
            self.look_around(around);
        }
        if now >= self.check_at {
            self.check_at = now + CHECK;
            self.check(around);
        }
    }

    /// Unsubscribes, takes what is left and one more echo, writes it, and signs off.
    fn leave(&mut self, around: &mut Around) -> bool {
        let is_well = self.is_running && !self.stopped && !self.hangs && self.is_subscribed;
        let reaches = self.reaches_broker(around) && self.reaches_database(around);
        let Some(connection) = self.connection.filter(|id| around.broker.is_open(*id)) else {
            return false;
        };
        if !is_well || !reaches {
            return false;
        }
        around.broker.unsubscribe(connection, around.now);
        self.send_echo(around);
        self.slow = false;
        self.read_socket(around);
        self.take_in(around);
        let now = self.reading(around).wall;
        if self.flush(around)
            && let Some(own) = &self.own
            && let Some(row) = around.database.rows.stays.get_mut(&own.listener)
        {
            row.stay.left_at = Some(now);
        }
        self.kill(around);
        true
    }

    // --- The broker ---

    /// Does the work of the MQTT client's thread, also while the actors hang.
    fn read_socket(&mut self, around: &mut Around) {
        let Some(connection) = self.connection.filter(|_| self.net) else { return };
        let now = self.reading(around);
        let messages = around.broker.read(connection, if self.slow { 4 } else { usize::MAX });
        let is_over = messages.is_empty() && !around.broker.is_open(connection);
        self.inbox.extend(messages.into_iter().map(|message| (message, now)));
        around.broker.ping(connection, around.now);
        if is_over {
            self.disconnect(around);
        }
    }

    fn disconnect(&mut self, around: &mut Around) {
        self.rounds.interrupt(GapCause::Disconnected);
        self.is_subscribed = false;
        self.connects_at = around.now + 200;
        // Without a network the broker is not told.
        if let Some(connection) = self.connection.take()
            && self.net
        {
            around.broker.close(connection);
        }
    }

    fn connect(&mut self, around: &mut Around) {
        if self.connection.is_none() && self.net && around.now >= self.connects_at {
            self.connection = around.broker.connect(&name(self.number), around.now);
            self.connected_at = self.reading(around).wall;
        }
    }

    fn send_echo(&mut self, around: &mut Around) {
        around.tokens += 1;
        let token = EchoToken::new(around.tokens);
        let Some(connection) = self.connection.filter(|_| self.is_subscribed) else { return };
        let missing = self.rounds.send(token, self.reading(around));
        if self.reaches_broker(around) {
            around.broker.echo(connection, Message::Echo(token), around.now);
        }
        if missing.is_some() {
            self.disconnect(around);
        }
    }

    fn take_in(&mut self, around: &Around) {
        let now = self.reading(around);
        for (message, received) in std::mem::take(&mut self.inbox) {
            match message {
                Message::Heartbeat(device) => {
                    let seen = self.pending.entry(device).or_insert(received.wall);
                    *seen = received.wall.max(*seen);
                }
                Message::Echo(token) => {
                    if let Ok(Echoed::Proves(proof)) = self.rounds.take(token, now) {
                        self.coverage.confirm(proof.since, proof.until, proof.after);
                    }
                }
            }
        }
    }

    // --- The group ---

    /// Writes the row, and then subscribes.
    fn join(&mut self, around: &mut Around) {
        let Some(connection) = self.connection.filter(|_| self.reaches_broker(around)) else {
            return;
        };
        if around.rule == Rule::LateRow {
            if !self.is_subscribed {
                self.subscribe(connection, around);
            }
            let is_known = self.own.as_ref().is_some_and(|own| own.row.stay.is_open());
            if !is_known && self.reaches_database(around) {
                self.write_row(around);
            }
        } else if !self.is_subscribed && self.reaches_database(around) {
            // What the last connection has brought belongs to the last stay.
            if self.own.is_none() || self.flush(around) {
                self.write_row(around);
                self.subscribe(connection, around);
            }
        }
    }

    fn write_row(&mut self, around: &mut Around) {
        let name = name(self.number);
        let joined_at = self.reading(around).wall;
        let timeline = around.timeline();
        let rows = &mut around.database.rows;
        let mine = rows.stays.values_mut().filter(|row| row.stay.instance == name);
        for row in mine.filter(|row| row.stay.left_at.is_none()) {
            row.stay.left_at = Some(self.connected_at);
        }
        rows.joined += 1;
        let stay = Stay {
            listener: rows.joined,
            instance: name,
            clock: self.clock(),
            share_group: Some("halls".to_owned()),
            timeline,
            subscription: None,
            joined_at,
            ended_by_itself: false,
            left_at: None,
            listened: Vec::new(),
        };
        let row = Row { stay, saves: 0 };
        rows.stays.insert(rows.joined, row.clone());
        if around.rule != Rule::LateRow {
            self.coverage = no_coverage();
        }
        self.own = Some(Own { listener: rows.joined, row });
    }

    fn subscribe(&mut self, connection: ConnectionId, around: &mut Around) {
        let group = format!("halls.{}", around.timeline());
        if around.broker.subscribe(connection, Subscription::Shared(group), around.now) {
            self.is_subscribed = true;
            self.rounds.begin(self.reading(around));
        }
    }

    /// Throws away what is not written, as if it had crashed.
    fn forget(&mut self, around: &mut Around) {
        self.disconnect(around);
        self.connects_at = around.now + 300;
        self.pending.clear();
        self.inbox.clear();
        self.coverage = no_coverage();
        self.own = None;
    }

    /// Ends the sessions and the stays of members whose rows stand still.
    fn look_around(&mut self, around: &mut Around) {
        if !self.reaches_database(around) {
            // Nobody is judged by what could not be read.
            self.seen.clear();
            return;
        }
        let own = name(self.number);
        let stays = around.database.rows.stays.values();
        let others = stays.filter(|row| row.stay.is_open() && row.stay.instance != own);
        for Row { stay, saves } in others.cloned().collect::<Vec<_>>() {
            let (known, since) = *self.seen.entry(stay.listener).or_insert((saves, around.now));
            if known != saves {
                self.seen.insert(stay.listener, (saves, around.now));
            }
            let is_of_the_past = stay.timeline != around.timeline();
            let stands_still = known == saves && around.now - since > PATIENCE;
            if is_of_the_past || stands_still && self.takes_out(&stay.instance, around) {
                let now = self.reading(around).wall;
                let row = around.database.rows.stays.get_mut(&stay.listener);
                row.expect("it was just read").stay.left_at = Some(now);
            }
        }
    }

    /// Ends the session of a member at the broker. False if that cannot be reached.
    fn takes_out(&self, instance: &str, around: &mut Around) -> bool {
        around.fences += 1;
        if around.rule == Rule::WithoutTakeover {
            return true;
        }
        let reaches = self.reaches_broker(around);
        let taken = reaches.then(|| around.broker.connect(instance, around.now)).flatten();
        taken.map(|connection| around.broker.close(connection)).is_some()
    }

    // --- The database ---

    /// Writes what was received and what it proves. True if that is in the database.
    fn flush(&mut self, around: &mut Around) -> bool {
        if !self.reaches_database(around) {
            return false;
        }
        let Some(own) = &mut self.own else { return false };
        let (rule, timeline) = (around.rule, around.timeline());
        let Rows { stays, devices, .. } = &mut around.database.rows;
        if rule == Rule::WithoutCount {
            stays.entry(own.listener).or_insert_with(|| own.row.clone());
        }
        let known = stays.get_mut(&own.listener).filter(|row| {
            let is_member = row.stay.left_at.is_none() && row.stay.timeline == timeline;
            rule == Rule::WithoutCount || is_member && row.saves == own.row.saves
        });
        let Some(row) = known else {
            self.forget(around);
            return false;
        };
        row.saves += 1;
        row.stay.listened = self.coverage.listened().collect();
        own.row = row.clone();
        for (number, seen) in std::mem::take(&mut self.pending) {
            let device = devices.entry(number).or_insert(Device { seen, is_offline: false });
            if device.seen < seen {
                *device = Device { seen, is_offline: false };
            }
        }
        true
    }

    fn check(&mut self, around: &mut Around) {
        if !self.flush(around) {
            return;
        }
        let mut stays: Vec<_> =
            around.database.rows.stays.values().map(|row| row.stay.clone()).collect();
        if around.rule == Rule::Union {
            stays.iter_mut().for_each(|stay| stay.share_group = None);
        }
        let instance = name(self.number);
        if around.rule == Rule::OneClock {
            // All times are taken for the judge's.
            for stay in &mut stays {
                (stay.instance, stay.ended_by_itself) = (instance.clone(), true);
            }
        }
        let judge = Judge { instance: &instance, clock: self.clock(), subscription: None };
        let coverage = Coverage::of_stays(millis(ECHO), &stays, judge);
        let cutoffs = coverage.cutoffs(self.reading(around).wall, millis(TIMEOUT), &[]);
        let Some(cutoff) = cutoffs.latest() else { return };
        for (number, device) in &mut around.database.rows.devices {
            if device.seen < cutoff && !device.is_offline {
                device.is_offline = true;
                let listened = coverage.intervals().into_owned();
                around.marks.push((self.number, *number, device.seen, listened));
            }
        }
    }
}

/// A schedule.
pub struct World {
    seed: u64,
    rng: Rng,
    around: Around,
    members: Vec<Member>,
    course: Course,
    fleet: Fleet,
    published: Vec<Vec<i64>>,
    events: String,
    tally: Tally,
}

impl World {
    pub fn new(seed: u64, rule: Rule) -> Self {
        let mut rng = Rng::with_seed(seed);
        let far = if rng.u8(0..4) == 0 { 600 } else { 50 };
        let members = (0..MEMBERS).map(|number| {
            let offset = rng.i64(-far..=far);
            Member::new(number, offset, rng.fork())
        });
        let members = members.collect();
        let routing = Routing::ALL[rng.usize(0..3)];
        let broker = ShareBroker::new(routing, KEEP_ALIVE, rng.fork());
        let database =
            Database { is_up: true, timeline: 1, rows: Rows::default(), history: VecDeque::new() };
        let around = Around {
            rule,
            now: 0,
            beginning: Instant::now(),
            broker,
            database,
            tokens: 0,
            fences: 0,
            marks: Vec::new(),
        };
        Self {
            seed,
            around,
            members,
            course: Course::new(plan(&mut rng, FAULTS, MEMBERS)),
            fleet: Fleet::random([DEVICES, DEAD], PERIOD, 8_000..FAULTS.end + 4_000, &mut rng),
            published: vec![Vec::new(); DEVICES],
            events: format!("{routing:?}\n"),
            tally: Tally::default(),
            rng,
        }
    }

    /// A failover loses the row of a member that hangs, see [`a_row_is_lost`].
    pub fn with_a_lost_row(rule: Rule) -> Self {
        let mut world = Self::by_device(rule, a_row_is_lost());
        world.members[2].starts_at = 10_000;
        world
    }

    /// A member with a fast clock hangs, see [`one_hangs`].
    pub fn with_a_fast_clock(rule: Rule) -> Self {
        let (faults, dies_at, publishes_at) = one_hangs();
        let mut world = Self::by_device(rule, faults);
        world.members[1].offset = 1_000;
        let publishes_at = vec![publishes_at % PERIOD; DEVICES];
        world.fleet = Fleet::new(publishes_at, vec![dies_at; DEAD], PERIOD);
        world
    }

    /// A schedule in which each third device is given to the same member.
    fn by_device(rule: Rule, faults: VecDeque<Planned>) -> Self {
        let mut world = Self::new(0, rule);
        let rng = world.rng.fork();
        world.around.broker = ShareBroker::new(Routing::ByDevice, KEEP_ALIVE, rng);
        world.course = Course::new(faults);
        world.fleet = world.fleet.with_jitter(0);
        world.members.iter_mut().for_each(|member| member.offset = 0);
        world
    }

    pub fn run(mut self) -> Tally {
        while self.around.now < HORIZON {
            self.step();
            self.around.now += STEP;
        }
        self.look_at_the_end();
        self.tally.fences = self.around.fences;
        self.tally
    }

    fn step(&mut self) {
        let now = self.around.now;
        self.around.database.remember(now);
        while let Some(planned) = self.course.begins(now) {
            self.begin(planned);
        }
        for planned in self.course.end(now) {
            self.end(planned);
        }
        self.publish();
        self.around.broker.expire(now);
        for member in &mut self.members {
            member.step(&mut self.around);
        }
        for (member, device, seen, listened) in std::mem::take(&mut self.around.marks) {
            self.is_marked(member, device, seen, &listened);
        }
    }

    fn publish(&mut self) {
        let now = self.around.now;
        for device in self.fleet.publish(now, &mut self.rng) {
            if self.around.broker.publish(device, &Message::Heartbeat(device)) {
                self.published[device].push(now);
            }
        }
    }

    fn begin(&mut self, Planned { fault, number, lasts, .. }: Planned) {
        let now = self.around.now;
        writeln!(self.events, "{now:6} {fault:?} of {number} for {lasts}").expect("memory");
        let member = &mut self.members[number];
        match fault {
            Fault::Kill => {
                member.kill(&mut self.around);
                member.starts_at = now + lasts;
            }
            Fault::Leave => {
                if member.leave(&mut self.around) {
                    member.starts_at = now + lasts;
                }
            }
            Fault::Stop => member.stopped = true,
            Fault::Hang => member.hangs = true,
            Fault::Slow => member.slow = true,
            Fault::Net => member.net = false,
            Fault::Wire => member.wire = false,
            Fault::Away => self.around.database.is_up = false,
            Fault::FailOver { loses } => {
                self.around.database.is_up = false;
                self.around.database.fail_over(now - loses);
            }
            Fault::Broker => self.around.broker.stop(),
        }
    }

    fn end(&mut self, Planned { fault, number, .. }: Planned) {
        let member = &mut self.members[number];
        match fault {
            Fault::Kill | Fault::Leave => (),
            Fault::Stop => member.stopped = false,
            Fault::Hang => member.hangs = false,
            Fault::Slow => member.slow = false,
            Fault::Net => member.net = true,
            Fault::Wire => member.wire = true,
            Fault::Away | Fault::FailOver { .. } => self.around.database.is_up = true,
            Fault::Broker => self.around.broker.start(),
        }
    }

    // --- What must hold ---

    fn is_marked(&mut self, by: usize, device: usize, seen: DateTime<Utc>, listened: &Intervals) {
        self.tally.marks += 1;
        self.tally.live_marked += usize::from(device >= DEAD);
        let now = self.around.now;
        // In the time of the one that has marked it.
        let here =
            |true_time: i64| start() + TimeDelta::milliseconds(true_time + self.members[by].offset);
        let offsets = self.members.iter().map(|member| member.offset);
        let apart = offsets.clone().max().unwrap_or(0) - offsets.min().unwrap_or(0);
        let claim = Claim {
            listened,
            timeout: TimeDelta::milliseconds(TIMEOUT),
            way: TimeDelta::milliseconds(STEP + 10),
            apart: TimeDelta::milliseconds(apart),
        };
        let published = self.published[device].iter().rev().map(|at| here(*at));
        if let Some(at) = claim.contradicted_by(published, seen, here(now)) {
            let (seed, events) = (self.seed, &self.events);
            self.tally.unsound.push(format!(
                "seed {seed}: {device} published at {at}, which counts, and is marked at {now} by \
                 {by} as seen at {seen}\n{events}"
            ));
        }
    }

    fn look_at_the_end(&mut self) {
        for (number, device) in &self.around.database.rows.devices {
            let (is_dead, seed) = (*number < DEAD, self.seed);
            if device.is_offline != is_dead {
                let state = if is_dead { "is dead and not found" } else { "lives and is offline" };
                self.tally.wrong.push(format!("seed {seed}: {number} {state}\n{}", self.events));
            }
        }
    }
}
