//! The inputs of the micro-benchmarks, the same for time and for instructions.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::{Coverage, DeviceId, GapCause, Heartbeat, Pending};

/// A payload with the usual fields.
pub const PAYLOAD: &[u8] =
    br#"{"timestamp":"2026-11-24T03:00:00.123Z","uptime_seconds":86400,"free_memory":123456}"#;

pub const TIMEOUT: Duration = Duration::from_secs(180);

/// A moment before the payload was sent.
pub fn start() -> DateTime<Utc> {
    const NANOSECONDS: i64 = 1_795_489_200_000_000_000;
    DateTime::from_timestamp_nanos(NANOSECONDS)
}

pub fn device(number: u64) -> DeviceId {
    format!("device-{number:07}").parse().expect("an id")
}

/// One heartbeat of each device, in an arbitrary order.
pub fn heartbeats(devices: u64) -> Vec<Heartbeat> {
    const PRIME: u64 = 2_654_435_761;
    let numbers = (0..devices).map(|step| step * PRIME % devices);
    numbers.map(|number| parse(device(number), PAYLOAD)).collect()
}

pub fn parse(device: DeviceId, payload: &[u8]) -> Heartbeat {
    Heartbeat::parse(device, payload, start())
}

/// Merges them into a buffer that already has one of each device, as it does most of the
/// time under load.
pub fn coalesce(mut pending: Pending, heartbeats: Vec<Heartbeat>) -> Pending {
    for heartbeat in heartbeats {
        pending.merge(heartbeat).expect("there is room");
    }
    pending
}

pub fn pending(heartbeats: &[Heartbeat]) -> Pending {
    let mut pending = Pending::default();
    pending.set_capacity(heartbeats.len() as u64);
    coalesce(pending, heartbeats.to_vec())
}

/// A coverage with `gaps` gaps.
pub fn coverage(gaps: i64) -> Coverage {
    let mut coverage = Coverage::new(Duration::from_secs(5));
    for gap in 0..=gaps {
        let since = start() + TimeDelta::seconds(100 * gap);
        coverage.confirm(since, since + TimeDelta::seconds(10), GapCause::Disconnected);
    }
    coverage
}

/// The end of a coverage with `gaps` gaps.
pub fn end(gaps: i64) -> DateTime<Utc> {
    start() + TimeDelta::seconds(100 * gaps + 10)
}
