//! The memory of heartbeatd with its embedded broker: for connections that do nothing, and
//! while the database takes nothing.

use std::fmt;
use std::time::{Duration, Instant};

use publishers::{Fleet, uptime};
use servers::process::free_port;

use crate::candidates::{Broker, Stage};
use crate::contestants::{Contestant, Heartbeatd, await_every, await_true};
use crate::database::{Database, Server};
use crate::http::metric;
use crate::open_files;

/// The memory of connections that do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    pub connections: u64,
    /// The memory of the process without them, and with them, in bytes.
    pub before: u64,
    pub after: u64,
}

impl Idle {
    /// The bytes that a connection takes.
    pub fn per_connection(&self) -> f64 {
        self.after.saturating_sub(self.before) as f64 / self.connections as f64
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = [self.before, self.after].map(|bytes| bytes as f64 / 1e6);
        write!(
            f,
            "{} idle connections: from {before:.1} MB to {after:.1} MB, {:.0} bytes each",
            self.connections,
            self.per_connection()
        )
    }
}

/// Opens so many connections, as far as the limit of open files allows, and lets them do
/// nothing.
pub fn idle(numbers: &[u64], stage: &Stage) -> anyhow::Result<Vec<Idle>> {
    let mut all = Vec::new();
    for &wanted in numbers {
        let connections = wanted.min(open_files::connections());
        if connections < wanted {
            eprintln!(
                "{wanted} connections need a limit of open files above {}",
                open_files::limit()
            );
        }
        let service = start(stage, free_port(), &[("HTTP__LISTEN", "off")])?;
        let before = service.used().memory;
        let fleet = Fleet::connect(service.port(), 0, connections, connections)?;
        let idle = Idle { connections, before, after: service.used().memory };
        drop(fleet);
        eprintln!("{idle}");
        all.push(idle);
    }
    Ok(all)
}

/// The result of a flood while the database was locked.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    pub devices: u64,
    pub heartbeats: u64,
    /// The time for which the database was locked.
    pub locked: Duration,
    /// The time until all heartbeats were sent.
    pub sent: Duration,
    /// The number of heartbeats that the service has counted.
    pub counted: u64,
    /// The number of devices whose last heartbeat is in the database.
    pub written: u64,
    pub peak_memory: u64,
}

impl Stall {
    /// True if no heartbeat is missing.
    pub fn is_complete(&self) -> bool {
        (self.counted, self.written) == (self.heartbeats, self.devices)
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { devices, heartbeats, locked, sent, counted, written, peak_memory } = self;
        write!(
            f,
            "{heartbeats} heartbeats in {sent:.1?} while the database was locked for {locked:.1?}: \
             {counted} counted, {written} of {devices} devices written, {} MB",
            peak_memory / 1_000_000
        )
    }
}

/// Sends heartbeats as fast as they are taken, at QoS 1, while another program holds SQLite's
/// lock.
pub fn stall(
    devices: u64,
    heartbeats: u64,
    lock: Duration,
    stage: &Stage,
) -> anyhow::Result<Stall> {
    let http = free_port();
    let service = start(stage, free_port(), &[("HTTP__LISTEN", &format!("127.0.0.1:{http}"))])?;
    let mut fleet = Fleet::connect(service.port(), 1, devices, 50)?;
    fleet.publish(1)?;
    await_true("the fleet is registered", || {
        Ok(service.database.number("SELECT count(*) FROM device")? == Some(devices.try_into()?))
    })?;

    service.database.execute("BEGIN IMMEDIATE")?;
    let began = Instant::now();
    let rounds = heartbeats / devices;
    let last = rounds + 1;
    for round in 2..=last {
        fleet.publish(round)?;
    }
    fleet.await_acknowledged()?;
    let sent = began.elapsed();
    std::thread::sleep(lock.saturating_sub(sent));
    service.database.execute("ROLLBACK")?;
    let locked = began.elapsed();

    let sql = format!("SELECT count(*) FROM device WHERE uptime_seconds = {}", uptime(last));
    let mut written = 0;
    let written_all = await_every(Duration::from_millis(200), PATIENCE, "all is written", || {
        written = service.database.number(&sql)?.unwrap_or_default().unsigned_abs();
        Ok(written == devices)
    });
    if let Err(error) = written_all {
        eprintln!("{error:#}");
    }
    let counted = metric(http, "heartbeatd_heartbeats_total")?.saturating_sub(devices);
    let peak_memory = service.used().peak_memory;
    let heartbeats = devices * rounds;
    Ok(Stall { devices, heartbeats, locked, sent, counted, written, peak_memory })
}

/// The longest time after which a database that is free again has everything.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(stage: &Stage, port: u16, settings: &[(&str, &str)]) -> anyhow::Result<Heartbeatd> {
    Heartbeatd::start(stage, Database::new(Server::Sqlite)?, Broker::Embedded, port, settings)
}
