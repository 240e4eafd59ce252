//! The page: a template whose placeholders are filled with the results.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::markdown::row;
use super::summary::{cost_ratio, cpu, megabytes, per_second, ratio};
use super::{Results, by_fleet, targets};
use crate::candidates::{KINDS, Kind};
use crate::chart::{self, Axes, Series, thousands};
use crate::connections::Stall;
use crate::contestants;
use crate::database::Server;
use crate::detection;
use crate::open_files;
use crate::sample::Sample;
use crate::silence::{self, Silent};
use crate::throughput::Outcome;

const TEMPLATE: &str = include_str!("benchmarks.md");

pub fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    let charts = folder.join("benchmarks");
    for qos in [0, 1] {
        let bars: Vec<_> = results
            .throughput
            .iter()
            .filter(|(candidate, turns)| candidate.qos == qos && !turns.is_empty())
            .map(|(candidate, turns)| (candidate.kind.to_string(), per_second(turns)))
            .collect();
        let title = format!("Heartbeats per second behind mosquitto at QoS {qos}");
        chart::bars(&charts.join(format!("throughput-qos{qos}.svg")), &title, &bars)?;
        embedded_chart(results, qos, &charts.join(format!("embedded-qos{qos}.svg")))?;
    }
    cost_chart(results, &charts.join("cost.svg"))?;
    check_chart(results, &charts.join("checks.svg"))?;

    let date = chrono::Utc::now().format("%Y-%m-%d").to_string();
    let minutes = format!("{:.0} minutes", results.took.as_secs_f64() / 60.0);
    let extent = &results.extent;
    let mode = match (extent.quick, extent.turns) {
        (true, _) => "`./scripts/bench.sh --quick`".to_owned(),
        (false, turns) => format!("`./scripts/bench.sh --turns {turns}`"),
    };
    let page = TEMPLATE
        .replace("{{date}}", &date)
        .replace("{{command}}", &mode)
        .replace("{{took}}", &minutes)
        .replace("{{machine}}", &results.machine)
        .replace("{{devices}}", &thousands(extent.devices as f64))
        .replace("{{heartbeats}}", &thousands(extent.heartbeats as f64))
        .replace("{{fleet_heartbeats}}", &thousands(extent.fleet_heartbeats as f64))
        .replace("{{turns}}", &extent.turns.to_string())
        .replace("{{targets}}", &targets::table(results))
        .replace("{{few}}", &thousands(extent.embedded_heartbeats[0] as f64))
        .replace("{{many}}", &thousands(extent.embedded_heartbeats[1] as f64))
        .replace("{{embedded0}}", &embedded(results, 0))
        .replace("{{embedded1}}", &embedded(results, 1))
        .replace("{{files}}", &thousands(open_files::limit() as f64))
        .replace("{{connections}}", &thousands(open_files::connections() as f64))
        .replace("{{idle}}", &idle(results))
        .replace("{{stall}}", &stall(results))
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

fn throughput(results: &Results, qos: u8) -> String {
    let mut table = String::from(
        "| candidate | heartbeats/s | of the counting client | CPU-s per million | peak memory, MB |\n\
         |---|---:|---:|---:|---:|\n",
    );
    for (candidate, turns) in results.throughput.iter().filter(|(c, _)| c.qos == qos) {
        let kind = candidate.kind.to_string();
        if turns.is_empty() {
            let not_done = format!("not finished within {}", spell(contestants::PATIENCE));
            row(&mut table, &[kind, not_done, String::new(), String::new(), String::new()]);
            continue;
        }
        let mut cells = vec![kind];
        cells.extend(compared(turns, results.turns(Kind::Counting, qos)));
        row(&mut table, &cells);
    }
    table
}

/// The rate, its ratio to the counting client's, the cost and the memory of a candidate.
fn compared(turns: &[Outcome], limit: &[Outcome]) -> [String; 4] {
    let mut rates: Vec<_> = turns.iter().map(Outcome::per_second).collect();
    rates.sort_unstable_by(f64::total_cmp);
    let spread = match rates[..] {
        [least, .., most] => format!(" ({}–{})", thousands(least), thousands(most)),
        _ => String::new(),
    };
    [
        format!("{}{spread}", thousands(per_second(turns))),
        format!("{:.2}", ratio(turns, limit)),
        format!("{:.1}", cpu(turns)),
        thousands(megabytes(turns)),
    ]
}

fn embedded(results: &Results, qos: u8) -> String {
    let mut table = String::from(
        "| heartbeats | connections | candidate | heartbeats/s | of the counting client | CPU-s per million | peak memory, MB |\n\
         |---:|---:|---|---:|---:|---:|---:|\n",
    );
    for load in results.extent.embedded_loads() {
        for kind in KINDS {
            let mut cells = vec![
                thousands(load.heartbeats() as f64),
                thousands(load.connections as f64),
                kind.to_string(),
            ];
            let limit = results.embedded(Kind::Counting, qos, load);
            cells.extend(compared(results.embedded(kind, qos, load), limit));
            row(&mut table, &cells);
        }
    }
    table
}

fn idle(results: &Results) -> String {
    let mut table = String::from(
        "| connections | memory without them, MB | with them, MB | bytes each |\n\
         |---:|---:|---:|---:|\n",
    );
    for idle in &results.idle {
        row(
            &mut table,
            &[
                thousands(idle.connections as f64),
                thousands(idle.before as f64 / 1e6),
                thousands(idle.after as f64 / 1e6),
                thousands(idle.per_connection()),
            ],
        );
    }
    table
}

fn stall(results: &Results) -> String {
    let Stall { devices, heartbeats, locked, sent, counted, written, peak_memory } = results.stall;
    format!(
        "{} heartbeats of {} devices, sent at QoS 1 within {:.1} s while another program locked \
         SQLite for {:.0} s: {} were counted, {} devices had their last one in the database \
         afterwards, and the peak memory was {:.0} MB.",
        thousands(heartbeats as f64),
        thousands(devices as f64),
        sent.as_secs_f64(),
        locked.as_secs_f64(),
        thousands(counted as f64),
        thousands(written as f64),
        peak_memory as f64 / 1e6,
    )
}

fn fleets(results: &Results) -> String {
    let mut table = String::from(
        "| | devices | heartbeats/s | CPU-s per million | to the smallest fleet | peak memory, MB |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for kind in KINDS {
        let fleets = by_fleet(&results.fleets, kind);
        let smallest = fleets.values().next().copied().unwrap_or_default();
        for (devices, turns) in &fleets {
            row(
                &mut table,
                &[
                    kind.to_string(),
                    thousands(*devices as f64),
                    thousands(per_second(turns)),
                    format!("{:.1}", cpu(turns)),
                    format!("{:.2}", cost_ratio(turns, smallest)),
                    thousands(megabytes(turns)),
                ],
            );
        }
    }
    table
}

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
        let shown = |echoes: &Sample| match echoes.len() {
            0 => [String::new(), String::new()],
            some => [echoes.to_string(), some.to_string()],
        };
        let mut cells = vec![
            case.server.name().to_owned(),
            thousands(case.devices as f64),
            case.silent.name().to_owned(),
        ];
        cells.extend(shown(&outcome.echoes_in_check));
        cells.extend(shown(&outcome.echoes_in_flush));
        row(&mut table, &cells);
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

/// The rates with the embedded broker, of many heartbeats.
fn embedded_chart(results: &Results, qos: u8, path: &Path) -> anyhow::Result<()> {
    let [_, many] = results.extent.embedded_heartbeats;
    let mut bars = Vec::new();
    for load in results.extent.embedded_loads() {
        if load.heartbeats() != many {
            continue;
        }
        for kind in KINDS {
            let through = match load.connections {
                1 => "1 connection".to_owned(),
                more => format!("{} connections", thousands(more as f64)),
            };
            let rate = per_second(results.embedded(kind, qos, load));
            bars.push((format!("{kind}, {through}"), rate));
        }
    }
    let title = format!(
        "Heartbeats per second with the embedded broker at QoS {qos} (counting client: mosquitto)"
    );
    chart::bars(path, &title, &bars)
}

fn cost_chart(results: &Results, path: &Path) -> anyhow::Result<()> {
    let series: Vec<_> = KINDS
        .into_iter()
        .map(|kind| Series {
            name: kind.to_string(),
            points: by_fleet(&results.fleets, kind)
                .into_iter()
                .map(|(devices, turns)| (devices as f64, cpu(turns)))
                .collect(),
        })
        .collect();
    let axes = Axes {
        title: "Cost per heartbeat as the fleet grows (QoS 0, mosquitto)",
        x: "devices",
        y: "CPU-seconds per million heartbeats",
    };
    chart::lines(path, &axes, &series, chart::from_zero)
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
    chart::lines(path, &axes, &series, chart::logarithmic)
}

fn millis(duration: Duration) -> String {
    thousands((duration.as_secs_f64() * 1e3).round())
}

fn millis_exactly(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}
