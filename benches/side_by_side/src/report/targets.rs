//! The targets, and whether they were met.

use std::time::Duration;

use super::markdown::row;
use super::summary::{cost_ratio, cpu, megabytes, per_second, ratio};
use super::{Results, by_fleet};
use crate::candidates::Kind;
use crate::chart::thousands;
use crate::database::Server;
use crate::silence::Silent;
use crate::throughput::Outcome;

/// The table of the targets, with the results and whether they are good enough.
pub fn table(results: &Results) -> String {
    let mut rows = Vec::new();
    let sqlite = Kind::Heartbeatd(Server::Sqlite);
    for (qos, least) in [(0, 0.6), (1, 0.85)] {
        let measured = ratio(results.turns(sqlite, qos), results.turns(Kind::Counting, qos));
        rows.push((
            format!("SQLite, mosquitto, QoS {qos}: of the counting client's rate at least {least}"),
            format!("{measured:.3}"),
            measured >= least,
        ));
    }
    rows.extend(with_the_embedded_broker(results));
    rows.extend(of_connections(results));
    rows.extend(beside_the_peers(results));
    for server in [Server::Sqlite, Server::Postgresql] {
        rows.extend(of_a_million(results, server));
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
                format!("{} ms", p99.as_millis()),
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

/// The targets for heartbeatd on SQLite with its embedded broker.
fn with_the_embedded_broker(results: &Results) -> Vec<(String, String, bool)> {
    let mut rows = Vec::new();
    let [few, many] = results.extent.embedded_heartbeats;
    for (qos, of_few, of_many) in [(0, 3.0, 8.0), (1, 6.0, 15.0)] {
        for load in results.extent.embedded_loads() {
            let own = results.embedded(Kind::Heartbeatd(Server::Sqlite), qos, load);
            let times = ratio(own, results.embedded(Kind::Counting, qos, load));
            let least = if load.heartbeats() == few { of_few } else { of_many };
            let what = format!("SQLite, embedded broker, QoS {qos}, {load}");
            rows.push((
                format!("{what}: times the counting client behind mosquitto at least {least}"),
                format!("{times:.1}"),
                times >= least,
            ));
            if load.heartbeats() == many {
                let cost = cpu(own);
                rows.push((
                    format!("{what}: at most 1.5 CPU-seconds per million"),
                    format!("{cost:.2}"),
                    cost <= 1.5,
                ));
            }
        }
        let embedded = results.embedded.iter();
        let own = embedded.filter(|(candidate, ..)| {
            (candidate.kind, candidate.qos) == (Kind::Heartbeatd(Server::Sqlite), qos)
        });
        let peak = own.map(|(.., turns)| megabytes(turns)).fold(0.0, f64::max);
        rows.push((
            format!("SQLite, embedded broker, QoS {qos}, all of these: at most 100 MB"),
            format!("{peak:.0} MB"),
            peak <= 100.0,
        ));
    }
    rows
}

/// The targets for connections that do nothing, and for a database that takes nothing.
fn of_connections(results: &Results) -> Vec<(String, String, bool)> {
    let mut rows = Vec::new();
    for idle in &results.idle {
        let each = idle.per_connection();
        rows.push((
            format!(
                "{} idle connections: at most 5,000 bytes each",
                thousands(idle.connections as f64)
            ),
            thousands(each),
            each <= 5_000.0,
        ));
    }
    let stall = &results.stall;
    rows.push((
        "a locked database: every heartbeat counted and written".to_owned(),
        format!(
            "{} of {} counted, {} of {} devices written",
            thousands(stall.counted as f64),
            thousands(stall.heartbeats as f64),
            thousands(stall.written as f64),
            thousands(stall.devices as f64)
        ),
        stall.is_complete(),
    ));
    rows
}

/// The targets for a million devices.
fn of_a_million(results: &Results, server: Server) -> Vec<(String, String, bool)> {
    let fleets = by_fleet(&results.fleets, Kind::Heartbeatd(server));
    let (Some(million), Some(small)) = (fleets.get(&1_000_000), fleets.get(&10_000)) else {
        return Vec::new();
    };
    let (peak, times) = (megabytes(million), cost_ratio(million, small));
    let name = server.name();
    vec![
        (
            format!("{name}, 1,000,000 devices that all publish: at most 150 MB"),
            format!("{peak:.0} MB"),
            peak <= 150.0,
        ),
        (
            format!(
                "{name}, CPU per heartbeat of 1,000,000 devices: at most 1.5 times that of 10,000"
            ),
            format!("{times:.2}"),
            times <= 1.5,
        ),
    ]
}

/// The targets for heartbeatd on SQLite behind mosquitto, at QoS 0, beside the best peer
/// in each.
fn beside_the_peers(results: &Results) -> Vec<(String, String, bool)> {
    let own = results.turns(Kind::Heartbeatd(Server::Sqlite), 0);
    let times = ratio(own, results.turns(Kind::Peer("asyncio"), 0));
    let best = |value: fn(&[Outcome]) -> f64, better: fn(f64, f64) -> f64| {
        let all = results.throughput.iter();
        let peers = all.filter(|(candidate, turns)| {
            matches!(candidate.kind, Kind::Peer(_)) && !turns.is_empty()
        });
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

/// The megabytes that the page caches of the database's connections may take.
const FLAT: f64 = 16.0;
