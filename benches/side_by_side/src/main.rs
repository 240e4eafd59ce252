//! Measures heartbeatd beside its peers. `scripts/bench.sh` installs what it needs and
//! runs it.

mod candidates;
mod chart;
mod contestants;
mod database;
mod detection;
mod log;
mod machine;
mod process;
mod report;
mod sample;
mod silence;
mod throughput;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use servers::mosquitto::Mosquitto;

use crate::candidates::{Candidate, Stage};
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
        #[arg(long, default_value_t = 1)]
        repetitions: u32,
        /// Only candidates whose name contains one of these
        #[arg(long)]
        only: Vec<String>,
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
        Command::Throughput { devices, rounds, repetitions, only } => {
            let all = Candidate::all().into_iter();
            let chosen: Vec<_> = all
                .filter(|candidate| {
                    let name = candidate.to_string();
                    only.is_empty() || only.iter().any(|part| name.contains(part))
                })
                .collect();
            for _ in 0..repetitions {
                for candidate in &chosen {
                    let outcome = throughput::run(candidate, Load { devices, rounds }, &stage)?;
                    println!("{candidate:<45} {outcome}");
                }
            }
            Ok(())
        }
        Command::Silence { devices } => {
            for silent in Silent::ALL {
                let case = Case { server: Server::Sqlite, devices, silent };
                println!("{case}: {}", silence::run(case, &stage)?);
            }
            Ok(())
        }
    }
}
