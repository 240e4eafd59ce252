//! Measures how long after its deadline a silent device is reported.

use std::time::Duration;

use anyhow::Context;

use crate::candidates::{Broker, Stage};
use crate::contestants::{Contestant, Heartbeatd, await_true};
use crate::database::{Database, Server};
use crate::sample::Sample;
use publishers::Publisher;

/// A tenth of the defaults.
pub const TIMEOUT: Duration = Duration::from_secs(18);
pub const CHECK_INTERVAL: Duration = Duration::from_secs(6);
pub const ECHO_INTERVAL: Duration = Duration::from_millis(500);

/// Each device is heard once, one after the other over several check intervals.
pub const DEVICES: u64 = 6_000;
const SPREAD: Duration = Duration::from_secs(24);

/// Measures the time from the end of a device's timeout until the alert sink has accepted
/// the alert.
pub fn run(stage: &Stage) -> anyhow::Result<Sample> {
    let timeout = humantime::format_duration(TIMEOUT).to_string();
    let check_interval = humantime::format_duration(CHECK_INTERVAL).to_string();
    let echo_interval = humantime::format_duration(ECHO_INTERVAL).to_string();
    let settings = [
        ("HEARTBEAT__TIMEOUT", &*timeout),
        ("HEARTBEAT__CHECK_INTERVAL", &*check_interval),
        ("MQTT__ECHO_INTERVAL", &*echo_interval),
        ("HTTP__LISTEN", "off"),
    ];
    let database = Database::new(Server::Sqlite)?;
    let service =
        Heartbeatd::start(stage, database, Broker::Mosquitto, stage.mosquitto, &settings)?;
    let mut publisher = Publisher::connect(service.port(), 1)?;
    publisher.paced(0..DEVICES, SPREAD / u32::try_from(DEVICES)?, || false)?;
    let count = "SELECT count(*) FROM status_transition WHERE delivered_at IS NOT NULL";
    await_true("all are reported", || {
        Ok(service.database.number(count)? == Some(i64::try_from(DEVICES)?))
    })?;
    let sql = format!(
        "SELECT delivered_at - last_seen_at - {} FROM status_transition \
         WHERE to_status = 'offline'",
        TIMEOUT.as_millis()
    );
    let delays = service.database.numbers(&sql)?;
    let delays = delays.into_iter().map(|millis| {
        Ok(Duration::from_millis(u64::try_from(millis).context("reported before its timeout")?))
    });
    Ok(Sample::of(delays.collect::<anyhow::Result<_>>()?))
}
