//! The page of the results.

use std::fmt::Write;
use std::time::Duration;

use super::changes::Changes;
use super::{Extent, Kind, Outcome};
use crate::chart::thousands;
use crate::machine;
use crate::sample::Sample;
use crate::streams::{Pair, Streams};

const TEMPLATE: &str = include_str!("benchmarks-api.md");

/// The longest median that a request may have.
const TARGET: Duration = Duration::from_millis(100);

/// The most by which the memory may grow, in bytes.
const GROWTH: u64 = 30_000_000;

/// The part of the rate that is left with open streams.
const RATE: f64 = 0.95;

/// The outcome for one database, in one line.
pub fn summary(outcome: &Outcome) -> String {
    let slowest = outcome.requests.iter().map(|(_, sample)| sample.percentile(50)).max();
    let [before, alone, crowded] = outcome.memory.map(|bytes| bytes / 1_000_000);
    format!(
        "{}: the slowest request {:.1?} at the median, the first screen {:.1?}, {:.0} heartbeats/s, \
         {before} MB, then {alone} and {crowded} MB",
        outcome.server.name(),
        slowest.unwrap_or_default(),
        outcome.first_screen.percentile(50),
        outcome.per_second,
    )
}

pub fn page(
    extent: &Extent,
    outcomes: &[Outcome],
    open: &[Streams],
    changed: &[Changes],
    took: Duration,
) -> String {
    let load = open.first().map(|streams| streams.load.to_string()).unwrap_or_default();
    let transitions = extent.devices * 2 + extent.devices / 10 + extent.devices / 1_000;
    TEMPLATE
        .replace("{{date}}", &chrono::Utc::now().format("%Y-%m-%d").to_string())
        .replace("{{took}}", &format!("{:.0} minutes", took.as_secs_f64() / 60.0))
        .replace("{{machine}}", &machine::describe())
        .replace("{{devices}}", &thousands(extent.devices as f64))
        .replace("{{transitions}}", &thousands(transitions as f64))
        .replace("{{rounds}}", &extent.rounds.to_string())
        .replace("{{per_second}}", &thousands(extent.per_second as f64))
        .replace("{{requests}}", &requests(outcomes))
        .replace("{{clients}}", &extent.clients.to_string())
        .replace("{{memory}}", &memory(outcomes))
        .replace("{{load}}", &load)
        .replace("{{streams}}", &thousands(extent.streams as f64))
        .replace("{{turns}}", &extent.turns.to_string())
        .replace("{{open}}", &streams(open))
        .replace("{{changing}}", &thousands(extent.changing as f64))
        .replace("{{changes}}", &changes(changed))
}

fn requests(outcomes: &[Outcome]) -> String {
    let mut table = String::from("| request |");
    let mut line = String::from("|---|");
    for outcome in outcomes {
        let _ = write!(table, " {}: median / p99 / slowest |", outcome.server.name());
        line += "---:|";
    }
    table = format!("{table}\n{line}\n");
    let Some(first) = outcomes.first() else { return String::new() };
    row(&mut table, "first screen, all of it one after the other", outcomes, |outcome| {
        outcome.first_screen.clone()
    });
    let mut files_shown = false;
    for (index, (request, _)) in first.requests.iter().enumerate() {
        if request.kind == Kind::File {
            if !files_shown {
                files_shown = true;
                row(&mut table, "&nbsp; the page and each of its files", outcomes, files);
            }
            continue;
        }
        let indent = if request.kind == Kind::Other { "" } else { "&nbsp; " };
        let path = shown(&request.path);
        let about = format!("{indent}{}: `{path}`", request.about);
        row(&mut table, &about, outcomes, |outcome| outcome.requests[index].1.clone());
    }
    let rates = outcomes.iter().map(|outcome| {
        let slowest = outcome.requests.iter().map(|(_, sample)| sample.percentile(50)).max();
        let slowest = slowest.unwrap_or_default().max(outcome.first_screen.percentile(50));
        let met = if slowest <= TARGET { "met" } else { "**missed**" };
        format!(
            "{}: {} heartbeats a second were handled meanwhile. The slowest median is {} ms; at most \
             {} ms: {met}.\n",
            outcome.server.name(),
            thousands(outcome.per_second),
            millis(slowest),
            TARGET.as_millis(),
        )
    });
    let rates: String = rates.collect();
    format!("{table}\n{rates}")
}

/// A path as it is shown: a cursor is long, and a time is another one in each run.
fn shown(path: &str) -> String {
    let ends =
        ["cursor=", "until=", "found_at="].map(|name| path.find(name).map(|at| at + name.len()));
    match ends.into_iter().flatten().min() {
        Some(end) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
}

/// The latencies of all files together.
fn files(outcome: &Outcome) -> Sample {
    let files = outcome.requests.iter().filter(|(request, _)| request.kind == Kind::File);
    Sample::of(files.flat_map(|(_, sample)| sample.all()).collect())
}

fn row(table: &mut String, about: &str, outcomes: &[Outcome], of: impl Fn(&Outcome) -> Sample) {
    let _ = write!(table, "| {about} |");
    for outcome in outcomes {
        let sample = of(outcome);
        let [p50, p99, max] = [50, 99, 100].map(|percent| millis(sample.percentile(percent)));
        let _ = write!(table, " {p50} / {p99} / {max} |");
    }
    table.push('\n');
}

fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

fn memory(outcomes: &[Outcome]) -> String {
    let mut table = String::from(
        "| database | only heartbeats, MB | one client, MB | many clients, MB | growth, MB; at most 30 | answers to many, of them 429 |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for outcome in outcomes {
        let [before, alone, crowded] = outcome.memory.map(|bytes| bytes as f64 / 1e6);
        let growth = outcome.growth();
        let met = if growth < GROWTH { "met" } else { "**missed**" };
        let (answers, busy) = outcome.crowd;
        let _ = writeln!(
            table,
            "| {} | {before:.1} | {alone:.1} | {crowded:.1} | {:.1}, {met} | {}, {} |",
            outcome.server.name(),
            growth as f64 / 1e6,
            thousands(answers as f64),
            thousands(busy as f64),
        );
    }
    table
}

fn streams(open: &[Streams]) -> String {
    let mut table = String::from(
        "| streams | pair | heartbeats/s without | with | ratio | CPU-s per million without | with | ratio |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for streams in open {
        let name = format!("{} {}", thousands(streams.streams as f64), streams.kind.name());
        for (index, pair) in streams.pairs.iter().enumerate() {
            let Pair { without, with } = pair;
            let _ = writeln!(
                table,
                "| {name} | {} | {} | {} | {:.3} | {:.2} | {:.2} | {:.3} |",
                index + 1,
                thousands(without.per_second()),
                thousands(with.per_second()),
                pair.rate(),
                without.cpu_seconds_per_million(),
                with.cpu_seconds_per_million(),
                pair.cpu(),
            );
        }
        let met = if streams.rate() >= RATE { "met" } else { "**missed**" };
        let _ = writeln!(
            table,
            "| {name} | median | | | **{:.3}**; at least {RATE}: {met} | | | **{:.3}** |",
            streams.rate(),
            streams.cpu(),
        );
    }
    table
}

fn changes(changed: &[Changes]) -> String {
    let mut table = String::from(
        "| database | change | with the indexes, CPU-s | without, CPU-s | ratio |\n|---|---|---:|---:|---:|\n",
    );
    for changes in changed {
        let both = [
            ("fall, and are marked offline", changes.medians(|turn| turn.fell)),
            ("return, and are online again", changes.medians(|turn| turn.returned)),
        ];
        for (change, [with, without, ratio]) in both {
            let name = changes.server.name();
            let _ =
                writeln!(table, "| {name} | {change} | {with:.2} | {without:.2} | {ratio:.2} |");
        }
    }
    table
}
