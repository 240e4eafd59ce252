//! Three registries on one database in one group, on a broker with shared subscriptions, under the
//! faults of a group. Their clocks differ, and in some schedules answers to COMMIT are lost.
//!
//! Times are a twentieth of the defaults.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use heartbeatd::Config;
use heartbeatd::actors::device_registry::Settings;
use heartbeatd::domain::EchoToken;
use heartbeatd::store::{DeviceStore, OpenMode};

use super::clocks_apart::{self, now};
use super::failover::{Failover, TIMELINE};
use super::instance_faults::{Course, Fault, Planned, a_row_is_lost, one_hangs, plan};
use super::intake::Message;
use super::member::{self, ECHO, GROUP, Member, at_broker};
use super::observer::{Observer, Tally};
use super::schedule::{Fleet, Schedule, Times, some_lost_answers};
use super::share_broker::{Routing, ShareBroker};
use super::wire::Wire;

/// All times are in milliseconds.
const STEP: i64 = 50;
const PERIOD: i64 = 2_000;
const KEEP_ALIVE: i64 = 1_500;
const FAULTS: std::ops::Range<i64> = 4_000..26_000;
const HORIZON: i64 = 55_000;
const DEVICES: usize = 24;
const DEAD: usize = 5;
const MEMBERS: usize = 3;
const TIMES: Times = Times { timeout: 6_000, echo_interval: ECHO, way: STEP + 10 };

fn random_schedule(rng: &mut Rng) -> (Schedule, Routing) {
    let dies = FAULTS.start + 2_000..FAULTS.end + 2_000;
    let (offsets, routing) = (clocks_apart::some_offsets(rng), Routing::ALL[rng.usize(0..3)]);
    let starts_at = (0..MEMBERS).map(|_| rng.i64(0..300)).collect();
    let faults = plan(rng, FAULTS, MEMBERS);
    let fleet = Fleet::random([DEVICES, DEAD], PERIOD, dies, rng);
    let lost_answers = some_lost_answers(rng);
    (Schedule { offsets, starts_at, faults, fleet, lost_answers }, routing)
}

pub struct World {
    rng: Rng,
    url: String,
    config: Config,
    members: Vec<Member>,
    lost_answers: u8,
    tokens: u128,
    standby_server: Failover,
    course: Course,
    receptions: VecDeque<i64>,
    fleet: Fleet,
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
        (schedule, routing): (Schedule, Routing),
        mut rng: Rng,
        url: &str,
        folder: &Path,
    ) -> Self {
        clocks_apart::begin(schedule.offsets);
        member::begin_with(ShareBroker::new(routing, KEEP_ALIVE, rng.fork()));
        let members = schedule.starts_at.iter().enumerate();
        let mut observer = Observer::new(what, TIMES, &schedule.fleet, url).await;
        observer.note(format_args!("{routing:?}, clocks {:?}", schedule.offsets));
        Self {
            rng,
            url: url.to_owned(),
            config: config(),
            members: members.map(|(number, at)| Member::new(number, *at)).collect(),
            lost_answers: schedule.lost_answers,
            tokens: 0,
            standby_server: Failover::of(url, folder).await,
            receptions: schedule.receptions(),
            course: Course::new(schedule.faults),
            fleet: schedule.fleet,
            observer,
        }
    }

    pub async fn run(mut self) -> Tally {
        while now() < HORIZON {
            self.step().await;
            clocks_apart::pass(STEP);
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
        at_broker(|broker| broker.expire(now()));
        for number in 0..MEMBERS {
            self.run_member(number).await;
        }
        self.observer.look_for_marks().await;
    }

    fn publish(&mut self) {
        for device in self.fleet.publish(now(), &mut self.rng) {
            if at_broker(|broker| broker.publish(device, &Message::Heartbeat(device))) {
                self.observer.published(device);
            }
        }
    }

    async fn begin(&mut self, Planned { fault, number, lasts, .. }: Planned) {
        self.observer.note(format_args!("{fault:?} of {number} for {lasts}"));
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
                self.standby_server.promote().await;
                self.observer.failed_over().await;
            }
            Fault::Broker => at_broker(ShareBroker::stop),
        }
        self.set_wires(false);
    }

    fn end(&mut self, Planned { fault, number, .. }: Planned) {
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
                process.wire.set_away(all || self.course.cuts_off(member.number));
            }
        }
    }

    // --- The members ---

    async fn run_member(&mut self, number: usize) {
        if self.members[number].process.is_none() && now() >= self.members[number].starts_at {
            self.start(number).await;
        }
        self.tokens += 1;
        if self.members[number].run(EchoToken::new(self.tokens)).await {
            self.observer.note(format_args!("{number} has left"));
            self.members[number].kill();
        }
    }

    async fn start(&mut self, number: usize) {
        self.observer.note(format_args!("{number} starts"));
        let wire = Wire::new();
        wire.set_away(self.course.cuts_off(number));
        wire.lose_answers(self.lost_answers);
        let observed = self.observer.on(&wire, number);
        let store = DeviceStore::open(&self.url, OpenMode::Existing).await.expect("it opens");
        let store = store.in_a_group().telling_timelines_by(TIMELINE).interfere(observed);
        // Each process has a number of its own.
        let mut settings = Settings::from(&self.config);
        settings.settle = Duration::ZERO;
        self.members[number].start(settings, store, wire, &mut self.rng).await;
    }
}

fn config() -> Config {
    let mut config = TIMES.config();
    config.mqtt.share_group = Some(GROUP.to_owned());
    config
}

/// A group at whose broker each third device is given to the same member.
fn by_device(offsets: [i64; 3], starts_at: [i64; MEMBERS], fleet: Fleet) -> (Schedule, Routing) {
    let (starts_at, faults) = (starts_at.into(), VecDeque::new());
    (Schedule { offsets, starts_at, faults, fleet, lost_answers: 0 }, Routing::ByDevice)
}

/// The first heartbeats of devices that publish one after the other.
fn in_turns() -> Vec<i64> {
    (0..DEVICES as i64).map(|device| device * 80).collect()
}

/// The third member joins, the database loses its row, and it hangs before it notices.
pub fn a_member_whose_row_is_lost() -> (Schedule, Routing) {
    let fleet = Fleet::new(in_turns(), vec![FAULTS.start; DEAD], PERIOD);
    let (schedule, routing) = by_device([0; 3], [0, 50, 10_000], fleet);
    (Schedule { faults: a_row_is_lost(), ..schedule }, routing)
}

/// The member with the fastest clock hangs, by which it has proven the time of heartbeats that it
/// has received and not written. The ones before are older than its clock is fast.
pub fn a_fast_clock_that_hangs() -> (Schedule, Routing) {
    let (faults, dies_at, publishes_at) = one_hangs();
    let period = PERIOD * 3 / 2;
    let mut begin_at = in_turns();
    begin_at[..DEAD].fill(publishes_at % period);
    let fleet = Fleet::new(begin_at, vec![dies_at; DEAD], period);
    let (schedule, routing) = by_device([0, 1_400, 0], [0, 50, 100], fleet);
    (Schedule { faults, ..schedule }, routing)
}
