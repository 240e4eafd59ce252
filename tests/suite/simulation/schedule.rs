//! The course of a schedule of several instances. Times are in milliseconds.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use heartbeatd::Config;

use super::instance_faults::{Fault, Planned};
use crate::support::fleet::non_zero;

/// The percentage of COMMITs whose answer is lost, in a schedule in which some are.
const LOST_ANSWERS: u8 = 20;
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The times by which instances and their fleet are.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub timeout: i64,
    pub echo_interval: i64,
    /// The time that a heartbeat or an echo takes.
    pub way: i64,
}

impl Times {
    /// The configuration of an instance that flushes only when it is asked to.
    pub fn config(self) -> Config {
        let mut config = Config::default();
        let millis = |millis: i64| non_zero(Duration::from_millis(millis.unsigned_abs()));
        config.heartbeat.timeout = millis(self.timeout);
        config.heartbeat.flush_interval = non_zero(NEVER);
        config.mqtt.echo_interval = Some(millis(self.echo_interval));
        config
    }
}

/// The faults, the clocks, and the fleet.
pub struct Schedule {
    /// The times by which the clocks of the instances are wrong.
    pub offsets: [i64; 3],
    /// The starts of the instances.
    pub starts_at: Vec<i64>,
    pub faults: VecDeque<Planned>,
    pub fleet: Fleet,
    /// The percentage of COMMITs whose answer is lost.
    pub lost_answers: u8,
}

impl Schedule {
    /// The moments after which what is committed is lost by a failover.
    pub fn receptions(&self) -> VecDeque<i64> {
        let mut failed_over_at = 0;
        let failovers = self.faults.iter().filter_map(|planned| match planned.fault {
            Fault::FailOver { loses } => Some((planned.at, planned.at - loses)),
            _ => None,
        });
        let received = |(at, until): (i64, i64)| {
            // What was lost once does not come back.
            let until = until.max(failed_over_at + 1);
            failed_over_at = at;
            until
        };
        failovers.map(received).collect()
    }
}

/// The percentage of COMMITs whose answer is lost in a random schedule.
pub fn some_lost_answers(rng: &mut Rng) -> u8 {
    if rng.u8(0..4) == 0 { LOST_ANSWERS } else { 0 }
}

/// Devices that publish heartbeats, of which the first ones die.
pub struct Fleet {
    /// The next heartbeats of the devices.
    publishes_at: Vec<i64>,
    /// The deaths of the first of them.
    dies_at: Vec<i64>,
    period: i64,
    jitter: i64,
}

impl Fleet {
    /// A fleet whose devices publish for the first time at these times, and of which the first die at
    /// those.
    pub fn new(publishes_at: Vec<i64>, dies_at: Vec<i64>, period: i64) -> Self {
        Self { publishes_at, dies_at, period, jitter: 0 }
    }

    /// A fleet of so many devices, of which so many die at random times within `dies`.
    pub fn random(
        [devices, dying]: [usize; 2],
        period: i64,
        dies: Range<i64>,
        rng: &mut Rng,
    ) -> Self {
        let publishes_at = (0..devices).map(|_| rng.i64(0..period)).collect();
        let dies_at = (0..dying).map(|_| rng.i64(dies.clone())).collect();
        Self::new(publishes_at, dies_at, period).with_jitter(300)
    }

    /// The same fleet, whose heartbeats are earlier or later by at most this than they should be.
    pub fn with_jitter(self, jitter: i64) -> Self {
        Self { jitter, ..self }
    }

    pub fn devices(&self) -> usize {
        self.publishes_at.len()
    }

    /// The number of devices that die.
    pub fn dying(&self) -> usize {
        self.dies_at.len()
    }

    /// The devices that publish now.
    pub fn publish(&mut self, now: i64, rng: &mut Rng) -> Vec<usize> {
        let due: Vec<_> = (0..self.devices()).filter(|n| self.publishes_at[*n] <= now).collect();
        let mut publish = Vec::new();
        for device in due {
            if self.dies_at.get(device).is_some_and(|dies| *dies <= now) {
                self.publishes_at[device] = i64::MAX;
                continue;
            }
            self.publishes_at[device] += self.period + rng.i64(-self.jitter..=self.jitter);
            publish.push(device);
        }
        publish
    }
}
