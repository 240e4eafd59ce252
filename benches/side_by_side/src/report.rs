//! Measures everything in one go and writes a page with tables and charts.

mod markdown;
mod page;
mod summary;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::candidates::{Broker, Candidate, KINDS, Kind, PEERS, Stage};
use crate::connections::{Idle, Stall};
use crate::database::Server;
use crate::sample::Sample;
use crate::silence::{self, Case, Silent};
use crate::throughput::{self, Load, Outcome};
use crate::{connections, detection, machine};

/// The extent of a measurement.
#[derive(Clone, Debug)]
pub struct Extent {
    pub quick: bool,
    /// The number of turns of heartbeatd and the counting client. The others have one,
    /// which takes them minutes.
    pub turns: usize,
    /// The others that are compared.
    pub peers: &'static [&'static str],
    /// The size of the fleet in the comparison.
    pub devices: u64,
    /// The number of heartbeats that the counting client and heartbeatd behind mosquitto get
    /// in each turn. The others get one from each device.
    pub heartbeats: u64,
    /// The numbers of heartbeats that the embedded broker gets.
    pub embedded_heartbeats: [u64; 2],
    /// The numbers of connections through which it gets them.
    pub connections: Vec<u64>,
    /// The numbers of connections that do nothing.
    pub idle: Vec<u64>,
    /// The number of heartbeats that it gets while the database is locked.
    pub stall_heartbeats: u64,
    /// The time for which it is locked.
    pub locked: Duration,
    /// The sizes of the fleets in the scaling curves.
    pub fleets: Vec<u64>,
    /// The number of heartbeats for each of these fleets.
    pub fleet_heartbeats: u64,
    /// The sizes of the tables that checks search.
    pub tables: Vec<u64>,
    /// The largest of these tables of which devices fall silent. Marking more takes minutes.
    pub largest_silent: u64,
}

impl Extent {
    pub fn full(turns: usize) -> Self {
        Self {
            quick: false,
            turns,
            // With so many devices node-red does not finish in time.
            peers: &["asyncio", "mqtt-exporter"],
            devices: 100_000,
            heartbeats: 1_000_000,
            embedded_heartbeats: [600_000, 3_000_000],
            connections: vec![1, 50, 5_000],
            idle: vec![10_000, 20_000],
            stall_heartbeats: 5_000_000,
            locked: Duration::from_secs(30),
            fleets: vec![10_000, 100_000, 1_000_000],
            fleet_heartbeats: 1_000_000,
            tables: vec![10_000, 100_000, 1_000_000, 10_000_000],
            largest_silent: 1_000_000,
        }
    }

    /// The extent of a run within five minutes.
    pub fn quick() -> Self {
        Self {
            quick: true,
            turns: 1,
            peers: &PEERS,
            devices: 10_000,
            heartbeats: 500_000,
            embedded_heartbeats: [60_000, 300_000],
            connections: vec![1, 50],
            idle: vec![1_000],
            stall_heartbeats: 500_000,
            locked: Duration::from_secs(8),
            fleets: vec![10_000, 100_000],
            fleet_heartbeats: 500_000,
            tables: vec![100_000],
            largest_silent: 100_000,
        }
    }

    /// The loads of the embedded broker, first those of few heartbeats.
    pub fn embedded_loads(&self) -> Vec<Load> {
        let Self { devices, embedded_heartbeats, connections, .. } = self;
        let loads = embedded_heartbeats.iter().flat_map(|heartbeats| {
            let (devices, rounds) = (*devices, heartbeats / devices);
            connections.iter().map(move |&connections| Load { devices, rounds, connections })
        });
        loads.collect()
    }
}

/// All turns of one candidate. Empty for a peer that did not finish.
type Turns = Vec<Outcome>;

/// The results of a run.
pub struct Results {
    pub extent: Extent,
    pub machine: String,
    /// Behind mosquitto.
    pub throughput: Vec<(Candidate, Turns)>,
    /// With the embedded broker.
    pub embedded: Vec<(Candidate, Load, Turns)>,
    pub idle: Vec<Idle>,
    pub stall: Stall,
    pub fleets: Vec<(Kind, u64, Turns)>,
    pub silence: Vec<(Case, silence::Outcome)>,
    pub detection: Sample,
    pub took: Duration,
}

/// Measures everything and writes the page and its charts into `folder`. Writes them
/// again after each check, so that a run that is cut short leaves what it has.
pub fn write(extent: Extent, stage: &Stage, folder: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    fs::create_dir_all(folder.join("benchmarks"))?;
    let throughput = compare(&extent, stage)?;
    let embedded = receive(&extent, stage)?;
    let idle = connections::idle(&extent.idle, stage)?;
    let stall = connections::stall(extent.devices, extent.stall_heartbeats, extent.locked, stage)?;
    eprintln!("{stall}");
    let fleets = scale(&extent, stage)?;
    let detection = detection::run(stage)?;
    eprintln!("detected {detection} after the deadline");
    let cases = cases(&extent);
    let machine = machine::describe();
    let (silence, took) = (Vec::new(), Duration::ZERO);
    let mut results = Results {
        extent,
        machine,
        throughput,
        embedded,
        idle,
        stall,
        fleets,
        silence,
        detection,
        took,
    };
    let mut failed = None;
    for case in cases {
        match silence::run(case, stage) {
            Ok(outcome) => {
                eprintln!("{case}: {outcome}");
                results.silence.push((case, outcome));
                results.silence.sort_by_key(|(case, _)| (case.server, case.devices));
            }
            Err(error) => {
                eprintln!("{case}: {error:#}");
                failed = Some(error.context(format!("{case}; the page is without it")));
            }
        }
        results.took = began.elapsed();
        page::write(&results, folder)?;
    }
    failed.map_or(Ok(()), Err)
}

/// The cases, the largest table last, because it takes longest.
fn cases(extent: &Extent) -> Vec<Case> {
    let mut cases = Vec::new();
    for &devices in &extent.tables {
        for server in [Server::Sqlite, Server::Postgresql] {
            let of_silent = Silent::ALL.map(|silent| Case { server, devices, silent });
            cases.extend(of_silent.into_iter().filter(|case| match case.silent {
                Silent::None => true,
                // One percent of a small table is no load.
                Silent::OnePercent => devices == extent.largest_silent,
                Silent::All => devices <= extent.largest_silent,
            }));
        }
    }
    cases
}

/// Measures all candidates behind mosquitto in turns, so that whatever else the machine does
/// hits all of them alike.
fn compare(extent: &Extent, stage: &Stage) -> anyhow::Result<Vec<(Candidate, Turns)>> {
    let mut all: Vec<(Candidate, Turns)> = Candidate::behind_mosquitto(extent.peers)
        .into_iter()
        .map(|candidate| (candidate, Turns::new()))
        .collect();
    for turn in 1..=extent.turns {
        for (candidate, turns) in &mut all {
            if turn > 1 && matches!(candidate.kind, Kind::Peer(_)) {
                continue;
            }
            let rounds = match candidate.kind {
                Kind::Peer(_) => 1,
                Kind::Counting | Kind::Heartbeatd(_) => extent.heartbeats / extent.devices,
            };
            let load = Load { devices: extent.devices, rounds, connections: 1 };
            match throughput::run(candidate, load, stage) {
                Ok(outcome) => {
                    eprintln!("turn {turn}: {candidate:<42} {outcome}");
                    turns.push(outcome);
                }
                // A peer that cannot do it is a result too.
                Err(error) if matches!(candidate.kind, Kind::Peer(_)) => {
                    eprintln!("turn {turn}: {candidate:<42} {error:#}");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

/// Measures heartbeatd with its embedded broker and the counting client behind mosquitto, in
/// turns, with few and many heartbeats through few and many connections.
fn receive(extent: &Extent, stage: &Stage) -> anyhow::Result<Vec<(Candidate, Load, Turns)>> {
    let mut all = Vec::new();
    for qos in [0, 1] {
        for load in extent.embedded_loads() {
            all.extend(Candidate::embedded(qos).map(|candidate| (candidate, load, Turns::new())));
        }
    }
    for turn in 1..=extent.turns {
        for (candidate, load, turns) in &mut all {
            let outcome = throughput::run(candidate, *load, stage)?;
            eprintln!("turn {turn}: {candidate:<42} {load}: {outcome}");
            turns.push(outcome);
        }
    }
    Ok(all)
}

/// Measures the same number of heartbeats from small and large fleets, in turns.
fn scale(extent: &Extent, stage: &Stage) -> anyhow::Result<Vec<(Kind, u64, Turns)>> {
    let fleets = extent.fleets.iter();
    let mut all: Vec<_> =
        fleets.flat_map(|&devices| KINDS.map(|kind| (kind, devices, Turns::new()))).collect();
    for turn in 1..=extent.turns {
        for (kind, devices, turns) in &mut all {
            let candidate = Candidate { kind: *kind, broker: Broker::Mosquitto, qos: 0 };
            let rounds = extent.fleet_heartbeats.div_ceil(*devices);
            let load = Load { devices: *devices, rounds, connections: 1 };
            let outcome = throughput::run(&candidate, load, stage)?;
            eprintln!("turn {turn}: {devices:>8} devices: {kind:<25} {outcome}");
            turns.push(outcome);
        }
    }
    Ok(all)
}

/// The turns of one kind, by the size of the fleet.
pub fn by_fleet(fleets: &[(Kind, u64, Turns)], kind: Kind) -> BTreeMap<u64, &[Outcome]> {
    let own = fleets.iter().filter(|(other, ..)| *other == kind);
    own.map(|(_, devices, turns)| (*devices, &**turns)).collect()
}
