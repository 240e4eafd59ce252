//! Measures throughput: the same load for each candidate, in turns.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::candidates::{Candidate, Stage};
use publishers::Publisher;

/// The load of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub devices: u64,
    /// The number of heartbeats of each device, after a first one that is not measured.
    pub rounds: u64,
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
    let mut running = candidate.start(stage)?;
    let mut publisher = Publisher::connect(running.port(), candidate.qos)?;
    // Registers the fleet.
    publisher.round(load.devices, 1)?;
    running.await_processed(load.devices, 1)?;

    let (before, began) = (running.used(), Instant::now());
    let last = load.rounds + 1;
    for round in 2..=last {
        publisher.round(load.devices, round)?;
    }
    running.await_processed(load.devices, last)?;
    let (took, after) = (began.elapsed(), running.used());
    let processed = running.count_processed(load.devices, last)?;
    ensure!(
        processed == load.devices,
        "{candidate}: only {processed} of {} devices show the last heartbeat",
        load.devices
    );
    Ok(Outcome {
        heartbeats: load.devices * load.rounds,
        took,
        cpu: after.cpu.saturating_sub(before.cpu),
        peak_memory: after.peak_memory,
    })
}
