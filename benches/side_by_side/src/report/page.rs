//! The page: a template whose placeholders are filled with what was measured.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Results, by_fleet};
use crate::candidates::{Broker, Candidate, Kind};
use crate::chart::{self, Axes, Series, thousands};
use crate::database::Server;
use crate::detection;
use crate::sample::median;
use crate::silence::{self, Silent};
use crate::throughput::Outcome;

const TEMPLATE: &str = include_str!("benchmarks.md");

pub fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    let charts = folder.join("benchmarks");
    for qos in [0, 1] {
        let bars: Vec<_> = results
            .throughput
            .iter()
            .filter(|(candidate, _)| candidate.qos == qos)
            .map(|(candidate, turns)| (name(candidate), per_second(turns)))
            .collect();
        let title = format!("Heartbeats per second at QoS {qos}");
        chart::bars(&charts.join(format!("throughput-qos{qos}.svg")), &title, &bars)?;
    }
    cost_chart(results, &charts.join("cost.svg"))?;
    check_chart(results, &charts.join("checks.svg"))?;

    let date = chrono::Utc::now().format("%Y-%m-%d").to_string();
    let minutes = format!("{:.0} minutes", results.took.as_secs_f64() / 60.0);
    let extent = &results.extent;
    let mode = if extent.quick { "`./scripts/bench.sh --quick`" } else { "`./scripts/bench.sh`" };
    let page = TEMPLATE
        .replace("{{date}}", &date)
        .replace("{{command}}", mode)
        .replace("{{took}}", &minutes)
        .replace("{{machine}}", &results.machine)
        .replace("{{devices}}", &thousands(extent.devices as f64))
        .replace("{{heartbeats}}", &thousands(extent.heartbeats as f64))
        .replace("{{fleet_heartbeats}}", &thousands(extent.fleet_heartbeats as f64))
        .replace("{{turns}}", &extent.turns.to_string())
        .replace("{{targets}}", &targets(results))
        .replace("{{qos0}}", &throughput(results, 0))
        .replace("{{qos1}}", &throughput(results, 1))
        .replace("{{fleets}}", &fleets(results))
        .replace("{{checks}}", &checks(results))
        .replace("{{echoes}}", &echoes(results))
        .replace("{{memory}}", &memory(results))
        .replace("{{visitors}}", &thousands(silence::VISITORS as f64))
        .replace("{{timeout}}", &spell(detection::TIMEOUT))
        .replace("{{check_interval}}", &spell(detection::CHECK_INTERVAL))
        .replace("{{echo_interval}}", &spell(detection::ECHO_INTERVAL))
        .replace("{{detected}}", &thousands(detection::DEVICES as f64))
        .replace("{{detection}}", &results.detection.to_string());
    fs::write(folder.join("benchmarks.md"), page)?;
    Ok(())
}

fn spell(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn name(candidate: &Candidate) -> String {
    format!("{}, {}", candidate.kind, candidate.broker)
}

fn per_second(turns: &[Outcome]) -> f64 {
    median(turns.iter().map(Outcome::per_second).collect())
}

fn cpu(turns: &[Outcome]) -> f64 {
    median(turns.iter().map(Outcome::cpu_seconds_per_million).collect())
}

fn megabytes(turns: &[Outcome]) -> f64 {
    turns.iter().map(|turn| turn.peak_memory).max().unwrap_or_default() as f64 / 1e6
}

/// The rate of a candidate in units of the rate of another, turn by turn.
fn ratio(turns: &[Outcome], others: &[Outcome]) -> f64 {
    let pairs = turns.iter().zip(others);
    median(pairs.map(|(one, other)| one.per_second() / other.per_second()).collect())
}

impl Results {
    fn turns(&self, kind: Kind, broker: Broker, qos: u8) -> &[Outcome] {
        let wanted = Candidate { kind, broker, qos };
        let found = self.throughput.iter().find(|(candidate, _)| *candidate == wanted);
        found.map_or(&[], |(_, turns)| turns)
    }

    /// The check of a table, and what a bare count costs there.
    fn check(&self, server: Server, devices: u64, silent: Silent) -> Option<&silence::Outcome> {
        let found = self.silence.iter().find(|(case, _)| {
            (case.server, case.devices, case.silent) == (server, devices, silent)
        });
        found.map(|(_, outcome)| outcome)
    }
}

fn throughput(results: &Results, qos: u8) -> String {
    let mut table = String::from(
        "| candidate | broker | heartbeats/s | of the counting client | CPU-s per million | peak memory, MB |\n\
         |---|---|---:|---:|---:|---:|\n",
    );
    for (candidate, turns) in results.throughput.iter().filter(|(c, _)| c.qos == qos) {
        let limit = results.turns(Kind::Counting, candidate.broker, qos);
        let mut rates: Vec<_> = turns.iter().map(Outcome::per_second).collect();
        rates.sort_unstable_by(f64::total_cmp);
        let spread = match rates[..] {
            [least, .., most] => format!(" ({}–{})", thousands(least), thousands(most)),
            _ => String::new(),
        };
        row(
            &mut table,
            &[
                candidate.kind.to_string(),
                candidate.broker.to_string(),
                format!("{}{spread}", thousands(per_second(turns))),
                format!("{:.2}", ratio(turns, limit)),
                format!("{:.1}", cpu(turns)),
                thousands(megabytes(turns)),
            ],
        );
    }
    table
}

fn fleets(results: &Results) -> String {
    let mut table = String::from(
        "| | devices | heartbeats/s | CPU-s per million | to the smallest fleet | peak memory, MB |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for kind in KINDS {
        let fleets = by_fleet(&results.fleets, kind);
        let smallest = fleets.values().next().map_or(f64::NAN, Outcome::cpu_seconds_per_million);
        for (devices, outcome) in &fleets {
            let cpu = outcome.cpu_seconds_per_million();
            row(
                &mut table,
                &[
                    kind.to_string(),
                    thousands(*devices as f64),
                    thousands(outcome.per_second()),
                    format!("{cpu:.1}"),
                    format!("{:.2}", cpu / smallest),
                    thousands(outcome.peak_memory as f64 / 1e6),
                ],
            );
        }
    }
    table
}

const KINDS: [Kind; 3] =
    [Kind::Counting, Kind::Heartbeatd(Server::Sqlite), Kind::Heartbeatd(Server::Postgresql)];

fn checks(results: &Results) -> String {
    let mut table = String::from(
        "| database | devices | silent | check, ms | bare count, ms | ratio | start-up, ms |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (case, outcome) in &results.silence {
        let none = case.silent == Silent::None;
        let ratio = outcome.check.as_secs_f64() / outcome.bare_count.as_secs_f64();
        row(
            &mut table,
            &[
                case.server.name().to_owned(),
                thousands(case.devices as f64),
                case.silent.name().to_owned(),
                millis(outcome.check),
                if none { millis_exactly(outcome.bare_count) } else { String::new() },
                if none { format!("{ratio:.1}") } else { String::new() },
                millis(outcome.start_up),
            ],
        );
    }
    table
}

fn echoes(results: &Results) -> String {
    let mut table = String::from(
        "| database | devices | silent | during the check: p50 / p99 / max | echoes | during flushes: p50 / p99 / max | echoes |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (case, outcome) in &results.silence {
        let none = case.silent == Silent::None;
        row(
            &mut table,
            &[
                case.server.name().to_owned(),
                thousands(case.devices as f64),
                case.silent.name().to_owned(),
                outcome.echoes_in_check.to_string(),
                outcome.echoes_in_check.len().to_string(),
                if none { outcome.echoes_in_flush.to_string() } else { String::new() },
                if none { outcome.echoes_in_flush.len().to_string() } else { String::new() },
            ],
        );
    }
    table
}

fn memory(results: &Results) -> String {
    let mut table =
        String::from("| database | registered devices | peak memory, MB |\n|---|---:|---:|\n");
    for (case, outcome) in results.silence.iter().filter(|(case, _)| case.silent == Silent::None) {
        row(
            &mut table,
            &[
                case.server.name().to_owned(),
                thousands(case.devices as f64),
                thousands(outcome.peak_memory as f64 / 1e6),
            ],
        );
    }
    table
}

/// What was asked for, what was measured, and whether that is enough.
fn targets(results: &Results) -> String {
    let mut rows = Vec::new();
    let sqlite = Kind::Heartbeatd(Server::Sqlite);
    for (qos, least) in [(0, 0.6), (1, 0.85)] {
        for broker in [Broker::Mosquitto, Broker::Embedded] {
            let own = results.turns(sqlite, broker, qos);
            let measured = ratio(own, results.turns(Kind::Counting, broker, qos));
            rows.push((
                format!("SQLite, {broker} broker, QoS {qos}: of the counting client's rate at least {least}"),
                format!("{measured:.2}"),
                measured >= least,
            ));
        }
    }
    rows.extend(beside_the_peers(results));
    let fleets = by_fleet(&results.fleets, sqlite);
    if let Some(million) = fleets.get(&1_000_000) {
        let peak = million.peak_memory as f64 / 1e6;
        rows.push((
            "1,000,000 devices that all publish: at most 150 MB".to_owned(),
            format!("{peak:.0} MB"),
            peak <= 150.0,
        ));
        if let Some(small) = fleets.get(&10_000) {
            let times = million.cpu_seconds_per_million() / small.cpu_seconds_per_million();
            rows.push((
                "CPU per heartbeat of 1,000,000 devices: at most 1.5 times that of 10,000"
                    .to_owned(),
                format!("{times:.2}"),
                times <= 1.5,
            ));
        }
    }
    for server in [Server::Sqlite, Server::Postgresql] {
        let (none, all) = (
            results.check(server, 1_000_000, Silent::None),
            results.check(server, 1_000_000, Silent::All),
        );
        if let Some(none) = none {
            let times = none.check.as_secs_f64() / none.bare_count.as_secs_f64();
            rows.push((
                format!(
                    "{}, 1,000,000 devices, none silent: a check costs at most 4 bare counts",
                    server.name()
                ),
                format!("{times:.1}"),
                times <= 4.0,
            ));
        }
        if let Some(all) = all {
            let p99 = all.echoes_in_check.percentile(99);
            rows.push((
                format!(
                    "{}, 1,000,000 devices, all silent: p99 of the echoes meanwhile under 250 ms",
                    server.name()
                ),
                format!("{} ms", millis(p99)),
                p99 < Duration::from_millis(250),
            ));
        }
        let peaks = [10_000, 10_000_000].map(|devices| {
            results
                .check(server, devices, Silent::None)
                .map(|outcome| outcome.peak_memory as f64 / 1e6)
        });
        if let [Some(small), Some(large)] = peaks {
            rows.push((
                format!(
                    "{}: memory flat from 10,000 to 10,000,000 registered devices",
                    server.name()
                ),
                format!("{small:.0} MB and {large:.0} MB"),
                large < small + FLAT,
            ));
        }
    }
    let mut table = String::from("| target | measured | |\n|---|---|---|\n");
    for (target, measured, met) in rows {
        row(&mut table, &[target, measured, if met { "met" } else { "**missed**" }.to_owned()]);
    }
    table
}

/// heartbeatd on SQLite behind mosquitto, at QoS 0, and the best of the peers in each.
fn beside_the_peers(results: &Results) -> Vec<(String, String, bool)> {
    let own = results.turns(Kind::Heartbeatd(Server::Sqlite), Broker::Mosquitto, 0);
    let times = ratio(own, results.turns(Kind::Peer("asyncio"), Broker::Mosquitto, 0));
    let best = |value: fn(&[Outcome]) -> f64, better: fn(f64, f64) -> f64| {
        let all = results.throughput.iter();
        let peers = all.filter(|(candidate, _)| matches!(candidate.kind, Kind::Peer(_)));
        peers.map(|(_, turns)| value(turns)).reduce(better).unwrap_or(f64::NAN)
    };
    let (rate, others) = (per_second(own), best(per_second, f64::max));
    let (cost, cheapest) = (cpu(own), best(cpu, f64::min));
    let (peak, smallest) = (megabytes(own), best(megabytes, f64::min));
    vec![
        (
            "times the plain asyncio service: at least 30".to_owned(),
            format!("{times:.0}"),
            times >= 30.0,
        ),
        (
            "heartbeats/s: ahead of every peer".to_owned(),
            format!("{}; the best of them {}", thousands(rate), thousands(others)),
            rate > others,
        ),
        (
            "CPU-seconds per million: below every peer".to_owned(),
            format!("{cost:.1}; the best of them {cheapest:.1}"),
            cost < cheapest,
        ),
        (
            "memory: below every peer".to_owned(),
            format!("{peak:.0} MB; the best of them {smallest:.0} MB"),
            peak < smallest,
        ),
    ]
}

/// Megabytes that the page caches of the database's connections may take.
const FLAT: f64 = 16.0;

fn cost_chart(results: &Results, path: &Path) -> anyhow::Result<()> {
    let series: Vec<_> = KINDS
        .into_iter()
        .map(|kind| Series {
            name: kind.to_string(),
            points: by_fleet(&results.fleets, kind)
                .into_iter()
                .map(|(devices, outcome)| (devices as f64, outcome.cpu_seconds_per_million()))
                .collect(),
        })
        .collect();
    let axes = Axes {
        title: "Cost per heartbeat as the fleet grows (QoS 0, mosquitto)",
        x: "devices",
        y: "CPU-seconds per million heartbeats",
    };
    chart::lines(path, &axes, &series)
}

fn check_chart(results: &Results, path: &Path) -> anyhow::Result<()> {
    let mut series = Vec::new();
    for server in [Server::Sqlite, Server::Postgresql] {
        for silent in Silent::ALL {
            let cases = results.silence.iter();
            let points = cases
                .filter(|(case, _)| case.server == server && case.silent == silent)
                .map(|(case, outcome)| {
                    // The log has whole milliseconds.
                    (case.devices as f64, outcome.check.as_secs_f64().max(0.001) * 1e3)
                });
            let name = format!("{}, {} silent", server.name(), silent.name());
            series.push(Series { name, points: points.collect() });
        }
    }
    let axes = Axes {
        title: "Time of a check by the size of the fleet",
        x: "registered devices",
        y: "milliseconds",
    };
    chart::lines(path, &axes, &series)
}

fn row(table: &mut String, cells: &[String]) {
    writeln!(table, "| {} |", cells.join(" | ")).expect("memory");
}

fn millis(duration: Duration) -> String {
    thousands((duration.as_secs_f64() * 1e3).round())
}

fn millis_exactly(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}
