//! Measures throughput: the same load for each candidate, in turns.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::candidates::{Candidate, Stage};
use crate::chart::thousands;
use crate::open_files;
use publishers::Fleet;

/// The load of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub devices: u64,
    /// The number of heartbeats of each device, after a first one that is not measured.
    pub rounds: u64,
    /// The number of connections that publish them.
    pub connections: u64,
}

impl Load {
    /// The number of heartbeats that are measured.
    pub fn heartbeats(self) -> u64 {
        self.devices * self.rounds
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.connections == 1 { "" } else { "s" };
        let [heartbeats, connections] =
            [self.heartbeats(), self.connections].map(|number| thousands(number as f64));
        write!(f, "{heartbeats} heartbeats, {connections} connection{plural}")
    }
}

/// The result of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub heartbeats: u64,
    pub took: Duration,
    pub cpu: Duration,
    pub peak_memory: u64,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.heartbeats as f64 / self.took.as_secs_f64()
    }

    pub fn cpu_seconds_per_million(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.heartbeats as f64
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7.0} heartbeats/s, {:>6.2} CPU-s per million, {:>4} MB",
            self.per_second(),
            self.cpu_seconds_per_million(),
            self.peak_memory / 1_000_000
        )
    }
}

/// Starts a candidate, makes it process the load, and stops it.
pub fn run(candidate: &Candidate, load: Load, stage: &Stage) -> anyhow::Result<Outcome> {
    let Load { devices, rounds, connections } = load;
    open_files::check(connections)?;
    let mut running = candidate.start(stage)?;
    let mut fleet = Fleet::connect(running.port(), candidate.qos, devices, connections)?;
    // Registers the fleet.
    fleet.publish(1)?;
    fleet.await_acknowledged()?;
    running.await_processed(devices, 1)?;

    let (before, began) = (running.used(), Instant::now());
    let last = rounds + 1;
    for round in 2..=last {
        fleet.publish(round)?;
    }
    fleet.await_acknowledged()?;
    running.await_processed(devices, last)?;
    let (took, after) = (began.elapsed(), running.used());
    let processed = running.count_processed(devices, last)?;
    ensure!(
        processed == devices,
        "{candidate}: only {processed} of {devices} devices show the last heartbeat"
    );
    Ok(Outcome {
        heartbeats: load.heartbeats(),
        took,
        cpu: after.cpu.saturating_sub(before.cpu),
        peak_memory: after.peak_memory,
    })
}
