//! The fleet: which virtual device does what, and when.
//!
//! Time is an argument, counted from the start of the simulation. One device takes 40 bytes,
//! however long the simulation lasts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::device::{Device, Role};
use super::payload;

/// A number of devices: as such, or as a share of the fleet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Devices(u32),
    /// A part of the fleet, from 0 to 1.
    Share(f64),
}

impl Amount {
    /// The number of devices of a fleet of `all`. A share is rounded.
    fn of(self, all: u32) -> u32 {
        match self {
            Self::Devices(devices) => devices,
            // Between 0 and `all`.
            Self::Share(share) => (share * f64::from(all)).round() as u32,
        }
    }
}

impl FromStr for Amount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a share such as 5%, or a number of devices";
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Devices).map_err(|_| EXPECTED),
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Share(percent / 100.0)),
                _ => Err(EXPECTED),
            },
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Devices(devices) => write!(f, "{devices}"),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

/// The ids of the devices.
#[derive(Clone, Debug)]
pub(crate) enum Names {
    /// This text and a number from 1 on, with as many digits as the largest.
    Numbered(String),
    /// These, one for each device.
    Listed(Vec<String>),
}

/// Devices that fall silent together, again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    pub(crate) devices: Amount,
    /// The time from the start to the first fall.
    pub(crate) first: Duration,
    /// The time from each fall to the next.
    pub(crate) every: Duration,
}

/// A fleet that is to be simulated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) devices: u32,
    pub(crate) names: Names,
    /// The time between two heartbeats of a device.
    pub(crate) period: Duration,
    /// The part of the period, from 0 to 1, by which a heartbeat may be late.
    pub(crate) jitter: f64,
    /// Devices that die and return.
    pub(crate) dying: Amount,
    /// The time for which such a device lives, and for which it is dead, on average; also the
    /// time for which those of a burst are dead.
    pub(crate) up: Duration,
    pub(crate) down: Duration,
    /// The devices that fall together, if any. They are the last ones.
    pub(crate) burst: Option<Burst>,
    /// Devices that report an error now and then.
    pub(crate) failing: Amount,
    /// Devices whose clock is wrong.
    pub(crate) skewed: Amount,
    /// Devices whose payload cannot be read.
    pub(crate) malformed: Amount,
}

/// A plan for which there are not enough devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "each device is one of these at most, which takes {asked} devices, and there {} {devices}",
    if *.devices == 1 { "is" } else { "are" }
)]
pub(crate) struct FleetError {
    asked: u64,
    devices: u32,
}

/// The thing that a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It sends a heartbeat.
    Beats,
    /// It sends its first heartbeat after it was dead.
    Returns,
    /// It dies, without a word.
    Falls,
}

/// A step of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) device: u32,
    pub(crate) what: What,
}

/// The simulated fleet.
pub(crate) struct Fleet {
    plan: Plan,
    devices: Vec<Device>,
    /// The instants at which devices do something next.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    random: fastrand::Rng,
    down: u32,
    failing: u32,
}

impl Fleet {
    /// Makes the fleet that `plan` describes. The same seed is the same fleet.
    ///
    /// # Errors
    ///
    /// If more devices are to be special than there are.
    pub(crate) fn new(plan: Plan, seed: u64) -> Result<Self, FleetError> {
        let mut random = fastrand::Rng::with_seed(seed);
        let roles = roles(&plan, &mut random)?;
        let period = micros(plan.period);
        let mut fleet = Self {
            due: BinaryHeap::with_capacity(roles.len()),
            devices: Vec::with_capacity(roles.len()),
            plan,
            random,
            down: 0,
            failing: 0,
        };
        for (index, role) in (0..).zip(roles) {
            // Up to a month.
            let booted = -fleet.random.i64(1_000_000..2_600_000_000_000);
            let turns = match role {
                Role::Bursting => fleet.burst_after(0),
                _ => fleet.about(fleet.plan.up),
            };
            fleet.devices.push(Device { role, bad: false, booted, turns });
            // They do not begin all at once.
            let first = fleet.random.u64(0..period);
            fleet.due.push(Reverse((first, index)));
        }
        Ok(fleet)
    }

    /// The instant at which the next device does something.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((due, _))| Duration::from_micros(*due))
    }

    /// Does the next thing that is due at `now`.
    pub(crate) fn step(&mut self, now: Duration) -> Option<Step> {
        let now = micros(now);
        let &Reverse((due, device)) = self.due.peek()?;
        if due > now {
            return None;
        }
        self.due.pop();
        // What was missed by a simulation that is late is not made up for.
        let from = now.saturating_sub(micros(self.plan.period)).max(due);
        let (what, next) = match self.devices[device as usize].role {
            Role::Dying | Role::Bursting => self.live_or_die(device, from),
            Role::Failing => {
                self.work_or_fail(device, from);
                (What::Beats, self.next_heartbeat(from))
            }
            Role::Steady | Role::Skewed | Role::Malformed => {
                (What::Beats, self.next_heartbeat(from))
            }
        };
        self.due.push(Reverse((next, device)));
        Some(Step { device, what })
    }

    /// Lets a device live, fall or return at `now`. Returns when it does something next.
    fn live_or_die(&mut self, index: u32, now: u64) -> (What, u64) {
        let Device { role, bad, turns, .. } = self.devices[index as usize];
        let falls_together = role == Role::Bursting;
        if bad {
            let turns = match role {
                Role::Bursting => self.burst_after(now),
                _ => now + self.about(self.plan.up),
            };
            self.down -= 1;
            // It takes a moment to boot.
            let booted = now as i64 - 3_000_000;
            self.devices[index as usize] = Device { role, bad: false, booted, turns };
            return (What::Returns, self.next_heartbeat(now));
        }
        if now < turns {
            return (What::Beats, self.next_heartbeat(now).min(turns));
        }
        self.down += 1;
        self.devices[index as usize].bad = true;
        let returns = if falls_together {
            // They return as they are switched on again: one after the other.
            turns + micros(self.plan.down) + self.random.u64(0..=micros(self.plan.period))
        } else {
            now + self.about(self.plan.down)
        };
        (What::Falls, returns.max(now + 1))
    }

    fn work_or_fail(&mut self, index: u32, now: u64) {
        if now < self.devices[index as usize].turns {
            return;
        }
        let turns = now + self.about(self.plan.up);
        let device = &mut self.devices[index as usize];
        device.bad = !device.bad;
        device.turns = turns;
        if device.bad {
            self.failing += 1;
        } else {
            self.failing -= 1;
        }
    }

    /// The first instant after `now` at which devices fall together.
    fn burst_after(&self, now: u64) -> u64 {
        let Some(Burst { first, every, .. }) = self.plan.burst else { return u64::MAX };
        let (first, every) = (micros(first), micros(every));
        match now.checked_sub(first) {
            None => first,
            Some(since) => first + (since / every + 1) * every,
        }
    }

    fn next_heartbeat(&mut self, now: u64) -> u64 {
        let jitter = self.plan.jitter * (self.random.f64() - 0.5);
        // The jitter is less than the period.
        now + (micros(self.plan.period) as f64 * (1.0 + jitter)) as u64
    }

    /// A random time around `duration`.
    fn about(&mut self, duration: Duration) -> u64 {
        (micros(duration) as f64 * (0.5 + self.random.f64())) as u64
    }

    /// The id of a device.
    pub(crate) fn id(&self, device: u32) -> String {
        match &self.plan.names {
            Names::Listed(names) => names[device as usize].clone(),
            Names::Numbered(prefix) => {
                let width = self.plan.devices.to_string().len();
                format!("{prefix}{:0width$}", u64::from(device) + 1)
            }
        }
    }

    /// Writes what a device says at `now`, when the clock shows `wall`, into `payload`.
    pub(crate) fn say(
        &mut self,
        device: u32,
        now: Duration,
        wall: DateTime<Utc>,
        payload: &mut Vec<u8>,
    ) {
        let it = &self.devices[device as usize];
        let uptime = (micros(now) as i64 - it.booted) / 1_000_000;
        payload::write(it, device, uptime, wall, &mut self.random, payload);
    }

    /// The number of devices.
    pub(crate) fn devices(&self) -> u32 {
        self.plan.devices
    }

    /// The number of devices that are dead.
    pub(crate) fn down(&self) -> u32 {
        self.down
    }

    /// The number of devices that report an error.
    pub(crate) fn failing(&self) -> u32 {
        self.failing
    }
}

/// The role of each device. Those that fall together are the last ones, and the others with
/// something special are anywhere before them.
fn roles(plan: &Plan, random: &mut fastrand::Rng) -> Result<Vec<Role>, FleetError> {
    let burst = plan.burst.map_or(Amount::Devices(0), |burst| burst.devices);
    let special = [
        (plan.dying, Role::Dying),
        (plan.failing, Role::Failing),
        (plan.skewed, Role::Skewed),
        (plan.malformed, Role::Malformed),
    ];
    let bursting = burst.of(plan.devices);
    let counts = special.map(|(amount, role)| (amount.of(plan.devices), role));
    let asked =
        counts.iter().map(|(count, _)| u64::from(*count)).sum::<u64>() + u64::from(bursting);
    if asked > u64::from(plan.devices) {
        return Err(FleetError { asked, devices: plan.devices });
    }
    let mut roles: Vec<Role> = counts
        .into_iter()
        .flat_map(|(count, role)| std::iter::repeat_n(role, count as usize))
        .collect();
    roles.resize((plan.devices - bursting) as usize, Role::Steady);
    random.shuffle(&mut roles);
    roles.resize(plan.devices as usize, Role::Bursting);
    Ok(roles)
}

/// A duration in microseconds, for at most 100,000 years.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(1 << 61)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(devices: u32) -> Plan {
        Plan {
            devices,
            names: Names::Numbered("sim-".to_owned()),
            period: 10 * SECOND,
            jitter: 0.2,
            dying: Amount::Devices(0),
            up: 100 * SECOND,
            down: 50 * SECOND,
            burst: None,
            failing: Amount::Devices(0),
            skewed: Amount::Devices(0),
            malformed: Amount::Devices(0),
        }
    }

    fn fleet(plan: Plan) -> Fleet {
        Fleet::new(plan, 17).expect("there are enough devices")
    }

    /// The steps until `end`, with their times in seconds.
    fn steps(fleet: &mut Fleet, end: u64) -> Vec<(f64, Step)> {
        let mut steps = Vec::new();
        while let Some(due) = fleet.next_due().filter(|due| *due <= SECOND * end as u32) {
            let step = fleet.step(due).expect("it is due");
            steps.push((due.as_secs_f64(), step));
        }
        steps
    }

    #[test]
    fn each_device_sends_a_heartbeat_once_a_period_and_they_are_spread_over_it() {
        let mut fleet = fleet(plan(1000));
        let mut last = BTreeMap::new();
        let mut first_second = 0;
        for (at, Step { device, what }) in steps(&mut fleet, 100) {
            assert_eq!(what, What::Beats);
            first_second += u32::from(at < 1.0);
            if let Some(before) = last.insert(device, at) {
                assert!((8.999..=11.001).contains(&(at - before)), "{device}: {before} {at}");
            } else {
                assert!(at < 10.0, "{device} begins at {at}");
            }
        }
        assert_eq!(last.len(), 1000);
        assert!((50..200).contains(&first_second), "{first_second} of 1000 in the first of 10 s");
    }

    #[test]
    fn the_same_seed_is_the_same_fleet() {
        let special = |seed| {
            let plan = Plan { dying: Amount::Share(0.5), ..plan(20) };
            let mut fleet = Fleet::new(plan, seed).expect("there are enough");
            format!("{:?}", steps(&mut fleet, 300))
        };
        assert_eq!(special(1), special(1));
        assert_ne!(special(1), special(2));
    }

    #[test]
    fn dying_devices_fall_and_return_and_say_nothing_in_between() {
        let mut fleet = fleet(Plan { dying: Amount::Devices(4), ..plan(40) });
        let (mut fallen, mut falls) = (BTreeMap::new(), BTreeMap::<_, u32>::new());
        for (at, Step { device, what }) in steps(&mut fleet, 1000) {
            let dead = fallen.remove(&device);
            match (what, dead) {
                (What::Falls, None) => {
                    *falls.entry(device).or_default() += 1;
                    fallen.insert(device, at);
                }
                (What::Returns, Some(since)) => {
                    let dead: f64 = at - since;
                    assert!((25.0..=75.1).contains(&dead), "{device} was dead for {dead} s");
                }
                (What::Beats, None) => (),
                step => panic!("{device} at {at}: {step:?}"),
            }
        }
        assert_eq!(fleet.down() as usize, fallen.len());
        assert_eq!(falls.len(), 4, "{falls:?}");
        // 1000 s are seven lives and deaths.
        assert!(falls.values().all(|times| (3..15).contains(times)), "{falls:?}");
    }

    #[test]
    fn a_burst_falls_within_a_period_and_returns() {
        let burst =
            Some(Burst { devices: Amount::Share(0.25), first: 100 * SECOND, every: 200 * SECOND });
        let mut fleet = fleet(Plan { burst, ..plan(40) });
        let steps = steps(&mut fleet, 400);
        for burst in [100.0, 300.0] {
            for (what, from) in [(What::Falls, burst), (What::Returns, burst + 50.0)] {
                let mut devices: Vec<_> = steps
                    .iter()
                    .filter(|(at, step)| step.what == what && (from..from + 11.0).contains(at))
                    .map(|(_, step)| step.device)
                    .collect();
                devices.sort_unstable();
                assert_eq!(devices, (30..40).collect::<Vec<_>>(), "{what:?} at {from}");
            }
        }
        assert_eq!(fleet.down(), 0);
    }

    #[test]
    fn failing_devices_report_errors_now_and_then() {
        let mut fleet = fleet(Plan { failing: Amount::Devices(3), ..plan(10) });
        let mut seen = std::collections::BTreeSet::new();
        while let Some(due) = fleet.next_due().filter(|due| *due < 1000 * SECOND) {
            fleet.step(due);
            seen.insert(fleet.failing());
        }
        assert!(seen.contains(&0) && seen.len() > 2 && seen.iter().all(|n| *n <= 3), "{seen:?}");
    }

    #[test]
    fn heartbeats_that_were_missed_are_not_made_up_for() {
        let mut fleet = fleet(plan(10));
        let hour = 3600 * SECOND;
        let made_up = std::iter::from_fn(|| fleet.step(hour)).count();
        assert!(made_up <= 20, "{made_up} heartbeats of 10 devices after an hour");
    }

    #[test]
    fn more_special_devices_than_there_are_is_an_error() {
        let all = Plan { dying: Amount::Share(0.5), malformed: Amount::Devices(5), ..plan(10) };
        assert!(Fleet::new(all.clone(), 1).is_ok());
        let more = Plan { failing: Amount::Devices(1), ..all };
        let error = Fleet::new(more, 1).err().expect("too many").to_string();
        assert_eq!(
            error,
            "each device is one of these at most, which takes 11 devices, and there are 10"
        );
        let one = Plan { dying: Amount::Devices(1), failing: Amount::Devices(1), ..plan(1) };
        let error = Fleet::new(one, 1).err().expect("too many").to_string();
        assert!(error.ends_with("takes 2 devices, and there is 1"), "{error}");
    }

    #[test]
    fn an_amount_is_a_share_or_a_number() {
        for (text, of_200) in [("0", 0), ("7", 7), ("5%", 10), ("0.5%", 1), ("100%", 200)] {
            let amount: Amount = text.parse().expect(text);
            assert_eq!(amount.of(200), of_200, "{text}");
            assert_eq!(amount.to_string(), text);
        }
        for text in ["", "%", "-1", "101%", "-1%", "nan%", "0.5", "5 %x", "inf%"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_sort_as_they_are_numbered() {
        let ids = fleet(plan(100));
        assert_eq!((ids.id(0), ids.id(99)), ("sim-001".to_owned(), "sim-100".to_owned()));
    }
}
