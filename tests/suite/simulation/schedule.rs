//! The course of a schedule of several instances. Times are in milliseconds.

use std::collections::VecDeque;

use fastrand::Rng;

use super::instance_faults::{Fault, Planned};

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
