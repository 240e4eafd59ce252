//! The payloads of virtual devices, also those that cannot be read.

use std::io::Write;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::device::{Device, Role};

/// Errors that a device reports.
const ERRORS: [&str; 4] = [
    "temperature 94 °C is above its limit of 85 °C",
    "valve is stuck",
    "battery is low",
    "sensor 2 does not answer",
];

/// The skews of clocks, in seconds.
const SKEWS: [i64; 5] = [-27_812_142, 90, -3_600, 7_200, 86_400];

/// Payloads that cannot be read, or not as a whole.
const MALFORMED: [&[u8]; 6] = [
    b"{\"uptime_seconds\": 17, \"rssi\": nan}",
    b"{\"uptime_seconds\": 17, \"free_mem",
    b"alive",
    b"[17, 80000]",
    b"{\"uptime_seconds\": \"soon\"}",
    b"\xff\xfe{}",
];

/// Writes what `device`, the one with this number, says after `uptime` seconds, when the right
/// time is `wall`.
pub(super) fn write(
    device: &Device,
    number: u32,
    uptime: i64,
    wall: DateTime<Utc>,
    random: &mut fastrand::Rng,
    payload: &mut Vec<u8>,
) {
    payload.clear();
    let variant = number as usize;
    if device.role == Role::Malformed {
        payload.extend_from_slice(MALFORMED[variant % MALFORMED.len()]);
        return;
    }
    let clock = match device.role {
        Role::Skewed => wall + TimeDelta::seconds(SKEWS[variant % SKEWS.len()]),
        _ => wall,
    };
    let clock = clock.to_rfc3339_opts(SecondsFormat::Millis, true);
    let memory = random.u32(40_000..200_000);
    // Writing to a vector cannot fail.
    let _ = write!(
        payload,
        r#"{{"timestamp":"{clock}","uptime_seconds":{uptime},"free_memory":{memory}"#
    );
    if device.role == Role::Failing && device.bad {
        let _ = write!(payload, r#","error":"{}""#, ERRORS[variant % ERRORS.len()]);
    }
    payload.push(b'}');
}
