//! Measures heartbeatd beside its peers. `scripts/bench.sh` installs what it needs and
//! runs it.

mod candidates;
mod chart;
mod connections;
mod contestants;
mod database;
mod detection;
mod http;
mod log;
mod machine;
mod open_files;
mod process;
mod report;
mod sample;
mod silence;
mod streams;
mod surface;
mod throughput;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use servers::mosquitto::Mosquitto;

use crate::candidates::{Broker, Candidate, PEERS, Stage};
use crate::database::Server;
use crate::report::Extent;
use crate::silence::{Case, Silent};
use crate::throughput::Load;

#[derive(Parser)]
#[command(about)]
struct Cli {
    /// The heartbeatd to measure
    #[arg(long, global = true, default_value = "target/release/heartbeatd")]
    heartbeatd: PathBuf,

    /// The folder in which the peers are installed
    #[arg(long, global = true, default_value = "target/peers")]
    peers: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the client that only counts, which is a candidate
    #[command(hide = true)]
    Count(contestants::Options),
    /// Measure everything and write a page with charts
    Report {
        /// Measure less, within five minutes
        #[arg(long)]
        quick: bool,
        /// The number of turns of each candidate
        #[arg(long, default_value_t = 3)]
        turns: usize,
        /// The folder for benchmarks.md
        #[arg(long, default_value = "docs")]
        folder: PathBuf,
    },
    /// Measure the throughput of some candidates while working on it
    Throughput {
        #[arg(long, default_value_t = 100_000)]
        devices: u64,
        #[arg(long, default_value_t = 10)]
        rounds: u64,
        /// The numbers of connections that publish
        #[arg(long, value_delimiter = ',', default_value = "1")]
        connections: Vec<u64>,
        #[arg(long, default_value_t = 1)]
        repetitions: u32,
        /// Only candidates whose name contains one of these
        #[arg(long)]
        only: Vec<String>,
    },
    /// Measure the memory of connections that do nothing
    Idle {
        #[arg(long, value_delimiter = ',', default_value = "10000,20000")]
        connections: Vec<u64>,
    },
    /// Send heartbeats as fast as they are taken while SQLite is locked
    Stall {
        /// The seconds for which it is locked
        #[arg(long, default_value_t = 30)]
        locked: u64,
        #[arg(long, default_value_t = 100_000)]
        devices: u64,
        #[arg(long, default_value_t = 5_000_000)]
        heartbeats: u64,
    },
    /// Measure the API under load, and print a page about it
    Surface {
        #[command(flatten)]
        extent: surface::Extent,
        /// The folder for benchmarks-api.md
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Measure checks of a fleet on SQLite while working on them
    Silence {
        #[arg(long, default_value_t = 1_000_000)]
        devices: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let Cli { heartbeatd, peers, command } = Cli::parse();
    if let Command::Count(options) = command {
        return contestants::count(&options);
    }
    open_files::raise();
    let mosquitto = Mosquitto::start();
    let stage = Stage {
        heartbeatd: heartbeatd.canonicalize()?,
        peers: "benches/peers".into(),
        installed: peers,
        mosquitto: mosquitto.port,
    };
    match command {
        Command::Count(_) => Ok(()),
        Command::Report { quick, turns, folder } => {
            let extent = if quick { Extent::quick() } else { Extent::full(turns) };
            report::write(extent, &stage, &folder)
        }
        Command::Throughput { devices, rounds, connections, repetitions, only } => {
            let mut all = Candidate::behind_mosquitto(&PEERS);
            let embedded = [0, 1].into_iter().flat_map(Candidate::embedded);
            all.extend(embedded.filter(|candidate| candidate.broker == Broker::Embedded));
            let chosen: Vec<_> = all
                .iter()
                .filter(|candidate| {
                    let name = candidate.to_string();
                    only.is_empty() || only.iter().any(|part| name.contains(part))
                })
                .collect();
            for _ in 0..repetitions {
                for &connections in &connections {
                    for candidate in &chosen {
                        let load = Load { devices, rounds, connections };
                        let outcome = throughput::run(candidate, load, &stage)?;
                        println!("{candidate:<45} {connections:>5} connections {outcome}");
                    }
                }
            }
            Ok(())
        }
        Command::Idle { connections } => connections::idle(&connections, &stage).map(|_| ()),
        Command::Stall { devices, heartbeats, locked } => {
            let locked = Duration::from_secs(locked);
            println!("{}", connections::stall(devices, heartbeats, locked, &stage)?);
            Ok(())
        }
        Command::Surface { extent, folder } => surface::run(&extent, &stage, folder.as_deref()),
        Command::Silence { devices } => {
            for silent in Silent::ALL {
                let case = Case { server: Server::Sqlite, devices, silent };
                println!("{case}: {}", silence::run(case, &stage)?);
            }
            Ok(())
        }
    }
}
