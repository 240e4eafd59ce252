//! Three registries on one database in one group, on a broker with shared subscriptions, under the
//! faults of a group. Their clocks differ, and in some schedules answers to COMMIT are lost.
//!
//! A mark is *unsound* if the rows claim, at the moment at which it is committed, that the group
//! was listening when the device published, and its heartbeat was not known. Times are a
//! twentieth of the defaults.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use heartbeatd::Config;
use heartbeatd::actors::device_registry::Settings;
use heartbeatd::domain::{
    ClockOffset, Coverage, EchoToken, Intervals, Judge, Status, Stay, Transition,
};
use heartbeatd::store::{DeviceStore, Interference, Interfering, OpenMode, Outcome, Point};
use tokio::sync::{mpsc, oneshot};

use super::claims::Claim;
use super::clocks_apart::{self, now, shown};
use super::failover::{Failover, TIMELINE};
use super::intake::{Message, name, number_of};
use super::member::{self, ECHO, GROUP, Member, at_broker};
use super::share_broker::{Routing, ShareBroker};
use super::share_faults::{Fault, Planned, a_row_is_lost, one_hangs, plan};
use super::wire::{Gate, Wire};
use crate::support::fleet::non_zero;

/// All times are in milliseconds.
const STEP: i64 = 50;
const PERIOD: i64 = 2_000;
const TIMEOUT: i64 = 6_000;
const KEEP_ALIVE: i64 = 1_500;
const FAULTS: std::ops::Range<i64> = 4_000..26_000;
const HORIZON: i64 = 55_000;
const DEVICES: usize = 24;
const DEAD: usize = 5;
const MEMBERS: usize = 3;
/// The time that a heartbeat or an echo takes.
const WAY: i64 = STEP + 10;
/// The percentage of COMMITs whose answer is lost, in a schedule in which some are.
const LOST_ANSWERS: u8 = 20;
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What happens in a schedule.
pub struct Schedule {
    pub offsets: [i64; 3],
    pub routing: Routing,
    pub starts_at: [i64; MEMBERS],
    pub faults: VecDeque<Planned>,
    /// The first heartbeats of the devices.
    pub begin_at: Vec<i64>,
    /// The deaths of the first of them.
    pub die_at: Vec<i64>,
    /// The time between two heartbeats of a device.
    pub period: i64,
    /// The most by which it publishes earlier or later than it should.
    pub jitter: i64,
    /// The percentage of COMMITs whose answer is lost.
    pub lost_answers: u8,
}

impl Schedule {
    pub fn random(rng: &mut Rng) -> Self {
        let dies = FAULTS.start + 2_000..FAULTS.end + 2_000;
        Self {
            offsets: clocks_apart::some_offsets(rng),
            routing: Routing::ALL[rng.usize(0..3)],
            starts_at: [0; MEMBERS].map(|_: i64| rng.i64(0..300)),
            faults: plan(rng, FAULTS, MEMBERS),
            begin_at: (0..DEVICES).map(|_| rng.i64(0..PERIOD)).collect(),
            die_at: (0..DEAD).map(|_| rng.i64(dies.clone())).collect(),
            period: PERIOD,
            jitter: 300,
            lost_answers: if rng.u8(0..4) == 0 { LOST_ANSWERS } else { 0 },
        }
    }

    /// The moments after which what is committed is lost by a failover.
    fn receptions(&self) -> VecDeque<i64> {
        let mut failed_over_at = 0;
        let failovers = self.faults.iter().filter_map(|planned| match planned.fault {
            Fault::FailOver { loses } => Some((planned.at, planned.at - loses)),
            _ => None,
        });
        let received = |(at, until): (i64, i64)| {
            // What was lost once does not come back.
            let until = until.max(failed_over_at + STEP);
            failed_over_at = at;
            until
        };
        failovers.map(received).collect()
    }
}

/// What a schedule has shown.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub marks: usize,
    /// The unsound marks, in words.
    pub unsound: Vec<String>,
    /// The living devices that were ever marked.
    pub live_marked: usize,
    /// The dead devices that were found more than once.
    pub twice: usize,
    /// The members that were taken out of the group.
    pub fences: usize,
    /// What is wrong in the end, in words.
    pub wrong: Vec<String>,
}

/// Has the notary note what the rows claim when a mark is committed.
struct Witness {
    gate: Gate,
    notary: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

impl Interference for Witness {
    fn at(&self, point: Point) -> Interfering {
        let marks = point == Point::Commit("mark devices offline");
        let deciding = self.gate.at(point);
        let notary = self.notary.clone();
        Box::pin(async move {
            let outcome = deciding.await;
            if marks && outcome != Outcome::Fail {
                // Nobody else writes until this transaction ends, so this is what it goes by.
                let (tell, noted) = oneshot::channel();
                notary.send(tell).expect("it lasts as long as the schedule");
                noted.await.expect("it answers");
            }
            outcome
        })
    }
}

/// The stays at the last marking that was committed, until it is looked at.
type Noted = Rc<RefCell<Option<Vec<Stay>>>>;

/// Begins to note the stays whenever somebody asks, who waits for it.
fn notary(store: DeviceStore, noted: Noted) -> mpsc::UnboundedSender<oneshot::Sender<()>> {
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    actix_rt::spawn(async move {
        while let Some(tell) = asked.recv().await {
            let stays = all_stays(&store).await;
            noted.replace(Some(stays));
            tell.send(()).expect("somebody waits");
        }
    });
    ask
}

async fn all_stays(store: &DeviceStore) -> Vec<Stay> {
    store.stays(DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC).await.expect("it reads")
}

pub struct World {
    what: String,
    rng: Rng,
    url: String,
    config: Config,
    members: Vec<Member>,
    lost_answers: u8,
    tokens: u128,
    standby_server: Failover,
    commands: DeviceStore,
    notary: mpsc::UnboundedSender<oneshot::Sender<()>>,
    noted: Noted,
    faults: VecDeque<Planned>,
    receptions: VecDeque<i64>,
    /// The members whose way to the database is cut, and the faults that end later.
    later: Vec<(i64, usize, Fault)>,
    publishes_at: Vec<i64>,
    dies_at: Vec<i64>,
    period: i64,
    jitter: i64,
    published: Vec<Vec<i64>>,
    /// The newest transition that was looked at.
    known: i64,
    marks: BTreeMap<usize, Vec<i64>>,
    failed_over: bool,
    events: String,
    tally: Tally,
}

impl World {
    /// A random schedule on an empty database.
    pub async fn random(seed: u64, url: &str, folder: &Path) -> Self {
        let mut rng = Rng::with_seed(seed);
        let schedule = Schedule::random(&mut rng);
        Self::new(&format!("seed {seed}"), schedule, rng, url, folder).await
    }

    pub async fn new(
        what: &str,
        schedule: Schedule,
        mut rng: Rng,
        url: &str,
        folder: &Path,
    ) -> Self {
        clocks_apart::begin(schedule.offsets);
        member::begin_with(ShareBroker::new(schedule.routing, KEEP_ALIVE, rng.fork()));
        let members = schedule.starts_at.iter().enumerate();
        let commands = DeviceStore::open(url, OpenMode::Existing).await.expect("it opens");
        let noted = Noted::default();
        Self {
            what: what.to_owned(),
            rng,
            url: url.to_owned(),
            config: config(),
            members: members.map(|(number, at)| Member::new(number, *at)).collect(),
            lost_answers: schedule.lost_answers,
            tokens: 0,
            standby_server: Failover::of(url, folder).await,
            notary: notary(commands.clone(), Rc::clone(&noted)),
            commands,
            noted,
            receptions: schedule.receptions(),
            faults: schedule.faults,
            later: Vec::new(),
            publishes_at: schedule.begin_at,
            dies_at: schedule.die_at,
            period: schedule.period,
            jitter: schedule.jitter,
            published: vec![Vec::new(); DEVICES],
            known: 0,
            marks: BTreeMap::new(),
            failed_over: false,
            events: format!("{:?}, clocks {:?}\n", schedule.routing, schedule.offsets),
            tally: Tally::default(),
        }
    }

    fn note(&mut self, event: std::fmt::Arguments) {
        writeln!(self.events, "{:6} {event}", now()).expect("memory");
    }

    pub async fn run(mut self) -> Tally {
        while now() < HORIZON {
            self.step().await;
            clocks_apart::pass(STEP);
        }
        self.look_at_the_end().await;
        self.tally
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
        at_broker(|broker| broker.expire(now()));
        for number in 0..MEMBERS {
            self.run_member(number).await;
        }
        self.look_for_marks().await;
    }

    fn publish(&mut self) {
        for device in 0..DEVICES {
            if self.publishes_at[device] > now() {
                continue;
            }
            if self.dies_at.get(device).is_some_and(|dies| *dies <= now()) {
                self.publishes_at[device] = i64::MAX;
                continue;
            }
            self.publishes_at[device] += self.period + self.rng.i64(-self.jitter..=self.jitter);
            if at_broker(|broker| broker.publish(device, &Message::Heartbeat(device))) {
                self.published[device].push(now());
            }
        }
    }

    async fn begin(&mut self, Planned { fault, member: number, lasts, .. }: Planned) {
        self.note(format_args!("{fault:?} of {number} for {lasts}"));
        let until = now() + lasts;
        let member = &mut self.members[number];
        match fault {
            Fault::Kill => {
                member.kill();
                member.starts_at = until;
            }
            Fault::Leave => {
                if member.leave() {
                    member.starts_at = until;
                }
            }
            Fault::Stop => {
                if let Some(process) = &member.process {
                    process.wire.stop_after(self.rng.i64(0..12));
                }
            }
            Fault::Hang => {
                if let Some(process) = &member.process {
                    process.wire.stop();
                    member.hangs = true;
                }
            }
            Fault::Slow => member.slow = true,
            Fault::Net => member.set_net(false),
            Fault::Wire | Fault::Away => (),
            Fault::FailOver { .. } => {
                self.set_wires(true);
                self.fail_over().await;
            }
            Fault::Broker => at_broker(ShareBroker::stop),
        }
        self.later.push((until, number, fault));
        self.set_wires(false);
    }

    fn end(&mut self, fault: Fault, number: usize) {
        let member = &mut self.members[number];
        match fault {
            Fault::Stop | Fault::Hang => {
                member.hangs &= fault != Fault::Hang;
                if let Some(process) = member.process.as_ref().filter(|_| !member.hangs) {
                    process.wire.go_on();
                }
            }
            Fault::Slow => member.slow = false,
            Fault::Net => member.set_net(true),
            Fault::Broker => at_broker(ShareBroker::start),
            Fault::Kill | Fault::Leave | Fault::Wire | Fault::Away | Fault::FailOver { .. } => (),
        }
        self.set_wires(false);
    }

    /// Cuts the ways to the database that are cut now, or all of them.
    fn set_wires(&self, all: bool) {
        for member in &self.members {
            if let Some(process) = &member.process {
                process.wire.set_away(all || self.is_cut(member.number));
            }
        }
    }

    fn is_cut(&self, number: usize) -> bool {
        self.later.iter().any(|(_, cut, fault)| match fault {
            Fault::Wire => *cut == number,
            Fault::Away | Fault::FailOver { .. } => true,
            _ => false,
        })
    }

    async fn fail_over(&mut self) {
        self.failed_over = true;
        self.standby_server.promote().await;
        // The numbers of the transitions that were lost are given again.
        let newest = self.transitions().await;
        self.known = newest.first().map_or(0, |transition| transition.sequence);
    }

    // --- The members ---

    async fn run_member(&mut self, number: usize) {
        if self.members[number].process.is_none() && now() >= self.members[number].starts_at {
            self.start(number).await;
        }
        self.tokens += 1;
        if self.members[number].run(EchoToken::new(self.tokens)).await {
            self.note(format_args!("{number} has left"));
            self.members[number].kill();
        }
    }

    async fn start(&mut self, number: usize) {
        self.note(format_args!("{number} starts"));
        let wire = Wire::new();
        wire.set_away(self.is_cut(number));
        wire.lose_answers(self.lost_answers);
        let witness = Witness { gate: Gate(Arc::clone(&wire)), notary: self.notary.clone() };
        let store = DeviceStore::open(&self.url, OpenMode::Existing).await.expect("it opens");
        let store = store.in_a_group().telling_timelines_by(TIMELINE).interfere(Arc::new(witness));
        // Each process has a number of its own.
        let mut settings = Settings::from(&self.config);
        settings.settle = Duration::ZERO;
        self.members[number].start(settings, store, wire, &mut self.rng).await;
    }

    // --- What must hold ---

    async fn transitions(&self) -> Vec<Transition> {
        self.commands.history(None, None, 100).await.expect("it reads")
    }

    async fn look_for_marks(&mut self) {
        let Some(stays) = self.noted.take() else { return };
        let mut new = self.transitions().await;
        new.retain(|transition| transition.sequence > self.known);
        for transition in new.into_iter().rev() {
            self.known = self.known.max(transition.sequence);
            self.note(format_args!("{} is {}", transition.device_id, transition.to));
            if transition.to == Status::Offline {
                self.is_marked(&transition, &stays);
            }
        }
    }

    fn is_marked(&mut self, transition: &Transition, stays: &[Stay]) {
        let device = number_of(transition.device_id.as_str());
        let marker = member::number_of(transition.instance.as_deref().expect("somebody"));
        let seen = transition.last_seen_at.expect("it was heard");
        self.tally.marks += 1;
        self.marks.entry(device).or_default().push(now());
        let listened = listened(stays, marker);
        let claim = Claim {
            listened: &listened,
            timeout: TimeDelta::milliseconds(TIMEOUT),
            way: TimeDelta::milliseconds(WAY),
            apart: clocks_apart::apart(),
        };
        let published = self.published[device].iter().rev().map(|at| shown(marker, *at));
        if let Some(at) = claim.contradicted_by(published, seen, shown(marker, now())) {
            let (what, events, id) = (&self.what, &self.events, &transition.device_id);
            self.tally.unsound.push(format!(
                "{what}: {id} published at {at}, which counts, and is marked at {} by {marker} as \
                 seen at {seen}\n{events}",
                now()
            ));
        }
    }

    async fn look_at_the_end(&mut self) {
        let devices = self.commands.devices(None, None, 1_000).await.expect("it reads");
        for device in devices {
            let is_dead = number_of(device.id.as_str()) < DEAD;
            if (device.status == Status::Offline) != is_dead {
                let state = if is_dead { "is dead and not found" } else { "lives and is offline" };
                self.is_wrong(format_args!("{} {state}", device.id));
            }
        }
        for (device, marks) in self.marks.clone() {
            self.tally.live_marked += usize::from(device >= DEAD);
            if device < DEAD && marks.len() > 1 {
                self.tally.twice += 1;
                if !self.failed_over {
                    self.is_wrong(format_args!("{} was found at {marks:?}", name(device)));
                }
            }
        }
        let listeners = self.commands.listeners().await.expect("it reads");
        if listeners.iter().filter(|listener| listener.is_active).count() != 1 {
            self.is_wrong(format_args!("nobody is active"));
        }
        let fenced = listeners.iter().filter(|l| l.left_how.as_deref() == Some("fenced"));
        self.tally.fences = fenced.count();
    }

    fn is_wrong(&mut self, what: std::fmt::Arguments) {
        self.tally.wrong.push(format!("{}: {what}\n{}", self.what, self.events));
    }
}

/// What the members have listened to together, by the clock of one of them.
fn listened(stays: &[Stay], judge: usize) -> Intervals {
    let clock = ClockOffset { offset: clocks_apart::offset(judge), spread: TimeDelta::zero() };
    let judge = Judge { instance: &member::name(judge), clock, subscription: None };
    let interval = Duration::from_millis(ECHO.unsigned_abs());
    Coverage::of_stays(interval, stays, judge).intervals().into_owned()
}

fn config() -> Config {
    let mut config = Config::default();
    let millis = |millis: i64| non_zero(Duration::from_millis(millis.unsigned_abs()));
    config.heartbeat.timeout = millis(TIMEOUT);
    config.heartbeat.flush_interval = non_zero(NEVER);
    config.mqtt.echo_interval = Some(millis(ECHO));
    config.mqtt.share_group = Some(GROUP.to_owned());
    config
}

/// A group at whose broker each third device is given to the same member.
fn by_device(offsets: [i64; 3], starts_at: [i64; MEMBERS]) -> Schedule {
    Schedule {
        offsets,
        routing: Routing::ByDevice,
        starts_at,
        faults: VecDeque::new(),
        begin_at: (0..DEVICES as i64).map(|device| device * 80).collect(),
        die_at: vec![FAULTS.start; DEAD],
        period: PERIOD,
        jitter: 0,
        lost_answers: 0,
    }
}

/// The third member joins, the database loses its row, and it hangs before it notices.
pub fn a_member_whose_row_is_lost() -> Schedule {
    Schedule { faults: a_row_is_lost(), ..by_device([0; 3], [0, 50, 10_000]) }
}

/// The member with the fastest clock hangs, by which it has proven the time of heartbeats that it
/// has received and not written. The ones before are older than its clock is fast.
pub fn a_fast_clock_that_hangs() -> Schedule {
    let (faults, dies_at, publishes_at) = one_hangs();
    let schedule = by_device([0, 1_400, 0], [0, 50, 100]);
    let period = PERIOD * 3 / 2;
    let mut begin_at = schedule.begin_at;
    begin_at[..DEAD].fill(publishes_at % period);
    Schedule { faults, begin_at, die_at: vec![dies_at; DEAD], period, ..schedule }
}
