//! Measures heartbeatd beside what it is compared with. `scripts/bench.sh` installs
//! what it needs and runs it.

mod candidates;
mod contest;
mod counting;
mod process;
mod publisher;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use servers::mosquitto::Mosquitto;

use crate::candidates::{Broker, Candidate, Kind, Stage, Store};
use crate::contest::Load;

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The client that only counts; a candidate.
    #[command(hide = true)]
    Count(counting::Options),
    /// Throughput of some candidates, to look at while working on it.
    Throughput {
        #[arg(long, default_value_t = 100_000)]
        devices: u64,
        #[arg(long, default_value_t = 10)]
        rounds: u64,
        #[arg(long, default_value_t = 1)]
        repetitions: u32,
        /// Only candidates whose name contains one of these.
        #[arg(long)]
        only: Vec<String>,
        #[arg(long, default_value = "target/release/heartbeatd")]
        heartbeatd: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Count(options) => counting::run(&options),
        Command::Throughput { devices, rounds, repetitions, only, heartbeatd } => {
            let mosquitto = Mosquitto::start();
            let stage = Stage {
                heartbeatd: heartbeatd.canonicalize()?,
                peers: "benches/peers".into(),
                installed: "target/peers".into(),
                mosquitto: mosquitto.port,
            };
            for _ in 0..repetitions {
                for candidate in everybody() {
                    let name = candidate.to_string();
                    if !only.is_empty() && !only.iter().any(|part| name.contains(part)) {
                        continue;
                    }
                    let load = Load { devices, rounds };
                    let outcome = contest::run(&candidate, load, &stage)?;
                    println!(
                        "{candidate:<45} {:>9.0}/s {:>7.2} CPU-s/million {:>6} MB",
                        outcome.per_second(),
                        outcome.cpu_seconds_per_million(),
                        outcome.peak_memory / 1_000_000,
                    );
                }
            }
            Ok(())
        }
    }
}

fn everybody() -> Vec<Candidate> {
    let mut all = Vec::new();
    for qos in [0, 1] {
        for broker in [Broker::Mosquitto, Broker::Embedded] {
            for kind in [
                Kind::Counting,
                Kind::Heartbeatd(Store::Sqlite),
                Kind::Heartbeatd(Store::Postgresql),
            ] {
                all.push(Candidate { kind, broker, qos });
            }
        }
    }
    let peers = ["asyncio", "mqtt-exporter", "node-red"];
    all.extend(peers.map(|name| Candidate {
        kind: Kind::Peer(name.to_owned()),
        broker: Broker::Mosquitto,
        qos: 0,
    }));
    all
}
