//! The SQL that the statements of a batch share.

use std::time::Duration;

use sea_orm::Value;

use crate::domain::{Heartbeat, Status};
use crate::store::millis;
use crate::store::rows::{self, Columns, Type};

/// The columns of a heartbeat.
pub(super) const HEARTBEAT: Columns = &[
    ("id", Type::Text),
    ("last_seen_at", Type::Integer),
    ("uptime_seconds", Type::Integer),
    ("free_memory", Type::Integer),
    ("clock_skew_ms", Type::Integer),
    ("error", Type::Text),
    ("payload_error", Type::Text),
];

/// A row of [`HEARTBEAT`], value by value.
pub(super) fn values(heartbeat: &Heartbeat) -> [Value; HEARTBEAT.len()] {
    [
        heartbeat.device_id.as_str().into(),
        millis(heartbeat.received_at).into(),
        heartbeat.uptime_seconds.map(i64::from).into(),
        heartbeat.free_memory.map(i64::from).into(),
        heartbeat.clock_skew_ms.map(i64::from).into(),
        heartbeat.error.as_deref().into(),
        heartbeat.payload_error.as_ref().map(ToString::to_string).into(),
    ]
}

/// The heartbeats as rows of [`HEARTBEAT`], in one parameter.
pub(super) fn bind<'a>(heartbeats: impl IntoIterator<Item = &'a Heartbeat>) -> Value {
    rows::bind(heartbeats.into_iter().map(values))
}

/// An `INSERT` of the devices in `rows` that have sent a heartbeat, with `status`.
pub(super) fn insert(rows: &str, status: &str) -> String {
    format!(
        "WITH heartbeat AS ({rows}) \
         INSERT INTO device (id, status, last_seen_at, uptime_seconds, free_memory, \
                             clock_skew_ms, error, payload_error, registered_at) \
         SELECT id, {status}, last_seen_at, uptime_seconds, free_memory, \
                clock_skew_ms, error, payload_error, last_seen_at \
         FROM heartbeat WHERE true"
    )
}

/// An `UPDATE` of the devices in `rows` with everything that their heartbeats say.
pub(super) fn update(rows: &str) -> String {
    let (status, reported) = (status_on_heartbeat("heartbeat"), reported("heartbeat"));
    format!(
        "WITH heartbeat AS ({rows}) UPDATE device SET status = {status}, {reported} \
         FROM heartbeat WHERE device.id = heartbeat.id"
    )
}

/// An `UPDATE` of those devices in `rows` whose heartbeats change nothing else. It does not
/// set the status, because SQLite would write the index of the status again for each device.
pub(super) fn update_steady(rows: &str, max_clock_skew: Duration) -> String {
    let reported = reported("heartbeat");
    let is_steady = is_steady("heartbeat", max_clock_skew);
    format!(
        "WITH heartbeat AS ({rows}) UPDATE device SET {reported} \
         FROM heartbeat WHERE device.id = heartbeat.id AND {is_steady}"
    )
}

/// [`Status::on_heartbeat`], set-wise; a test compares the two.
pub(super) fn status_on_heartbeat(row: &str) -> String {
    let (online, error) = (Status::Online, Status::Error);
    format!("CASE WHEN {row}.error IS NULL THEN '{online}' ELSE '{error}' END")
}

/// The opposite of [`is_overtaken`](crate::domain::heartbeat::is_overtaken), set-wise; a test
/// compares the two. `credible` is the parameter with the latest credible instant. On SQLite a
/// stored value that is not a number is later than any instant, and so is replaced.
pub(super) fn is_current(row: &str, credible: &str) -> String {
    format!(
        "(device.last_seen_at IS NULL OR device.last_seen_at <= {row}.last_seen_at \
          OR device.last_seen_at > {credible})"
    )
}

/// Matches the rows that a steady heartbeat has been written to.
pub(super) fn is_written(row: &str, max_clock_skew: Duration) -> String {
    let is_steady = is_steady(row, max_clock_skew);
    format!("device.last_seen_at IS NOT DISTINCT FROM {row}.last_seen_at AND {is_steady}")
}

/// True for a heartbeat that changes nothing but the columns in [`reported`], and is not older than
/// the last one.
pub(super) fn is_steady(row: &str, max_clock_skew: Duration) -> String {
    let bound = milliseconds(max_clock_skew);
    let status = status_on_heartbeat(row);
    format!(
        "device.status = {status} AND device.last_seen_at <= {row}.last_seen_at \
         AND ({row}.clock_skew_ms IS NULL OR abs({row}.clock_skew_ms) <= {bound}) \
         AND device.payload_error IS NOT DISTINCT FROM {row}.payload_error"
    )
}

/// The columns that a device's row takes from a heartbeat, except for its status.
pub(super) fn reported(row: &str) -> String {
    format!(
        "last_seen_at = {row}.last_seen_at, \
         uptime_seconds = coalesce({row}.uptime_seconds, device.uptime_seconds), \
         free_memory = coalesce({row}.free_memory, device.free_memory), \
         clock_skew_ms = coalesce({row}.clock_skew_ms, device.clock_skew_ms), \
         error = {row}.error, \
         payload_error = {row}.payload_error"
    )
}

/// A bound on the clock skew as the database compares it.
pub(super) fn milliseconds(max_clock_skew: Duration) -> i64 {
    i64::try_from(max_clock_skew.as_millis()).unwrap_or(i64::MAX)
}
