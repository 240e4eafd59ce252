//! Measures the cost of a check by the size of the fleet and the number of silent
//! devices, and its effect on heartbeats and echoes, which keep arriving.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::candidates::{Broker, Stage};
use crate::contestants::{Contestant, Heartbeatd, await_every};
use crate::database::{Database, Server};
use crate::log::{Line, Log, Span};
use crate::sample::Sample;
use publishers::Publisher;

/// The part of the fleet that falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    None,
    OnePercent,
    All,
}

impl Silent {
    pub const ALL: [Self; 3] = [Self::None, Self::OnePercent, Self::All];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OnePercent => "1 %",
            Self::All => "all",
        }
    }

    fn of(self, devices: u64) -> u64 {
        match self {
            Self::None => 0,
            Self::OnePercent => devices.div_ceil(100),
            Self::All => devices,
        }
    }
}

/// A database, the size of its fleet, and the part that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub server: Server,
    pub devices: u64,
    pub silent: Silent,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, silent) = (self.server.name(), self.silent.name());
        write!(f, "{server:<10} {:>8} devices, {silent:>4} silent", self.devices)
    }
}

/// The result of a case.
#[derive(Debug)]
pub struct Outcome {
    /// The time from the start of the process until it listened.
    pub start_up: Duration,
    /// The time of the check that found them, or the median of several checks that found
    /// none.
    pub check: Duration,
    /// The time of a bare count of the silent devices in the same database.
    pub bare_count: Duration,
    /// The latencies of the echoes that were on their way during such a check.
    pub echoes_in_check: Sample,
    /// The latencies of those during a flush while no check ran. Empty unless no device
    /// is silent.
    pub echoes_in_flush: Sample,
    pub peak_memory: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checked in {:?}, counted in {:.1?}, echoes {} and {}, {} MB, started in {:.0?}",
            self.check,
            self.bare_count,
            self.echoes_in_check,
            self.echoes_in_flush,
            self.peak_memory / 1_000_000,
            self.start_up,
        )
    }
}

/// The number of devices beside the registered ones that publish, each once a second.
pub const VISITORS: u64 = 1_000;

/// The log's line about a check.
pub const CHECKED: &str = "INFO ticker newly_offline= undelivered= duration_ms=";

/// The log's line about a flush.
const FLUSHED: &str = "DEBUG device_registry heartbeats= duration_ms=";

/// A timeout that is short enough to wait for.
const TIMEOUT: u64 = 8;

/// The number of checks and counts of which the median is taken.
const REPEATED: usize = 5;

/// The longest time for a case. Ten million devices that are all silent take minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// The time between two looks. Looking takes time from what is measured.
const LOOK: Duration = Duration::from_millis(500);

pub fn run(case: Case, stage: &Stage) -> anyhow::Result<Outcome> {
    let Case { server, devices, silent } = case;
    let database = Database::new(server)?;
    database.register(devices, (silent == Silent::OnePercent).then_some(TIMEOUT))?;
    let timeout = if silent == Silent::All { format!("{TIMEOUT}s") } else { "1h".to_owned() };
    // With the registry at debug there would be a line for each silent device.
    let log = match silent {
        Silent::None => "info,sqlx=warn,mqtt_ingest=debug,device_registry=debug",
        Silent::OnePercent | Silent::All => "info,sqlx=warn,mqtt_ingest=debug",
    };
    let settings = [
        ("HEARTBEAT__TIMEOUT", &*timeout),
        ("HEARTBEAT__CHECK_INTERVAL", "2s"),
        ("MQTT__ECHO_INTERVAL", "100ms"),
        ("HTTP__LISTEN", "off"),
        ("ALERTS__TIMEOUT", "10m"),
        ("RUST_LOG", log),
    ];
    let service =
        Heartbeatd::start(stage, database, Broker::Mosquitto, stage.mosquitto, &settings)?;
    let enough = AtomicBool::new(false);
    let (log, bare_count) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(service.port(), devices, &enough));
        let watched = watch(&service, case);
        enough.store(true, Ordering::Relaxed);
        publishing.join().expect("it does not panic")?;
        watched
    })?;

    let found: Vec<_> = relevant(&log, case).collect();
    let mut durations: Vec<_> = found.iter().filter_map(|l| l.duration("duration_ms")).collect();
    durations.sort_unstable();
    let check = *durations.get(durations.len() / 2).context("a check")?;
    let checks: Vec<_> = found.iter().filter_map(|line| line.span("duration_ms")).collect();
    let all_checks: Vec<_> = log.of(CHECKED).filter_map(|l| l.span("duration_ms")).collect();
    let undisturbed = |flush: &Span| !all_checks.iter().any(|check| check.overlaps(flush));
    let flushes = log.of(FLUSHED).filter_map(|l| l.span("duration_ms"));
    let flushes: Vec<_> = flushes.filter(undisturbed).collect();
    Ok(Outcome {
        start_up: service.started_up_in(),
        check,
        bare_count,
        echoes_in_check: Sample::of(log.echo_latencies(&checks)),
        echoes_in_flush: Sample::of(log.echo_latencies(&flushes)),
        peak_memory: service.used().peak_memory,
    })
}

/// The checks that belong to the case. The first one is skipped, because it comes during
/// startup.
fn relevant(log: &Log, case: Case) -> impl Iterator<Item = Line<'_>> {
    let expected = case.silent.of(case.devices);
    let checks = log.of(CHECKED).skip(1);
    checks.filter(move |line| match (expected, line.number("newly_offline")) {
        (0, found) => found == Some(0),
        (_, found) => found.is_some_and(|found| found > 0),
    })
}

/// Waits for the checks, and measures bare counts in between.
fn watch(service: &Heartbeatd, case: Case) -> anyhow::Result<(Log, Duration)> {
    let expected = case.silent.of(case.devices);
    let checks = if expected == 0 { REPEATED } else { 1 };
    let mut counts = Vec::new();
    if expected == 0 {
        let long_ago = chrono::Utc::now().timestamp_millis() - 3_600_000;
        let sql = format!("SELECT count(*) FROM device WHERE last_seen_at < {long_ago}");
        for _ in 0..REPEATED {
            let began = Instant::now();
            let silent = service.database.number(&sql)?;
            counts.push(began.elapsed());
            ensure!(silent == Some(0), "a device is silent for an hour: {silent:?}");
        }
    }
    counts.sort_unstable();
    await_every(LOOK, PATIENCE, "the checks", || {
        Ok(relevant(&service.log()?, case).count() >= checks)
    })?;
    let sql = "SELECT count(*) FROM status_transition \
               WHERE to_status = 'offline' AND delivered_at IS NOT NULL";
    if expected > 0 {
        await_every(LOOK, PATIENCE, "the deliveries", || {
            Ok(service.database.number(sql)? == Some(i64::try_from(expected)?))
        })?;
    }
    Ok((service.log()?, counts.get(counts.len() / 2).copied().unwrap_or_default()))
}

fn publish(port: u16, first: u64, enough: &AtomicBool) -> anyhow::Result<()> {
    let visitors = (first..first + VISITORS).cycle();
    let interval = Duration::from_secs(1) / VISITORS as u32;
    let mut publisher = Publisher::connect(port, 1)?;
    publisher.paced(visitors, interval, || enough.load(Ordering::Relaxed))
}
